//! The gradient's norm on the CPU: f64 sums of fixed chunks, added in order.
#![forbid(unsafe_code)]

use rayon::prelude::*;

/// Elements of one partial sum.
pub(super) const CHUNK: usize = 16_384;

/// Running sums side by side within a chunk, so that the processor need not wait for each addition.
const LANES: usize = 8;

/// sqrt(sum of g^2).
pub(super) fn norm(g: &[f32]) -> f64 {
    let partial: Vec<f64> = g.par_chunks(CHUNK).map(sum_of_squares).collect();
    partial.iter().sum::<f64>().sqrt()
}

fn sum_of_squares(chunk: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    for group in chunk.chunks(LANES) {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum()
}
