//! The qkv layer and attention behind it by their definitions, image by image.
#![forbid(unsafe_code)]

use crate::ops::attention::reference::{self as attention, Sizes, columns, interleave};
use crate::ops::matmul::reference as matmul;
use crate::ops::real::Real;
use crate::tensor::Spans;

fn sizes(s: usize, heads: usize, d: usize) -> Sizes {
    Sizes { b: 1, queries: s, keys: s, heads, head_width: d / heads }
}

/// q, k and v of an image's x.
fn parts<R: Real>([x, weight, bias]: [&[R]; 3], d: usize) -> [Vec<R>; 3] {
    let qkv = matmul::forward(x, weight, bias, d);
    [0, 1, 2].map(|part| columns(&qkv, 3 * d, part * d, d))
}

/// y (rows, D) of x (rows, D), W (3D, D) and b (3D).
pub fn forward<R: Real>([x, weight, bias]: [&[R]; 3], spans: &Spans, heads: usize) -> Vec<R> {
    let d = bias.len() / 3;
    let one = |x: &[R]| {
        let [q, k, v] = parts([x, weight, bias], d);
        attention::forward(&q, &k, &v, sizes(x.len() / d, heads, d))
    };
    spans.split(x, d).into_iter().flat_map(one).collect()
}

/// Gradients of x, W and b.
pub fn backward<R: Real>([x, weight, bias]: [&[R]; 3], spans: &Spans, heads: usize, dy: &[R]) -> Vec<Vec<R>> {
    let d = bias.len() / 3;
    let mut dqkv = Vec::new();
    for (x, dy) in spans.split(x, d).into_iter().zip(spans.split(dy, d)) {
        let [q, k, v] = parts([x, weight, bias], d);
        let (dq, dk, dv) = attention::backward(&q, &k, &v, dy, sizes(x.len() / d, heads, d));
        dqkv.extend(interleave(&[dq, dk, dv], d));
    }
    let (dx, dweight, dbias) = matmul::backward(x, weight, &dqkv, 3 * d, d);
    vec![dx, dweight, dbias]
}
