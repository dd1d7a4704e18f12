//! How the kernels of ptx/cross_entropy.cu are called: their arguments and their grids.
#![allow(unsafe_code)]

use crate::device::cuda::{Entry, Geometry, Gpu, Kind, Slice, Values, counts, lengths};
use crate::error::Result;
use crate::ops::ptx;

const ROWS: &[(&str, Kind)] = &[
    ("logits", Kind::U64),
    ("labels", Kind::U64),
    ("losses", Kind::U64),
    ("unit", Kind::U64),
    ("b", Kind::U32),
    ("classes", Kind::U32),
    ("smoothing", Kind::F32),
];
const MEAN: &[(&str, Kind)] = &[("losses", Kind::U64), ("loss", Kind::U64), ("b", Kind::U32)];
const BACKWARD: &[(&str, Kind)] =
    &[("unit", Kind::U64), ("dloss", Kind::U64), ("dlogits", Kind::U64), ("n", Kind::U32)];

/// The kernels of ptx/cross_entropy.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "cross_entropy_rows_f32", args: ROWS, since: 75 },
    Entry { name: "cross_entropy_rows_f16", args: ROWS, since: 75 },
    Entry { name: "cross_entropy_rows_bf16", args: ROWS, since: 80 },
    Entry { name: "cross_entropy_mean_f32", args: MEAN, since: 75 },
    Entry { name: "cross_entropy_bwd_f32", args: BACKWARD, since: 75 },
    Entry { name: "cross_entropy_bwd_f16", args: BACKWARD, since: 75 },
    Entry { name: "cross_entropy_bwd_bf16", args: BACKWARD, since: 80 },
];

/// Launch of cross_entropy_rows.
pub fn rows_shape(b: usize) -> Result<Geometry> {
    Geometry::row("cross_entropy", b.div_ceil(4), 128, 0)
}

/// Launch of cross_entropy_bwd over n logits.
pub fn backward_shape(n: usize) -> Result<Geometry> {
    Geometry::row("cross_entropy", n.div_ceil(256), 256, 0)
}

/// The losses (b) of logits (b, classes), their mean, and the gradient for an upstream gradient of 1; each label is
/// below the number of classes.
pub fn forward(
    gpu: &Gpu,
    logits: Values,
    labels: Slice<u32>,
    smoothing: f32,
    losses: Slice<f32>,
    unit: Slice<f32>,
    loss: Slice<f32>,
) -> Result<()> {
    let (b, n) = (labels.len(), logits.len());
    let classes = n.checked_div(b).unwrap_or(0);
    lengths(
        "cross_entropy",
        &[("logits", n, b * classes), ("losses", losses.len(), b), ("unit", unit.len(), n), ("loss", loss.len(), 1)],
    )?;
    let (geometry, [b, classes, _]) = (rows_shape(b)?, counts("cross_entropy", [b, classes, n])?);
    let entry = Entry::named(ENTRIES, &format!("cross_entropy_rows_{}", logits.store().name()));
    let kernel = gpu.kernel(&ptx::CROSS_ENTROPY, entry)?;
    let args = [logits.into(), labels.into(), losses.into(), unit.into(), b.into(), classes.into(), smoothing.into()];
    // SAFETY: the lengths are those of the kernel's contract, checked above; the op has checked every label.
    unsafe { gpu.stream().launch(&kernel, geometry, &args)? };
    let kernel = gpu.kernel(&ptx::CROSS_ENTROPY, Entry::named(ENTRIES, "cross_entropy_mean_f32"))?;
    let one = Geometry::row("cross_entropy", 1, 32, 0)?;
    // SAFETY: as above.
    unsafe { gpu.stream().launch(&kernel, one, &[losses.into(), loss.into(), b.into()]) }
}

/// dlogits = unit dloss.
pub fn backward(gpu: &Gpu, unit: Slice<f32>, dloss: Slice<f32>, dlogits: Values) -> Result<()> {
    let n = unit.len();
    lengths("cross_entropy", &[("dloss", dloss.len(), 1), ("dlogits", dlogits.len(), n)])?;
    let (geometry, [n]) = (backward_shape(n)?, counts("cross_entropy", [n])?);
    let entry = Entry::named(ENTRIES, &format!("cross_entropy_bwd_{}", dlogits.store().name()));
    let kernel = gpu.kernel(&ptx::CROSS_ENTROPY, entry)?;
    // SAFETY: the lengths are those of the kernel's contract, checked above.
    unsafe { gpu.stream().launch(&kernel, geometry, &[unit.into(), dloss.into(), dlogits.into(), n.into()]) }
}
