//! Attention on the CPU. Forward, a task takes some queries of an image through all heads, a strip of scores at a time;
//! backward, a task takes a head of an image, whose scores stay in the second cache.
#![forbid(unsafe_code)]

use super::Layout;
use crate::device::cpu::gemm::{Mat, Panels, Rows, Strip, Write, gemm, gemm_strip, ready};
use crate::device::cpu::{Buffer, pieces, vector};
use crate::tensor::{Spans, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Strips of queries that one task takes at most.
const STRIPS: usize = 4;
/// Tasks that a batch makes at least, when it has so many strips, to share it among threads.
const PARTS: usize = 16;

/// q (queries of all images, D), k and v (keys of all images, D).
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub q: Mat<'a>,
    pub k: Mat<'a>,
    pub v: Mat<'a>,
}

impl<'a> Operands<'a> {
    /// Of rows of q, k and v side by side.
    pub fn side_by_side(qkv: Mat<'a>) -> Self {
        let (rows, d) = (qkv.rows(), qkv.cols() / 3);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.block(0..rows, part * d..(part + 1) * d));
        Operands { q, k, v }
    }

    /// q, k and v of one head of one image.
    fn head(&self, z: &Layout, image: usize, head: usize) -> [Mat<'a>; 3] {
        let columns = || head * z.head_width..(head + 1) * z.head_width;
        let (queries, keys) = (z.queries.range(image), z.keys.range(image));
        [self.q.block(queries, columns()), self.k.block(keys.clone(), columns()), self.v.block(keys, columns())]
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

/// y (queries of all images, D) and the log-sum-exp of the scaled scores, (queries of all images, H).
pub fn forward(x: Operands, z: &Layout, y: &mut [f32], lse: &mut [f32]) {
    let (d, panels, parts) = (z.width(), panels(x, z), parts(z));
    let ys = pieces(y, parts.iter().map(|part| part.queries.len() * d));
    let lses = pieces(lse, parts.iter().map(|part| part.queries.len() * z.heads));
    parts.par_iter().zip(ys).zip(lses).with_max_len(1).for_each(|((part, y), lse)| {
        attend(x, z, &panels, part, y, d, lse);
    });
}

/// [`forward`] with y as the left operand of a product that reads its operands as attention's own do, and without the log-sum-exp
/// where `lse` is empty.
pub fn forward_rows(x: Operands, z: &Layout, lse: &mut [f32]) -> Rows {
    let (d, panels, parts) = (z.width(), panels(x, z), parts(z));
    let sums_kept = if lse.is_empty() { 0 } else { z.heads };
    let lses = pieces(lse, parts.iter().map(|part| part.queries.len() * sums_kept));
    let parts = parts.iter().zip(lses).map(|part| (part.0.queries.len(), part)).collect();
    Rows::filled([z.queries.rows(), d], z.read, parts, |(part, lse), y, stride| {
        attend(x, z, &panels, part, y, stride, lse);
    })
}

/// Some queries of an image.
struct Part {
    image: usize,
    queries: Range<usize>,
}

/// What one task takes: whole strips of an image's queries, so many that keys and values are not fetched for each strip.
fn parts(z: &Layout) -> Vec<Part> {
    let rows = Strip::height(z.read);
    let of_image = |image: usize| {
        let queries = z.queries.range(image).len();
        let strips = queries.div_ceil(rows);
        let count = PARTS.div_ceil(z.queries.images()).max(strips.div_ceil(STRIPS)).min(strips);
        let step = strips.div_ceil(count) * rows;
        (0..queries).step_by(step).map(move |start| Part { image, queries: start..(start + step).min(queries) })
    };
    (0..z.queries.images()).flat_map(of_image).collect()
}

/// k^T and v of each head, image after image, as right operands.
fn panels(x: Operands, z: &Layout) -> Vec<[Panels; 2]> {
    let tasks = (0..z.queries.images() * z.heads).into_par_iter().with_max_len(1);
    let one = |task: usize| {
        let [_, k, v] = x.head(z, task / z.heads, task % z.heads);
        [k.t(), v].map(|operand| Panels::by_caller(operand, z.read))
    };
    tasks.map(one).collect()
}

/// A part's rows of y, which begin `stride` apart, and their log-sum-exps (rows, H) unless that is empty. The scores of a strip of
/// queries stay in the near caches, where the sums of e^score are divided by once the values are mixed.
fn attend(x: Operands, z: &Layout, panels: &[[Panels; 2]], part: &Part, y: &mut [f32], stride: usize, lse: &mut [f32]) {
    let keys = z.keys.range(part.image).len();
    let padded = keys.next_multiple_of(vector::LANES);
    let (mut q, mut p) = (Strip::new(z.head_width, z.read), Strip::new(padded, z.read));
    let strip_rows = Strip::height(z.read);
    let heads = &panels[part.image * z.heads..][..z.heads];
    let (width, mixed_width) = (heads[0][0].width().max(padded), heads[0][1].width());
    let (mut scores, mut mixed) = (Buffer::scratch(strip_rows * width), Buffer::scratch(strip_rows * mixed_width));
    let (scores, mixed) = (scores.as_mut_slice(), mixed.as_mut_slice());
    let mut sums = vec![0.0; strip_rows];
    let _ready = ready(z.read);
    for (head, [k, v]) in heads.iter().enumerate() {
        let column = head * z.head_width;
        let [queries, ..] = x.head(z, part.image, head);
        for start in (0..part.queries.len()).step_by(strip_rows) {
            let rows = strip_rows.min(part.queries.len() - start);
            let first = part.queries.start + start;
            (0..rows).for_each(|i| queries.fetch_row(first + strip_rows + i));
            gemm_strip(scores, width, q.rows_of(queries, first, rows), k);
            for i in 0..rows {
                let row = &mut scores[i * width..][..padded];
                row[keys..].fill(f32::NEG_INFINITY);
                let shift = vector::max(row) * scale(z);
                sums[i] = p.put(i, |p| vector::exp_scaled_sum_to(row, scale(z), shift, p));
                if !lse.is_empty() {
                    lse[(start + i) * z.heads + head] = shift + sums[i].ln();
                }
            }
            gemm_strip(mixed, mixed_width, p.rows(rows), v);
            for i in 0..rows {
                let out = &mut y[(start + i) * stride + column..][..z.head_width];
                vector::scaled(&mixed[i * mixed_width..], 1.0 / sums[i], out);
            }
        }
    }
}

/// Gradients, per image and head: dq (queries, Dh), then dk and dv (keys, Dh) each.
pub fn backward(x: Operands, z: &Layout, lse: &[f32], dy: &[f32]) -> Buffer {
    let mut by_head = Buffer::scratch((z.queries.rows() + 2 * z.keys.rows()) * z.width());
    let outs = heads(by_head.as_mut_slice(), z, |queries, keys| (queries + 2 * keys) * z.head_width);
    outs.into_par_iter().enumerate().with_max_len(1).for_each(|(task, out)| {
        backward_head(x, z, lse, dy, [task / z.heads, task % z.heads], out);
    });
    by_head
}

/// [`gradient`] as products read it; its rows' sum is added to `sums`. An image's rows are written once its heads are done, out of near
/// caches where the image is not large, instead of after all images'.
pub fn backward_rows(x: Operands, z: &Layout, lse: &[f32], dy: &[f32], sums: &mut [f32]) -> Rows {
    let (d, width) = (z.width(), z.head_width);
    let parts = z.queries.lengths().enumerate().map(|(image, rows)| (rows, (image, rows))).collect();
    Rows::by_rows([z.queries.rows(), 3 * d], z.read, parts, sums, |(image, rows)| {
        let mut by_head = Buffer::scratch(rows * 3 * d);
        let outs = by_head.as_mut_slice().par_chunks_exact_mut((rows * 3 * width).max(1));
        outs.enumerate().with_max_len(1).for_each(|(head, out)| backward_head(x, z, lse, dy, [image, head], out));
        move |row, out| {
            for (i, values) in by_head.as_slice().chunks_exact((rows * width).max(1)).enumerate() {
                let (head, part) = (i / 3, i % 3);
                out[part * d + head * width..][..width].copy_from_slice(&values[row * width..][..width]);
            }
        }
    })
}

/// dq, dk and dv of a head of an image, one after the other.
fn backward_head(x: Operands, z: &Layout, lse: &[f32], dy: &[f32], [image, head]: [usize; 2], out: &mut [f32]) {
    let d = z.width();
    let [q, k, v] = x.head(z, image, head);
    let ((queries, keys), first) = (z.rows_of(image), z.queries.range(image).start);
    let dy = Mat::strided(&dy[first * d + head * z.head_width..], queries, z.head_width, d);
    let (dq, rest) = out.split_at_mut(queries * z.head_width);
    let (dk, dv) = rest.split_at_mut(keys * z.head_width);

    let (mut p, mut ds) = (Buffer::scratch(queries * keys), Buffer::scratch(queries * keys));
    let (p, ds) = (p.as_mut_slice(), ds.as_mut_slice());
    let _ready = ready(z.read);
    gemm(p, keys, q, k.t(), 1.0, Write::Set, z.read);
    for (row, lse) in p.chunks_exact_mut(keys).zip(lse[first * z.heads..].chunks_exact(z.heads)) {
        vector::exp_scaled_sum(row, scale(z), lse[head]);
    }
    gemm(dv, z.head_width, Mat::new(p, queries, keys).t(), dy, 1.0, Write::Set, z.read);
    gemm(ds, keys, dy, v.t(), 1.0, Write::Set, z.read);
    for (p, ds) in p.chunks_exact(keys).zip(ds.chunks_exact_mut(keys)) {
        vector::softmax_backward(p, ds, vector::dot(p, ds));
    }
    let ds = Mat::new(ds, queries, keys);
    gemm(dq, z.head_width, ds, k, scale(z), Write::Set, z.read);
    gemm(dk, z.head_width, ds.t(), q, scale(z), Write::Set, z.read);
}

/// dq, dk and dv of [`backward`] side by side, (rows, 3D), where queries are keys.
pub fn gradient(by_head: &Buffer, z: &Layout) -> Tensor {
    let d = z.width();
    let mut dqkv = Tensor::scratch(&z.queries.shape(3 * d));
    spread_query(by_head, z, dqkv.data_mut(), 3 * d);
    spread_keys_values(by_head, z, dqkv.data_mut(), 3 * d, d);
    dqkv
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
