//! How the kernels of ptx/adamw.cu are called: their arguments and their grids.
#![allow(unsafe_code)]

use super::Coefficients;
use crate::device::cuda::{Arg, Entry, Geometry, Gpu, Kind, Slice, Values, counts, lengths};
use crate::error::Result;
use crate::ops::ptx;

const CHECK: &[(&str, Kind)] = &[("x", Kind::U64), ("flag", Kind::U64), ("n", Kind::U32)];
const STEP_F32: &[(&str, Kind)] = &[
    ("params", Kind::U64),
    ("grads", Kind::U64),
    ("exp_avg", Kind::U64),
    ("exp_avg_sq", Kind::U64),
    ("factors", Kind::U64),
    ("flag", Kind::U64),
    ("spared", Kind::U64),
    ("ranges", Kind::U32),
    ("n", Kind::U32),
];
const STEP_HALF: &[(&str, Kind)] = &[
    ("params", Kind::U64),
    ("grads", Kind::U64),
    ("exp_avg", Kind::U64),
    ("exp_avg_sq", Kind::U64),
    ("copy", Kind::U64),
    ("factors", Kind::U64),
    ("flag", Kind::U64),
    ("spared", Kind::U64),
    ("ranges", Kind::U32),
    ("n", Kind::U32),
];

/// The kernels of ptx/adamw.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "adamw_check_f32", args: CHECK, since: 75 },
    Entry { name: "adamw_step_f32", args: STEP_F32, since: 75 },
    Entry { name: "adamw_step_f16", args: STEP_HALF, since: 75 },
    Entry { name: "adamw_step_bf16", args: STEP_HALF, since: 80 },
];

/// Numbers that `factors` holds.
pub const FACTORS: usize = 8;

/// Launch of either kernel over n elements.
pub fn shape(n: usize) -> Result<Geometry> {
    Geometry::row("adamw", n.div_ceil(1024), 256, 0)
}

/// The factors as the kernel takes them; gradients come multiplied by `scale`.
pub fn factors(c: &Coefficients, scale: f32) -> [f32; FACTORS] {
    [c.decay, c.weight1, c.beta2, c.weight2, c.rate, c.root2, c.eps, 1.0 / scale]
}

/// Sets flag (1) to 1 when an element of x is not finite.
pub fn check(gpu: &Gpu, x: Slice<f32>, flag: Slice<u32>) -> Result<()> {
    lengths("adamw", &[("flag", flag.len(), 1)])?;
    let (geometry, [n]) = (shape(x.len())?, counts("adamw", [x.len()])?);
    let kernel = gpu.kernel(&ptx::ADAMW, Entry::named(ENTRIES, "adamw_check_f32"))?;
    // SAFETY: x has n elements, and the kernel bounds itself by n.
    unsafe { gpu.stream().launch(&kernel, geometry, &[x.into(), flag.into(), n.into()]) }
}

/// The state of all parameters, (n) each.
pub struct Arenas<'a> {
    pub params: Slice<'a, f32>,
    pub grads: Slice<'a, f32>,
    pub exp_avg: Slice<'a, f32>,
    pub exp_avg_sq: Slice<'a, f32>,
    /// The parameters as products read them, when that is a 16-bit type.
    pub copy: Option<Values<'a>>,
}

/// One update, as the op's `step`, unless flag (1) is set. `spared` holds begin and end of the runs without decay,
/// ascending; `factors` what the function of that name makes.
pub fn step(gpu: &Gpu, x: Arenas, factors: Slice<f32>, flag: Slice<u32>, spared: Slice<u32>) -> Result<()> {
    let n = x.params.len();
    lengths(
        "adamw",
        &[
            ("grads", x.grads.len(), n),
            ("exp_avg", x.exp_avg.len(), n),
            ("exp_avg_sq", x.exp_avg_sq.len(), n),
            ("copy", x.copy.map_or(n, |copy| copy.len()), n),
            ("factors", factors.len(), FACTORS),
            ("flag", flag.len(), 1),
            ("spared", spared.len() % 2, 0),
        ],
    )?;
    let (geometry, [n, ranges]) = (shape(n)?, counts("adamw", [n, spared.len() / 2])?);
    let store = x.copy.map_or("f32", |copy| copy.store().name());
    let kernel = gpu.kernel(&ptx::ADAMW, Entry::named(ENTRIES, &format!("adamw_step_{store}")))?;
    let mut args = vec![x.params.into(), x.grads.into(), x.exp_avg.into(), x.exp_avg_sq.into()];
    args.extend(x.copy.map(Arg::from));
    args.extend::<[Arg; 5]>([factors.into(), flag.into(), spared.into(), ranges.into(), n.into()]);
    // SAFETY: the lengths are those of the kernel's contract, checked above; a thread owns its elements.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}
