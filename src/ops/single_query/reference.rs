//! Attention of one query an image, by way of its keys and values.
#![forbid(unsafe_code)]

use crate::ops::attention::reference::{self as attention, Sizes};
use crate::ops::matmul::reference as matmul;
use crate::ops::real::Real;

/// Each image's query and tokens.
fn images<'a, R>(q: &'a [R], x: &'a [R], lengths: &[usize]) -> Vec<[&'a [R]; 2]> {
    let d = q.len() / lengths.len();
    let mut rest = x;
    let mut tokens_of = |count: usize| {
        let (x, after) = rest.split_at(count * d);
        rest = after;
        x
    };
    q.chunks(d).zip(lengths).map(|(q, &count)| [q, tokens_of(count)]).collect()
}

fn sizes(keys: usize, heads: usize, d: usize) -> Sizes {
    Sizes { b: 1, queries: 1, keys, heads, head_width: d / heads }
}

/// y (B, D) of q (B, D), x (tokens, D), W (2D, D) and b (2D).
pub fn forward<R: Real>([q, x, weight, bias]: [&[R]; 4], lengths: &[usize], heads: usize) -> Vec<R> {
    let d = bias.len() / 2;
    let ([wk, wv], [bk, bv]) = (halves(weight), halves(bias));
    let one = |[q, x]: [&[R]; 2]| {
        let (k, v) = (matmul::forward(x, wk, bk, d), matmul::forward(x, wv, bv, d));
        attention::forward(q, &k, &v, sizes(x.len() / d, heads, d))
    };
    images(q, x, lengths).into_iter().flat_map(one).collect()
}

/// Of keys and of values.
fn halves<R>(layer: &[R]) -> [&[R]; 2] {
    let (keys, values) = layer.split_at(layer.len() / 2);
    [keys, values]
}

/// Gradients of q, x, W and b.
pub fn backward<R: Real>([q, x, weight, bias]: [&[R]; 4], lengths: &[usize], heads: usize, dy: &[R]) -> Vec<Vec<R>> {
    let d = bias.len() / 2;
    let ([wk, wv], [bk, bv]) = (halves(weight), halves(bias));
    let (mut dq, mut dx) = (Vec::new(), Vec::new());
    let (mut dweight, mut dbias) = (vec![R::zero(); weight.len()], vec![R::zero(); bias.len()]);
    for ([q, x], dy) in images(q, x, lengths).into_iter().zip(dy.chunks(d)) {
        let (k, v) = (matmul::forward(x, wk, bk, d), matmul::forward(x, wv, bv, d));
        let (more, dk, dv) = attention::backward(q, &k, &v, dy, sizes(x.len() / d, heads, d));
        dq.extend(more);
        let (of_keys, dwk, dbk) = matmul::backward(x, wk, &dk, d, d);
        let (of_values, dwv, dbv) = matmul::backward(x, wv, &dv, d, d);
        dx.extend(of_keys.into_iter().zip(of_values).map(|(k, v)| k + v));
        dweight.iter_mut().zip(dwk.into_iter().chain(dwv)).for_each(|(sum, more)| *sum += more);
        dbias.iter_mut().zip(dbk.into_iter().chain(dbv)).for_each(|(sum, more)| *sum += more);
    }
    vec![dq, dx, dweight, dbias]
}
