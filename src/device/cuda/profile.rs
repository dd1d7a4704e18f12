//! What ran on the card and for how long: events around each launch.
#![allow(unsafe_code)]

use super::check;
use super::launch::{Arg, Entry};
use crate::error::Result;
use cust::sys::{self, CUevent, CUresult, CUstream};
use std::ptr;

/// One launch that is done.
#[derive(Clone, Debug)]
pub struct Launched {
    pub entry: &'static Entry,
    /// Its counts, by the names of its parameters.
    pub counts: Vec<(&'static str, u32)>,
    /// Bytes of the buffers that it was given: what it moves when it touches each of them once.
    pub bytes: u64,
    /// On the card; the virtual one tells how long it simulated.
    pub milliseconds: f64,
}

impl Launched {
    /// The count of that name.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.counts.iter().find(|(other, _)| *other == name).map(|&(_, count)| u64::from(count))
    }
}

/// A moment of a stream.
#[derive(Debug)]
pub(super) struct Event(CUevent);

// SAFETY: a handle of the driver may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// The moment when what is in the stream so far is done, with its time.
    pub(super) fn record(stream: CUstream) -> Result<Self> {
        Self::new(stream, 0)
    }

    /// The moment when what is in the stream so far is done; to wait for, which costs less without a time.
    pub(super) fn mark(stream: CUstream) -> Result<Self> {
        Self::new(stream, sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32)
    }

    fn new(stream: CUstream, flags: u32) -> Result<Self> {
        let mut event = ptr::null_mut();
        // SAFETY: `event` is a place for the handle.
        check(|| "event".into(), unsafe { sys::cuEventCreate(&mut event, flags) })?;
        let event = Event(event);
        // SAFETY: both handles live.
        check(|| "event".into(), unsafe { sys::cuEventRecord(event.0, stream) })?;
        Ok(event)
    }

    /// Waits until it has happened.
    pub(super) fn wait(&self) -> Result<()> {
        // SAFETY: the handle lives.
        check(|| "event".into(), unsafe { sys::cuEventSynchronize(self.0) })
    }

    /// Whether it has happened; a card that failed says so elsewhere.
    pub(super) fn happened(&self) -> bool {
        // SAFETY: the handle lives.
        unsafe { sys::cuEventQuery(self.0) == CUresult::CUDA_SUCCESS }
    }

    /// Lets what `stream` is told from now on begin after it.
    pub(super) fn before(&self, stream: CUstream) -> Result<()> {
        // SAFETY: both handles live; the driver keeps what it needs of an event that is destroyed.
        check(|| "event".into(), unsafe { sys::cuStreamWaitEvent(stream, self.0, 0) })
    }

    /// Milliseconds from `self` to `later`; both must have happened.
    fn until(&self, later: &Event) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: both handles live, and there is a place for the answer.
        let result = unsafe { sys::cuEventElapsedTime(&mut milliseconds, self.0, later.0) };
        check(|| "event".into(), result).map(|()| f64::from(milliseconds))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nobody has it afterwards.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

/// Launches with the events before and after each.
#[derive(Default)]
pub(super) struct Profile(Vec<(Launched, Event, Event)>);

impl Profile {
    pub(super) fn add(&mut self, entry: &'static Entry, args: &[Arg], before: Event, after: Event) {
        let (mut counts, mut bytes) = (Vec::new(), 0);
        for (&(name, _), arg) in entry.args.iter().zip(args) {
            match *arg {
                Arg::Pointer(_, of) => bytes += of as u64,
                Arg::U32(count) => counts.push((name, count)),
                Arg::F32(_) => {}
            }
        }
        self.0.push((Launched { entry, counts, bytes, milliseconds: 0.0 }, before, after));
    }

    /// The launches with their times; the stream must have come to its end.
    pub(super) fn launched(self) -> Result<Vec<Launched>> {
        let timed = |(launched, before, after): (Launched, Event, Event)| {
            Ok(Launched { milliseconds: before.until(&after)?, ..launched })
        };
        self.0.into_iter().map(timed).collect()
    }
}
