//! How the kernels of ptx/layer_norm.cu are called: their arguments and their grids.
#![allow(unsafe_code)]

use crate::device::cpu::gemm::Write;
use crate::device::cuda::{Entry, Geometry, Gpu, Kind, Slice, Values, counts, lengths};
use crate::error::{Error, Result};
use crate::ops::ptx;

const FORWARD: &[(&str, Kind)] = &[
    ("x", Kind::U64),
    ("weight", Kind::U64),
    ("bias", Kind::U64),
    ("y", Kind::U64),
    ("mean", Kind::U64),
    ("rstd", Kind::U64),
    ("rows", Kind::U32),
    ("d", Kind::U32),
    ("eps", Kind::F32),
];

const BACKWARD_DX: &[(&str, Kind)] = &[
    ("dy", Kind::U64),
    ("x", Kind::U64),
    ("weight", Kind::U64),
    ("mean", Kind::U64),
    ("rstd", Kind::U64),
    ("dx", Kind::U64),
    ("partial", Kind::U64),
    ("rows", Kind::U32),
    ("d", Kind::U32),
];

const BACKWARD_REDUCE: &[(&str, Kind)] =
    &[("partial", Kind::U64), ("dweight", Kind::U64), ("dbias", Kind::U64), ("blocks", Kind::U32), ("d", Kind::U32)];

/// The kernels of ptx/layer_norm.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "layer_norm_fwd_f16", args: FORWARD, since: 75 },
    Entry { name: "layer_norm_fwd_f32", args: FORWARD, since: 75 },
    Entry { name: "layer_norm_fwd_bf16", args: FORWARD, since: 80 },
    Entry { name: "layer_norm_bwd_dx_f16", args: BACKWARD_DX, since: 75 },
    Entry { name: "layer_norm_bwd_dx_f32", args: BACKWARD_DX, since: 75 },
    Entry { name: "layer_norm_bwd_dx_bf16", args: BACKWARD_DX, since: 80 },
    Entry { name: "layer_norm_bwd_dx_add_f16", args: BACKWARD_DX, since: 75 },
    Entry { name: "layer_norm_bwd_dx_add_f32", args: BACKWARD_DX, since: 75 },
    Entry { name: "layer_norm_bwd_dx_add_bf16", args: BACKWARD_DX, since: 80 },
    Entry { name: "layer_norm_bwd_reduce_f32", args: BACKWARD_REDUCE, since: 75 },
];

/// The widest row that the kernels hold in registers.
pub const WIDEST: usize = 1024;

/// Warps of a block forward and of dx; a warp takes a row at a time.
const WARPS: usize = 4;

/// Rows that a block of the backward pass takes at least, while there are that many: its part of the parameters'
/// gradients costs two rows of f32.
const ROWS_PER_BLOCK: usize = 32;

/// Blocks of the backward pass at most: more than any card runs at once.
const MOST_BLOCKS: usize = 1024;

/// Columns that a block of the second pass sums.
const COLUMNS: usize = 32;

fn check(rows: usize, d: usize) -> Result<()> {
    counts("layer_norm", [rows])?;
    if d == 0 || !d.is_multiple_of(4) || d > WIDEST {
        let reason = format!("rows of {d}; the kernels take multiples of 4 up to {WIDEST}");
        return Err(Error::shape("layer_norm", reason));
    }
    Ok(())
}

/// Launch of layer_norm_fwd for x (rows, d).
pub fn forward_shape(rows: usize, d: usize) -> Result<Geometry> {
    check(rows, d)?;
    Geometry::row("layer_norm", rows.div_ceil(WARPS), 32 * WARPS as u32, 0)
}

/// Launch of layer_norm_bwd_dx. The grid depends on the rows alone, so that a sum has one order on every card.
pub fn backward_dx_shape(rows: usize, d: usize) -> Result<Geometry> {
    check(rows, d)?;
    Geometry::row("layer_norm", rows.div_ceil(ROWS_PER_BLOCK).min(MOST_BLOCKS), 32 * WARPS as u32, 0)
}

/// Length in f32 of the workspace `partial` that both backward launches share: (blocks, 2, d).
pub fn partial_len(rows: usize, d: usize) -> Result<usize> {
    Ok(backward_dx_shape(rows, d)?.grid[0] as usize * 2 * d)
}

/// Launch of layer_norm_bwd_reduce.
pub fn backward_reduce_shape(d: usize) -> Result<Geometry> {
    check(1, d)?;
    Geometry::row("layer_norm", (2 * d).div_ceil(COLUMNS), 256, 0)
}

