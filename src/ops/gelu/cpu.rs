//! GELU on the CPU: fixed chunks over threads.
#![forbid(unsafe_code)]

use crate::device::cpu::gelu;
use rayon::prelude::*;

/// Elements a task works on: a few pages of each operand.
const CHUNK: usize = 8192;

/// y = gelu(x).
pub fn forward(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| gelu::gelu(x, y));
}

/// dx = dy * gelu'(x); `dx` comes in holding dy.
pub fn backward(x: &[f32], dx: &mut [f32]) {
    dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(dx, x)| gelu::gelu_backward(x, dx));
}
