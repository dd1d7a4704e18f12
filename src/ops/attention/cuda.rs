//! How attention's kernels are launched: whole sequences on the tensor cores, split ones and f32 row by row.
#![allow(unsafe_code)]

mod entries;
mod geometry;

pub use entries::{BACKWARD_ENTRIES, ENTRIES, ROWS_ENTRIES};
use geometry::checked;
pub use geometry::{
    HEAD_WIDTH, LONGEST_WHOLE, LONGEST_WHOLE_BACKWARD, Method, backward_rows_shape, backward_shape, delta_len,
    forward_rows_shape, forward_shape,
};

use super::reference::Sizes;
use crate::device::cuda::{Arg, Element, Entry, Gpu, Half, Slice, counts, lengths};
use crate::error::Result;
use crate::ops::ptx;

fn capability(gpu: &Gpu) -> u32 {
    let (major, minor) = gpu.capability();
    10 * major + minor
}

/// y (b, s, 64 heads) and the log-sum-exp (b, heads, s) of qkv (b, s, 3, heads, 64), as the op's `packed`.
#[allow(clippy::too_many_arguments, reason = "the kernel's operands and sizes")]
pub fn forward(
    gpu: &Gpu,
    half: Half,
    qkv: Slice<u16>,
    b: usize,
    s: usize,
    heads: usize,
    y: Slice<u16>,
    lse: Slice<f32>,
) -> Result<()> {
    let rows = b * s * heads;
    lengths(
        "attention",
        &[("qkv", qkv.len(), 3 * HEAD_WIDTH * rows), ("y", y.len(), HEAD_WIDTH * rows), ("lse", lse.len(), rows)],
    )?;
    let method = Method::choose(s);
    let geometry = forward_shape(b, s, heads, method, capability(gpu))?;
    let [s, heads] = counts("attention", [s, heads])?;
    let entry = Entry::named(ENTRIES, &format!("attention_fwd{}_{}", method.suffix(), half.name()));
    let kernel = gpu.kernel(&ptx::ATTENTION, entry)?;
    let args = [qkv.into(), y.into(), lse.into(), s.into(), heads.into()];
    // SAFETY: the buffers have the lengths that the kernel's contract gives for b images of s rows, as checked above;
    // the grid has a block for each image and head, and strips beyond s are masked.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

/// dqkv is set, from qkv, y and lse of `forward` and from dy, as the op's backward; `delta` has `delta_len` elements.
#[allow(clippy::too_many_arguments, reason = "the kernels' operands and sizes")]
pub fn backward(
    gpu: &Gpu,
    half: Half,
    qkv: Slice<u16>,
    b: usize,
    s: usize,
    heads: usize,
    y: Slice<u16>,
    lse: Slice<f32>,
    dy: Slice<u16>,
    delta: Slice<f32>,
    dqkv: Slice<u16>,
) -> Result<()> {
    let rows = b * s * heads;
    lengths(
        "attention",
        &[
            ("qkv", qkv.len(), 3 * HEAD_WIDTH * rows),
            ("y", y.len(), HEAD_WIDTH * rows),
            ("lse", lse.len(), rows),
            ("dy", dy.len(), HEAD_WIDTH * rows),
            ("delta", delta.len(), delta_len(b, s, heads)),
            ("dqkv", dqkv.len(), 3 * HEAD_WIDTH * rows),
        ],
    )?;
    let method = Method::choose_backward(s);
    let geometry = backward_shape(b, s, heads, method, capability(gpu))?;
    let [s, heads] = counts("attention", [s, heads])?;
    let kernel = |what: &str| {
        let entry = Entry::named(BACKWARD_ENTRIES, &format!("attention_bwd{what}_{}", half.name()));
        gpu.kernel(&ptx::ATTENTION_BWD, entry)
    };
    match method {
        Method::Whole => {
            let args = [qkv.into(), y.into(), dy.into(), lse.into(), dqkv.into(), s.into(), heads.into()];
            // SAFETY: the buffers have the lengths that the kernel's contract gives for b images of s rows, as checked
            // above; the grid has a block for each image and head, and strips beyond s are masked.
            unsafe { gpu.stream().launch(&kernel("")?, geometry, &args) }
        }
        Method::Online => {
            let args = [qkv.into(), y.into(), dy.into(), lse.into(), dqkv.into(), delta.into(), s.into(), heads.into()];
            // SAFETY: as above, with a block for every 64 rows of each image and head; `delta` has a place for each row.
            unsafe { gpu.stream().launch(&kernel("_dq")?, geometry, &args)? };
            let args = [qkv.into(), dy.into(), lse.into(), delta.into(), dqkv.into(), s.into(), heads.into()];
            // SAFETY: as above; the launch before has set `delta`.
            unsafe { gpu.stream().launch(&kernel("_dkv")?, geometry, &args) }
        }
    }
}

/// q, k and v, or their gradients: from the first value of each on, and the distance of two rows.
#[derive(Clone, Copy)]
struct Rows<'a, T> {
    q: Slice<'a, T>,
    k: Slice<'a, T>,
    v: Slice<'a, T>,
    q_row: usize,
    kv_row: usize,
}

