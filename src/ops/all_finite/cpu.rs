//! The finiteness check on the CPU: chunks in parallel, the first bad one ends it.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;
use rayon::prelude::*;

/// Elements checked without a branch before asking again.
pub(super) const CHUNK: usize = 16_384;

/// True when every element is finite.
pub(super) fn check(x: &[f32]) -> bool {
    x.par_chunks(CHUNK).all(vector::finite)
}
