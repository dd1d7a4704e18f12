//! How the kernels of ptx/matmul.cu are called: their arguments, their grids, and which tile a product wants.
#![allow(unsafe_code)]

use crate::device::cuda::{Arg, Entry, Geometry, Gpu, Half, Kind, Slice, counts, lengths};
use crate::error::{Error, Result};
use crate::ops::ptx;

const BIAS: &[(&str, Kind)] = &[
    ("x", Kind::U64),
    ("weight", Kind::U64),
    ("bias", Kind::U64),
    ("y", Kind::U64),
    ("m", Kind::U32),
    ("n", Kind::U32),
    ("k", Kind::U32),
];

const BIAS_GELU: &[(&str, Kind)] = &[
    ("x", Kind::U64),
    ("weight", Kind::U64),
    ("bias", Kind::U64),
    ("pre", Kind::U64),
    ("y", Kind::U64),
    ("m", Kind::U32),
    ("n", Kind::U32),
    ("k", Kind::U32),
];

const BIAS_RESIDUAL: &[(&str, Kind)] = &[
    ("x", Kind::U64),
    ("weight", Kind::U64),
    ("bias", Kind::U64),
    ("residual", Kind::U64),
    ("y", Kind::U64),
    ("m", Kind::U32),
    ("n", Kind::U32),
    ("k", Kind::U32),
];

/// The kernels of ptx/matmul.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "matmul_fwd_bias_f16", args: BIAS, since: 75 },
    Entry { name: "matmul_fwd_bias_gelu_f16", args: BIAS_GELU, since: 75 },
    Entry { name: "matmul_fwd_bias_residual_f16", args: BIAS_RESIDUAL, since: 75 },
    Entry { name: "matmul_fwd_bias_tile64_f16", args: BIAS, since: 75 },
    Entry { name: "matmul_fwd_bias_gelu_tile64_f16", args: BIAS_GELU, since: 75 },
    Entry { name: "matmul_fwd_bias_residual_tile64_f16", args: BIAS_RESIDUAL, since: 75 },
    Entry { name: "matmul_fwd_bias_bf16", args: BIAS, since: 80 },
    Entry { name: "matmul_fwd_bias_gelu_bf16", args: BIAS_GELU, since: 80 },
    Entry { name: "matmul_fwd_bias_residual_bf16", args: BIAS_RESIDUAL, since: 80 },
    Entry { name: "matmul_fwd_bias_tile64_bf16", args: BIAS, since: 80 },
    Entry { name: "matmul_fwd_bias_gelu_tile64_bf16", args: BIAS_GELU, since: 80 },
    Entry { name: "matmul_fwd_bias_residual_tile64_bf16", args: BIAS_RESIDUAL, since: 80 },
];

/// The tile of y that a block makes. The sums have the same order in both: the tile changes no bit of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 128 x 128 by 256 threads: the fewest bytes read for a product.
    Wide,
    /// 64 x 64 by 128 threads: four times the blocks.
    Narrow,
}

impl Tile {
    /// Rows and columns of y.
    pub fn side(self) -> usize {
        match self {
            Tile::Wide => 128,
            Tile::Narrow => 64,
        }
    }

    fn threads(self) -> u32 {
        match self {
            Tile::Wide => 256,
            Tile::Narrow => 128,
        }
    }

    /// What the names of its entries have before the type.
    pub fn suffix(self) -> &'static str {
        match self {
            Tile::Wide => "",
            Tile::Narrow => "_tile64",
        }
    }

    fn blocks(self, m: usize, n: usize) -> usize {
        m.div_ceil(self.side()).saturating_mul(n.div_ceil(self.side()))
    }

    /// The tile for y (m, n): wide where wide tiles give each multiprocessor a block.
    pub fn choose(m: usize, n: usize, multiprocessors: usize) -> Self {
        if Tile::Wide.blocks(m, n) >= multiprocessors { Tile::Wide } else { Tile::Narrow }
    }
}

/// Launch of any forward product of x (m, k) with a weight (n, k).
pub fn forward_shape(m: usize, n: usize, k: usize, tile: Tile) -> Result<Geometry> {
    counts("matmul", [m, n, k])?;
    if k == 0 || !k.is_multiple_of(8) {
        return Err(Error::shape("matmul", format!("rows of {k}; the kernels take multiples of 8")));
    }
    Geometry::row("matmul", tile.blocks(m, n), tile.threads(), 0)
}