impl<'a, T: Element> Rows<'a, T> {
    /// Of (b, s, 3d); an error when it has another length.
    fn packed(name: &str, qkv: Slice<'a, T>, z: Sizes) -> Result<Self> {
        let (d, len) = (z.width(), qkv.len());
        lengths("attention", &[(name, len, 3 * z.b * z.keys * d)])?;
        let part = |i: usize| qkv.window(i * d, len - i * d);
        Ok(Rows { q: qkv, k: part(1), v: part(2), q_row: 3 * d, kv_row: 3 * d })
    }

    /// Of (b, queries, d) and (b, keys, 2d); an error when they have other lengths.
    fn split(names: [&str; 2], q: Slice<'a, T>, kv: Slice<'a, T>, z: Sizes) -> Result<Self> {
        let (d, len) = (z.width(), kv.len());
        lengths("attention", &[(names[0], q.len(), z.b * z.queries * d), (names[1], len, 2 * z.b * z.keys * d)])?;
        Ok(Rows { q, k: kv, v: kv.window(d, len - d), q_row: d, kv_row: 2 * d })
    }
}

/// What the forward pass leaves for the backward one.
#[derive(Clone, Copy)]
struct Kept<'a, T> {
    y: Slice<'a, T>,
    lse: Slice<'a, f32>,
}

impl<T: Element> Kept<'_, T> {
    fn check(&self, z: Sizes) -> Result<()> {
        let rows = z.b * z.queries * z.heads;
        lengths("attention", &[("y", self.y.len(), HEAD_WIDTH * rows), ("lse", self.lse.len(), rows)])
    }
}

