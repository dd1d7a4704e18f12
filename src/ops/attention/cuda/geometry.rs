//! Which of attention's kernels takes a sequence, and with what grid.
#![forbid(unsafe_code)]

use crate::device::cuda::{Geometry, counts};
use crate::error::{Error, Result};
use crate::ops::attention::reference::Sizes;

/// The only width of a head that the kernels know; every ViT of the paper has it.
pub const HEAD_WIDTH: usize = 64;

/// The longest sequence whose keys and values fit in shared memory whole.
pub const LONGEST_WHOLE: usize = 256;

/// The same backward, where each row has two numbers of f32 beside them.
pub const LONGEST_WHOLE_BACKWARD: usize = 240;

/// Queries of a warp.
const STRIP: usize = 16;

/// Rows of a block of the kernels that take the other side in blocks.
const BLOCK_ROWS: usize = 64;

/// Which kernel takes a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All keys of a head at once, softmax over whole rows.
    Whole,
    /// Keys in blocks, softmax corrected as they come. Backward: keys in blocks for dq, queries in blocks for dk and dv.
    Online,
}

impl Method {
    /// The kernel for a sequence of s.
    pub fn choose(s: usize) -> Self {
        if s <= LONGEST_WHOLE { Method::Whole } else { Method::Online }
    }

    /// The kernels for the gradients of a sequence of s on a card of this compute capability (as 75). From sm_80 on a block
    /// that holds a whole sequence has four warps; where a multiprocessor has no room for a second one, more warps of the
    /// other kernels fit, which make the same bits.
    pub fn choose_backward(s: usize, capability: u32) -> Self {
        let alone = capability >= 80 && !two_fit(whole_bytes(s, BACKWARD_ROW_BYTES), capability);
        if s <= LONGEST_WHOLE_BACKWARD && !alone { Method::Whole } else { Method::Online }
    }

    /// What the names of the forward entries have before the type.
    pub fn suffix(self) -> &'static str {
        match self {
            Method::Whole => "",
            Method::Online => "_online",
        }
    }
}

/// Shared memory of a row of a block that holds a whole sequence: key and value.
const FORWARD_ROW_BYTES: usize = 2 * 2 * HEAD_WIDTH;

/// The same backward: two rows at a time, and two numbers.
const BACKWARD_ROW_BYTES: usize = 2 * 2 * HEAD_WIDTH + 2 * 4;

/// Shared memory of a block that holds a whole sequence.
fn whole_bytes(s: usize, row_bytes: usize) -> usize {
    s.next_multiple_of(STRIP).saturating_mul(row_bytes)
}

/// Whether a multiprocessor from sm_80 on has room for two blocks with so much shared memory; the system takes a KiB of
/// each.
fn two_fit(bytes: usize, capability: u32) -> bool {
    let whole = if matches!(capability, 86 | 89 | 120 | 121) { 100 << 10 } else { 164 << 10 };
    bytes.saturating_add(1 << 10) <= whole / 2
}

/// Warps of a block that holds a whole sequence, `most` at most.
fn whole_warps(s: usize, most: usize) -> usize {
    let strips = s.div_ceil(STRIP);
    strips.div_ceil(strips.div_ceil(most))
}

/// A block of up to `most` warps an image and head with `row_bytes` of shared memory for each row of up to `longest`, or
/// one for every 64 rows.
fn shape(sizes: [usize; 3], kind: Method, most: usize, longest: usize, row_bytes: usize) -> Result<Geometry> {
    counts("attention", sizes)?;
    let [b, s, heads] = sizes;
    if s == 0 || (kind == Method::Whole && s > longest) {
        return Err(Error::shape("attention", format!("a sequence of {s}; {kind:?} takes 1 to {longest}")));
    }
    let heads = b.saturating_mul(heads);
    match kind {
        Method::Whole => {
            let threads = 32 * whole_warps(s, most) as u32;
            Geometry::row("attention", heads, threads, whole_bytes(s, row_bytes) as u32)
        }
        Method::Online => {
            let blocks = heads.saturating_mul(s.div_ceil(BLOCK_ROWS));
            Geometry::row("attention", blocks, 2 * BLOCK_ROWS as u32, 0)
        }
    }
}

/// Launch of a forward kernel over qkv (b, s, 3, heads, 64) on a card of this compute capability (as 75). Where the shared
/// memory of a multiprocessor holds one block of a whole sequence, as always before sm_80, that block fills its registers;
/// else blocks are of four warps, and loads of one hide behind the products of another.
pub fn forward_shape(b: usize, s: usize, heads: usize, kind: Method, capability: u32) -> Result<Geometry> {
    let several = capability >= 80 && two_fit(whole_bytes(s, FORWARD_ROW_BYTES), capability);
    shape([b, s, heads], kind, if several { 4 } else { 8 }, LONGEST_WHOLE, FORWARD_ROW_BYTES)
}

/// Launch of attention_bwd (`Whole`), or of attention_bwd_dq and of attention_bwd_dkv alike (`Online`).
pub fn backward_shape(b: usize, s: usize, heads: usize, kind: Method, capability: u32) -> Result<Geometry> {
    shape([b, s, heads], kind, if capability < 80 { 8 } else { 4 }, LONGEST_WHOLE_BACKWARD, BACKWARD_ROW_BYTES)
}

/// Length in f32 of the workspace `delta` of the gradients: nothing for the sequences that one launch takes.
pub fn delta_len(b: usize, s: usize, heads: usize, capability: u32) -> usize {
    match Method::choose_backward(s, capability) {
        Method::Whole => 0,
        Method::Online => b * heads * s,
    }
}

