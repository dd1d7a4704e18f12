//! Attention on the CPU: one task per image and head, its scores in a scratch buffer that stays in cache.
#![forbid(unsafe_code)]

use super::reference::Sizes;
use crate::device::cpu::gemm::{Mat, Operands as Read, Write, gemm};
use crate::device::cpu::{Buffer, vector};
use rayon::prelude::*;

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
    fn head(&self, z: Sizes, image: usize, head: usize) -> [Mat<'a>; 3] {
        let view = |data: &'a [f32], rows: usize, stride: usize| {
            Mat::strided(&data[image * rows * stride + head * z.head_width..], rows, z.head_width, stride)
        };
        [
            view(self.q, z.queries, self.q_stride),
            view(self.k, z.keys, self.kv_stride),
            view(self.v, z.keys, self.kv_stride),
        ]
    }
}

fn scale(z: Sizes) -> f32 {
    1.0 / (z.head_width as f32).sqrt()
}

/// y (B, queries, D) and the log-sum-exp of the scaled scores (B, H, queries).
pub fn forward(x: Operands, z: Sizes, y: &mut [f32], lse: &mut [f32]) {
    let (d, head_len) = (z.width(), z.queries * z.head_width);
    let mut heads = Buffer::scratch(y.len());
    let tasks = heads.as_mut_slice().par_chunks_mut(head_len).zip(lse.par_chunks_mut(z.queries));
    tasks.enumerate().for_each(|(task, (out, lse))| {
        let [q, k, v] = x.head(z, task / z.heads, task % z.heads);
        let mut scores = Buffer::scratch(z.queries * z.keys);
        let scores = scores.as_mut_slice();
        gemm(scores, z.keys, q, k.t(), 1.0, Write::Set, Read::F32);
        for (row, lse) in scores.chunks_exact_mut(z.keys).zip(lse) {
            let shift = vector::max(row) * scale(z);
            let sum = vector::exp_scaled_sum(row, scale(z), shift);
            vector::scale(row, 1.0 / sum);
            *lse = shift + sum.ln();
        }
        gemm(out, z.head_width, Mat::new(scores, z.queries, z.keys), v, 1.0, Write::Set, Read::F32);
    });
    y.par_chunks_mut(z.queries * d).enumerate().for_each(|(image, y)| {
        let heads = &heads.as_slice()[image * z.queries * d..][..z.queries * d];
        merge(heads, z.queries, z.head_width, y, d);
    });
}

/// Heads (H, rows, Dh) into columns of rows that are `stride` apart.
fn merge(heads: &[f32], rows: usize, head_width: usize, out: &mut [f32], stride: usize) {
    for (head, values) in heads.chunks_exact(rows * head_width).enumerate() {
        for (row, values) in values.chunks_exact(head_width).enumerate() {
            out[row * stride + head * head_width..][..head_width].copy_from_slice(values);
        }
    }
}

/// Gradients, per image and head: dq (queries, Dh), then dk and dv (keys, Dh) each.
pub fn backward(x: Operands, z: Sizes, y: &[f32], lse: &[f32], dy: &[f32]) -> Buffer {
    let d = z.width();
    let head_len = (z.queries + 2 * z.keys) * z.head_width;
    let mut heads = Buffer::scratch(z.b * z.heads * head_len);
    heads.as_mut_slice().par_chunks_mut(head_len).enumerate().for_each(|(task, out)| {
        let (image, head) = (task / z.heads, task % z.heads);
        let [q, k, v] = x.head(z, image, head);
        let start = image * z.queries * d + head * z.head_width;
        let (y, dy) = (&y[start..], &dy[start..]);
        let dy_view = Mat::strided(dy, z.queries, z.head_width, d);
        let (dq, rest) = out.split_at_mut(z.queries * z.head_width);
        let (dk, dv) = rest.split_at_mut(z.keys * z.head_width);

        let (mut p, mut ds) = (Buffer::scratch(z.queries * z.keys), Buffer::scratch(z.queries * z.keys));
        let (p, ds) = (p.as_mut_slice(), ds.as_mut_slice());
        gemm(p, z.keys, q, k.t(), 1.0, Write::Set, Read::F32);
        for (row, &lse) in p.chunks_exact_mut(z.keys).zip(&lse[task * z.queries..][..z.queries]) {
            vector::exp_scaled_sum(row, scale(z), lse);
        }
        gemm(dv, z.head_width, Mat::new(p, z.queries, z.keys).t(), dy_view, 1.0, Write::Set, Read::F32);
        gemm(ds, z.keys, dy_view, v.t(), 1.0, Write::Set, Read::F32);
        for (i, (p, ds)) in p.chunks_exact(z.keys).zip(ds.chunks_exact_mut(z.keys)).enumerate() {
            let delta = vector::dot(&y[i * d..][..z.head_width], &dy[i * d..][..z.head_width]);
            vector::softmax_backward(p, ds, delta);
        }
        let ds = Mat::new(ds, z.queries, z.keys);
        gemm(dq, z.head_width, ds, k, scale(z), Write::Set, Read::F32);
        gemm(dk, z.head_width, ds.t(), q, scale(z), Write::Set, Read::F32);
    });
    heads
}

/// Spreads the result of `backward` over dq and dkv, whose rows hold all heads: `dq` (B, queries, ..) with dq at column
/// 0, `dkv` (B, keys, ..) with dk at `dk_column` and dv D columns later.
pub fn spread_query(heads: &Buffer, z: Sizes, dq: &mut [f32], stride: usize) {
    spread(heads, z, 0, z.queries, dq, stride, 0);
}

/// See `spread_query`.
pub fn spread_keys_values(heads: &Buffer, z: Sizes, dkv: &mut [f32], stride: usize, dk_column: usize) {
    spread(heads, z, z.queries, z.keys, dkv, stride, dk_column);
    spread(heads, z, z.queries + z.keys, z.keys, dkv, stride, dk_column + z.width());
}

/// Rows `first..first + rows` of each head's block into column `column` of rows `stride` apart.
fn spread(heads: &Buffer, z: Sizes, first: usize, rows: usize, out: &mut [f32], stride: usize, column: usize) {
    let block = (z.queries + 2 * z.keys) * z.head_width;
    out.par_chunks_mut(rows * stride).enumerate().for_each(|(image, out)| {
        for head in 0..z.heads {
            let start = (image * z.heads + head) * block + first * z.head_width;
            let values = &heads.as_slice()[start..][..rows * z.head_width];
            for (row, values) in values.chunks_exact(z.head_width).enumerate() {
                out[row * stride + column + head * z.head_width..][..z.head_width].copy_from_slice(values);
            }
        }
    });
}
