//! How the kernels of ptx/matmul.cu, ptx/matmul_bwd.cu and ptx/matmul_scalar.cu are called, and which of them when.
//!
//! 16-bit types go to the matrix units where the sizes suit these; f32, and all other sizes, to the scalar kernels.
#![allow(unsafe_code)]

mod entries;
mod shape;

pub use entries::{BACKWARD, ENTRIES, SCALAR};
pub use shape::{Parts, Sizes, Tile};

use crate::device::cpu::gemm::Write;
use crate::device::cuda::{Arg, Entry, Geometry, Gpu, Ptx, Slice, Store, Values, counts, lengths};
use crate::error::Result;
use crate::ops::ptx;

/// What follows the product and the bias; see the op's `Epilogue`.
#[derive(Clone, Copy)]
pub enum Fused<'a> {
    Bias,
    /// GELU; the pre-activation (m, n) is kept where there is a place for it.
    BiasGelu {
        pre: Option<Values<'a>>,
    },
    /// A residual (m, n) is added.
    BiasResidual {
        residual: Values<'a>,
    },
}

/// The way back through a GELU before the layer: its input (m, k), and `gelu_partial_len` f32 for sums of the gradient.
#[derive(Clone, Copy)]
pub struct GeluBackward<'a> {
    pub pre: Values<'a>,
    pub partial: Slice<'a, f32>,
}

/// The file of a tile's kernels: the scalar ones share one.
fn source(tile: Tile, units: (&'static Ptx, &'static [Entry])) -> (&'static Ptx, &'static [Entry]) {
    if tile == Tile::Scalar { (&ptx::MATMUL_SCALAR, SCALAR) } else { units }
}

/// The tile for an output (rows, columns) in `parts`, of sizes that suit the matrix units or not.
fn tile(gpu: &Gpu, store: Store, suits: bool, output: (usize, usize), parts: usize) -> Result<Tile> {
    if !suits || store.half().is_none() {
        return Ok(Tile::Scalar);
    }
    Ok(Tile::choose(output.0, output.1, parts, gpu.multiprocessors()?))
}

/// Launches an entry of a file by its name.
///
/// # Safety
/// As for `Stream::launch`.
unsafe fn launch(
    gpu: &Gpu,
    (ptx, table): (&'static Ptx, &'static [Entry]),
    name: &str,
    geometry: Geometry,
    args: &[Arg],
) -> Result<()> {
    let kernel = gpu.kernel(ptx, Entry::named(table, name))?;
    // SAFETY: the caller's promise.
    unsafe { gpu.stream().launch(&kernel, geometry, args) }
}

/// y (m, n) = x (m, k) weight^T + bias and what `fused` adds; weight (n, k), bias (n) in f32, the rest of one type.
pub fn forward(gpu: &Gpu, x: Values, weight: Values, bias: Slice<f32>, fused: Fused, y: Values) -> Result<()> {
    let n = bias.len();
    let k = weight.len().checked_div(n).unwrap_or(0);
    let m = x.len().checked_div(k).unwrap_or(0);
    let (name, beside) = match fused {
        Fused::Bias => ("bias", None),
        Fused::BiasGelu { pre } => ("bias_gelu", pre),
        Fused::BiasResidual { residual } => ("bias_residual", Some(residual)),
    };
    let store = Values::common("matmul", &[x, weight, y, beside.unwrap_or(y)])?;
    lengths(
        "matmul",
        &[
            ("x", x.len(), m * k),
            ("weight", weight.len(), n * k),
            ("y", y.len(), m * n),
            (name, beside.unwrap_or(y).len(), m * n),
        ],
    )?;
    let sizes = Sizes { m, n, k };
    let tile = tile(gpu, store, sizes.suits_forward(), (m, n), 1)?;
    let (geometry, [m, n, k]) = (sizes.forward(tile)?, counts("matmul", [m, n, k])?);
    let mut args: Vec<Arg> = vec![x.into(), weight.into(), bias.into()];
    match fused {
        Fused::Bias => {}
        _ => args.push(beside.map_or(Arg::NULL, Arg::from)),
    }
    args.extend::<[Arg; 4]>([y.into(), m.into(), n.into(), k.into()]);
    let name = format!("matmul_fwd_{name}{}_{}", tile.suffix(), store.name());
    // SAFETY: the buffers have the lengths that the kernel's contract gives for (m, n, k), as checked above, and only GELU's
    // input may be null; the kernel masks what its tiles hold beyond m and n.
    unsafe { launch(gpu, source(tile, (&ptx::MATMUL, ENTRIES)), &name, geometry, &args) }
}

