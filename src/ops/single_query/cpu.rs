//! Attention of one query an image on the CPU: what meets a weight by heads, what meets an image's tokens by images.
#![forbid(unsafe_code)]

use crate::device::cpu::gemm::{Mat, Operands, Write, gemm};
use crate::device::cpu::{Buffer, pieces, vector};
use crate::tensor::Spans;
use rayon::prelude::*;

/// What the way back reads again.
pub struct Kept {
    /// (H,B,D): of each head a row for each image.
    u: Buffer,
    /// (H,S), image after image.
    p: Buffer,
    /// Mixed tokens, (H,B,D).
    pub m: Buffer,
}

/// Columns `head` of `heads` of a matrix of `rows` rows.
fn columns(x: &[f32], rows: usize, head: usize, heads: usize) -> Mat<'_> {
    let (d, width) = (x.len() / rows, x.len() / rows / heads);
    Mat::strided(&x[head * width..], rows, width, d)
}

/// The rows of a weight (D,D) that make a head.
fn of_head(weight: &[f32], head: usize, heads: usize, d: usize) -> Mat<'_> {
    let width = d / heads;
    Mat::new(&weight[head * width * d..(head + 1) * width * d], width, d)
}

/// Of (H,B,D) the rows of an image, one a head.
fn of_image(x: &[f32], image: usize, heads: usize, [b, d]: [usize; 2]) -> Mat<'_> {
    Mat::strided(&x[image * d..], heads, d, b * d)
}

fn product(out: &mut [f32], a: Mat, b: Mat, alpha: f32, write: Write, stride: usize) {
    gemm(out, stride, a, b, alpha, write, Operands::F32);
}

/// x (B,D) times the rows of a weight, head by head: (H,B,D).
fn through_weight(x: &[f32], weight: &[f32], heads: usize, [b, d]: [usize; 2]) -> Buffer {
    let mut out = Buffer::scratch(heads * b * d);
    out.as_mut_slice().par_chunks_mut(b * d).enumerate().with_max_len(1).for_each(|(head, out)| {
        product(out, columns(x, b, head, heads), of_head(weight, head, heads, d), 1.0, Write::Set, d);
    });
    out
}

/// x (H,B,D) times the transposed rows of a weight, head by head, into `out` (B,D).
fn back_through_weight(x: &[f32], weight: &[f32], heads: usize, [b, d]: [usize; 2], out: &mut [f32]) {
    let width = d / heads;
    let mut by_head = Buffer::scratch(b * d);
    by_head.as_mut_slice().par_chunks_mut(b * width).enumerate().with_max_len(1).for_each(|(head, out)| {
        let x = Mat::new(&x[head * b * d..(head + 1) * b * d], b, d);
        product(out, x, of_head(weight, head, heads, d).t(), 1.0, Write::Set, width);
    });
    for (head, values) in by_head.as_slice().chunks_exact(b * width).enumerate() {
        for (out, values) in out.chunks_exact_mut(d).zip(values.chunks_exact(width)) {
            out[head * width..][..width].copy_from_slice(values);
        }
    }
}

/// What scores are multiplied by.
fn scale(d: usize, heads: usize) -> f32 {
    1.0 / ((d / heads) as f32).sqrt()
}

/// y (B,D) of q (B,D), tokens x, W (2D,D) and b (2D), and what the way back reads.
pub fn forward([q, x, weight, bias]: [&[f32]; 4], spans: &Spans, heads: usize, y: &mut [f32]) -> Kept {
    let (b, d) = (spans.images(), bias.len() / 2);
    let (key_weight, value_weight) = weight.split_at(d * d);
    let u = through_weight(q, key_weight, heads, [b, d]);
    let mut p = Buffer::scratch(heads * spans.rows());
    let mut m_of_images = Buffer::scratch(heads * b * d);
    let ps = pieces(p.as_mut_slice(), spans.lengths().map(|len| heads * len));
    let work = ps.into_par_iter().zip(m_of_images.as_mut_slice().par_chunks_mut(heads * d)).enumerate();
    work.with_max_len(1).for_each(|(image, (p, m))| {
        let len = p.len() / heads;
        let x = Mat::new(&x[spans.range(image).start * d..][..len * d], len, d);
        product(p, of_image(u.as_slice(), image, heads, [b, d]), x.t(), 1.0, Write::Set, len);
        for row in p.chunks_exact_mut(len) {
            let shift = vector::max(row) * scale(d, heads);
            let sum = vector::exp_scaled_sum(row, scale(d, heads), shift);
            vector::scale(row, 1.0 / sum);
        }
        product(m, Mat::new(p, heads, len), x, 1.0, Write::Set, d);
    });
    let m = turned(&m_of_images, [b, heads, d]);
    back_through_weight(m.as_slice(), value_weight, heads, [b, d], y);
    y.chunks_exact_mut(d).for_each(|y| vector::add(y, &bias[d..]));
    Kept { u, p, m }
}

