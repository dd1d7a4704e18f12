//! Sums, copies, factors and changes of type of plain values: how the kernels of ptx/tensor.cu are called.
#![allow(unsafe_code)]

use super::{Entry, Geometry, Gpu, Kind, Ptx, Slice, Store, Values, counts, embedded, lengths};
use crate::error::{Error, Result};

/// The PTX of ptx/tensor.cu.
pub static PTX: Ptx = embedded!("tensor");

const ADD: &[(&str, Kind)] = &[("sum", Kind::U64), ("x", Kind::U64), ("n", Kind::U32)];
const FOLLOW: &[(&str, Kind)] = &[("mean", Kind::U64), ("x", Kind::U64), ("weight", Kind::F32), ("n", Kind::U32)];
const CONVERT: &[(&str, Kind)] = &[("from", Kind::U64), ("to", Kind::U64), ("n", Kind::U32)];

const SCALE: &[(&str, Kind)] = &[
    ("x", Kind::U64),
    ("factors", Kind::U64),
    ("y", Kind::U64),
    ("run", Kind::U32),
    ("count", Kind::U32),
    ("n", Kind::U32),
];
const PRODUCT: &[(&str, Kind)] = &[("x", Kind::U64), ("other", Kind::U64), ("y", Kind::U64), ("n", Kind::U32)];

/// The kernels of ptx/tensor.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "tensor_add_f32", args: ADD, since: 75 },
    Entry { name: "tensor_add_f16", args: ADD, since: 75 },
    Entry { name: "tensor_add_bf16", args: ADD, since: 80 },
    Entry { name: "tensor_scale_f32", args: SCALE, since: 75 },
    Entry { name: "tensor_scale_f16", args: SCALE, since: 75 },
    Entry { name: "tensor_scale_bf16", args: SCALE, since: 80 },
    Entry { name: "tensor_product_f32", args: PRODUCT, since: 75 },
    Entry { name: "tensor_product_f16", args: PRODUCT, since: 75 },
    Entry { name: "tensor_product_bf16", args: PRODUCT, since: 80 },
    Entry { name: "tensor_follow_f32", args: FOLLOW, since: 75 },
    Entry { name: "tensor_narrow_f16", args: CONVERT, since: 75 },
    Entry { name: "tensor_narrow_bf16", args: CONVERT, since: 80 },
    Entry { name: "tensor_widen_f16", args: CONVERT, since: 75 },
    Entry { name: "tensor_widen_bf16", args: CONVERT, since: 80 },
];

/// Launch of any of the kernels over n elements.
pub fn shape(n: usize) -> Result<Geometry> {
    Geometry::row("tensor", n.div_ceil(1024), 256, 0)
}

fn launch(gpu: &Gpu, entry: &str, first: Values, second: Values) -> Result<()> {
    let n = first.len();
    lengths("tensor", &[("the second", second.len(), n)])?;
    if n == 0 {
        return Ok(());
    }
    let (geometry, [n]) = (shape(n)?, counts("tensor", [n])?);
    let kernel = gpu.kernel(&PTX, Entry::named(ENTRIES, entry))?;
    // SAFETY: both have n elements of the types that the entry names; the kernel bounds itself by n.
    unsafe { gpu.stream().launch(&kernel, geometry, &[first.into(), second.into(), n.into()]) }
}

/// sum += x, of one type.
pub fn add(gpu: &Gpu, sum: Values, x: Values) -> Result<()> {
    Values::common("tensor", &[sum, x])?;
    launch(gpu, &format!("tensor_add_{}", sum.store().name()), sum, x)
}

/// y = x times factors (count), each of which serves `run` neighbours before the next has its turn, over and over; x
/// and y (n) of one type.
pub fn scale(gpu: &Gpu, x: Values, factors: Slice<f32>, run: usize, y: Values) -> Result<()> {
    let store = Values::common("tensor", &[x, y])?;
    lengths("tensor", &[("y", y.len(), x.len())])?;
    if x.is_empty() {
        return Ok(());
    }
    if run == 0 || factors.is_empty() {
        return Err(Error::shape("tensor", format!("{} factors for {run} values each", factors.len())));
    }
    let (geometry, [run, count, n]) = (shape(x.len())?, counts("tensor", [run, factors.len(), x.len()])?);
    let kernel = gpu.kernel(&PTX, Entry::named(ENTRIES, &format!("tensor_scale_{}", store.name())))?;
    let args = [x.into(), factors.into(), y.into(), run.into(), count.into(), n.into()];
    // SAFETY: x and y have n elements of the entry's type, and a factor's place is below `count`; neither count is 0.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

/// y = x times other, element by element; x and other (n) of one type, y (n).
pub fn product(gpu: &Gpu, x: Values, other: Values, y: Slice<f32>) -> Result<()> {
    let store = Values::common("tensor", &[x, other])?;
    lengths("tensor", &[("the other", other.len(), x.len()), ("y", y.len(), x.len())])?;
    if x.is_empty() {
        return Ok(());
    }
    let (geometry, [n]) = (shape(x.len())?, counts("tensor", [x.len()])?);
    let kernel = gpu.kernel(&PTX, Entry::named(ENTRIES, &format!("tensor_product_{}", store.name())))?;
    // SAFETY: all have n elements of the entry's types, and the kernel bounds itself by n.
    unsafe { gpu.stream().launch(&kernel, geometry, &[x.into(), other.into(), y.into(), n.into()]) }
}

/// mean += weight (x - mean), each step rounded, as on the CPU.
pub fn follow(gpu: &Gpu, mean: Slice<f32>, x: Slice<f32>, weight: f32) -> Result<()> {
    lengths("tensor", &[("the average", mean.len(), x.len())])?;
    if x.is_empty() {
        return Ok(());
    }
    let (geometry, [n]) = (shape(x.len())?, counts("tensor", [x.len()])?);
    let kernel = gpu.kernel(&PTX, Entry::named(ENTRIES, "tensor_follow_f32"))?;
    // SAFETY: both have n elements, and the kernel bounds itself by n.
    unsafe { gpu.stream().launch(&kernel, geometry, &[mean.into(), x.into(), weight.into(), n.into()]) }
}

/// to = from, of one type; or rounded from f32, or widened to it.
pub fn convert(gpu: &Gpu, to: Values, from: Values) -> Result<()> {
    match (from.store(), to.store()) {
        (Store::F32, half) => launch(gpu, &format!("tensor_narrow_{}", half.name()), from, to),
        (half, _) => launch(gpu, &format!("tensor_widen_{}", half.name()), from, to),
    }
}

/// to = from, of one type.
pub fn copy(gpu: &Gpu, to: Values, from: Values) -> Result<()> {
    Values::common("tensor", &[to, from])?;
    match (to, from) {
        (Values::F32(to), Values::F32(from)) => gpu.stream().copy(to, from),
        (Values::Half(_, to), Values::Half(_, from)) => gpu.stream().copy(to, from),
        _ => unreachable!("of one type"),
    }
}
