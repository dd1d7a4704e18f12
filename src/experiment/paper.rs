//! The figures that the paper prints, to stand beside ours. Accuracies in percent, times in seconds an epoch on its card.
#![forbid(unsafe_code)]

use crate::prune::Scorer;
use crate::train::DatasetName;

/// The model of all its tables.
pub const MODEL: &str = "vit_base_patch16_224";

/// Tables 2 and 3 of one data set: accuracy and time of the baseline and of K = 70 with l2.
#[derive(Clone, Copy, Debug)]
pub struct Main {
    pub dataset: DatasetName,
    pub title: &'static str,
    pub baseline: (f64, f64),
    pub pruned: (f64, f64),
    /// Images that its accuracy is measured on.
    pub images: u64,
}

/// Tables 2 and 3.
pub const MAIN: [Main; 3] = [
    Main {
        dataset: DatasetName::Voc,
        title: "VOC (5-class)",
        baseline: (96.8, 16.7),
        pruned: (97.1, 12.5),
        images: 647,
    },
    Main {
        dataset: DatasetName::Cifar100,
        title: "CIFAR-100",
        baseline: (92.0, 163.0),
        pruned: (91.3, 117.0),
        images: 10_000,
    },
    Main {
        dataset: DatasetName::TinyImagenet,
        title: "Tiny-ImageNet",
        baseline: (85.5, 515.0),
        pruned: (81.4, 407.0),
        images: 10_000,
    },
];

/// Table 4: K, S, GFLOPs of its tool where it prints them, its analytic GFLOPs.
pub const COMPUTE: [(u32, usize, Option<f64>, f64); 3] =
    [(60, 119, Some(10.23), 10.48), (70, 138, None, 13.40), (100, 197, None, 19.90)];

/// Table 5, on VOC with l2: K, validation accuracy, time.
pub const BY_KEEP: [(u32, f64, f64); 5] =
    [(30, 90.9, 7.2), (50, 95.7, 9.6), (70, 97.1, 12.5), (90, 96.6, 15.4), (100, 96.8, 16.7)];

/// Table 6, on VOC at K = 70: validation accuracy, time.
pub const BY_SCORER: [(Scorer, f64, f64); 3] =
    [(Scorer::L2, 97.1, 12.49), (Scorer::Entropy, 96.9, 12.23), (Scorer::Sobel, 96.8, 12.21)];
