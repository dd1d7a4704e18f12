//! What LIME's weights come to: how stable they are, and how much of them lies in kept patches.
#![forbid(unsafe_code)]

use super::agreement::{mean_over_pairs, overlap, rank_correlation};
use super::overlay::is_kept;
use super::segments::Segments;
use crate::prune::Grid;
use serde::Serialize;

/// Agreement of explanations that differ in their seed alone, over all pairs; None for a single one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stability {
    /// Mean of Spearman's correlations of the weights.
    pub rank_correlation: Option<f64>,
    /// Mean intersection over union of the best segments' pixels.
    pub overlap_of_best: Option<f64>,
}

/// How much of what speaks for the class lies in kept patches. None when nothing speaks for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overlap {
    /// Share that patches kept by luck would have: k/N.
    pub chance: f64,
    /// Of the pixels of segments with a positive weight.
    pub positive_area: Option<f64>,
    /// The same, each pixel counted by its segment's weight.
    pub positive_weight: Option<f64>,
    /// Of the pixels of the best segments.
    pub best: Option<f64>,
}

/// The pixels of the `top` segments of highest positive weight, as lime's `get_image_and_mask(positive_only=True)`.
pub fn best(segments: &Segments, weights: &[f64], top: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..weights.len()).filter(|&segment| weights[segment] > 0.0).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    order.truncate(top);
    segments.labels.iter().map(|&label| order.contains(&(label as usize))).collect()
}

/// See [`Stability`]; `runs` are weights by segment.
pub fn stability(segments: &Segments, runs: &[&[f64]], top: usize) -> Stability {
    let areas: Vec<Vec<bool>> = runs.iter().map(|weights| best(segments, weights, top)).collect();
    Stability {
        rank_correlation: mean_over_pairs(runs, |a, b| rank_correlation(a, b)),
        overlap_of_best: mean_over_pairs(&areas, |a, b| Some(overlap(a, b))),
    }
}

/// See [`Overlap`]; `kept` are raster indices of patches.
pub fn overlap_with_kept(segments: &Segments, weights: &[f64], grid: &Grid, kept: &[u32], top: usize) -> Overlap {
    let flags = is_kept(kept, grid.patches());
    let patches = Segments::grid(grid).labels;
    let share = |amount: &dyn Fn(usize) -> f64| {
        let (mut inside, mut all) = (0.0, 0.0);
        for (i, &patch) in patches.iter().enumerate() {
            let amount = amount(i);
            all += amount;
            inside += if flags[patch as usize] { amount } else { 0.0 };
        }
        (all > 0.0).then(|| inside / all)
    };
    let weight = |i: usize| weights[segments.labels[i] as usize].max(0.0);
    let best = best(segments, weights, top);
    Overlap {
        chance: kept.len() as f64 / grid.patches() as f64,
        positive_area: share(&|i| f64::from(weight(i) > 0.0)),
        positive_weight: share(&weight),
        best: share(&|i| f64::from(best[i])),
    }
}

/// The mean weight of each patch's pixels, (N,).
pub fn by_patch(segments: &Segments, weights: &[f64], grid: &Grid) -> Vec<f64> {
    let mut sums = vec![0.0; grid.patches()];
    for (&patch, &segment) in Segments::grid(grid).labels.iter().zip(&segments.labels) {
        sums[patch as usize] += weights[segment as usize];
    }
    let pixels = (grid.patch * grid.patch) as f64;
    sums.into_iter().map(|sum| sum / pixels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { height: 4, width: 4, patch: 2 };

    #[test]
    fn shares_of_kept_patches_are_counted_by_area_and_by_weight() {
        let segments = Segments::grid(&GRID);
        let found = overlap_with_kept(&segments, &[3.0, 1.0, -2.0, 4.0], &GRID, &[0, 2], 1);
        let third = Some(1.0 / 3.0);
        assert_eq!(
            found,
            Overlap { chance: 0.5, positive_area: third, positive_weight: Some(3.0 / 8.0), best: Some(0.0) }
        );
        let none = overlap_with_kept(&segments, &[-1.0; 4], &GRID, &[0], 5);
        assert_eq!([none.positive_area, none.positive_weight, none.best], [None; 3]);
    }

    #[test]
    fn stability_needs_two_runs() {
        let segments = Segments::grid(&GRID);
        let (a, b) = ([4.0, 3.0, 2.0, 1.0], [4.0, 2.0, 3.0, 1.0]);
        let none = Stability { rank_correlation: None, overlap_of_best: None };
        assert_eq!(stability(&segments, &[&a], 2), none);
        let two = stability(&segments, &[&a, &b], 2);
        assert_eq!(two.overlap_of_best, Some(1.0 / 3.0));
        approx::assert_relative_eq!(two.rank_correlation.unwrap(), 0.8);
    }

    #[test]
    fn patches_get_the_mean_of_their_pixels() {
        // The left three columns are segment 0.
        let labels = (0..16).map(|i| u32::from(i % 4 == 3)).collect();
        let segments = Segments { count: 2, labels };
        assert_eq!(by_patch(&segments, &[1.0, 5.0], &GRID), [1.0, 3.0, 1.0, 3.0]);
        assert_eq!(best(&segments, &[1.0, -1.0], 3).iter().filter(|&&lit| lit).count(), 12);
    }
}
