//! Owned memory of a card that returns to a pool when dropped, so that a step allocates nothing that the last one had.
#![forbid(unsafe_code)]

use super::arena::{allocate, free};
use super::{Gpu, Slice, Store, Values};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Free memory by size in bytes.
#[derive(Default)]
pub(super) struct Pool(Mutex<HashMap<u64, Vec<u64>>>);

impl Pool {
    fn take(&self, bytes: u64) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&bytes)?.pop()
    }

    fn give(&self, bytes: u64, address: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(bytes).or_default().push(address);
    }

    fn drain(&self) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for address in kept.into_values().flatten() {
            // A card that failed frees everything with its context.
            let _ = free(address);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.drain();
    }
}

/// An owned run of f32, f16 or bf16 on a card, or of u32 in the place of f32. All work on it goes through the card's
/// first stream, so memory that was dropped can be handed out again at once; the second stream has memory of its own.
///
/// On the virtual card nothing is handed out twice: reading what was never written stays a finding.
#[derive(Debug)]
pub struct Buffer {
    gpu: Arc<Gpu>,
    address: u64,
    len: usize,
    store: Store,
    /// Whether it is memory of the second stream.
    aside: bool,
}

impl Buffer {
    /// `len` elements, uninitialised. An error that names the sizes when the card is full.
    pub fn new(gpu: &Arc<Gpu>, len: usize, store: Store) -> Result<Self> {
        let bytes = size(len, store);
        let address = gpu.pool.take(bytes).map_or_else(|| fresh(gpu, bytes), Ok)?;
        Ok(Buffer { gpu: gpu.clone(), address, len, store, aside: false })
    }

    /// `len` elements, uninitialised, that [`Gpu::second`] writes and the first stream only reads, once that is done.
    pub fn aside(gpu: &Arc<Gpu>, len: usize, store: Store) -> Result<Self> {
        let bytes = size(len, store);
        let address = gpu.aside.take(bytes).map_or_else(|| fresh(gpu, bytes), Ok)?;
        Ok(Buffer { gpu: gpu.clone(), address, len, store, aside: true })
    }

    /// The card.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the memory holds.
    pub fn store(&self) -> Store {
        self.store
    }

    /// The elements, which must be f32.
    pub fn floats(&self) -> Slice<'_, f32> {
        assert_eq!(self.store, Store::F32, "a buffer of another type");
        Slice::at(self.address, self.len)
    }

    /// The elements as words: indices in a buffer of f32's size.
    pub fn words(&self) -> Slice<'_, u32> {
        assert_eq!(self.store, Store::F32, "a buffer of another type");
        Slice::at(self.address, self.len)
    }

    /// The memory of the elements, byte by byte.
    pub fn bytes(&self) -> Slice<'_, u8> {
        Slice::at(self.address, self.len * self.store.bytes())
    }

    /// The memory of the elements as f64.
    pub fn doubles(&self) -> Slice<'_, f64> {
        Slice::at(self.address, self.len * self.store.bytes() / 8)
    }

    /// The bits of the elements, which must be of a 16-bit type.
    pub fn halves(&self) -> Slice<'_, u16> {
        assert_ne!(self.store, Store::F32, "a buffer of another type");
        Slice::at(self.address, self.len)
    }

    /// `len` elements from `offset` on, of whatever type.
    pub fn values(&self, offset: usize, len: usize) -> Values<'_> {
        let all = match self.store.half() {
            None => self.floats().into(),
            Some(half) => self.halves().values(half),
        };
        all.window(offset, len)
    }
}

/// Memory that nobody had, or else an error that names the sizes.
fn fresh(gpu: &Gpu, bytes: u64) -> Result<u64> {
    allocate(bytes).or_else(|_| {
        gpu.stream().synchronise()?;
        gpu.second().synchronise()?;
        gpu.pool.drain();
        for address in gpu.aside.drain() {
            free(address)?;
        }
        allocate(bytes).map_err(|error| match gpu.memory() {
            Ok((free, total)) => {
                let (free, total) = (free >> 20, total >> 20);
                let reason = format!("{} MiB asked for, {free} of {total} MiB free", bytes >> 20);
                Error::usage("--batch-size", format!("the card is full: {reason}"), "give a smaller one")
            }
            Err(_) => error,
        })
    })
}

/// Bytes that a buffer takes of the pool: whole lines of 256, and never none.
fn size(len: usize, store: Store) -> u64 {
    ((len * store.bytes()).max(1) as u64).next_multiple_of(256)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = size(self.len, self.store);
        if self.gpu.is_virtual() {
            let _ = free(self.address);
        } else if !self.aside {
            self.gpu.pool.give(bytes, self.address);
        } else if let Ok(over) = self.gpu.stream().mark() {
            // The first stream may still have to read it. On a card that failed it goes with the context.
            self.gpu.aside.give(bytes, self.address, over);
        }
    }
}
