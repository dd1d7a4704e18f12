//! From the sizes of a product to its launches: tiles, parts of a sum, grids.
#![forbid(unsafe_code)]

use crate::device::cuda::{Geometry, counts};
use crate::error::{Error, Result};

/// The tile of the output that a block makes. The sums have the same order in `Wide` and `Narrow`: which of them it is
/// changes no bit of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 128 x 128 by 128 threads: the fewest bytes read for a product.
    Wide,
    /// 64 x 64 by 128 threads: four times the blocks.
    Narrow,
    /// 64 x 64 by 256 threads without matrix units: any type and any size.
    Scalar,
}

impl Tile {
    /// Rows and columns of the output.
    pub fn side(self) -> usize {
        match self {
            Tile::Wide => 128,
            Tile::Narrow | Tile::Scalar => 64,
        }
    }

    fn threads(self) -> u32 {
        match self {
            Tile::Wide | Tile::Narrow => 128,
            Tile::Scalar => 256,
        }
    }

    /// What the names of its entries have before the type.
    pub fn suffix(self) -> &'static str {
        match self {
            Tile::Wide => "",
            Tile::Narrow => "_tile64",
            Tile::Scalar => "_scalar",
        }
    }

    fn blocks(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.side()).saturating_mul(columns.div_ceil(self.side()))
    }

    /// The tile of the matrix units for an output (rows, columns) in `parts` parts: wide where wide tiles give each
    /// multiprocessor a block.
    pub fn choose(rows: usize, columns: usize, parts: usize, multiprocessors: usize) -> Self {
        let wide = Tile::Wide.blocks(rows, columns).saturating_mul(parts);
        if wide >= multiprocessors { Tile::Wide } else { Tile::Narrow }
    }
}

/// Sizes of the linear layer: x (m, k), weight (n, k), y (m, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

impl Sizes {
    /// Whether the matrix units take the forward product: rows along k begin at multiples of 16 bytes.
    pub fn suits_forward(self) -> bool {
        self.k.is_multiple_of(8)
    }

    /// Whether they take the products of the way back: rows along n and k begin at multiples of 16 bytes.
    pub fn suits_backward(self) -> bool {
        self.n.is_multiple_of(8) && self.k.is_multiple_of(8)
    }

    /// The launch of an output (rows, columns) in `parts`; an error when the sizes do not suit the tile.
    fn launch(self, tile: Tile, suits: bool, output: (usize, usize), parts: usize) -> Result<Geometry> {
        let Sizes { m, n, k } = self;
        counts("matmul", [m, n, k])?;
        if m == 0 || n == 0 || k == 0 || (tile != Tile::Scalar && !suits) {
            return Err(Error::shape(
                "matmul",
                format!("{m} x {n} x {k}; the matrix units take rows of multiples of 8"),
            ));
        }
        Geometry::row("matmul", tile.blocks(output.0, output.1).saturating_mul(parts), tile.threads(), 0)
    }

    /// Launch of a forward product.
    pub fn forward(self, tile: Tile) -> Result<Geometry> {
        self.launch(tile, self.suits_forward(), (self.m, self.n), 1)
    }

    /// Launch of a product for dx.
    pub fn backward_dx(self, tile: Tile) -> Result<Geometry> {
        self.launch(tile, self.suits_backward(), (self.m, self.k), 1)
    }

    /// Launch of a product for dweight, and the parts that it sums apart.
    pub fn backward_dweight(self, tile: Tile) -> Result<(Geometry, Parts)> {
        let parts = Parts::of_dweight(self);
        Ok((self.launch(tile, self.suits_backward(), (self.n, self.k), parts.count)?, parts))
    }

    /// Launch of the sum over dweight's parts.
    pub fn dweight_reduce(self) -> Result<Geometry> {
        let len = self.n.saturating_mul(self.k);
        counts("matmul", [len])?;
        Geometry::row("matmul", len.div_ceil(1024), 256, 0)
    }

    /// Launch of the sums of dy's rows by parts.
    pub fn backward_dbias(self) -> Result<(Geometry, Parts)> {
        let parts = Parts::of_dbias(self.m);
        counts("matmul", [self.m, self.n])?;
        Ok((Geometry::row("matmul", self.n.div_ceil(128).saturating_mul(parts.count), 256, 0)?, parts))
    }

