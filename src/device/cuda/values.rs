//! A buffer whose type is known when the program runs: f32, f16 or bf16, as the precision of a run says.
#![forbid(unsafe_code)]

use super::{Arena, Arg, Half, Slice, Store};
use crate::error::{Error, Result};

/// Values of a stored type on the card; a copy is the same memory. Made from a slice by [`Slice::values`] or `into`.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    F32(Slice<'a, f32>),
    /// The bits of a 16-bit type.
    Half(Half, Slice<'a, u16>),
}

impl<'a> Values<'a> {
    /// The type.
    pub fn store(&self) -> Store {
        match self {
            Values::F32(_) => Store::F32,
            Values::Half(half, _) => (*half).into(),
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(slice) => slice.len(),
            Values::Half(_, slice) => slice.len(),
        }
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` values from `offset` on. Panics when they leave the buffer.
    pub fn window(&self, offset: usize, len: usize) -> Self {
        match *self {
            Values::F32(slice) => Values::F32(slice.window(offset, len)),
            Values::Half(half, slice) => Values::Half(half, slice.window(offset, len)),
        }
    }

    /// The one type of an op's buffers. An error of `op` when there are two.
    pub fn common(op: &'static str, buffers: &[Values]) -> Result<Store> {
        let mut stores = buffers.iter().map(Values::store);
        let first = stores.next().unwrap_or(Store::F32);
        match stores.find(|&store| store != first) {
            None => Ok(first),
            Some(other) => Err(Error::shape(op, format!("{} beside {}", first.name(), other.name()))),
        }
    }
}

impl<'a> Slice<'a, u16> {
    /// The bits as values of a 16-bit type.
    pub fn values(self, half: Half) -> Values<'a> {
        Values::Half(half, self)
    }
}

impl<'a> From<Slice<'a, f32>> for Values<'a> {
    fn from(slice: Slice<'a, f32>) -> Self {
        Values::F32(slice)
    }
}

impl From<Values<'_>> for Arg {
    fn from(values: Values) -> Self {
        match values {
            Values::F32(slice) => slice.into(),
            Values::Half(_, slice) => slice.into(),
        }
    }
}

impl Arena<'_> {
    /// A buffer of `len` values of a type, as [`Arena::alloc`].
    pub fn values(&self, store: Store, len: usize) -> Result<Values<'_>> {
        Ok(match store.half() {
            None => Values::F32(self.alloc(len)?),
            Some(half) => Values::Half(half, self.alloc(len)?),
        })
    }
}
