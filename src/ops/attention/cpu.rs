//! Attention on the CPU: one task per image and head, its scores in a scratch buffer that stays in cache.
#![forbid(unsafe_code)]

use super::Layout;
use crate::device::cpu::gemm::{Mat, Rows, Write, gemm};
use crate::device::cpu::{Buffer, vector};
use crate::tensor::Spans;
use crate::tensor::spans::pieces;
use rayon::prelude::*;
use std::ops::Range;

/// Where q, k and v lie: slices that begin at their first element, and the distance between rows.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub q_stride: usize,
    pub kv_stride: usize,
}

impl<'a> Operands<'a> {
    /// q, k and v of one head of one image.
    fn head(&self, z: &Layout, image: usize, head: usize) -> [Mat<'a>; 3] {
        let view = |data: &'a [f32], rows: Range<usize>, stride: usize| {
            Mat::strided(&data[rows.start * stride + head * z.head_width..], rows.len(), z.head_width, stride)
        };
        [
            view(self.q, z.queries.range(image), self.q_stride),
            view(self.k, z.keys.range(image), self.kv_stride),
            view(self.v, z.keys.range(image), self.kv_stride),
        ]
    }
}

fn scale(z: &Layout) -> f32 {
    1.0 / (z.head_width as f32).sqrt()
}

/// The rows of queries and of keys of each image.
fn rows(z: &Layout) -> impl Iterator<Item = (usize, usize)> + '_ {
    z.queries.lengths().zip(z.keys.lengths())
}

/// `values` in pieces, one a head of an image, as long as `len` says of the image's queries and keys.
fn heads<'a>(values: &'a mut [f32], z: &Layout, len: impl Fn(usize, usize) -> usize) -> Vec<&'a mut [f32]> {
    pieces(values, rows(z).flat_map(|(queries, keys)| std::iter::repeat_n(len(queries, keys), z.heads)))
}

/// y (queries of all images, D) and the log-sum-exp of the scaled scores, (H, queries) image after image.
pub fn forward(x: Operands, z: &Layout, y: &mut [f32], lse: &mut [f32]) {
    let d = z.width();
    let by_head = heads_of(x, z, lse);
    let by_image = z.queries.split(by_head.as_slice(), d);
    z.queries.split_mut(y, d).into_par_iter().zip(by_image).with_max_len(1).for_each(|(y, heads)| {
        for (row, y) in y.chunks_exact_mut(d).enumerate() {
            merge(heads, row, z, y);
        }
    });
}

/// y as the left operand of a product that reads its operands as attention's own do.
pub fn forward_rows(x: Operands, z: &Layout) -> Rows {
    let d = z.width();
    let mut lse = Buffer::scratch(z.queries.rows() * z.heads);
    let by_head = heads_of(x, z, lse.as_mut_slice());
    let by_image = z.queries.split(by_head.as_slice(), d);
    let places: Vec<(&[f32], usize)> =
        by_image.into_iter().flat_map(|heads| (0..heads.len() / d).map(move |row| (heads, row))).collect();
    Rows::filled([places.len(), d], z.read, |i, y| merge(places[i].0, places[i].1, z, y))
}

/// y by image as (H, queries, Dh), and the log-sum-exp.
fn heads_of(x: Operands, z: &Layout, lse: &mut [f32]) -> Buffer {
    let mut by_head = Buffer::scratch(z.queries.rows() * z.width());
    let outs = heads(by_head.as_mut_slice(), z, |queries, _| queries * z.head_width);
    let tasks = outs.into_par_iter().zip(heads(lse, z, |queries, _| queries));
    tasks.enumerate().with_max_len(1).for_each(|(task, (out, lse))| {
        let [q, k, v] = x.head(z, task / z.heads, task % z.heads);
        let (queries, keys) = z.rows_of(task / z.heads);
        let mut scores = Buffer::scratch(queries * keys);
        let scores = scores.as_mut_slice();
        gemm(scores, keys, q, k.t(), 1.0, Write::Set, z.read);
        for (row, lse) in scores.chunks_exact_mut(keys).zip(lse) {
            let shift = vector::max(row) * scale(z);
            let sum = vector::exp_scaled_sum(row, scale(z), shift);
            vector::scale(row, 1.0 / sum);
            *lse = shift + sum.ln();
        }
        gemm(out, z.head_width, Mat::new(scores, queries, keys), v, 1.0, Write::Set, z.read);
    });
    by_head
}