/// Length in f32 of the sums that a product for dx with GELU leaves: (ceil(m / 64), k).
pub fn gelu_partial_len(sizes: Sizes) -> usize {
    sizes.m.div_ceil(64).saturating_mul(sizes.k)
}

/// dx (m, k) = g (m, n) weight. With `gelu` x was gelu(pre) and dx is the gradient of pre, which may be in its memory:
/// times gelu'(pre), with the sums of its rows, 64 at a time, in `partial`. All of one type but `partial`.
pub fn backward_dx(
    gpu: &Gpu,
    sizes: Sizes,
    g: Values,
    weight: Values,
    gelu: Option<GeluBackward>,
    dx: Values,
) -> Result<()> {
    let Sizes { m, n, k } = sizes;
    let [m32, n32, k32] = counts("matmul", [m, n, k])?;
    let pre = gelu.map_or(dx, |gelu| gelu.pre);
    let store = Values::common("matmul", &[g, weight, dx, pre])?;
    let partial = gelu.map_or(0, |_| gelu_partial_len(sizes));
    lengths(
        "matmul",
        &[
            ("g", g.len(), m * n),
            ("weight", weight.len(), n * k),
            ("dx", dx.len(), m * k),
            ("pre", pre.len(), m * k),
            ("partial", gelu.map_or(0, |gelu| gelu.partial.len()), partial),
        ],
    )?;
    let tile = tile(gpu, store, sizes.suits_backward(), (m, k), 1)?;
    let (name, mut args): (_, Vec<Arg>) = match gelu {
        None => ("", vec![g.into(), weight.into(), dx.into()]),
        Some(gelu) => ("_gelu", vec![g.into(), weight.into(), pre.into(), dx.into(), gelu.partial.into()]),
    };
    args.extend([m32, n32, k32].map(Arg::from));
    let name = format!("matmul_bwd_dx{name}{}_{}", tile.suffix(), store.name());
    // SAFETY: the buffers have the lengths of the kernel's contract, checked above; the kernel masks what its tiles hold
    // beyond m and k. Where dx is pre, a thread reads a value before it writes it.
    unsafe { launch(gpu, source(tile, (&ptx::MATMUL_BWD, BACKWARD)), &name, sizes.backward_dx(tile)?, &args) }
}

/// The end of the names of what sets or adds.
fn ending(write: Write) -> &'static str {
    match write {
        Write::Set => "set_f32",
        Write::Add => "add_f32",
    }
}

/// Length in f32 of the workspace of [`backward_dweight`]: (parts, n, k), or nothing where one part is the whole and may
/// be written in place.
pub fn dweight_len(sizes: Sizes, write: Write) -> usize {
    match (Parts::of_dweight(sizes).count, write) {
        (1, Write::Set) => 0,
        (parts, _) => parts.saturating_mul(sizes.n).saturating_mul(sizes.k),
    }
}