/// (I,J,D) as (J,I,D).
fn turned(x: &Buffer, [i, j, d]: [usize; 3]) -> Buffer {
    let mut out = Buffer::scratch(i * j * d);
    for (at, x) in x.as_slice().chunks_exact(d).enumerate() {
        out.as_mut_slice()[(at % j * i + at / j) * d..][..d].copy_from_slice(x);
    }
    out
}

/// Sets dq (B,D) and dx of x, W (2D,D) and dy (B,D); returns du (H,B,D).
pub fn backward(
    [x, weight, dy]: [&[f32]; 3],
    kept: &Kept,
    spans: &Spans,
    heads: usize,
    [dq, dx]: [&mut [f32]; 2],
) -> Buffer {
    let (b, d) = (spans.images(), dy.len() / spans.images());
    let (key_weight, value_weight) = weight.split_at(d * d);
    let dm = through_weight(dy, value_weight, heads, [b, d]);
    let mut du_of_images = Buffer::scratch(heads * b * d);
    let dus = du_of_images.as_mut_slice().par_chunks_mut(heads * d);
    let work = spans.split_mut(dx, d).into_par_iter().zip(dus).enumerate();
    work.with_max_len(1).for_each(|(image, (dx, du))| {
        let (len, first) = (dx.len() / d, spans.range(image).start);
        let x = Mat::new(&x[first * d..][..len * d], len, d);
        let [u, dm] = [&kept.u, &dm].map(|rows| of_image(rows.as_slice(), image, heads, [b, d]));
        let p = &kept.p.as_slice()[first * heads..][..len * heads];
        let mut ds = Buffer::scratch(heads * len);
        let ds = ds.as_mut_slice();
        product(ds, dm, x.t(), 1.0, Write::Set, len);
        for (p, ds) in p.chunks_exact(len).zip(ds.chunks_exact_mut(len)) {
            vector::softmax_backward(p, ds, vector::dot(p, ds));
        }
        let (p, ds) = (Mat::new(p, heads, len), Mat::new(ds, heads, len));
        product(du, ds, x, scale(d, heads), Write::Set, d);
        product(dx, p.t(), dm, 1.0, Write::Set, d);
        product(dx, ds.t(), u, scale(d, heads), Write::Add, d);
    });
    let du = turned(&du_of_images, [b, heads, d]);
    back_through_weight(du.as_slice(), key_weight, heads, [b, d], dq);
    du
}

/// Sets, or adds to, the gradient of a weight (D,D): of each head the sum over images of `left` (B,D), its columns, times its row of
/// `right` (H,B,D).
pub fn put_weight_gradient(left: &[f32], right: &Buffer, b: usize, heads: usize, sum: &mut [f32], write: Write) {
    let d = left.len() / b;
    sum.par_chunks_mut(d / heads * d).enumerate().with_max_len(1).for_each(|(head, sum)| {
        let right = Mat::new(&right.as_slice()[head * b * d..(head + 1) * b * d], b, d);
        product(sum, columns(left, b, head, heads).t(), right, 1.0, write, d);
    });
}

/// Adds the rows of dy to a bias's gradient.
pub fn add_bias_gradient(dy: &[f32], sum: &mut [f32]) {
    dy.chunks_exact(sum.len()).for_each(|dy| vector::add(sum, dy));
}
