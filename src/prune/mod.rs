//! Which patches are kept: the statistic, how many, and the ascending indices of the chosen.
#![forbid(unsafe_code)]

use crate::error::Result;
use serde::{Deserialize, Serialize};

/// The keep ratio K in percent, an exact decimal with 0 < K <= 100. Parsed by FromStr, shown as typed ("70", "62.5").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keep {
    numerator: u64,
    denominator: u64,
}

/// How K percent of N becomes k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Round {
    #[default]
    Floor,
    Nearest,
}

/// The statistic that ranks patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scorer {
    #[default]
    L2,
    Sobel,
    Entropy,
    Random,
    Center,
}

/// The pixels that the L2 scorer sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SaliencyDomain {
    #[default]
    Normalized,
    Raw,
}

/// Everything that decides which patches are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneConfig {
    pub keep: Keep,
    pub round: Round,
    pub scorer: Scorer,
    pub domain: SaliencyDomain,
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

/// The kept patches of a batch: (B, k) raster indices, ascending in each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub indices: Vec<u32>,
    pub batch: usize,
    pub k: usize,
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

/// The kept patches of each image of a batch. Images are scored in parallel.
pub fn select(config: &PruneConfig, grid: &Grid, pixels: &Pixels) -> Result<Kept> {
    let _ = (config, grid, pixels);
    todo!()
}

impl std::str::FromStr for Keep {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let _ = text;
        todo!()
    }
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = f;
        todo!()
    }
}

impl Serialize for Keep {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Keep {
    /// k, at least 1 and at most `patches`.
    pub fn count(&self, patches: usize, round: Round) -> usize {
        let _ = (patches, round);
        todo!()
    }
    /// K as a float, for display and JSON.
    pub fn percent(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

impl Kept {
    /// All patches of every image.
    pub fn all(batch: usize, patches: usize) -> Self {
        Kept { indices: (0..batch).flat_map(|_| 0..patches as u32).collect(), batch, k: patches }
    }
}
