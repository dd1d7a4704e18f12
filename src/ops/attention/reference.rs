//! Multi-head attention by its definition, on separate q, k, v with rows of all heads.
#![forbid(unsafe_code)]

use crate::ops::real::Real;
use crate::ops::softmax::reference as softmax;

/// Sizes of a call: images, queries and keys an image, heads, head width.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub b: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub head_width: usize,
}

impl Sizes {
    /// D.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// The place of (image, row, head) in a (B, rows, D) array.
    fn at(&self, image: usize, rows: usize, row: usize, head: usize) -> usize {
        ((image * rows + row) * self.heads + head) * self.head_width
    }
}

/// Columns `first..first + d` of rows of `stride`.
pub fn columns<R: Real>(x: &[R], stride: usize, first: usize, d: usize) -> Vec<R> {
    x.chunks(stride).flat_map(|row| row[first..first + d].to_vec()).collect()
}

/// Rows of the parts side by side.
pub fn interleave<R: Real>(parts: &[Vec<R>], d: usize) -> Vec<R> {
    let rows = parts[0].len() / d;
    (0..rows).flat_map(|r| parts.iter().flat_map(move |p| p[r * d..(r + 1) * d].to_vec())).collect()
}

/// Attention weights (queries, keys) of one head of one image.
fn weights<R: Real>(q: &[R], k: &[R], z: Sizes, image: usize, head: usize) -> Vec<R> {
    let scale = R::of(1.0 / (z.head_width as f64).sqrt());
    let mut scores = Vec::new();
    for i in 0..z.queries {
        for j in 0..z.keys {
            let (q, k) = (&q[z.at(image, z.queries, i, head)..], &k[z.at(image, z.keys, j, head)..]);
            let mut sum = R::zero();
            for l in 0..z.head_width {
                sum += q[l] * k[l];
            }
            scores.push(sum * scale);
        }
    }
    softmax::forward(&scores, z.keys)
}

/// y (B, queries, D) = softmax(q k^T / sqrt(Dh)) v, head by head.
pub fn forward<R: Real>(q: &[R], k: &[R], v: &[R], z: Sizes) -> Vec<R> {
    let mut y = vec![R::zero(); q.len()];
    for image in 0..z.b {
        for head in 0..z.heads {
            let p = weights(q, k, z, image, head);
            for i in 0..z.queries {
                for j in 0..z.keys {
                    for l in 0..z.head_width {
                        y[z.at(image, z.queries, i, head) + l] +=
                            p[i * z.keys + j] * v[z.at(image, z.keys, j, head) + l];
                    }
                }
            }
        }
    }
    y
}

/// (dq, dk, dv).
pub fn backward<R: Real>(q: &[R], k: &[R], v: &[R], dy: &[R], z: Sizes) -> (Vec<R>, Vec<R>, Vec<R>) {
    let scale = R::of(1.0 / (z.head_width as f64).sqrt());
    let (mut dq, mut dk, mut dv) = (vec![R::zero(); q.len()], vec![R::zero(); k.len()], vec![R::zero(); v.len()]);
    for image in 0..z.b {
        for head in 0..z.heads {
            let p = weights(q, k, z, image, head);
            let mut dp = vec![R::zero(); p.len()];
            for i in 0..z.queries {
                for j in 0..z.keys {
                    let (row, column) = (z.at(image, z.queries, i, head), z.at(image, z.keys, j, head));
                    for l in 0..z.head_width {
                        dp[i * z.keys + j] += dy[row + l] * v[column + l];
                        dv[column + l] += p[i * z.keys + j] * dy[row + l];
                    }
                }
            }
            let ds = softmax::backward(&p, &dp, z.keys);
            for i in 0..z.queries {
                for j in 0..z.keys {
                    let (row, column) = (z.at(image, z.queries, i, head), z.at(image, z.keys, j, head));
                    let ds = ds[i * z.keys + j] * scale;
                    for l in 0..z.head_width {
                        dq[row + l] += ds * k[column + l];
                        dk[column + l] += ds * q[row + l];
                    }
                }
            }
        }
    }
    (dq, dk, dv)
}
