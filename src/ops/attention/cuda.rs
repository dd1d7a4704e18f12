//! How the kernels of ptx/attention.cu are called: their arguments, their grids, and which one a sequence wants.
#![allow(unsafe_code)]

use crate::device::cuda::{Entry, Geometry, Gpu, Half, Kind, Slice, counts, lengths};
use crate::error::{Error, Result};
use crate::ops::ptx;

const FORWARD: &[(&str, Kind)] =
    &[("qkv", Kind::U64), ("y", Kind::U64), ("lse", Kind::U64), ("s", Kind::U32), ("heads", Kind::U32)];

/// The kernels of ptx/attention.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "attention_fwd_f16", args: FORWARD, since: 75 },
    Entry { name: "attention_fwd_online_f16", args: FORWARD, since: 75 },
    Entry { name: "attention_fwd_bf16", args: FORWARD, since: 80 },
    Entry { name: "attention_fwd_online_bf16", args: FORWARD, since: 80 },
];

/// The only width of a head that the kernels know; every ViT of the paper has it.
pub const HEAD_WIDTH: usize = 64;

/// The longest sequence whose keys and values fit in shared memory whole.
pub const LONGEST_WHOLE: usize = 256;

/// Queries of a warp.
const STRIP: usize = 16;

/// Queries of a block of the online kernel.
const ONLINE_QUERIES: usize = 64;

/// Which kernel takes a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All keys of a head at once, softmax over whole rows.
    Whole,
    /// Keys in blocks, softmax corrected as they come.
    Online,
}

impl Method {
    /// The kernel for a sequence of s.
    pub fn choose(s: usize) -> Self {
        if s <= LONGEST_WHOLE { Method::Whole } else { Method::Online }
    }

    /// What the names of its entries have before the type.
    pub fn suffix(self) -> &'static str {
        match self {
            Method::Whole => "",
            Method::Online => "_online",
        }
    }
}

/// Warps of a block that holds a whole sequence. Before sm_80 a multiprocessor's shared memory holds one such block, which
/// then fills its registers; later ones hold several blocks, and loads of one hide behind the products of another.
fn whole_warps(s: usize, capability: u32) -> usize {
    let most = if capability < 80 { 8 } else { 4 };
    let strips = s.div_ceil(STRIP);
    strips.div_ceil(strips.div_ceil(most))
}

/// Launch of a forward kernel over qkv (b, s, 3, heads, 64) on a card of this compute capability (as 75).
pub fn forward_shape(b: usize, s: usize, heads: usize, kind: Method, capability: u32) -> Result<Geometry> {
    counts("attention", [b, s, heads])?;
    if s == 0 || (kind == Method::Whole && s > LONGEST_WHOLE) {
        return Err(Error::shape("attention", format!("a sequence of {s}; {kind:?} takes 1 to {LONGEST_WHOLE}")));
    }
    let heads = b.saturating_mul(heads);
    match kind {
        Method::Whole => {
            let threads = 32 * whole_warps(s, capability) as u32;
            let key_and_value = 2 * 2 * HEAD_WIDTH;
            let shared = s.next_multiple_of(STRIP) * key_and_value;
            Geometry::row("attention", heads, threads, shared as u32)
        }
        Method::Online => {
            let blocks = heads.saturating_mul(s.div_ceil(ONLINE_QUERIES));
            Geometry::row("attention", blocks, 2 * ONLINE_QUERIES as u32, 0)
        }
    }
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
    let (major, minor) = gpu.capability();
    let method = Method::choose(s);
    let geometry = forward_shape(b, s, heads, method, 10 * major + minor)?;
    let [s, heads] = counts("attention", [s, heads])?;
    let entry = Entry::named(ENTRIES, &format!("attention_fwd{}_{}", method.suffix(), half.name()));
    let kernel = gpu.kernel(&ptx::ATTENTION, entry)?;
    let args = [qkv.into(), y.into(), lse.into(), s.into(), heads.into()];
    // SAFETY: the buffers have the lengths that the kernel's contract gives for b images of s rows, as checked above;
    // the grid has a block for each image and head, and strips beyond s are masked.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::{LARGEST, SHARED_UNASKED};

    #[test]
    fn blocks_stay_within_every_card() {
        // Shared memory of a block when asked for, the least of each chip's.
        for (capability, shared) in [(75, 64 << 10), (80, 163 << 10), (86, 99 << 10), (89, 99 << 10), (90, 227 << 10)] {
            for s in 1..=LONGEST_WHOLE {
                let shape = forward_shape(3, s, 12, Method::Whole, capability).unwrap();
                assert_eq!(shape.grid, [36, 1, 1]);
                let warps = shape.threads() as usize / 32;
                assert!((1..=8).contains(&warps) && warps <= s.div_ceil(STRIP));
                assert!(shape.shared as usize >= s * 256 && shape.shared <= shared);
            }
        }
        // The paper's sequence of 138 tokens needs no attribute.
        assert!(forward_shape(1, 138, 12, Method::Whole, 75).unwrap().shared <= SHARED_UNASKED);
    }

    #[test]
    fn strips_are_shared_out_evenly() {
        // 13 strips: two rounds of 7 and 6, or four rounds of at most 4.
        assert_eq!((whole_warps(197, 75), whole_warps(197, 80)), (7, 4));
        assert_eq!((whole_warps(1, 75), whole_warps(256, 75), whole_warps(138, 80)), (1, 8, 3));
    }

    #[test]
    fn online_blocks_cover_every_query() {
        for s in [1, 63, 64, 65, 257, 1025] {
            let shape = forward_shape(5, s, 3, Method::Online, 75).unwrap();
            assert_eq!(shape.grid[0] as usize, 15 * s.div_ceil(64));
            assert_eq!((shape.threads(), shape.shared), (128, 0));
        }
    }

    #[test]
    fn what_no_grid_covers_is_refused() {
        for (b, s, heads, kind) in [
            (1, 0, 1, Method::Online),
            (0, 1, 1, Method::Online),
            (1, 257, 1, Method::Whole),
            (LARGEST, 1, 2, Method::Whole),
            (LARGEST, 65, 1, Method::Online),
        ] {
            assert!(forward_shape(b, s, heads, kind, 80).is_err(), "{b}, {s}, {heads}");
        }
        assert_eq!((Method::choose(256), Method::choose(257)), (Method::Whole, Method::Online));
    }
}
