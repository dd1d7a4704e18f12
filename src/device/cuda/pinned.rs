//! Pinned memory of the host, through which everything goes that is copied to a card.
#![allow(unsafe_code)]

use super::check;
use super::profile::Event;
use crate::error::Result;
use cust::context::Context;
use cust::sys;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the largest piece; longer copies go piece by piece.
pub(super) const LARGEST: usize = 4 << 20;

/// Bytes of the smallest piece, a page.
const SMALLEST: usize = 4 << 10;

/// Pieces of one size. When copies still read all of them, the next one waits for the oldest.
const MOST: usize = 8;

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

    /// Where the bytes are.
    pub fn address(&self) -> *const c_void {
        self.address.cast()
    }

    /// Sets the first bytes.
    pub fn fill(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "{} bytes do not fit {}", bytes.len(), self.len);
        // SAFETY: the memory holds as many bytes (asserted), it is this value's own, and no copy reads it: `Staging`
        // hands a piece out only when the copy before is done.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address, bytes.len()) };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the address comes from the driver and is freed once; no copy reads it any more, see `Staging`.
        unsafe { sys::cuMemFreeHost(self.address.cast()) };
    }
}

/// The pinned memory of one stream, each piece with the moment when the copy that reads it is done; the oldest first.
///
/// A copy is told to read a piece and never the caller's memory, of which CUDA says only that it may have been read
/// when the call returns. A piece is written and freed after its moment alone; one without a moment is never touched
/// again.
#[derive(Default)]
pub(super) struct Staging(Mutex<Vec<(Pinned, Event)>>);

impl Staging {
    /// A piece for `len` bytes, at most `LARGEST`, that no copy reads.
    pub fn take(&self, context: &Arc<Context>, len: usize) -> Result<Pinned> {
        assert!(len <= LARGEST, "{len} bytes are more than a piece");
        let size = len.next_power_of_two().max(SMALLEST);
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_size = || pieces.iter().enumerate().filter(|(_, (piece, _))| piece.len == size);
        let oldest = of_size().next().map(|(at, (_, read))| (at, read.happened()));
        let oldest = match oldest {
            Some((at, free)) if free || of_size().count() >= MOST => Some(pieces.remove(at)),
            _ => None,
        };
        drop(pieces);
        let Some((piece, read)) = oldest else { return Pinned::new(context.clone(), size) };
        match read.wait() {
            Ok(()) => Ok(piece),
            Err(error) => {
                // A card that failed may still hold on to the memory.
                std::mem::forget(piece);
                Err(error)
            }
        }
    }

    /// Takes a piece back that is read until `read`, or never again if that could not be marked.
    pub fn give(&self, piece: Pinned, read: Result<Event>) -> Result<()> {
        match read {
            Ok(read) => self.0.lock().unwrap_or_else(PoisonError::into_inner).push((piece, read)),
            Err(error) => {
                std::mem::forget(piece);
                return Err(error);
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn pieces(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for (piece, read) in self.0.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if read.wait().is_err() {
                std::mem::forget(piece);
            }
        }
    }
}
