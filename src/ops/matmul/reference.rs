//! The linear layer by its definition.
#![forbid(unsafe_code)]

use crate::ops::real::Real;

/// y (rows, n_out) = x (rows, n_in) W^T + b, W (n_out, n_in).
pub fn forward<R: Real>(x: &[R], weight: &[R], bias: &[R], k: usize) -> Vec<R> {
    let mut y = Vec::new();
    for x in x.chunks(k) {
        for (w, &b) in weight.chunks(k).zip(bias) {
            let mut sum = b;
            for (&x, &w) in x.iter().zip(w) {
                sum += x * w;
            }
            y.push(sum);
        }
    }
    y
}

/// (dx, dW, db) from dy (rows, n_out).
pub fn backward<R: Real>(x: &[R], weight: &[R], dy: &[R], n: usize, k: usize) -> (Vec<R>, Vec<R>, Vec<R>) {
    let mut dx = vec![R::zero(); x.len()];
    let (mut dweight, mut dbias) = (vec![R::zero(); weight.len()], vec![R::zero(); n]);
    for (row, dy) in dy.chunks(n).enumerate() {
        for j in 0..n {
            dbias[j] += dy[j];
            for i in 0..k {
                dx[row * k + i] += dy[j] * weight[j * k + i];
                dweight[j * k + i] += dy[j] * x[row * k + i];
            }
        }
    }
    (dx, dweight, dbias)
}
