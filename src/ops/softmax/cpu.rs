//! Softmax along rows on the CPU.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;
use rayon::prelude::*;

/// Rows a task works on.
const ROWS: usize = 32;

/// y = softmax(x) along rows of `d`.
pub fn forward(x: &[f32], y: &mut [f32], d: usize) {
    y.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d)).for_each(|(y, x)| {
        y.copy_from_slice(x);
        for row in y.chunks_exact_mut(d) {
            let max = vector::max(row);
            let sum = vector::exp_scaled_sum(row, 1.0, max);
            vector::scale(row, 1.0 / sum);
        }
    });
}

/// dx = y (dy - sum y dy) along rows of `d`; `dx` comes in holding dy.
pub fn backward(y: &[f32], dx: &mut [f32], d: usize) {
    dx.par_chunks_mut(ROWS * d).zip(y.par_chunks(ROWS * d)).for_each(|(dx, y)| {
        for (dx, y) in dx.chunks_exact_mut(d).zip(y.chunks_exact(d)) {
            let delta = vector::dot(y, dx);
            vector::softmax_backward(y, dx, delta);
        }
    });
}