/// dweight (n, k) in f32 = or += g^T x; g (m, n) and x (m, k) of one type, `workspace` of `dweight_len` elements.
pub fn backward_dweight(
    gpu: &Gpu,
    sizes: Sizes,
    g: Values,
    x: Values,
    workspace: Slice<f32>,
    dweight: Slice<f32>,
    write: Write,
) -> Result<()> {
    let Sizes { m, n, k } = sizes;
    let [m32, n32, k32] = counts("matmul", [m, n, k])?;
    let store = Values::common("matmul", &[g, x])?;
    lengths(
        "matmul",
        &[
            ("g", g.len(), m * n),
            ("x", x.len(), m * k),
            ("workspace", workspace.len(), dweight_len(sizes, write)),
            ("dweight", dweight.len(), n * k),
        ],
    )?;
    let parts = Parts::of_dweight(sizes);
    let tile = tile(gpu, store, sizes.suits_backward(), (n, k), parts.count)?;
    let (geometry, parts) = sizes.backward_dweight(tile)?;
    let [count, rows, len] = counts("matmul", [parts.count, parts.rows, n * k])?;
    let direct = workspace.is_empty();
    let out = if direct { dweight } else { workspace };
    let args: [Arg; 7] = [g.into(), x.into(), out.into(), m32.into(), n32.into(), k32.into(), rows.into()];
    let name = format!("matmul_bwd_dweight{}_{}", tile.suffix(), store.name());
    // SAFETY: the buffers have the lengths of the kernel's contract, checked above: the workspace one output a part, and
    // dweight takes its place where there is one part. The kernel masks what its tiles hold beyond n and k.
    unsafe { launch(gpu, source(tile, (&ptx::MATMUL_BWD, BACKWARD)), &name, geometry, &args)? };
    if direct {
        return Ok(());
    }
    let args: [Arg; 4] = [workspace.into(), dweight.into(), count.into(), len.into()];
    let name = format!("matmul_bwd_dweight_reduce_{}", ending(write));
    // SAFETY: as above; the launch before it in the stream has written the workspace.
    unsafe { launch(gpu, (&ptx::MATMUL_SCALAR, SCALAR), &name, sizes.dweight_reduce()?, &args) }
}

/// Length in f32 of the workspace of [`backward_dbias`]: (parts, n).
pub fn dbias_len(m: usize, n: usize) -> usize {
    Parts::of_dbias(m).count.saturating_mul(n)
}

/// dbias (n) in f32 = or += the sum of the rows of g (m, n), `workspace` of `dbias_len` elements.
pub fn backward_dbias(gpu: &Gpu, g: Values, workspace: Slice<f32>, dbias: Slice<f32>, write: Write) -> Result<()> {
    let n = dbias.len();
    let m = g.len().checked_div(n).unwrap_or(0);
    lengths("matmul", &[("g", g.len(), m * n), ("workspace", workspace.len(), dbias_len(m, n))])?;
    let (geometry, parts) = Sizes { m, n, k: 1 }.backward_dbias()?;
    let [m, n, rows] = counts("matmul", [m, n, parts.rows])?;
    let args: [Arg; 5] = [g.into(), workspace.into(), m.into(), n.into(), rows.into()];
    let name = format!("matmul_bwd_dbias_{}", g.store().name());
    // SAFETY: the buffers have the lengths of the kernel's contract, checked above.
    unsafe { launch(gpu, (&ptx::MATMUL_SCALAR, SCALAR), &name, geometry, &args)? };
    reduce_dbias(gpu, workspace, dbias, write)
}

/// dbias (n) in f32 = or += the sum of the rows of `partial` (parts, n).
pub fn reduce_dbias(gpu: &Gpu, partial: Slice<f32>, dbias: Slice<f32>, write: Write) -> Result<()> {
    let n = dbias.len();
    let parts = partial.len().checked_div(n).unwrap_or(0);
    lengths("matmul", &[("partial", partial.len(), parts * n)])?;
    let geometry = Sizes { m: parts, n, k: 1 }.dbias_reduce()?;
    let [parts, n] = counts("matmul", [parts, n])?;
    let args: [Arg; 4] = [partial.into(), dbias.into(), parts.into(), n.into()];
    let name = format!("matmul_bwd_dbias_reduce_{}", ending(write));
    // SAFETY: the buffers have the lengths of the kernel's contract, checked above; what fills `partial` stands before
    // this in the stream.
    unsafe { launch(gpu, (&ptx::MATMUL_SCALAR, SCALAR), &name, geometry, &args) }
}
