//! Which patches are kept: the statistic, how many, and the ascending indices of the chosen.
#![forbid(unsafe_code)]

use crate::tensor::Spans;
use serde::{Deserialize, Serialize};

mod card;
mod keep;
mod scorers;
mod select;

pub use card::{Choice, choose_on_card};
pub use keep::Keep;
pub use select::{scores, select, top_k, top_mass};

/// How K percent of N becomes k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Round {
    /// Down, as the paper's equations say; at least one patch.
    #[default]
    Floor,
    /// To the nearest, halves upward; at least one patch.
    Nearest,
}

/// The statistic that ranks patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scorer {
    /// Euclidean norm of the patch's values.
    #[default]
    L2,
    /// Mean gradient magnitude of the luma.
    Sobel,
    /// Shannon entropy of the luma's histogram.
    Entropy,
    /// Luck, from the seed: the control.
    Random,
    /// Nearness to the image centre: the other control.
    Center,
}

/// The pixels that the L2 scorer sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SaliencyDomain {
    /// The values that the model is fed.
    #[default]
    Normalized,
    /// RGB in [0, 1].
    Raw,
}

/// Everything that decides which patches are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneConfig {
    pub keep: Keep,
    pub round: Round,
    pub scorer: Scorer,
    pub domain: SaliencyDomain,
    /// Bins of the luma histogram: 32, 64 or 256.
    pub entropy_bins: u32,
    /// Seed of the random scorer.
    pub seed: u64,
}

/// How an image of height x width pixels is cut into patches of side `patch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub height: usize,
    pub width: usize,
    pub patch: usize,
}

impl Grid {
    /// Rows of patches.
    pub fn rows(&self) -> usize {
        self.height / self.patch
    }

    /// Patches in a row.
    pub fn columns(&self) -> usize {
        self.width / self.patch
    }

    /// N, the number of patches.
    pub fn patches(&self) -> usize {
        self.rows() * self.columns()
    }
}

/// The kept patches of a batch: raster indices, image after image, ascending in each. Images may keep different numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub indices: Vec<u32>,
    /// How the indices are shared out among the images.
    pub spans: Spans,
}

impl Kept {
    /// All patches of every image.
    pub fn all(batch: usize, patches: usize) -> Self {
        Self::even((0..batch).flat_map(|_| 0..patches as u32).collect(), batch, patches)
    }

    /// `k` patches of every image: `indices` is (B,k).
    pub fn even(indices: Vec<u32>, batch: usize, k: usize) -> Self {
        Kept { indices, spans: Spans::even(batch, k) }
    }

    /// The patches of each image.
    pub fn of_images(rows: &[Vec<u32>]) -> Self {
        Kept { indices: rows.concat(), spans: Spans::of(rows.iter().map(Vec::len)) }
    }

    /// B, the number of images.
    pub fn batch(&self) -> usize {
        self.spans.images()
    }

    /// The kept patches of one image, ascending.
    pub fn of(&self, image: usize) -> &[u32] {
        &self.indices[self.spans.range(image)]
    }
}

/// The pixels of a batch as the scorers need them.
pub struct Pixels<'a> {
    /// (B, C, h, w), normalised: what the model is fed.
    pub normalized: &'a [f32],
    /// (B, h, w, C), 8-bit RGB after the resize.
    pub rgb: &'a [u8],
    /// (B,): sample numbers, which key the random scorer.
    pub ids: &'a [u64],
    /// Epoch number, which keys the random scorer; 0 outside training.
    pub epoch: u32,
}
