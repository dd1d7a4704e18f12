//! The definition: two linear layers with GELU between them, and the chain rule.
#![forbid(unsafe_code)]

use crate::ops::real::Real;
use crate::ops::{gelu, matmul};

/// gelu(x W1^T + b1) W2^T + b2.
pub fn forward<R: Real>(x: &[R], [w1, w2]: [&[R]; 2], [b1, b2]: [&[R]; 2]) -> Vec<R> {
    let pre = matmul::reference::forward(x, w1, b1, w1.len() / b1.len());
    matmul::reference::forward(&gelu::reference::forward(&pre), w2, b2, b1.len())
}

/// [dx, dW1, db1, dW2, db2] for an output of width n.
pub fn backward<R: Real>(x: &[R], [w1, w2]: [&[R]; 2], b1: &[R], dy: &[R], n: usize) -> Vec<Vec<R>> {
    let (f, k) = (b1.len(), w1.len() / b1.len());
    let pre = matmul::reference::forward(x, w1, b1, k);
    let (dhidden, dw2, db2) = matmul::reference::backward(&gelu::reference::forward(&pre), w2, dy, n, f);
    let g = gelu::reference::backward(&pre, &dhidden);
    let (dx, dw1, db1) = matmul::reference::backward(x, w1, &g, f, k);
    vec![dx, dw1, db1, dw2, db2]
}