    /// Launch of the sum over dbias's parts.
    pub fn dbias_reduce(self) -> Result<Geometry> {
        Geometry::row("matmul", self.n.div_ceil(32), 256, 0)
    }
}

/// Rows summed apart, `rows` each but for the last part, so that more blocks have work than the output has tiles. They
/// follow from the sizes alone: a sum has one order on every card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub count: usize,
    pub rows: usize,
}

impl Parts {
    /// About `wanted` parts of m rows, of a multiple of `step` rows; none is empty.
    fn split(m: usize, wanted: usize, step: usize) -> Self {
        let rows = m.div_ceil(wanted.max(1)).max(1).next_multiple_of(step);
        Parts { count: m.div_ceil(rows), rows }
    }

    /// For dweight (n, k): what leaves the fewest places idle on common cards together, `SLOTS` blocks of wide tiles at a
    /// time. A block takes a place for as long as its part's rows last, and for `ROUND_TRIP` rows more where the parts go
    /// to memory and are read again: 128 KiB a tile, in which time a multiprocessor multiplies 200 to 350 rows of two tiles by
    /// reckoning, fewer where a cache holds the parts. Parts have about 256 rows at least and 32 MiB at most.
    pub fn of_dweight(sizes: Sizes) -> Self {
        /// Two for each multiprocessor of a T4, an A100, an RTX 4090 and an H100.
        const SLOTS: [usize; 4] = [80, 216, 256, 264];
        const ROUND_TRIP: usize = 256;
        const LEAST_ROWS: usize = 256;
        const MOST_BYTES: usize = 32 << 20;
        const DEPTH: usize = 32;
        let tiles = Tile::Wide.blocks(sizes.n, sizes.k).max(1);
        let most = (MOST_BYTES / tiles.saturating_mul(128 * 128 * 4)).min(sizes.m.div_ceil(LEAST_ROWS)).max(1);
        let cost = |parts: &Parts| {
            let blocks = tiles.saturating_mul(parts.count);
            let taken = |slots: usize| blocks.div_ceil(slots).saturating_mul(slots).saturating_mul(parts.rows);
            let written = if parts.count > 1 { blocks.saturating_mul(ROUND_TRIP * SLOTS.len()) } else { 0 };
            SLOTS.map(taken).into_iter().fold(written, usize::saturating_add)
        };
        let choices = (1..=most).map(|wanted| Parts::split(sizes.m, wanted, DEPTH));
        choices.min_by_key(cost).expect("one part at least")
    }

