//! Buffers of f32 that return to a pool when dropped, so that a training step touches no fresh memory.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// Buffers smaller than this are left to the allocator.
const POOLED_FROM: usize = 4096;

/// Free buffers by length, shared by all threads.
static POOL: LazyLock<Mutex<HashMap<usize, Vec<Vec<f32>>>>> = LazyLock::new(Mutex::default);

/// An owned run of f32 whose memory is reused by later buffers of the same length.
#[derive(Debug, Default)]
pub struct Buffer {
    values: Vec<f32>,
}

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        match Self::recycled(len) {
            Some(mut buffer) => {
                buffer.values.fill(0.0);
                buffer
            }
            None => Buffer { values: vec![0.0; len] },
        }
    }

    /// `len` values left over from an earlier buffer, or zeros.
    pub fn scratch(len: usize) -> Self {
        Self::recycled(len).unwrap_or_else(|| Buffer { values: vec![0.0; len] })
    }

    /// Takes ownership of `values`.
    pub fn from_vec(values: Vec<f32>) -> Self {
        Buffer { values }
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
        Some(Buffer { values })
    }

    /// Gives all pooled memory back to the allocator, as between phases of different shapes.
    pub fn release_pool() {
        POOL.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.values.len() >= POOLED_FROM {
            let values = std::mem::take(&mut self.values);
            POOL.lock().unwrap_or_else(|e| e.into_inner()).entry(values.len()).or_default().push(values);
        }
    }
}
