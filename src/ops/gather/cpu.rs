//! The row gather on the CPU: images over threads.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;
use rayon::prelude::*;

/// y[b, i] = x[b, kept[b, i]] for rows of `d`; kept (B,k), x (B,n,d).
pub fn forward(x: &[f32], kept: &[u32], y: &mut [f32], n: usize, k: usize, d: usize) {
    let images = y.par_chunks_mut(k * d).zip(x.par_chunks(n * d)).zip(kept.par_chunks(k));
    images.for_each(|((y, x), kept)| {
        for (y, &row) in y.chunks_exact_mut(d).zip(kept) {
            y.copy_from_slice(&x[row as usize * d..][..d]);
        }
    });
}

/// dx[b, kept[b, i]] += dy[b, i]; `dx` comes in as zeros.
pub fn backward(dy: &[f32], kept: &[u32], dx: &mut [f32], n: usize, k: usize, d: usize) {
    let images = dx.par_chunks_mut(n * d).zip(dy.par_chunks(k * d)).zip(kept.par_chunks(k));
    images.for_each(|((dx, dy), kept)| {
        for (dy, &row) in dy.chunks_exact(d).zip(kept) {
            vector::add(&mut dx[row as usize * d..][..d], dy);
        }
    });
}
