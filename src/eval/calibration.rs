//! Whether the model is as often right as it is sure.
#![forbid(unsafe_code)]

use super::Verdict;
use serde::Serialize;

/// Bins of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).
pub const BINS: usize = 15;

/// Confidence held against accuracy, in bins of equal width.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Expected calibration error: the mean distance of the bins' accuracy to their confidence, weighted by images.
    pub ece: f64,
    /// The largest such distance.
    pub mce: f64,
    /// All of them, the empty ones too.
    pub bins: Vec<Bin>,
}

/// The images whose confidence is above `low` and at most `high`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    pub low: f64,
    pub high: f64,
    pub images: u64,
    /// Share of them that is right; absent without images.
    pub accuracy: Option<f64>,
    /// Mean confidence; absent without images.
    pub confidence: Option<f64>,
}

impl Calibration {
    /// Sorts the verdicts into `bins` bins of equal width.
    pub fn new(verdicts: &[Verdict], bins: usize) -> Self {
        let edge = |i: usize| i as f64 / bins as f64;
        let mut sums = vec![(0u64, 0u64, 0.0); bins];
        for verdict in verdicts {
            let place = (1..bins).filter(|&i| edge(i) < verdict.confidence).count();
            let (images, hits, confidence) = &mut sums[place];
            *images += 1;
            *hits += u64::from(verdict.rank == 0);
            *confidence += verdict.confidence;
        }
        let (mut ece, mut mce) = (0.0, 0.0f64);
        let bins = sums.into_iter().enumerate().map(|(i, (images, hits, sum))| {
            let mean = |total: f64| (images > 0).then(|| total / images as f64);
            let (accuracy, confidence) = (mean(hits as f64), mean(sum));
            if let (Some(accuracy), Some(confidence)) = (accuracy, confidence) {
                let gap = f64::abs(accuracy - confidence);
                ece += gap * images as f64 / verdicts.len() as f64;
                mce = mce.max(gap);
            }
            Bin { low: edge(i), high: edge(i + 1), images, accuracy, confidence }
        });
        let bins = bins.collect();
        Calibration { ece, mce, bins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(confidence: f64, right: bool) -> Verdict {
        Verdict { label: 0, predicted: usize::from(!right), confidence, rank: usize::from(!right) }
    }

    #[test]
    fn errors_are_weighted_by_images_and_edges_belong_below() {
        let all = [(0.5, true), (0.5, false), (0.51, true), (1.0, true)].map(|(c, right)| verdict(c, right));
        let got = Calibration::new(&all, 2);
        assert_eq!(got.bins.iter().map(|bin| bin.images).collect::<Vec<_>>(), [2, 2]);
        assert_eq!((got.bins[0].accuracy, got.bins[0].confidence), (Some(0.5), Some(0.5)));
        approx::assert_relative_eq!(got.ece, (1.0 - 0.755) / 2.0, epsilon = 1e-12);
        approx::assert_relative_eq!(got.mce, 1.0 - 0.755, epsilon = 1e-12);
    }

    #[test]
    fn nothing_seen_is_no_error() {
        let got = Calibration::new(&[], BINS);
        assert_eq!((got.ece, got.mce, got.bins.len()), (0.0, 0.0, 15));
        assert!(got.bins.iter().all(|bin| bin.accuracy.is_none()));
    }
}
