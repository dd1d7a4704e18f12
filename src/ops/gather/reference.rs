//! The row gather by its definition.
#![forbid(unsafe_code)]

use crate::ops::real::Real;

/// y[b, i] = x[b, kept[b, i]] for rows of `d`.
pub fn forward<R: Real>(x: &[R], kept: &[u32], n: usize, k: usize, d: usize) -> Vec<R> {
    let mut y = Vec::new();
    for (b, kept) in kept.chunks(k).enumerate() {
        for &row in kept {
            let start = (b * n + row as usize) * d;
            y.extend_from_slice(&x[start..start + d]);
        }
    }
    y
}

/// dx[b, kept[b, i]] += dy[b, i].
pub fn backward<R: Real>(dy: &[R], kept: &[u32], n: usize, k: usize, d: usize) -> Vec<R> {
    let mut dx = vec![R::zero(); kept.len() / k * n * d];
    for (i, (&row, dy)) in kept.iter().zip(dy.chunks(d)).enumerate() {
        let start = (i / k * n + row as usize) * d;
        for (dx, &dy) in dx[start..start + d].iter_mut().zip(dy) {
            *dx += dy;
        }
    }
    dx
}
