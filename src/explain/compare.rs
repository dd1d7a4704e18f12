//! LIME's weights against the patches that any scorer would keep, image by image and over many images.
#![forbid(unsafe_code)]

use super::coverage::{CONTROLS, Difference, difference};
use super::perturb::Asked;
use super::segments::Segments;
use super::verdict::{Overlap, overlap_with_kept};
use crate::error::Result;
use crate::prune::{Keep, PruneConfig, Scorer};
use crate::stats::mean_and_error;
use serde::{Deserialize, Serialize};

/// The overlap with what one scorer keeps at one keep ratio.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    pub scorer: Scorer,
    pub keep: f64,
    #[serde(flatten)]
    pub overlap: Overlap,
}

/// Means over the images that have something that speaks for their class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub scorer: Scorer,
    pub keep: f64,
    /// k/N, which keeping patches by luck would hold.
    pub chance: f64,
    pub images: usize,
    /// Share of the positive weight that lies in kept patches.
    pub positive_weight: f64,
    /// Of the mean; 0 for a single image.
    pub standard_error: f64,
    /// Share of the positive weight over k/N.
    pub enrichment: f64,
    /// Share of the area with a positive weight.
    pub positive_area: f64,
    /// Share of the best segments' area.
    pub best: f64,
    /// Positive weight less the controls', on the same images.
    pub minus: Vec<Difference>,
}

/// The overlap of `weights` with what each of `scorers` keeps of the original at each of `keeps`, scorers outermost.
pub fn compare(
    asked: &Asked,
    (segments, weights, top): (&Segments, &[f64], usize),
    scorers: &[Scorer],
    keeps: &[Keep],
) -> Result<Vec<Compared>> {
    let grid = asked.vit.config.grid();
    let pairs = scorers.iter().flat_map(|&scorer| keeps.iter().map(move |&keep| (scorer, keep)));
    pairs
        .map(|(scorer, keep)| {
            let prune = PruneConfig { scorer, keep, ..asked.prune.clone() };
            let (_, kept) = Asked { prune: &prune, ..*asked }.original()?;
            let overlap = overlap_with_kept(segments, weights, &grid, &kept.indices, top);
            Ok(Compared { scorer, keep: keep.percent(), overlap })
        })
        .collect()
}

/// The means over images, whose lists go in one order.
pub fn summary(images: &[&[Compared]]) -> Vec<Row> {
    let told: Vec<&&[Compared]> =
        images.iter().filter(|image| image.iter().all(|one| one.overlap.positive_weight.is_some())).collect();
    let Some(first) = told.first() else { return Vec::new() };
    let column = |i: usize, of: fn(&Overlap) -> Option<f64>| -> Vec<f64> {
        told.iter().filter_map(|image| of(&image[i].overlap)).collect()
    };
    let row = |(i, one): (usize, &Compared)| {
        let weights = column(i, |o| o.positive_weight);
        let (positive_weight, standard_error) = mean_and_error(&weights);
        let controls = CONTROLS.iter().filter(|&&control| control != one.scorer && weights.len() > 1);
        let minus = controls.filter_map(|&control| {
            let c = first.iter().position(|other| (other.scorer, other.keep) == (control, one.keep))?;
            let against = column(c, |o| o.positive_weight);
            Some(difference(control, weights.iter().zip(against).map(|(x, y)| x - y).collect()))
        });
        Row {
            scorer: one.scorer,
            keep: one.keep,
            chance: one.overlap.chance,
            images: weights.len(),
            positive_weight,
            standard_error,
            enrichment: positive_weight / one.overlap.chance,
            positive_area: mean_and_error(&column(i, |o| o.positive_area)).0,
            best: mean_and_error(&column(i, |o| o.best)).0,
            minus: minus.collect(),
        }
    };
    first.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_images_that_have_a_weight() {
        let one = |scorer, share: Option<f64>| Compared {
            scorer,
            keep: 50.0,
            overlap: Overlap { chance: 0.5, positive_area: share, positive_weight: share, best: share },
        };
        let images = [
            [one(Scorer::L2, Some(0.5)), one(Scorer::Random, Some(0.5))],
            [one(Scorer::L2, None), one(Scorer::Random, None)],
            [one(Scorer::L2, Some(1.0)), one(Scorer::Random, Some(0.4))],
        ];
        let rows = summary(&images.iter().map(|image| &image[..]).collect::<Vec<_>>());
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].images, rows[0].positive_weight, rows[0].enrichment), (2, 0.75, 1.5));
        assert_eq!((rows[0].positive_area, rows[0].best, rows[0].standard_error), (0.75, 0.75, 0.25));
        assert_eq!(rows[0].minus.len(), 1, "center was not measured");
        approx::assert_relative_eq!(rows[0].minus[0].mean, 0.3, max_relative = 1e-12);
        assert!(rows[1].minus.is_empty());
        assert!(summary(&[]).is_empty());
    }
}
