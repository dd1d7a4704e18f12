//! Luck: a fresh uniform number for each patch, the same whenever seed, epoch and sample are the same.
#![forbid(unsafe_code)]

use crate::prune::Grid;
use crate::rng::{Purpose, Stream};

/// The score of patch n is word n of the stream (seed, Scorer, epoch, id), as 24 bits in [0, 1). The result is (N,).
pub fn score(grid: &Grid, seed: u64, epoch: u32, id: u64) -> Vec<f64> {
    let mut stream = Stream::new(seed, Purpose::Scorer, epoch, id as u32);
    (0..grid.patches()).map(|_| f64::from(stream.uniform24())).collect()
}