    /// For dbias: 64 rows, so that what is written is little beside what is read; more where there would be over 256
    /// parts to sum.
    pub fn of_dbias(m: usize) -> Self {
        Parts::split(m, m.div_ceil(64).min(256), 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::LARGEST;

    /// The tile of a block, as `tile_of_block` in ptx/matmul.cuh finds it.
    fn tile_of_block(block: u32, tiles_m: u32, tiles_n: u32) -> (u32, u32) {
        let (band, within) = (block / (8 * tiles_n), block % (8 * tiles_n));
        let height = (tiles_m - band * 8).min(8);
        (band * 8 + within % height, within / height)
    }

    fn sizes(m: usize, n: usize, k: usize) -> Sizes {
        Sizes { m, n, k }
    }

    #[test]
    fn every_tile_has_one_block() {
        for (m, n) in [(1, 1), (1, 5), (197, 768), (1100, 130), (12_608, 2304), (129, 1000)] {
            for tile in [Tile::Wide, Tile::Narrow, Tile::Scalar] {
                let shape = sizes(m, n, 64).forward(tile).unwrap();
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
    fn parts_hold_every_row_once() {
        for m in [1, 7, 31, 32, 33, 60, 256, 257, 591, 12_608, 300_000, LARGEST] {
            for (n, k) in [(8, 8), (192, 192), (768, 768), (3072, 768), (5, 192), (100, 4096)] {
                let (shape, parts) = sizes(m, n, k).backward_dweight(Tile::Scalar).unwrap();
                assert!(parts.rows.is_multiple_of(32) && parts.count * parts.rows >= m);
                assert!((parts.count - 1) * parts.rows < m, "an empty part of {m}");
                assert_eq!(shape.grid[0] as usize, parts.count * n.div_ceil(64) * k.div_ceil(64));
                let (shape, parts) = sizes(m, n, k).backward_dbias().unwrap();
                assert!(parts.count * parts.rows >= m && (parts.count - 1) * parts.rows < m && parts.count <= 256);
                assert_eq!(shape.grid[0] as usize, parts.count * n.div_ceil(128));
            }
        }
        assert_eq!(Parts::of_dweight(sizes(64, 5, 768)).count, 1);
        for (n, k) in [(1000, 1000), (5, 192), (31, 33)] {
            assert!(sizes(1, n, k).dweight_reduce().unwrap().grid[0] as usize * 1024 >= n * k);
            assert!(sizes(1, n, k).dbias_reduce().unwrap().grid[0] as usize * 32 >= n);
        }
    }

    #[test]
    fn parts_of_weight_gradients_fill_common_cards() {
        for (m, n, k, count) in [
            (12_608, 768, 768, 6),
            (12_608, 2304, 768, 2),
            (12_608, 3072, 768, 3),
            (8832, 768, 3072, 3),
            (8832, 384, 384, 23),
            (12_608, 192, 192, 40),
            (12_608, 1024, 1024, 8),
            (300, 4096, 4096, 1),
        ] {
            let parts = Parts::of_dweight(sizes(m, n, k));
            assert_eq!(parts.count, count, "{m} x {n} x {k}");
            assert!(count == 1 || (parts.rows >= 256 && count * n * k * 4 <= 32 << 20), "{m} x {n} x {k}");
        }
        // Of all the places that the blocks of a ViT-B take, the share that works, in percent.
        let busy = |n: usize, k: usize, slots: usize| {
            let (parts, tiles) = (Parts::of_dweight(sizes(12_608, n, k)), n / 128 * (k / 128));
            100 * tiles * 12_608 / ((tiles * parts.count).next_multiple_of(slots) * parts.rows)
        };
        for (n, k) in [(768, 768), (2304, 768), (3072, 768), (768, 3072)] {
            let shares = [80, 216, 256, 264].map(|slots| busy(n, k, slots));
            assert!(shares.iter().zip([89, 99, 83, 81]).all(|(&share, least)| share >= least), "{n} x {k}: {shares:?}");
        }
    }

    #[test]
    fn large_batches_fit_and_larger_ones_are_refused() {
        // A batch of 4096 images of 577 tokens through the widest layer of a ViT-L.
        let shape = sizes(4096 * 577, 4096, 1024).forward(Tile::Narrow).unwrap();
        assert_eq!(shape.grid[0] as usize, (4096 * 577usize).div_ceil(64) * 64);
        for (m, n, k) in [(0, 1, 8), (1, 0, 8), (1, 1, 0), (1, 1, 12), (LARGEST + 1, 1, 8), (LARGEST, LARGEST, 8)] {
            assert!(sizes(m, n, k).forward(Tile::Narrow).is_err(), "{m} x {n} x {k}");
        }
        assert!(sizes(1, 1, 12).forward(Tile::Scalar).is_ok());
        assert!(sizes(1, 5, 8).backward_dx(Tile::Narrow).is_err());
        assert!(sizes(1, 5, 8).backward_dx(Tile::Scalar).is_ok());
        assert!(sizes(0, 5, 8).backward_dweight(Tile::Scalar).is_err());
        assert!(sizes(0, 5, 8).backward_dbias().is_err());
    }

    #[test]
    fn small_products_get_small_tiles() {
        assert_eq!(Tile::choose(197, 768, 1, 40), Tile::Narrow);
        assert_eq!(Tile::choose(12_608, 768, 1, 132), Tile::Wide);
        assert_eq!(Tile::choose(64, 5, 1, 40), Tile::Narrow);
        assert_eq!(Tile::choose(768, 768, 8, 132), Tile::Wide);
    }
}
