//! How the kernels of ptx/saliency.cu are called: their arguments and their grids.
#![allow(unsafe_code)]

use crate::device::cuda::{Arg, Entry, Geometry, Gpu, Kind, Slice, counts, lengths};
use crate::error::{Error, Result};
use crate::ops::ptx;

const SOBEL: &[(&str, Kind)] = &[
    ("rgb", Kind::U64),
    ("scores", Kind::U64),
    ("patches", Kind::U32),
    ("height", Kind::U32),
    ("width", Kind::U32),
    ("patch", Kind::U32),
];
const L2: &[(&str, Kind)] = &[
    ("rgb", Kind::U64),
    ("squares", Kind::U64),
    ("scores", Kind::U64),
    ("patches", Kind::U32),
    ("height", Kind::U32),
    ("width", Kind::U32),
    ("patch", Kind::U32),
];
const ENTROPY: &[(&str, Kind)] = &[
    ("rgb", Kind::U64),
    ("terms", Kind::U64),
    ("scores", Kind::U64),
    ("patches", Kind::U32),
    ("height", Kind::U32),
    ("width", Kind::U32),
    ("patch", Kind::U32),
    ("bins", Kind::U32),
];
const TOP_K: &[(&str, Kind)] = &[("scores", Kind::U64), ("kept", Kind::U64), ("n", Kind::U32), ("k", Kind::U32)];

/// The kernels of ptx/saliency.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "saliency_l2", args: L2, since: 75 },
    Entry { name: "saliency_sobel", args: SOBEL, since: 75 },
    Entry { name: "saliency_entropy", args: ENTROPY, since: 75 },
    Entry { name: "saliency_top_k", args: TOP_K, since: 75 },
];

/// Threads of a block that scores: a patch each.
const THREADS: usize = 64;
/// The largest side of a patch whose histogram is counted in 16 bits.
pub const LARGEST_PATCH: usize = 255;
/// Patches of an image at most: scores and flags must fit a block's shared memory.
pub const MOST_PATCHES: usize = 4096;

/// The statistic, with what it looks up.
#[derive(Clone, Copy)]
pub enum Statistic<'a> {
    /// The sum of squares[c][byte]; squares (3, 256).
    L2 {
        squares: Slice<'a, f64>,
    },
    Sobel,
    /// Minus the sum of terms[count]; terms (P P + 1), `bins` divides 256.
    Entropy {
        terms: Slice<'a, f64>,
        bins: usize,
    },
}

/// Scores (B, N), in the card's second stream, of the images rgb (B, height, width, 3), whose sides are multiples of
/// `patch`. The buffers are the second stream's, or the first has been waited for.
pub fn scores(
    gpu: &Gpu,
    rgb: Slice<u8>,
    [height, width, patch]: [usize; 3],
    statistic: Statistic,
    scores: Slice<f64>,
) -> Result<()> {
    if patch == 0 || patch > LARGEST_PATCH || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
        return Err(Error::shape("saliency", format!("patches of {patch} in images of {height} x {width}")));
    }
    let n = (height / patch) * (width / patch);
    let b = scores.len().checked_div(n).unwrap_or(0);
    lengths("saliency", &[("scores", scores.len(), b * n), ("rgb", rgb.len(), b * height * width * 3)])?;
    let sizes = counts("saliency", [b * n, height, width, patch])?;
    let mut args: Vec<Arg> = vec![rgb.into()];
    let name = match statistic {
        Statistic::L2 { squares } => {
            lengths("saliency", &[("squares", squares.len(), 3 * 256)])?;
            args.push(squares.into());
            "saliency_l2"
        }
        Statistic::Sobel => "saliency_sobel",
        Statistic::Entropy { terms, bins } => {
            lengths("saliency", &[("terms", terms.len(), patch * patch + 1)])?;
            if bins == 0 || 256 % bins != 0 {
                return Err(Error::shape("saliency", format!("{bins} bins for 256 levels")));
            }
            args.push(terms.into());
            "saliency_entropy"
        }
    };
    args.push(scores.into());
    args.extend(sizes.map(Arg::from));
    if let Statistic::Entropy { bins, .. } = statistic {
        args.push((bins as u32).into());
    }
    let geometry = Geometry::row("saliency", (b * n).div_ceil(THREADS), THREADS as u32, 0)?;
    let kernel = gpu.kernel(&ptx::SALIENCY, Entry::named(ENTRIES, name))?;
    // SAFETY: the buffers have the lengths of the kernel's contract, checked above; a count of a histogram is at most
    // P P, which `terms` has. They are the second stream's (`Buffer::aside`), or the caller has waited for the first.
    unsafe { gpu.second().launch(&kernel, geometry, &args) }
}

/// In the card's second stream, kept (B, k): the k best of each image's n scores, ascending; the lower index wins a
/// tie. With a NaN among the scores it is some other choice. The buffers are the second stream's.
pub fn top_k(gpu: &Gpu, scores: Slice<f64>, n: usize, k: usize, kept: Slice<u32>) -> Result<()> {
    if n > MOST_PATCHES || k == 0 || k > n {
        let reason = format!("{k} of {n} patches; a card chooses among at most {MOST_PATCHES}");
        return Err(Error::shape("saliency", reason));
    }
    let b = scores.len().checked_div(n).unwrap_or(0);
    lengths("saliency", &[("scores", scores.len(), b * n), ("kept", kept.len(), b * k)])?;
    let geometry = Geometry::row("saliency", b, 256, 12 * n as u32)?;
    let [n, k] = counts("saliency", [n, k])?;
    let args: [Arg; 4] = [scores.into(), kept.into(), n.into(), k.into()];
    let kernel = gpu.kernel(&ptx::SALIENCY, Entry::named(ENTRIES, "saliency_top_k"))?;
    // SAFETY: the buffers have the lengths of the kernel's contract, checked above; exactly k scores of an image have
    // fewer than k better ones, as equal ones are ordered by their index; NaN makes that fewer or more, and the kernel
    // writes no further than k.
    unsafe { gpu.second().launch(&kernel, geometry, &args) }
}
