//! Buffers of f32 that return to a pool when dropped, so that large values of a step reuse the last step's memory.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// Buffers smaller than this are left to the allocator.
const POOLED_FROM: usize = 4096;

/// Free buffers by length, shared by all threads.
static POOL: LazyLock<Mutex<HashMap<usize, Vec<Vec<f32>>>>> = LazyLock::new(Mutex::default);

/// An owned run of f32 whose memory is reused by later buffers of the same length.
#[derive(Debug)]
pub struct Buffer {
    values: Vec<f32>,
    /// Only memory that the pool is asked for again goes back to it: an adopted vector never is.
    pooled: bool,
}

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        match Self::recycled(len) {
            Some(mut buffer) => {
                buffer.values.fill(0.0);
                buffer
            }
            None => Self::fresh(len),
        }
    }

    /// `len` values left over from an earlier buffer, or zeros.
    pub fn scratch(len: usize) -> Self {
        Self::recycled(len).unwrap_or_else(|| Self::fresh(len))
    }

    /// Takes ownership of `values`.
    pub fn from_vec(values: Vec<f32>) -> Self {
        Buffer { values, pooled: false }
    }

    fn fresh(len: usize) -> Self {
        Buffer { values: vec![0.0; len], pooled: len >= POOLED_FROM }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The elements.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// The elements for writing.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values
    }

    fn recycled(len: usize) -> Option<Self> {
        if len < POOLED_FROM {
            return None;
        }
        let values = POOL.lock().unwrap_or_else(|e| e.into_inner()).get_mut(&len)?.pop()?;
        Some(Buffer { values, pooled: true })
    }

    /// Gives all pooled memory back to the allocator: between epochs, so that the sizes of a short batch do not stay.
    pub fn release_pool() {
        POOL.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.pooled {
            let values = std::mem::take(&mut self.values);
            POOL.lock().unwrap_or_else(|e| e.into_inner()).entry(values.len()).or_default().push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(len: usize) -> usize {
        POOL.lock().unwrap().get(&len).map_or(0, Vec::len)
    }

    #[test]
    fn the_pool_takes_back_what_it_gave_and_nothing_else() {
        // A length that no other test uses, since the pool is shared.
        let len = POOLED_FROM + 12_347;
        for _ in 0..10 {
            drop(Buffer::from_vec(vec![0.0; len]));
        }
        assert_eq!(pooled(len), 0);
        for _ in 0..10 {
            drop(Buffer::scratch(len));
        }
        assert_eq!(pooled(len), 1);
    }
}