/// Row `row` of an image's heads (H, queries, Dh), side by side.
fn merge(heads: &[f32], row: usize, z: &Layout, out: &mut [f32]) {
    let blocks = heads.chunks_exact(heads.len() / z.heads);
    for (values, out) in blocks.zip(out.chunks_exact_mut(z.head_width)) {
        out.copy_from_slice(&values[row * z.head_width..][..z.head_width]);
    }
}

/// Gradients, per image and head: dq (queries, Dh), then dk and dv (keys, Dh) each.
pub fn backward(x: Operands, z: &Layout, y: &[f32], lse: &[f32], dy: &[f32]) -> Buffer {
    let d = z.width();
    let mut by_head = Buffer::scratch((z.queries.rows() + 2 * z.keys.rows()) * d);
    let outs = heads(by_head.as_mut_slice(), z, |queries, keys| (queries + 2 * keys) * z.head_width);
    outs.into_par_iter().enumerate().with_max_len(1).for_each(|(task, out)| {
        let (image, head) = (task / z.heads, task % z.heads);
        let [q, k, v] = x.head(z, image, head);
        let ((queries, keys), first) = (z.rows_of(image), z.queries.range(image).start);
        let start = first * d + head * z.head_width;
        let (y, dy) = (&y[start..], &dy[start..]);
        let dy_view = Mat::strided(dy, queries, z.head_width, d);
        let (dq, rest) = out.split_at_mut(queries * z.head_width);
        let (dk, dv) = rest.split_at_mut(keys * z.head_width);

        let (mut p, mut ds) = (Buffer::scratch(queries * keys), Buffer::scratch(queries * keys));
        let (p, ds) = (p.as_mut_slice(), ds.as_mut_slice());
        gemm(p, keys, q, k.t(), 1.0, Write::Set, z.read);
        for (row, &lse) in p.chunks_exact_mut(keys).zip(&lse[first * z.heads + head * queries..][..queries]) {
            vector::exp_scaled_sum(row, scale(z), lse);
        }
        gemm(dv, z.head_width, Mat::new(p, queries, keys).t(), dy_view, 1.0, Write::Set, z.read);
        gemm(ds, keys, dy_view, v.t(), 1.0, Write::Set, z.read);
        for (i, (p, ds)) in p.chunks_exact(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let delta = vector::dot(&y[i * d..][..z.head_width], &dy[i * d..][..z.head_width]);
            vector::softmax_backward(p, ds, delta);
        }
        let ds = Mat::new(ds, queries, keys);
        gemm(dq, z.head_width, ds, k, scale(z), Write::Set, z.read);
        gemm(dk, z.head_width, ds.t(), q, scale(z), Write::Set, z.read);
    });
    by_head
}

/// Spreads the result of `backward` over dq and dkv, whose rows hold all heads: `dq` (queries, ..) with dq at column 0,
/// `dkv` (keys, ..) with dk at `dk_column` and dv D columns later.
pub fn spread_query(by_head: &Buffer, z: &Layout, dq: &mut [f32], stride: usize) {
    spread(by_head, z, |queries, _| 0..queries, z.queries.split_mut(dq, stride), stride, 0);
}

/// See `spread_query`.
pub fn spread_keys_values(by_head: &Buffer, z: &Layout, dkv: &mut [f32], stride: usize, dk_column: usize) {
    let (dk, dv) = (dk_column, dk_column + z.width());
    spread(by_head, z, |q, keys| q..q + keys, z.keys.split_mut(dkv, stride), stride, dk);
    spread(by_head, z, |q, keys| q + keys..q + 2 * keys, z.keys.split_mut(dkv, stride), stride, dv);
}

/// Rows `part(queries, keys)` of each head's block into column `column` of an image's rows, which are `stride` apart.
fn spread(
    by_head: &Buffer,
    z: &Layout,
    part: impl Fn(usize, usize) -> Range<usize> + Sync,
    images: Vec<&mut [f32]>,
    stride: usize,
    column: usize,
) {
    let blocks = Spans::of(rows(z).map(|(queries, keys)| queries + 2 * keys));
    let sizes: Vec<(usize, usize)> = rows(z).collect();
    let work = images.into_par_iter().zip(blocks.split(by_head.as_slice(), z.width())).zip(sizes);
    work.with_max_len(1).for_each(|((out, blocks), (queries, keys))| {
        let part = part(queries, keys);
        for (head, block) in blocks.chunks_exact((queries + 2 * keys) * z.head_width).enumerate() {
            let values = &block[part.start * z.head_width..part.end * z.head_width];
            for (row, values) in values.chunks_exact(z.head_width).enumerate() {
                out[row * stride + column + head * z.head_width..][..z.head_width].copy_from_slice(values);
            }
        }
    });
}
