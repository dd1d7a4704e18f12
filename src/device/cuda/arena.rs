//! Memory of the card: taken once, handed out in order, given back all at once.
#![allow(unsafe_code)]

use super::{Gpu, check};
use crate::error::{Error, Result};
use cust::memory::DeviceCopy;
use cust::sys;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

/// Every buffer begins at a multiple of this, which serves the widest loads.
const ALIGNMENT: u64 = 256;

/// A number that kernels know: f32, f64, f16 and bf16 as their bits, bytes, words.
pub trait Element: DeviceCopy + Default + private::Sealed {}

mod private {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($t:ty)*) => {$(
        impl private::Sealed for $t {}
        impl Element for $t {}
    )*};
}
elements!(f32 f64 u16 u8 u32 i32);

/// Memory of a card. Buffers live until the arena is cleared or dropped.
///
/// On the virtual card each buffer is an allocation of its own, so that a kernel that leaves its buffer is found, even
/// where its neighbour would begin.
pub struct Arena<'g> {
    gpu: &'g Gpu,
    /// The one allocation; none on the virtual card, or when the capacity is 0.
    base: Option<u64>,
    own: RefCell<Vec<u64>>,
    capacity: u64,
    used: Cell<u64>,
    peak: Cell<u64>,
}

/// `len` elements on the card, as long as the arena is not cleared. A copy is the same memory.
#[derive(Debug)]
pub struct Slice<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<(&'a (), T)>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

impl<'g> Arena<'g> {
    /// Takes `capacity` bytes of the card.
    pub fn new(gpu: &'g Gpu, capacity: u64) -> Result<Self> {
        let packed = !gpu.is_virtual() && capacity > 0;
        let base = if packed { Some(allocate(capacity)?) } else { None };
        let (used, peak) = (Cell::new(0), Cell::new(0));
        Ok(Arena { gpu, base, own: RefCell::default(), capacity, used, peak })
    }

    /// A buffer of `len` elements, uninitialised and aligned to 256 bytes. An error when the arena is full.
    pub fn alloc<T: Element>(&self, len: usize) -> Result<Slice<'_, T>> {
        let bytes = (len as u64).checked_mul(size_of::<T>() as u64);
        let used = self.used.get();
        let end = bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT)?.checked_add(used));
        let (Some(bytes), Some(end)) = (bytes, end.filter(|&end| end <= self.capacity)) else {
            let free = self.capacity - used;
            return Err(Error::gpu(
                "arena",
                format!("{len} elements asked for, {free} of {} bytes left", self.capacity),
            ));
        };
        let address = match self.base {
            Some(base) => base + used,
            // An empty buffer is never read: any aligned address will do.
            None if bytes == 0 => ALIGNMENT,
            None => {
                let address = allocate(bytes)?;
                self.own.borrow_mut().push(address);
                address
            }
        };
        self.used.set(end);
        self.peak.set(self.peak.get().max(end));
        Ok(Slice { address, len, memory: PhantomData })
    }

    /// A buffer that holds `values` once the stream gets there.
    pub fn upload<T: Element>(&self, values: &[T]) -> Result<Slice<'_, T>> {
        let slice = self.alloc(values.len())?;
        self.gpu.stream().upload(slice, values)?;
        Ok(slice)
    }

    /// A buffer of zero bytes once the stream gets there.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Slice<'_, T>> {
        let slice = self.alloc(len)?;
        self.gpu.stream().clear(slice)?;
        Ok(slice)
    }

    /// Takes all buffers back, after waiting for the work that may use them.
    pub fn reset(&mut self) -> Result<()> {
        self.gpu.stream().synchronise()?;
        self.used.set(0);
        self.own.get_mut().drain(..).try_for_each(free)
    }

    /// Bytes handed out, with what alignment took.
    pub fn used(&self) -> u64 {
        self.used.get()
    }

    /// The most bytes that were ever handed out at once.
    pub fn peak(&self) -> u64 {
        self.peak.get()
    }
}

impl Drop for Arena<'_> {
    fn drop(&mut self) {
        // Freeing waits for the card. A card that failed frees everything with its context.
        for address in self.own.get_mut().drain(..).chain(self.base) {
            let _ = free(address);
        }
    }
}

pub(super) fn allocate(bytes: u64) -> Result<u64> {
    let mut address = 0;
    // SAFETY: `address` is a place for the answer.
    let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes as usize) };
    check(|| format!("{bytes} bytes of the card's memory"), result)?;
    Ok(address)
}

pub(super) fn free(address: u64) -> Result<()> {
    // SAFETY: the address comes from `allocate` and is freed once; the driver waits for work that uses it.
    check(|| "freeing memory".into(), unsafe { sys::cuMemFree_v2(address) })
}

impl<'a, T: Element> Slice<'a, T> {
    /// The elements at `address`, which stay there for 'a.
    pub(super) fn at(address: u64, len: usize) -> Self {
        Slice { address, len, memory: PhantomData }
    }

    /// The address on the card.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all elements.
    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// `len` elements from `offset` on. Panics when they leave the slice.
    pub fn window(&self, offset: usize, len: usize) -> Slice<'a, T> {
        assert!(offset <= self.len && len <= self.len - offset, "window {offset}+{len} leaves a slice of {}", self.len);
        Slice { address: self.address + (offset * size_of::<T>()) as u64, len, memory: PhantomData }
    }
}
