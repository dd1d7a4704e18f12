//! How attention's kernels are launched: whole sequences on the tensor cores, split ones and f32 row by row.
#![allow(unsafe_code)]

mod entries;
mod geometry;

pub use entries::{BACKWARD_ENTRIES, ENTRIES, ROWS_ENTRIES};
use geometry::checked;
pub use geometry::{
    HEAD_WIDTH, LONGEST_WHOLE, LONGEST_WHOLE_BACKWARD, Method, backward_rows_shape, backward_shape, forward_rows_shape,
    forward_shape,
};

use super::reference::Sizes;
use crate::device::cuda::{Arg, Entry, Gpu, Slice, Values, counts, lengths};
use crate::error::Result;
use crate::ops::ptx;

fn capability(gpu: &Gpu) -> u32 {
    let (major, minor) = gpu.capability();
    10 * major + minor
}

/// y (b, s, d) and the log-sum-exp (b, heads, s) of qkv (b, s, 3d), as the op's `packed`. f32 goes through the ordinary
/// cores: right, not fast. An error when a head is not 64 wide.
pub fn forward(gpu: &Gpu, qkv: Values, z: Sizes, y: Values, lse: Slice<f32>) -> Result<()> {
    let z = checked(z)?;
    let Some(half) = Values::common("attention", &[qkv, y])?.half() else {
        return forward_rows(gpu, Rows::packed("qkv", qkv, z)?, z, Kept { y, lse });
    };
    let (b, s, heads) = (z.b, z.keys, z.heads);
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

/// Length in f32 of the workspace `delta` of [`backward`].
pub fn delta_len(gpu: &Gpu, z: Sizes) -> usize {
    geometry::delta_len(z.b, z.keys, z.heads, capability(gpu))
}

/// dqkv is set, from qkv, y and lse of `forward` and from dy, as the op's backward; `delta` has `delta_len` elements.
#[allow(clippy::too_many_arguments, reason = "the kernels' operands and sizes")]
pub fn backward(
    gpu: &Gpu,
    qkv: Values,
    z: Sizes,
    y: Values,
    lse: Slice<f32>,
    dy: Values,
    delta: Slice<f32>,
    dqkv: Values,
) -> Result<()> {
    let z = checked(z)?;
    let Some(half) = Values::common("attention", &[qkv, y, dy, dqkv])?.half() else {
        let (x, dx) = (Rows::packed("qkv", qkv, z)?, Rows::packed("dqkv", dqkv, z)?);
        return backward_rows(gpu, x, z, Kept { y, lse }, dy, dx);
    };
    let (b, s, heads) = (z.b, z.keys, z.heads);
    let rows = b * s * heads;
    lengths(
        "attention",
        &[
            ("qkv", qkv.len(), 3 * HEAD_WIDTH * rows),
            ("y", y.len(), HEAD_WIDTH * rows),
            ("lse", lse.len(), rows),
            ("dy", dy.len(), HEAD_WIDTH * rows),
            ("delta", delta.len(), delta_len(gpu, z)),
            ("dqkv", dqkv.len(), 3 * HEAD_WIDTH * rows),
        ],
    )?;
    let method = Method::choose_backward(s, capability(gpu));
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
            unsafe { gpu.stream().launch(kernel("")?.as_ref(), geometry, &args) }
        }
        Method::Online => {
            let args = [qkv.into(), y.into(), dy.into(), lse.into(), dqkv.into(), delta.into(), s.into(), heads.into()];
            // SAFETY: as above, with a block for every 64 rows of each image and head; `delta` has a place for each row.
            unsafe { gpu.stream().launch(kernel("_dq")?.as_ref(), geometry, &args)? };
            let args = [qkv.into(), dy.into(), lse.into(), delta.into(), dqkv.into(), s.into(), heads.into()];
            // SAFETY: as above; the launch before has set `delta`.
            unsafe { gpu.stream().launch(kernel("_dkv")?.as_ref(), geometry, &args) }
        }
    }
}

/// q, k and v, or their gradients: from the first value of each on, and the distance of two rows.
#[derive(Clone, Copy)]
struct Rows<'a> {
    q: Values<'a>,
    k: Values<'a>,
    v: Values<'a>,
    q_row: usize,
    kv_row: usize,
}

impl<'a> Rows<'a> {
    /// Of (b, s, 3d); an error when it has another length.
    fn packed(name: &str, qkv: Values<'a>, z: Sizes) -> Result<Self> {
        let (d, len) = (z.width(), qkv.len());
        lengths("attention", &[(name, len, 3 * z.b * z.keys * d)])?;
        let part = |i: usize| qkv.window(i * d, len - i * d);
        Ok(Rows { q: qkv, k: part(1), v: part(2), q_row: 3 * d, kv_row: 3 * d })
    }

    /// Of (b, queries, d) and (b, keys, 2d); an error when they have other lengths.
    fn split(names: [&str; 2], q: Values<'a>, kv: Values<'a>, z: Sizes) -> Result<Self> {
        let (d, len) = (z.width(), kv.len());
        lengths("attention", &[(names[0], q.len(), z.b * z.queries * d), (names[1], len, 2 * z.b * z.keys * d)])?;
        Ok(Rows { q, k: kv, v: kv.window(d, len - d), q_row: d, kv_row: 2 * d })
    }
}

/// What the forward pass leaves for the backward one.
#[derive(Clone, Copy)]
struct Kept<'a> {
    y: Values<'a>,
    lse: Slice<'a, f32>,
}

impl Kept<'_> {
    fn check(&self, z: Sizes) -> Result<()> {
        let rows = z.b * z.queries * z.heads;
        lengths("attention", &[("y", self.y.len(), HEAD_WIDTH * rows), ("lse", self.lse.len(), rows)])
    }
}

fn forward_rows(gpu: &Gpu, x: Rows, z: Sizes, kept: Kept) -> Result<()> {
    let name = Values::common("attention", &[x.q, x.k, kept.y])?.name();
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

fn backward_rows(gpu: &Gpu, x: Rows, z: Sizes, kept: Kept, dy: Values, dx: Rows) -> Result<()> {
    let name = Values::common("attention", &[x.q, x.k, kept.y, dy, dx.q, dx.k])?.name();
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
pub fn forward_split(gpu: &Gpu, q: Values, kv: Values, z: Sizes, y: Values, lse: Slice<f32>) -> Result<()> {
    forward_rows(gpu, Rows::split(["q", "kv"], q, kv, checked(z)?)?, z, Kept { y, lse })
}

/// dq and dkv are set, from the operands and results of `forward_split` and from dy, as the op's backward.
#[allow(clippy::too_many_arguments, reason = "the kernel's operands and sizes")]
pub fn backward_split(
    gpu: &Gpu,
    q: Values,
    kv: Values,
    z: Sizes,
    y: Values,
    lse: Slice<f32>,
    dy: Values,
    [dq, dkv]: [Values; 2],
) -> Result<()> {
    let (x, dx) = (Rows::split(["q", "kv"], q, kv, checked(z)?)?, Rows::split(["dq", "dkv"], dq, dkv, z)?);
    backward_rows(gpu, x, z, Kept { y, lse }, dy, dx)
}
