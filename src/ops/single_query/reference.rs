//! Attention of one query an image, by way of its keys and values.
#![forbid(unsafe_code)]

use crate::ops::attention::reference::{self as attention, Sizes};
use crate::ops::matmul::reference as matmul;
use crate::ops::real::Real;

/// Weight (D,D) and bias (D) of a layer.
type Layer<'a, R> = [&'a [R]; 2];

/// Each image's query and rows.
fn images<'a, R>([q, n]: [&'a [R]; 2], rows: &[usize]) -> Vec<[&'a [R]; 2]> {
    let d = q.len() / rows.len();
    let mut rest = n;
    let mut rows_of = |count: usize| {
        let (n, after) = rest.split_at(count * d);
        rest = after;
        n
    };
    q.chunks(d).zip(rows).map(|(q, &count)| [q, rows_of(count)]).collect()
}

fn sizes(keys: usize, heads: usize, d: usize) -> Sizes {
    Sizes { b: 1, queries: 1, keys, heads, head_width: d / heads }
}

/// y (B, D).
pub fn forward<R: Real>(
    inputs: [&[R]; 2],
    [wk, bk]: Layer<R>,
    [wv, bv]: Layer<R>,
    rows: &[usize],
    heads: usize,
) -> Vec<R> {
    let d = bk.len();
    let one = |[q, n]: [&[R]; 2]| {
        let (k, v) = (matmul::forward(n, wk, bk, d), matmul::forward(n, wv, bv, d));
        attention::forward(q, &k, &v, sizes(n.len() / d, heads, d))
    };
    images(inputs, rows).into_iter().flat_map(one).collect()
}

/// Gradients of q, n, Wk, bk, Wv and bv.
pub fn backward<R: Real>(
    inputs: [&[R]; 2],
    [wk, bk]: Layer<R>,
    [wv, bv]: Layer<R>,
    rows: &[usize],
    heads: usize,
    dy: &[R],
) -> Vec<Vec<R>> {
    let d = bk.len();
    let add = |sum: &mut Vec<R>, more: Vec<R>| sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    let mut gradients = [0, 0, d * d, d, d * d, d].map(|len| vec![R::zero(); len]);
    for ([q, n], dy) in images(inputs, rows).into_iter().zip(dy.chunks(d)) {
        let (k, v) = (matmul::forward(n, wk, bk, d), matmul::forward(n, wv, bv, d));
        let (dq, dk, dv) = attention::backward(q, &k, &v, dy, sizes(n.len() / d, heads, d));
        let (mut dn, dwk, dbk) = matmul::backward(n, wk, &dk, d, d);
        let (more, dwv, dbv) = matmul::backward(n, wv, &dv, d, d);
        add(&mut dn, more);
        gradients[0].extend(dq);
        gradients[1].extend(dn);
        for (sum, more) in gradients[2..].iter_mut().zip([dwk, dbk, dwv, dbv]) {
            add(sum, more);
        }
    }
    gradients.to_vec()
}
