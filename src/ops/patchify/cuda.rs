//! How the kernels of ptx/patchify.cu are called: their arguments and their grids.
#![allow(unsafe_code)]

use super::reference::Cut;
use crate::device::cuda::{Arg, Entry, Geometry, Gpu, Kind, Slice, Values, counts, lengths};
use crate::error::{Error, Result};
use crate::ops::ptx;

const FORWARD: &[(&str, Kind)] = &[
    ("images", Kind::U64),
    ("kept", Kind::U64),
    ("y", Kind::U64),
    ("k", Kind::U32),
    ("channels", Kind::U32),
    ("height", Kind::U32),
    ("width", Kind::U32),
    ("patch", Kind::U32),
];

const BYTES: &[(&str, Kind)] = &[
    ("rgb", Kind::U64),
    ("levels", Kind::U64),
    ("kept", Kind::U64),
    ("y", Kind::U64),
    ("k", Kind::U32),
    ("height", Kind::U32),
    ("width", Kind::U32),
    ("patch", Kind::U32),
];

/// The kernels of ptx/patchify.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "patchify_bytes_fwd_f32", args: BYTES, since: 75 },
    Entry { name: "patchify_bytes_fwd_f16", args: BYTES, since: 75 },
    Entry { name: "patchify_bytes_fwd_bf16", args: BYTES, since: 80 },
    Entry { name: "patchify_fwd_f32", args: FORWARD, since: 75 },
    Entry { name: "patchify_fwd_f16", args: FORWARD, since: 75 },
    Entry { name: "patchify_fwd_bf16", args: FORWARD, since: 80 },
];

/// y (b, k, c p p) = patches `kept` (b, k), each below the number of patches, of the images (b, c, h, w).
pub fn forward(gpu: &Gpu, images: Slice<f32>, kept: Slice<u32>, k: usize, cut: Cut, y: Values) -> Result<()> {
    let Cut { channels, height, width, patch } = cut;
    let image = channels * height * width;
    let b = kept.len().checked_div(k).unwrap_or(0);
    let values = channels * patch * patch;
    lengths(
        "patchify",
        &[("images", images.len(), b * image), ("kept", kept.len(), b * k), ("y", y.len(), b * k * values)],
    )?;
    let geometry = Geometry::row("patchify", b * k, 256, 0)?;
    let sizes = counts("patchify", [k, channels, height, width, patch])?;
    let kernel = gpu.kernel(&ptx::PATCHIFY, Entry::named(ENTRIES, &format!("patchify_fwd_{}", y.store().name())))?;
    let mut args = vec![images.into(), kept.into(), y.into()];
    args.extend(sizes.map(Arg::from));
    // SAFETY: the lengths are those of the kernel's contract, checked above; the op has checked every index.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

/// y (b, k, 3 p p) = levels[c][byte] of patches `kept` (b, k) of the images rgb (b, h, w, 3); levels (3, 256). The cut's
/// channels are 3.
pub fn from_bytes(
    gpu: &Gpu,
    rgb: Slice<u8>,
    levels: Slice<f32>,
    kept: Slice<u32>,
    k: usize,
    cut: Cut,
    y: Values,
) -> Result<()> {
    let Cut { channels: _, height, width, patch } = cut;
    if patch == 0 || height % patch != 0 || width % patch != 0 {
        return Err(Error::shape("patchify", format!("patches of {patch} in images of {height} x {width}")));
    }
    let b = kept.len().checked_div(k).unwrap_or(0);
    lengths(
        "patchify",
        &[
            ("rgb", rgb.len(), b * height * width * 3),
            ("levels", levels.len(), 3 * 256),
            ("kept", kept.len(), b * k),
            ("y", y.len(), b * k * 3 * patch * patch),
        ],
    )?;
    let geometry = Geometry::row("patchify", b * k, 256, 0)?;
    let sizes = counts("patchify", [k, height, width, patch])?;
    let name = format!("patchify_bytes_fwd_{}", y.store().name());
    let kernel = gpu.kernel(&ptx::PATCHIFY, Entry::named(ENTRIES, &name))?;
    let mut args = vec![rgb.into(), levels.into(), kept.into(), y.into()];
    args.extend(sizes.map(Arg::from));
    // SAFETY: the lengths are those of the kernel's contract, checked above; the caller has checked every index.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}