/// What follows the product and the bias; see the op's `Epilogue`.
#[derive(Clone, Copy)]
pub enum Fused<'a> {
    Bias,
    /// GELU; the pre-activation (m, n) is kept.
    BiasGelu {
        pre: Slice<'a, u16>,
    },
    /// A residual (m, n) is added.
    BiasResidual {
        residual: Slice<'a, u16>,
    },
}

/// y (m, n) = x (m, k) weight^T + bias and what `fused` adds; weight (n, k), bias (n) in f32.
pub fn forward(
    gpu: &Gpu,
    half: Half,
    x: Slice<u16>,
    weight: Slice<u16>,
    bias: Slice<f32>,
    fused: Fused,
    y: Slice<u16>,
) -> Result<()> {
    let n = bias.len();
    let k = weight.len().checked_div(n).unwrap_or(0);
    let m = x.len().checked_div(k).unwrap_or(0);
    let (name, beside) = match fused {
        Fused::Bias => ("bias", None),
        Fused::BiasGelu { pre } => ("bias_gelu", Some(pre)),
        Fused::BiasResidual { residual } => ("bias_residual", Some(residual)),
    };
    let beside_len = beside.map_or(m * n, |slice| slice.len());
    lengths(
        "matmul",
        &[("x", x.len(), m * k), ("weight", weight.len(), n * k), ("y", y.len(), m * n), (name, beside_len, m * n)],
    )?;
    let tile = Tile::choose(m, n, gpu.multiprocessors()?);
    let (geometry, [m, n, k]) = (forward_shape(m, n, k, tile)?, counts("matmul", [m, n, k])?);
    let entry = Entry::named(ENTRIES, &format!("matmul_fwd_{name}{}_{}", tile.suffix(), half.name()));
    let kernel = gpu.kernel(&ptx::MATMUL, entry)?;
    let mut args: Vec<Arg> = vec![x.into(), weight.into(), bias.into()];
    args.extend(beside.map(Arg::from));
    args.extend::<[Arg; 4]>([y.into(), m.into(), n.into(), k.into()]);
    // SAFETY: the buffers have the lengths that the kernel's contract gives for (m, n, k), as checked above; the kernel
    // masks what its tiles hold beyond m and n.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::LARGEST;

    /// The tile of a block, as `tile_of_block` in ptx/matmul.cu finds it.
    fn tile_of_block(block: u32, tiles_m: u32, tiles_n: u32) -> (u32, u32) {
        let (band, within) = (block / (8 * tiles_n), block % (8 * tiles_n));
        let height = (tiles_m - band * 8).min(8);
        (band * 8 + within % height, within / height)
    }

    #[test]
    fn every_tile_has_one_block() {
        for (m, n) in [(1, 1), (1, 5), (197, 768), (1100, 130), (12_608, 2304), (129, 1000)] {
            for tile in [Tile::Wide, Tile::Narrow] {
                let shape = forward_shape(m, n, 64, tile).unwrap();
                assert!(shape.threads() <= 1024 && shape.shared == 0);
                let (tiles_m, tiles_n) = (m.div_ceil(tile.side()), n.div_ceil(tile.side()));
                let mut seen = vec![false; tiles_m * tiles_n];
                for block in 0..shape.grid[0] {
                    let (i, j) = tile_of_block(block, tiles_m as u32, tiles_n as u32);
                    let place = i as usize * tiles_n + j as usize;
                    assert!(!std::mem::replace(&mut seen[place], true), "tile {i}, {j} twice");
                }
                assert!(seen.into_iter().all(|tile| tile));
            }
        }
    }

    #[test]
    fn large_batches_fit_and_larger_ones_are_refused() {
        // A batch of 4096 images of 577 tokens through the widest layer of a ViT-L.
        let shape = forward_shape(4096 * 577, 4096, 1024, Tile::Narrow).unwrap();
        assert_eq!(shape.grid[0] as usize, (4096 * 577usize).div_ceil(64) * 64);
        for (m, n, k) in [(0, 1, 8), (1, 0, 8), (1, 1, 0), (1, 1, 12), (LARGEST + 1, 1, 8), (LARGEST, LARGEST, 8)] {
            assert!(forward_shape(m, n, k, Tile::Narrow).is_err(), "{m} x {n} x {k}");
        }
    }

    #[test]
    fn small_products_get_small_tiles() {
        assert_eq!(Tile::choose(197, 768, 40), Tile::Narrow);
        assert_eq!(Tile::choose(12_608, 768, 132), Tile::Wide);
        assert_eq!(Tile::choose(64, 5, 40), Tile::Narrow);
    }
}
