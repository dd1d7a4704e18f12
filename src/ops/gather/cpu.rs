//! The row gather on the CPU: images over threads.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;
use crate::tensor::Spans;
use rayon::prelude::*;

/// y[b, i] = x[b, kept[b, i]] for rows of `d`; `from` shares out x among the images, `to` kept and y.
pub fn forward(x: &[f32], kept: &[u32], y: &mut [f32], from: &Spans, to: &Spans, d: usize) {
    let images = to.split_mut(y, d).into_par_iter().zip(from.split(x, d)).zip(to.split(kept, 1));
    images.for_each(|((y, x), kept)| {
        for (y, &row) in y.chunks_exact_mut(d).zip(kept) {
            y.copy_from_slice(&x[row as usize * d..][..d]);
        }
    });
}

/// dx[b, kept[b, i]] += dy[b, i]; `dx` comes in as zeros.
pub fn backward(dy: &[f32], kept: &[u32], dx: &mut [f32], from: &Spans, to: &Spans, d: usize) {
    let images = from.split_mut(dx, d).into_par_iter().zip(to.split(dy, d)).zip(to.split(kept, 1));
    images.for_each(|((dx, dy), kept)| {
        for (dy, &row) in dy.chunks_exact(d).zip(kept) {
            vector::add(&mut dx[row as usize * d..][..d], dy);
        }
    });
}