/// The sizes, when the kernels of ptx/attention_rows.cu take them.
pub fn checked(z: Sizes) -> Result<Sizes> {
    counts("attention", [z.b, z.queries, z.keys, 3 * z.heads.saturating_mul(HEAD_WIDTH)])?;
    if z.head_width != HEAD_WIDTH || [z.b, z.queries, z.keys, z.heads].contains(&0) {
        return Err(Error::shape("attention", format!("{z:?}; the kernels take heads of {HEAD_WIDTH}, one at least")));
    }
    Ok(z)
}

/// Launch of attention_fwd_rows.
pub fn forward_rows_shape(z: Sizes) -> Result<Geometry> {
    let z = checked(z)?;
    Geometry::row("attention", z.b.saturating_mul(z.heads).saturating_mul(z.queries), 128, 0)
}

/// Launch of attention_bwd_rows.
pub fn backward_rows_shape(z: Sizes) -> Result<Geometry> {
    let z = checked(z)?;
    Geometry::row("attention", z.b.saturating_mul(z.heads), 128, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::{LARGEST, SHARED_UNASKED};

    /// Shared memory of a block when asked for, the least of each chip's.
    const CHIPS: [(u32, u32); 5] = [(75, 64 << 10), (80, 163 << 10), (86, 99 << 10), (89, 99 << 10), (90, 227 << 10)];

    #[test]
    fn blocks_stay_within_every_card() {
        for (capability, shared) in CHIPS {
            for s in 1..=LONGEST_WHOLE {
                let shape = forward_shape(3, s, 12, Method::Whole, capability).unwrap();
                assert_eq!(shape.grid, [36, 1, 1]);
                let warps = shape.threads() as usize / 32;
                assert!((1..=8).contains(&warps) && warps <= s.div_ceil(STRIP));
                assert!(shape.shared as usize >= s * 256 && shape.shared <= shared);
                if s <= LONGEST_WHOLE_BACKWARD {
                    let back = backward_shape(3, s, 12, Method::Whole, capability).unwrap();
                    assert_eq!(back.grid, shape.grid);
                    assert!(back.shared as usize >= s * 264 && back.shared <= shared);
                    // The launch bounds of ptx/attention_bwd.cu from sm_80 on.
                    assert!(capability < 80 || back.threads() <= 128);
                }
            }
        }
        // The paper's sequence of 138 tokens needs no attribute.
        assert!(forward_shape(1, 138, 12, Method::Whole, 75).unwrap().shared <= SHARED_UNASKED);
        assert!(backward_shape(1, 138, 12, Method::Whole, 75).unwrap().shared <= SHARED_UNASKED);
    }

    #[test]
    fn strips_are_shared_out_evenly() {
        // 13 strips: two rounds of 7 and 6, or four rounds of at most 4.
        assert_eq!((whole_warps(197, 8), whole_warps(197, 4)), (7, 4));
        assert_eq!((whole_warps(1, 8), whole_warps(256, 8), whole_warps(138, 4)), (1, 8, 3));
    }

    #[test]
    fn a_block_that_is_alone_has_more_warps() {
        let warps = |s, capability| forward_shape(1, s, 1, Method::Whole, capability).unwrap().threads() / 32;
        assert_eq!([75, 80, 86, 89, 90, 120].map(|capability| warps(197, capability)), [7, 4, 7, 7, 4, 7]);
        assert_eq!([75, 80, 86, 89, 90, 120].map(|capability| warps(192, capability)), [6, 4, 4, 4, 4, 4]);
        let whole = |s| [75, 80, 86, 89, 90, 120].map(|c| Method::choose_backward(s, c) == Method::Whole);
        assert_eq!(whole(176), [true; 6]);
        assert_eq!(whole(177), [true, true, false, false, true, false]);
        assert_eq!(whole(240), [true, true, false, false, true, false]);
        assert_eq!(whole(241), [false; 6]);
    }

    #[test]
    fn online_blocks_cover_every_query() {
        for s in [1, 63, 64, 65, 257, 1025] {
            let shape = forward_shape(5, s, 3, Method::Online, 75).unwrap();
            assert_eq!(shape.grid[0] as usize, 15 * s.div_ceil(64));
            assert_eq!((shape.threads(), shape.shared), (128, 0));
            assert_eq!(backward_shape(5, s, 3, Method::Online, 75).unwrap(), shape);
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
            assert!(backward_shape(b, s, heads, kind, 80).is_err(), "{b}, {s}, {heads}");
        }
        assert!(backward_shape(1, 241, 1, Method::Whole, 80).is_err());
        assert_eq!((Method::choose(256), Method::choose(257)), (Method::Whole, Method::Online));
        assert_eq!((delta_len(2, 240, 3, 80), delta_len(2, 241, 3, 80), delta_len(2, 200, 3, 86)), (0, 1446, 1200));
    }

    #[test]
    fn rows_have_a_block_a_head_and_forward_a_query() {
        let z = Sizes { b: 5, queries: 2, keys: 33, heads: 3, head_width: 64 };
        assert_eq!((forward_rows_shape(z).unwrap().grid[0], backward_rows_shape(z).unwrap().grid[0]), (30, 15));
        for z in [Sizes { head_width: 32, ..z }, Sizes { b: 0, ..z }, Sizes { keys: 0, ..z }, Sizes { b: LARGEST, ..z }]
        {
            assert!(forward_rows_shape(z).is_err() && backward_rows_shape(z).is_err(), "{z:?}");
        }
    }
}
