//! GELU on the CPU: fixed chunks over threads.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;
use rayon::prelude::*;

/// Elements a task works on: a few pages of each operand.
const CHUNK: usize = 8192;

/// y = gelu(x).
pub fn forward(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| vector::gelu(x, y));
}

/// dx = dy * gelu'(x).
pub fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let operands = x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK));
    dx.par_chunks_mut(CHUNK).zip(operands).for_each(|(dx, (x, dy))| vector::gelu_backward(x, dy, dx));
}
