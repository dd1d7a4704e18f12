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

    /// The kernels for the gradients of a sequence of s.
    pub fn choose_backward(s: usize) -> Self {
        if s <= LONGEST_WHOLE_BACKWARD { Method::Whole } else { Method::Online }
    }

    /// What the names of the forward entries have before the type.
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

/// A block an image and head with `row_bytes` of shared memory for each row of up to `longest`, or one for every 64 rows.
fn shape(sizes: [usize; 3], kind: Method, capability: u32, longest: usize, row_bytes: usize) -> Result<Geometry> {
    counts("attention", sizes)?;
    let [b, s, heads] = sizes;
    if s == 0 || (kind == Method::Whole && s > longest) {
        return Err(Error::shape("attention", format!("a sequence of {s}; {kind:?} takes 1 to {longest}")));
    }
    let heads = b.saturating_mul(heads);
    match kind {
        Method::Whole => {
            let threads = 32 * whole_warps(s, capability) as u32;
            Geometry::row("attention", heads, threads, (s.next_multiple_of(STRIP) * row_bytes) as u32)
        }
        Method::Online => {
            let blocks = heads.saturating_mul(s.div_ceil(BLOCK_ROWS));
            Geometry::row("attention", blocks, 2 * BLOCK_ROWS as u32, 0)
        }
    }
}

/// Launch of a forward kernel over qkv (b, s, 3, heads, 64) on a card of this compute capability (as 75).
pub fn forward_shape(b: usize, s: usize, heads: usize, kind: Method, capability: u32) -> Result<Geometry> {
    let key_and_value = 2 * 2 * HEAD_WIDTH;
    shape([b, s, heads], kind, capability, LONGEST_WHOLE, key_and_value)
}

/// Launch of attention_bwd (`Whole`), or of attention_bwd_dq and of attention_bwd_dkv alike (`Online`).
pub fn backward_shape(b: usize, s: usize, heads: usize, kind: Method, capability: u32) -> Result<Geometry> {
    let two_rows_and_two_numbers = 2 * 2 * HEAD_WIDTH + 2 * 4;
    shape([b, s, heads], kind, capability, LONGEST_WHOLE_BACKWARD, two_rows_and_two_numbers)
}

/// Length in f32 of the workspace `delta` of the gradients: nothing for the sequences that one launch takes.
pub fn delta_len(b: usize, s: usize, heads: usize) -> usize {
    match Method::choose_backward(s) {
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
                    assert_eq!((back.grid, back.block), (shape.grid, shape.block));
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
        assert_eq!((whole_warps(197, 75), whole_warps(197, 80)), (7, 4));
        assert_eq!((whole_warps(1, 75), whole_warps(256, 75), whole_warps(138, 80)), (1, 8, 3));
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
        assert_eq!((Method::choose_backward(240), Method::choose_backward(241)), (Method::Whole, Method::Online));
        assert_eq!((delta_len(2, 240, 3), delta_len(2, 241, 3)), (0, 1446));
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
