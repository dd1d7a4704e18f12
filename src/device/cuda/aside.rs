//! What the second stream works with while the first computes: pinned memory of the host, and moments that one stream
//! waits for in the other.
#![allow(unsafe_code)]

use super::arena::free;
use super::profile::Event;
use super::{Gpu, Slice, Stream, check};
use crate::error::Result;
use cust::context::Context;
use cust::sys;
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// Memory of the host that the card reads by itself, so that a copy of it does not hold up the caller.
pub(super) struct Pinned {
    address: *mut u8,
    len: usize,
    /// It lives in a context.
    _context: Arc<Context>,
}

// SAFETY: the memory belongs to this value alone, and the driver frees it from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(context: Arc<Context>, len: usize) -> Result<Self> {
        let mut address: *mut c_void = ptr::null_mut();
        // SAFETY: `address` is a place for the answer, and the length is not 0.
        let result = unsafe { sys::cuMemHostAlloc(&mut address, len, 0) };
        check(|| format!("{len} bytes of pinned memory"), result)?;
        Ok(Pinned { address: address.cast(), len, _context: context })
    }

    fn fill(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "{} bytes do not fit {}", bytes.len(), self.len);
        // SAFETY: the memory holds as many bytes (asserted), it is this value's own, and no copy reads it: an `Upload`
        // keeps it until its copy is done.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address, bytes.len()) };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the address comes from the driver and is freed once; no copy reads it any more, see `Upload`.
        unsafe { sys::cuMemFreeHost(self.address.cast()) };
    }
}

/// Memory that the second stream works in, by its size in bytes. What is given back may still be read by the first
/// stream: the event is the moment when that is over.
///
/// The second stream needs no such moment: it alone writes this memory, in the order that it is told to.
#[derive(Default)]
pub(super) struct Aside {
    free: Mutex<HashMap<u64, VecDeque<(u64, Event)>>>,
    pinned: Mutex<Vec<Pinned>>,
}

impl Aside {
    /// Memory that the first stream is done with; none rather than a wait for what it still computes.
    pub fn take(&self, bytes: u64) -> Option<u64> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = free.get_mut(&bytes)?;
        if queue.front()?.1.happened() { queue.pop_front().map(|(address, _)| address) } else { None }
    }

    pub fn give(&self, bytes: u64, address: u64, over: Event) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).entry(bytes).or_default().push_back((address, over));
    }

    #[cfg(test)]
    pub fn free_pinned(&self) -> usize {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All free memory of the card.
    pub fn drain(&self) -> Vec<u64> {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        free.into_values().flatten().map(|(address, _)| address).collect()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        for address in self.drain() {
            // A card that failed frees everything with its context.
            let _ = free(address);
        }
    }
}

/// Bytes on their way to the card in its second stream. Dropping it waits until they are there.
pub struct Upload {
    gpu: Arc<Gpu>,
    /// Taken back when the copy is done.
    from: Option<Pinned>,
    arrived: Event,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an upload to {:?}", self.gpu)
    }
}

impl Upload {
    /// Sends `bytes`, which may change as soon as this returns, to `to`. What the second stream is told afterwards
    /// finds them there; the first has to wait for [`Upload::before`].
    pub fn begin(gpu: &Arc<Gpu>, to: Slice<u8>, bytes: &[u8]) -> Result<Self> {
        let mut pinned = gpu.aside.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pinned.iter().position(|memory| memory.len >= bytes.len()).map(|at| pinned.swap_remove(at));
        drop(pinned);
        let mut from = match kept {
            Some(memory) => memory,
            None => Pinned::new(gpu.context().clone(), bytes.len().max(1))?,
        };
        from.fill(bytes);
        // SAFETY: `from` holds the bytes and is kept, unchanged, until the event after the copy has happened; without
        // an event it is never freed.
        unsafe { gpu.second().copy_pinned(to, from.address, bytes.len())? };
        match gpu.second().mark() {
            Ok(arrived) => Ok(Upload { gpu: gpu.clone(), from: Some(from), arrived }),
            Err(error) => {
                std::mem::forget(from);
                Err(error)
            }
        }
    }

    /// Lets what `stream` is told from now on begin after the bytes have arrived.
    pub fn before(&self, stream: &Stream) -> Result<()> {
        stream.wait_for(&self.arrived)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.arrived.wait().is_ok() {
            self.gpu.aside.pinned.lock().unwrap_or_else(PoisonError::into_inner).extend(self.from.take());
        } else {
            // A card that failed may still hold on to the memory.
            std::mem::forget(self.from.take());
        }
    }
}
