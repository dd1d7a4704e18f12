//! What the second stream works with while the first computes: memory of its own, and moments that one stream waits for in
//! the other.
#![forbid(unsafe_code)]

use super::arena::free;
use super::profile::Event;
use super::{Gpu, Slice, Stream};
use crate::error::Result;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Memory that the second stream works in, by its size in bytes. What is given back may still be read by the first
/// stream: the event is the moment when that is over.
///
/// The second stream needs no such moment: it alone writes this memory, in the order that it is told to.
#[derive(Default)]
pub(super) struct Aside {
    free: Mutex<HashMap<u64, VecDeque<(u64, Event)>>>,
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

/// Bytes that were sent to the card in its second stream.
#[derive(Debug)]
pub struct Upload {
    arrived: Event,
}

impl Upload {
    /// Sends `bytes`, which may change as soon as this returns, to `to`. What the second stream is told afterwards
    /// finds them there; the first has to wait for [`Upload::before`].
    pub fn begin(gpu: &Gpu, to: Slice<u8>, bytes: &[u8]) -> Result<Self> {
        gpu.second().upload(to, bytes)?;
        Ok(Upload { arrived: gpu.second().mark()? })
    }

    /// Lets what `stream` is told from now on begin after the bytes have arrived.
    pub fn before(&self, stream: &Stream) -> Result<()> {
        stream.wait_for(&self.arrived)
    }
}
