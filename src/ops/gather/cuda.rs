//! How the kernels of ptx/gather.cu are called: their arguments and their grids.
#![allow(unsafe_code)]

use crate::device::cuda::{Entry, Geometry, Gpu, Kind, Slice, Values, counts, lengths};
use crate::error::{Error, Result};
use crate::ops::ptx;

const FORWARD: &[(&str, Kind)] =
    &[("x", Kind::U64), ("kept", Kind::U64), ("y", Kind::U64), ("n", Kind::U32), ("k", Kind::U32), ("d", Kind::U32)];
const BACKWARD: &[(&str, Kind)] =
    &[("dy", Kind::U64), ("kept", Kind::U64), ("dx", Kind::U64), ("n", Kind::U32), ("k", Kind::U32), ("d", Kind::U32)];

/// The kernels of ptx/gather.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "gather_fwd_f32", args: FORWARD, since: 75 },
    Entry { name: "gather_fwd_f16", args: FORWARD, since: 75 },
    Entry { name: "gather_fwd_bf16", args: FORWARD, since: 80 },
    Entry { name: "gather_bwd_f32", args: BACKWARD, since: 75 },
    Entry { name: "gather_bwd_f16", args: BACKWARD, since: 75 },
    Entry { name: "gather_bwd_bf16", args: BACKWARD, since: 80 },
];

/// Launch of either kernel: a block for each of `rows` rows that it writes.
pub fn shape(rows: usize, d: usize) -> Result<Geometry> {
    if d == 0 || !d.is_multiple_of(4) {
        return Err(Error::shape("gather", format!("rows of {d}; the kernels take multiples of 4")));
    }
    Geometry::row("gather", rows, 128, 0)
}

fn launch(
    gpu: &Gpu,
    entry: &str,
    from: Values,
    kept: Slice<u32>,
    to: Values,
    sizes: [usize; 4],
    rows: usize,
) -> Result<()> {
    let [b, n, k, d] = sizes;
    lengths("gather", &[("kept", kept.len(), b * k)])?;
    Values::common("gather", &[from, to])?;
    let (geometry, [_, n, k, d]) = (shape(rows, d)?, counts("gather", [b * n.max(k), n, k, d])?);
    let kernel = gpu.kernel(&ptx::GATHER, Entry::named(ENTRIES, entry))?;
    let args = [from.into(), kept.into(), to.into(), n.into(), k.into(), d.into()];
    // SAFETY: the callers have checked the lengths for (b, n, k, d), and that each index is below n.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

/// y (b, k, d) = rows `kept` (b, k) of x (b, n, d); sizes are [b, n, k, d], and every index is below n.
pub fn forward(gpu: &Gpu, x: Values, kept: Slice<u32>, y: Values, sizes: [usize; 4]) -> Result<()> {
    let [b, n, k, d] = sizes;
    lengths("gather", &[("x", x.len(), b * n * d), ("y", y.len(), b * k * d)])?;
    launch(gpu, &format!("gather_fwd_{}", x.store().name()), x, kept, y, sizes, b * k)
}

/// dx (b, n, d) = the sums of the rows of dy (b, k, d) that came from each row; sizes as for `forward`.
pub fn backward(gpu: &Gpu, dy: Values, kept: Slice<u32>, dx: Values, sizes: [usize; 4]) -> Result<()> {
    let [b, n, k, d] = sizes;
    lengths("gather", &[("dy", dy.len(), b * k * d), ("dx", dx.len(), b * n * d)])?;
    launch(gpu, &format!("gather_bwd_{}", dy.store().name()), dy, kept, dx, sizes, b * n)
}
