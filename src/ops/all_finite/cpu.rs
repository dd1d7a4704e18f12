//! The finiteness check on the CPU.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;

/// True when every element is finite.
pub(super) fn check(x: &[f32]) -> bool {
    vector::all_finite(x)
}