fn forward_rows<T: Element>(gpu: &Gpu, name: &str, x: Rows<T>, z: Sizes, kept: Kept<T>) -> Result<()> {
    kept.check(z)?;
    let geometry = forward_rows_shape(z)?;
    let sizes = counts("attention", [z.queries, z.keys, z.heads, x.q_row, x.kv_row])?;
    let kernel = gpu.kernel(&ptx::ATTENTION_ROWS, Entry::named(ROWS_ENTRIES, &format!("attention_fwd_rows_{name}")))?;
    let buffers = [x.q.into(), x.k.into(), x.v.into(), kept.y.into(), kept.lse.into()];
    let args: Vec<Arg> = buffers.into_iter().chain(sizes.map(Arg::from)).collect();
    // SAFETY: the buffers have the lengths that the kernel's contract gives for these sizes, as checked above and where
    // the rows were made; the grid has a block for each query of each image and head.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

fn backward_rows<T: Element>(
    gpu: &Gpu,
    name: &str,
    x: Rows<T>,
    z: Sizes,
    kept: Kept<T>,
    dy: Slice<T>,
    dx: Rows<T>,
) -> Result<()> {
    kept.check(z)?;
    lengths("attention", &[("dy", dy.len(), kept.y.len())])?;
    let geometry = backward_rows_shape(z)?;
    let sizes = counts("attention", [z.queries, z.keys, z.heads, x.q_row, x.kv_row])?;
    let kernel = gpu.kernel(&ptx::ATTENTION_ROWS, Entry::named(ROWS_ENTRIES, &format!("attention_bwd_rows_{name}")))?;
    let buffers = [x.q, x.k, x.v, kept.y, dy].map(Arg::from).into_iter().chain([kept.lse.into()]);
    let args: Vec<Arg> = buffers.chain([dx.q, dx.k, dx.v].map(Arg::from)).chain(sizes.map(Arg::from)).collect();
    // SAFETY: the buffers have the lengths that the kernel's contract gives for these sizes, as checked above and where
    // the rows were made, gradients like their values; the grid has a block for each image and head.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

/// y (b, queries, d) and the log-sum-exp (b, heads, queries) of q (b, queries, d) and kv (b, keys, 2d), as the op's
/// `split`. Made for few queries; any number is right. An error when a head is not 64 wide.
pub fn forward_split(
    gpu: &Gpu,
    half: Half,
    q: Slice<u16>,
    kv: Slice<u16>,
    z: Sizes,
    y: Slice<u16>,
    lse: Slice<f32>,
) -> Result<()> {
    forward_rows(gpu, half.name(), Rows::split(["q", "kv"], q, kv, checked(z)?)?, z, Kept { y, lse })
}

/// dq and dkv are set, from the operands and results of `forward_split` and from dy, as the op's backward.
#[allow(clippy::too_many_arguments, reason = "the kernel's operands and sizes")]
pub fn backward_split(
    gpu: &Gpu,
    half: Half,
    q: Slice<u16>,
    kv: Slice<u16>,
    z: Sizes,
    y: Slice<u16>,
    lse: Slice<f32>,
    dy: Slice<u16>,
    dq: Slice<u16>,
    dkv: Slice<u16>,
) -> Result<()> {
    let (x, dx) = (Rows::split(["q", "kv"], q, kv, checked(z)?)?, Rows::split(["dq", "dkv"], dq, dkv, z)?);
    backward_rows(gpu, half.name(), x, z, Kept { y, lse }, dy, dx)
}

/// `forward_split` in f32.
pub fn forward_split_f32(
    gpu: &Gpu,
    q: Slice<f32>,
    kv: Slice<f32>,
    z: Sizes,
    y: Slice<f32>,
    lse: Slice<f32>,
) -> Result<()> {
    forward_rows(gpu, "f32", Rows::split(["q", "kv"], q, kv, checked(z)?)?, z, Kept { y, lse })
}

/// `backward_split` in f32.
#[allow(clippy::too_many_arguments, reason = "the kernel's operands and sizes")]
pub fn backward_split_f32(
    gpu: &Gpu,
    q: Slice<f32>,
    kv: Slice<f32>,
    z: Sizes,
    y: Slice<f32>,
    lse: Slice<f32>,
    dy: Slice<f32>,
    dq: Slice<f32>,
    dkv: Slice<f32>,
) -> Result<()> {
    let (x, dx) = (Rows::split(["q", "kv"], q, kv, checked(z)?)?, Rows::split(["dq", "dkv"], dq, dkv, z)?);
    backward_rows(gpu, "f32", x, z, Kept { y, lse }, dy, dx)
}

/// `forward` in f32, on the ordinary cores: right, not fast.
pub fn forward_f32(
    gpu: &Gpu,
    qkv: Slice<f32>,
    b: usize,
    s: usize,
    heads: usize,
    y: Slice<f32>,
    lse: Slice<f32>,
) -> Result<()> {
    let z = checked(Sizes { b, queries: s, keys: s, heads, head_width: HEAD_WIDTH })?;
    forward_rows(gpu, "f32", Rows::packed("qkv", qkv, z)?, z, Kept { y, lse })
}

/// `backward` in f32, on the ordinary cores: right, not fast. It takes no workspace.
#[allow(clippy::too_many_arguments, reason = "the kernel's operands and sizes")]
pub fn backward_f32(
    gpu: &Gpu,
    qkv: Slice<f32>,
    b: usize,
    s: usize,
    heads: usize,
    y: Slice<f32>,
    lse: Slice<f32>,
    dy: Slice<f32>,
    dqkv: Slice<f32>,
) -> Result<()> {
    let z = checked(Sizes { b, queries: s, keys: s, heads, head_width: HEAD_WIDTH })?;
    let (x, dx) = (Rows::packed("qkv", qkv, z)?, Rows::packed("dqkv", dqkv, z)?);
    backward_rows(gpu, "f32", x, z, Kept { y, lse }, dy, dx)
}