/// y, mean and rstd of x, as the op's `forward`: x and y (rows, d) of one type, weight and bias (d), mean and rstd (rows).
#[allow(clippy::too_many_arguments, reason = "the kernel's operands")]
pub fn forward(
    gpu: &Gpu,
    x: Values,
    weight: Slice<f32>,
    bias: Slice<f32>,
    eps: f32,
    y: Values,
    mean: Slice<f32>,
    rstd: Slice<f32>,
) -> Result<()> {
    let (rows, d) = (mean.len(), weight.len());
    let n = rows * d;
    Values::common("layer_norm", &[x, y])?;
    lengths(
        "layer_norm",
        &[("x", x.len(), n), ("y", y.len(), n), ("bias", bias.len(), d), ("rstd", rstd.len(), rows)],
    )?;
    let (geometry, [rows, d]) = (forward_shape(rows, d)?, counts("layer_norm", [rows, d])?);
    let entry = Entry::named(ENTRIES, &format!("layer_norm_fwd_{}", x.store().name()));
    let kernel = gpu.kernel(&ptx::LAYER_NORM, entry)?;
    let args =
        [x.into(), weight.into(), bias.into(), y.into(), mean.into(), rstd.into(), rows.into(), d.into(), eps.into()];
    // SAFETY: the buffers have the lengths that the kernel's contract gives for (rows, d), as checked above; the kernel
    // bounds its rows itself.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

/// dx is set or added to as `write` says, dweight and dbias are added to, as the op's backward; `partial` has `partial_len` elements.
#[allow(clippy::too_many_arguments, reason = "the kernels' operands")]
pub fn backward(
    gpu: &Gpu,
    dy: Values,
    x: Values,
    weight: Slice<f32>,
    mean: Slice<f32>,
    rstd: Slice<f32>,
    dx: Values,
    write: Write,
    partial: Slice<f32>,
    dweight: Slice<f32>,
    dbias: Slice<f32>,
) -> Result<()> {
    let (rows, d) = (mean.len(), weight.len());
    let n = rows * d;
    Values::common("layer_norm", &[x, dy, dx])?;
    lengths(
        "layer_norm",
        &[
            ("dy", dy.len(), n),
            ("x", x.len(), n),
            ("dx", dx.len(), n),
            ("rstd", rstd.len(), rows),
            ("partial", partial.len(), partial_len(rows, d)?),
            ("dweight", dweight.len(), d),
            ("dbias", dbias.len(), d),
        ],
    )?;
    let (first, second) = (backward_dx_shape(rows, d)?, backward_reduce_shape(d)?);
    let [blocks, rows, d] = counts("layer_norm", [first.grid[0] as usize, rows, d])?;
    let add = if write == Write::Add { "_add" } else { "" };
    let entry = Entry::named(ENTRIES, &format!("layer_norm_bwd_dx{add}_{}", x.store().name()));
    let kernel = gpu.kernel(&ptx::LAYER_NORM, entry)?;
    let args = [
        dy.into(),
        x.into(),
        weight.into(),
        mean.into(),
        rstd.into(),
        dx.into(),
        partial.into(),
        rows.into(),
        d.into(),
    ];
    // SAFETY: the lengths are those of the kernel's contract, checked above; its blocks own a row of `partial` each.
    unsafe { gpu.stream().launch(&kernel, first, &args)? };
    let kernel = gpu.kernel(&ptx::LAYER_NORM, Entry::named(ENTRIES, "layer_norm_bwd_reduce_f32"))?;
    let args = [partial.into(), dweight.into(), dbias.into(), blocks.into(), d.into()];
    // SAFETY: as above; the launch before it in the stream has written `partial`.
    unsafe { gpu.stream().launch(&kernel, second, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::LARGEST;

    #[test]
    fn grids_cover_every_row_and_column() {
        for rows in [1, 3, 4, 5, 60, 197, 12_608, 1024 * 577, LARGEST] {
            for d in [4, 8, 192, 384, 768, 1000, 1024] {
                let forward = forward_shape(rows, d).unwrap();
                assert!(forward.grid[0] as usize * WARPS >= rows);
                assert!((forward.grid[0] as usize - 1) * WARPS < rows, "an idle block");
                // Any number of blocks covers all rows; each must have one for its part to be worth writing.
                let dx = backward_dx_shape(rows, d).unwrap();
                assert!((dx.grid[0] as usize - 1) * WARPS < rows);
                assert_eq!(partial_len(rows, d).unwrap(), dx.grid[0] as usize * 2 * d);
                let reduce = backward_reduce_shape(d).unwrap();
                assert!(reduce.grid[0] as usize * COLUMNS >= 2 * d);
                for shape in [forward, dx, reduce] {
                    assert!(shape.threads() <= 1024 && shape.shared == 0);
                }
            }
        }
    }

    #[test]
    fn rows_that_the_kernels_cannot_take_are_refused() {
        for (rows, d) in [(0, 8), (1, 0), (1, 6), (1, 1028), (LARGEST + 1, 8)] {
            assert!(forward_shape(rows, d).is_err(), "{rows} x {d}");
            assert!(backward_dx_shape(rows, d).is_err(), "{rows} x {d}");
        }
    }
}
