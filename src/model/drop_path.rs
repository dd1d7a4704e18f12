//! Stochastic depth: which residual branches of which images a training step leaves out.
#![forbid(unsafe_code)]

use crate::rng::{Purpose, Stream};
use std::sync::Arc;

/// timm's `DropPath` (with `scale_by_keep`) for the two residual branches of every block: of block l of L a branch is left
/// out with the probability `rate * l / (L - 1)`, for each image by itself, and counts 1 / (1 - probability) otherwise.
#[derive(Clone, Debug)]
pub struct DropPath {
    rate: f64,
    seed: u64,
    /// The scales (B) of both branches of every block, as they were last drawn; none where nothing is left out.
    scales: Vec<Option<[Arc<[f32]>; 2]>>,
}

impl DropPath {
    /// Nothing drawn yet; `rate` is that of the last block, 0 or more and below 1.
    pub fn new(rate: f64, seed: u64) -> Self {
        DropPath { rate, seed, scales: Vec::new() }
    }

    /// The probability that block `l` of `depth` leaves a branch out.
    pub fn probability(&self, l: usize, depth: usize) -> f64 {
        self.rate * l as f64 / (depth.max(2) - 1) as f64
    }

    /// Draws for the images of a batch, by their ids, in an epoch. An image's draw does not depend on its batch.
    pub fn draw(&mut self, depth: usize, epoch: u32, ids: &[u64]) {
        let draws: Vec<Vec<f64>> = ids
            .iter()
            .map(|&id| {
                let mut stream = Stream::new(self.seed, Purpose::DropPath, epoch, id as u32);
                (0..2 * depth).map(|_| stream.uniform()).collect()
            })
            .collect();
        let scales = |l: usize| {
            let keep = 1.0 - self.probability(l, depth);
            let branch = |n: usize| -> Arc<[f32]> {
                let scale = |draws: &Vec<f64>| if draws[2 * l + n] < keep { (1.0 / keep) as f32 } else { 0.0 };
                draws.iter().map(scale).collect()
            };
            (keep < 1.0).then(|| [branch(0), branch(1)])
        };
        self.scales = (0..depth).map(scales).collect();
    }

    /// The scales of branch `n` of block `l` as they were last drawn: 0 for attention, 1 for the MLP.
    pub(super) fn scales(&self, l: usize, n: usize) -> Option<&Arc<[f32]>> {
        self.scales.get(l)?.as_ref().map(|branches| &branches[n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_keep_their_mean_and_rates_rise_linearly() {
        let (depth, images) = (4, 20_000);
        let mut drop = DropPath::new(0.6, 5);
        let ids: Vec<u64> = (0..images).collect();
        drop.draw(depth, 3, &ids);
        assert!(drop.scales(0, 0).is_none() && drop.scales(0, 1).is_none());
        for (l, p) in [(1, 0.2), (2, 0.4), (3, 0.6)] {
            approx::assert_relative_eq!(drop.probability(l, depth), p, max_relative = 1e-12);
            for n in 0..2 {
                let scales = drop.scales(l, n).unwrap();
                let mean = scales.iter().map(|&s| f64::from(s)).sum::<f64>() / images as f64;
                // A scale is 0 or 1 / (1 - p): its deviation is sqrt(p / (1 - p)). Six standard errors.
                let bound = 6.0 * (p / (1.0 - p) / images as f64).sqrt();
                assert!((mean - 1.0).abs() < bound, "block {l}, branch {n}: mean {mean}, bound {bound}");
                assert!(scales.iter().all(|&s| s == 0.0 || s == (1.0 / (1.0 - drop.probability(l, depth))) as f32));
            }
            assert_ne!(drop.scales(l, 0), drop.scales(l, 1));
        }
    }

    #[test]
    fn a_draw_depends_on_epoch_and_image_alone() {
        let mut drop = DropPath::new(0.5, 5);
        drop.draw(3, 1, &[4, 9, 2]);
        let whole = drop.scales(2, 1).unwrap().clone();
        drop.draw(3, 1, &[9]);
        assert_eq!(drop.scales(2, 1).unwrap()[..], whole[1..2]);
        let many: Vec<u64> = (0..64).collect();
        drop.draw(3, 1, &many);
        let first = drop.scales(2, 1).unwrap().clone();
        drop.draw(3, 2, &many);
        assert_ne!(drop.scales(2, 1).unwrap(), &first);
    }

    #[test]
    fn a_single_block_drops_nothing() {
        let mut drop = DropPath::new(0.5, 5);
        drop.draw(1, 0, &[0, 1]);
        assert!(drop.scales(0, 0).is_none());
    }
}
