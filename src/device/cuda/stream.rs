//! The stream of a card: copies, launches, waiting.
#![allow(unsafe_code)]

use super::launch::{Arg, Geometry};
use super::module::Kernel;
use super::pinned::{LARGEST, Staging};
use super::profile::{Event, Profile};
use super::{Element, Graph, Launched, Slice, check};
use crate::error::{Error, Result};
use cust::context::Context;
use cust::sys::{self, CUresult, CUstream};
use std::env;
use std::ffi::c_void;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An order of copies and launches on the card. What is put in has happened after [`Stream::synchronise`].
///
/// With `DYNAVIT_CUDA_SYNC=1` each launch is waited for, so that an error names the kernel that caused it.
pub struct Stream {
    stream: CUstream,
    /// For the graphs made here.
    context: Arc<Context>,
    staging: Staging,
    /// Whether each launch is waited for.
    one_by_one: bool,
    capturing: AtomicBool,
    /// What was launched since `begin_profile`.
    profile: Mutex<Option<Profile>>,
}

// SAFETY: a handle of the driver may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: the driver puts calls of several threads into a stream one after the other.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: Arc<Context>) -> Result<Self> {
        let mut stream = ptr::null_mut();
        // The flag keeps it apart from the legacy stream, which nothing here uses. `cust` always takes the flag off.
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `stream` is a place for the handle.
        check(|| "stream".into(), unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        let one_by_one = env::var_os("DYNAVIT_CUDA_SYNC").is_some_and(|value| value == "1");
        let (capturing, profile) = (AtomicBool::new(false), Mutex::default());
        Ok(Stream { stream, context, staging: Staging::default(), one_by_one, capturing, profile })
    }

    /// Copies `values` to the card, through pinned memory: they may change as soon as this returns, which waits for
    /// nothing unless much is on its way. An error inside a capture, which would read them at every replay.
    pub fn upload<T: Element>(&self, to: Slice<T>, values: &[T]) -> Result<()> {
        self.refuse_capture("upload")?;
        if to.len() != values.len() {
            return Err(Error::gpu("upload", format!("{} values into a slice of {}", values.len(), to.len())));
        }
        // SAFETY: these are the bytes of `values`; no element has a byte without a value.
        let bytes = unsafe { slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        for (i, part) in bytes.chunks(LARGEST).enumerate() {
            let mut piece = self.staging.take(&self.context, part.len())?;
            piece.fill(part);
            let at = to.address() + (i * LARGEST) as u64;
            // SAFETY: the slice holds as many bytes, of which this is the part at its place; `staging` keeps the piece as
            // it is until the moment after the copy.
            let result = unsafe { sys::cuMemcpyHtoDAsync_v2(at, piece.address(), part.len(), self.stream) };
            let read = check(|| format!("upload of {} bytes", part.len()), result).and_then(|()| self.mark());
            self.staging.give(piece, read)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.staging.pieces()
    }

    /// The moment when what the stream was told so far is done.
    pub(super) fn mark(&self) -> Result<Event> {
        Event::mark(self.stream)
    }

    /// Lets what the stream is told from now on begin after a moment of another one.
    pub(super) fn wait_for(&self, event: &Event) -> Result<()> {
        event.before(self.stream)
    }

    fn refuse_capture(&self, what: &str) -> Result<()> {
        if self.capturing.load(Ordering::Relaxed) {
            return Err(Error::gpu(what, "a capture holds no copies from or to the host's memory"));
        }
        Ok(())
    }

    /// Copies from the card and waits for it. An error inside a capture.
    pub fn download<T: Element>(&self, from: Slice<T>) -> Result<Vec<T>> {
        self.refuse_capture("download")?;
        let mut values = vec![T::default(); from.len()];
        if !values.is_empty() {
            // SAFETY: `values` has room for that many bytes, and stays until the stream has been waited for.
            let result = unsafe {
                sys::cuMemcpyDtoHAsync_v2(
                    values.as_mut_ptr().cast::<c_void>(),
                    from.address(),
                    from.bytes(),
                    self.stream,
                )
            };
            let copied = check(|| format!("download of {} bytes", from.bytes()), result);
            self.synchronise().and(copied)?;
        }
        Ok(values)
    }

    /// Copies on the card. The slices may not overlap.
    pub fn copy<T: Element>(&self, to: Slice<T>, from: Slice<T>) -> Result<()> {
        if to.len() != from.len() {
            return Err(Error::gpu("copy", format!("{} values into a slice of {}", from.len(), to.len())));
        }
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: both slices hold that many bytes of the card's memory.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to.address(), from.address(), from.bytes(), self.stream) };
        check(|| format!("copy of {} bytes", from.bytes()), result)
    }

    /// Sets all bytes to zero.
    pub fn clear<T: Element>(&self, slice: Slice<T>) -> Result<()> {
        if slice.is_empty() {
            return Ok(());
        }
        // SAFETY: the slice holds that many bytes of the card's memory.
        let result = unsafe { sys::cuMemsetD8Async(slice.address(), 0, slice.bytes(), self.stream) };
        check(|| format!("clearing {} bytes", slice.bytes()), result)
    }

    /// Puts a launch into the stream. A grid without a block is nothing to do. An error when the arguments are not
    /// those of the entry, or when the card refuses the launch.
    ///
    /// # Safety
    /// With this geometry and these arguments the kernel stays within the buffers that the arguments name, and these
    /// live until the stream has been waited for.
    pub unsafe fn launch(&self, kernel: &Kernel, geometry: Geometry, args: &[Arg]) -> Result<()> {
        kernel.entry().check(args)?;
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        kernel.allow_shared(geometry.shared)?;
        let what = || format!("{} {geometry}", kernel.entry().name);
        let mut profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pointers: Vec<*mut c_void> = args.iter().map(Arg::pointer).collect();
        let timed = profile.is_some() && !self.capturing.load(Ordering::Relaxed);
        let before = timed.then(|| Event::record(self.stream)).transpose()?;
        let ([gx, gy, gz], [bx, by, bz]) = (geometry.grid, geometry.block);
        // SAFETY: there is a pointer to a value of the right size for each parameter, as `check` and the kernel's own
        // comparison with the PTX say; what the kernel does with them is the caller's promise.
        let result = unsafe {
            sys::cuLaunchKernel(
                kernel.function(),
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                geometry.shared,
                self.stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(what, result)?;
        if let (Some(profile), Some(before)) = (profile.as_mut(), before) {
            profile.add(kernel.entry(), args, before, Event::record(self.stream)?);
        }
        drop(profile);
        if self.one_by_one && !self.capturing.load(Ordering::Relaxed) { check(what, self.wait()) } else { Ok(()) }
    }

    /// Writes down every launch from now on, with the time that it takes on the card.
    pub fn begin_profile(&self) {
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = Some(Profile::default());
    }

    /// The launches since [`Stream::begin_profile`], in order, once they are done; none without it.
    pub fn end_profile(&self) -> Result<Vec<Launched>> {
        let profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.synchronise()?;
        profile.unwrap_or_default().launched()
    }

    fn wait(&self) -> CUresult {
        // SAFETY: the handle is ours and lives.
        unsafe { sys::cuStreamSynchronize(self.stream) }
    }

    /// Waits for everything in the stream. Errors of earlier launches come out here.
    pub fn synchronise(&self) -> Result<()> {
        let what = || match self.one_by_one {
            true => "stream".to_string(),
            false => "stream, at some launch before (DYNAVIT_CUDA_SYNC=1 tells which)".to_string(),
        };
        check(what, self.wait())
    }

    /// Writes down what `body` puts into the stream, without running it.
    pub fn capture(&self, body: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the handle is ours and lives.
        check(|| "capture".into(), unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) })?;
        self.capturing.store(true, Ordering::Relaxed);
        let done = body();
        self.capturing.store(false, Ordering::Relaxed);
        let mut graph = ptr::null_mut();
        // SAFETY: `graph` is a place for the handle.
        let ended = unsafe { sys::cuStreamEndCapture(self.stream, &mut graph) };
        // The body's error says more than that of the capture it spoilt.
        let graph = check(|| "capture".into(), ended).and_then(|()| Graph::new(graph, self.context.clone()));
        done.and(graph)
    }

    /// Runs a graph.
    ///
    /// # Safety
    /// As for the launches in it: the buffers and the modules that it names still live, and stay until the stream has
    /// been waited for.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the handles live; the rest is the caller's promise.
        check(|| "graph".into(), unsafe { sys::cuGraphLaunch(graph.handle(), self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nobody has it afterwards. The driver lets queued work end.
        unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}
