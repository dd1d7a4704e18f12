//! The scale of channels by its definition.
#![forbid(unsafe_code)]

use crate::ops::real::Real;

/// y = gamma * x, row by row; x (rows, D), gamma (D).
pub fn forward<R: Real>(x: &[R], gamma: &[R]) -> Vec<R> {
    x.chunks_exact(gamma.len()).flat_map(|row| row.iter().zip(gamma).map(|(&x, &g)| g * x)).collect()
}

/// (dx, dgamma) from dy (rows, D).
pub fn backward<R: Real>(x: &[R], gamma: &[R], dy: &[R]) -> (Vec<R>, Vec<R>) {
    let dx = forward(dy, gamma);
    let mut dgamma = vec![R::zero(); gamma.len()];
    for (x, dy) in x.chunks_exact(gamma.len()).zip(dy.chunks_exact(gamma.len())) {
        for (sum, (&x, &dy)) in dgamma.iter_mut().zip(x.iter().zip(dy)) {
            *sum += dy * x;
        }
    }
    (dx, dgamma)
}
