//! Scorers and selection held to their definitions, written out naively.
#![forbid(unsafe_code)]

use super::*;
use crate::prune::Round;
use crate::rng::{Purpose, Stream};
use proptest::prelude::*;

const SCORERS: [Scorer; 5] = [Scorer::L2, Scorer::Sobel, Scorer::Entropy, Scorer::Random, Scorer::Center];

fn config(keep: &str, scorer: Scorer) -> PruneConfig {
    let keep = keep.parse().unwrap();
    PruneConfig { keep, round: Round::Floor, scorer, domain: SaliencyDomain::Normalized, entropy_bins: 256, seed: 7 }
}

/// An image with noise, flat areas and edges: (normalised (3, h, w), rgb (h, w, 3)).
fn image(grid: &Grid, number: u32) -> (Vec<f32>, Vec<u8>) {
    let mut stream = Stream::new(5, Purpose::FixtureKept, number, 0);
    let pixels = grid.height * grid.width;
    let rgb: Vec<u8> = (0..pixels * 3)
        .map(|i| match (i / 3 % grid.width) * 3 / grid.width {
            0 => stream.next_u32() as u8,
            1 => 90,
            _ => (i / 3 / grid.width * 9) as u8,
        })
        .collect();
    let normalized = (0..3)
        .flat_map(|c| rgb.iter().skip(c).step_by(3))
        .map(|&level| (f32::from(level) / 255.0 - 0.45) / 0.225)
        .collect();
    (normalized, rgb)
}

fn kept(config: &PruneConfig, grid: &Grid, numbers: &[u32]) -> Kept {
    let images: Vec<_> = numbers.iter().map(|&number| image(grid, number)).collect();
    let normalized: Vec<f32> = images.iter().flat_map(|(values, _)| values.clone()).collect();
    let rgb: Vec<u8> = images.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let ids: Vec<u64> = numbers.iter().map(|&number| u64::from(number)).collect();
    select(config, grid, &Pixels { normalized: &normalized, rgb: &rgb, ids: &ids, epoch: 2 }).unwrap()
}

/// All patches as they are kept: a full stable sort.
fn naive_order(scores: &[f64]) -> Vec<usize> {
    let key = |i: &usize| if scores[*i].is_nan() { f64::NEG_INFINITY } else { scores[*i] };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| {
        let nan_last = scores[*a].is_nan().cmp(&scores[*b].is_nan());
        nan_last.then(key(b).partial_cmp(&key(a)).unwrap_or(Ordering::Equal))
    });
    order
}

/// The definition of top-k.
fn naive_top_k(scores: &[f64], k: usize) -> Vec<u32> {
    let mut best: Vec<u32> = naive_order(scores)[..k].iter().map(|&i| i as u32).collect();
    best.sort_unstable();
    best
}

/// Every scorer straight from its sentence in readings.md, pixel by pixel in f64.
fn naive_score(scorer: Scorer, grid: &Grid, normalized: &[f32], rgb: &[u8], n: usize) -> f64 {
    let (p, columns) = (grid.patch, grid.columns());
    let (top, left) = (n / columns * p, n % columns * p);
    let level = |y: usize, x: usize, c: usize| f64::from(rgb[(y * grid.width + x) * 3 + c]) / 255.0;
    let luma = |y: isize, x: isize| {
        let (y, x) = (y.clamp(0, grid.height as isize - 1) as usize, x.clamp(0, grid.width as isize - 1) as usize);
        0.299 * level(y, x, 0) + 0.587 * level(y, x, 1) + 0.114 * level(y, x, 2)
    };
    let inside = || (top..top + p).flat_map(|y| (left..left + p).map(move |x| (y, x)));
    match scorer {
        Scorer::L2 => {
            let value = |c: usize, y: usize, x: usize| f64::from(normalized[(c * grid.height + y) * grid.width + x]);
            (0..3).map(|c| inside().map(|(y, x)| value(c, y, x).powi(2)).sum::<f64>()).sum::<f64>().sqrt()
        }
        Scorer::Sobel => {
            let smooth = [1.0, 2.0, 1.0];
            let slope = [-1.0, 0.0, 1.0];
            let magnitude = |(y, x): (usize, usize)| {
                let (mut gx, mut gy) = (0.0, 0.0);
                for (i, j) in (0..9).map(|cell| (cell / 3, cell % 3)) {
                    let v = luma(y as isize + i as isize - 1, x as isize + j as isize - 1);
                    gx += smooth[i] * slope[j] * v;
                    gy += slope[i] * smooth[j] * v;
                }
                f64::hypot(gx, gy)
            };
            inside().map(magnitude).sum::<f64>() / (p * p) as f64
        }
        Scorer::Entropy => {
            let bin = |(y, x): (usize, usize)| {
                let [r, g, b] = [0, 1, 2].map(|c| u32::from(rgb[(y * grid.width + x) * 3 + c]));
                (299 * r + 587 * g + 114 * b + 500) / 1000
            };
            let bins: Vec<u32> = inside().map(bin).collect();
            let share = |b: u32| bins.iter().filter(|&&other| other == b).count() as f64 / bins.len() as f64;
            (0..256).map(share).filter(|&q| q > 0.0).map(|q| -q * q.log2()).sum()
        }
        Scorer::Random => {
            let mut stream = Stream::new(7, Purpose::Scorer, 2, 1);
            (0..=n).map(|_| f64::from(stream.uniform24())).last().unwrap()
        }
        Scorer::Center => {
            let dy = (top as f64 + p as f64 / 2.0) - grid.height as f64 / 2.0;
            let dx = (left as f64 + p as f64 / 2.0) - grid.width as f64 / 2.0;
            -4.0 * (dy * dy + dx * dx)
        }
    }
}

#[test]
fn every_scorer_is_its_definition() {
    for grid in [Grid { height: 32, width: 48, patch: 8 }, Grid { height: 5, width: 10, patch: 5 }] {
        let (normalized, rgb) = image(&grid, 1);
        for scorer in SCORERS {
            let got = scores(&config("50", scorer), &grid, &normalized, &rgb, 1, 2).unwrap();
            assert_eq!(got.len(), grid.patches());
            for (n, &score) in got.iter().enumerate() {
                let want = naive_score(scorer, &grid, &normalized, &rgb, n);
                approx::assert_relative_eq!(score, want, max_relative = 1e-12, epsilon = 1e-12);
            }
        }
    }
}

#[test]
fn raw_domain_is_rgb_over_255() {
    let grid = Grid { height: 16, width: 16, patch: 8 };
    let (_, rgb) = image(&grid, 3);
    let raw = PruneConfig { domain: SaliencyDomain::Raw, ..config("50", Scorer::L2) };
    let planar: Vec<f32> =
        (0..3).flat_map(|c| rgb.iter().skip(c).step_by(3)).map(|&level| f32::from(level) / 255.0).collect();
    let same = scores(&config("50", Scorer::L2), &grid, &planar, &[], 0, 0).unwrap();
    assert_eq!(scores(&raw, &grid, &[], &rgb, 0, 0).unwrap(), same);
}

#[test]
fn coarser_bins_merge_neighbouring_levels() {
    let grid = Grid { height: 8, width: 8, patch: 8 };
    let rgb: Vec<u8> = (0..64u8).flat_map(|level| [level; 3]).collect();
    for (bins, bits) in [(32, 3.0), (64, 4.0), (256, 6.0)] {
        let config = PruneConfig { entropy_bins: bins, ..config("50", Scorer::Entropy) };
        let got = scores(&config, &grid, &[], &rgb, 0, 0).unwrap();
        approx::assert_relative_eq!(got[0], bits, max_relative = 1e-14);
    }
    let refused = PruneConfig { entropy_bins: 48, ..config("50", Scorer::Entropy) };
    let error = scores(&refused, &grid, &[], &rgb, 0, 0).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("choose 32, 64 or 256"), "{error}");
}

#[test]
fn center_keeps_a_disc() {
    let grid = Grid { height: 64, width: 64, patch: 16 };
    assert_eq!(kept(&config("25", Scorer::Center), &grid, &[0]).indices, [5, 6, 9, 10]);
    // The eight runners-up tie; the first of them in raster order are taken.
    assert_eq!(kept(&config("37.5", Scorer::Center), &grid, &[0]).indices, [1, 2, 5, 6, 9, 10]);
}

#[test]
fn luck_depends_on_seed_epoch_and_sample() {
    let grid = Grid { height: 112, width: 112, patch: 16 };
    let base = config("50", Scorer::Random);
    let draw = |config: &PruneConfig, id, epoch| {
        let pixels = Pixels { normalized: &[], rgb: &[], ids: &[id], epoch };
        select(config, &grid, &pixels).unwrap().indices
    };
    let first = draw(&base, 3, 1);
    assert_eq!(first, draw(&base, 3, 1));
    for other in [draw(&base, 4, 1), draw(&base, 3, 2), draw(&PruneConfig { seed: 8, ..base.clone() }, 3, 1)] {
        assert_ne!(first, other);
    }
}

#[test]
fn keeping_all_scores_nothing() {
    let grid = Grid { height: 32, width: 32, patch: 16 };
    let pixels = Pixels { normalized: &[], rgb: &[], ids: &[8, 9], epoch: 0 };
    let all = select(&config("100", Scorer::Sobel), &grid, &pixels).unwrap();
    assert_eq!(all, Kept::even(vec![0, 1, 2, 3, 0, 1, 2, 3], 2, 4));
}

#[test]
fn each_image_of_a_batch_is_selected_as_if_alone() {
    let grid = Grid { height: 48, width: 32, patch: 8 };
    for scorer in SCORERS {
        let config = config("62.5", scorer);
        let together = kept(&config, &grid, &[0, 1, 2, 3, 4]);
        assert_eq!((together.batch(), together.spans.common()), (5, Some(15)));
        for b in 0..5u32 {
            let row = together.of(b as usize);
            assert_eq!(row, kept(&config, &grid, &[b]).indices, "{scorer:?}, image {b}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let grid = Grid { height: 32, width: 32, patch: 16 };
    let (normalized, rgb) = image(&grid, 0);
    let refuse = |scorer, grid: Grid, normalized: &[f32], rgb: &[u8]| {
        let pixels = Pixels { normalized, rgb, ids: &[0], epoch: 0 };
        assert_eq!(select(&config("50", scorer), &grid, &pixels).unwrap_err().exit_code(), 1);
    };
    refuse(Scorer::L2, grid, &normalized[1..], &rgb);
    refuse(Scorer::L2, grid, &[], &rgb);
    refuse(Scorer::Sobel, grid, &normalized, &rgb[3..]);
    refuse(Scorer::Entropy, grid, &normalized, &[]);
    for (height, width, patch) in [(33, 32, 16), (32, 33, 16), (0, 32, 16), (32, 32, 0), (8, 8, 16)] {
        refuse(Scorer::Center, Grid { height, width, patch }, &normalized, &rgb);
    }
    let none = Pixels { normalized: &[], rgb: &[], ids: &[], epoch: 0 };
    for scorer in SCORERS {
        assert!(select(&config("50", scorer), &grid, &none).unwrap().indices.is_empty());
    }
}

#[test]
fn nan_ranks_below_minus_infinity_and_zeros_tie() {
    let scores = [f64::NAN, 1.0, f64::NEG_INFINITY, f64::NAN, -f64::NAN, f64::INFINITY];
    assert_eq!(top_k(&scores, 3), [1, 2, 5]);
    assert_eq!(top_k(&scores, 4), [0, 1, 2, 5]);
    assert_eq!(top_k(&[-0.0, 0.0, -0.0, 0.0], 2), [0, 1]);
}

/// Scores with many ties, and some values that are no ordinary numbers.
fn awkward_scores() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        (0u8..5).prop_map(f64::from),
        -1e3..1e3f64,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-0.0)
    ];
    prop::collection::vec(value, 1..200)
}

proptest! {
    #[test]
    fn top_k_is_the_sorted_head_of_a_stable_sort(scores in awkward_scores(), share in 0.0..1.0f64) {
        let k = 1 + (share * (scores.len() - 1) as f64) as usize;
        let best = top_k(&scores, k);
        prop_assert_eq!(best.len(), k);
        prop_assert!(best.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(best.iter().all(|&n| (n as usize) < scores.len()));
        prop_assert_eq!(best, naive_top_k(&scores, k));
    }

    #[test]
    fn what_is_kept_at_a_lower_ratio_is_kept_at_a_higher(
        scores in awkward_scores(), a in 1u64..=10_000, b in 1u64..=10_000,
    ) {
        let keep = |hundredths: u64| format!("{}.{:02}", hundredths / 100, hundredths % 100);
        let count = |hundredths| {
            keep(hundredths).parse::<crate::prune::Keep>().unwrap().count(scores.len(), Round::Floor)
        };
        let (fewer, more) = (top_k(&scores, count(a.min(b))), top_k(&scores, count(a.max(b))));
        prop_assert!(fewer.iter().all(|n| more.binary_search(n).is_ok()));
    }

    #[test]
    fn swapping_equal_scores_changes_nothing(scores in awkward_scores(), i: usize, j: usize, k: usize) {
        let (i, j, k) = (i % scores.len(), j % scores.len(), 1 + k % scores.len());
        let mut swapped = scores.clone();
        swapped.swap(i, j);
        if scores[i] == scores[j] {
            prop_assert_eq!(top_k(&scores, k), top_k(&swapped, k));
        } else if !scores[i].is_nan() && !scores[j].is_nan() {
            // Unequal scores take their places along, except where a tie with a third decides.
            let unique = |n: usize| scores.iter().filter(|&&score| score == scores[n]).count() == 1;
            if unique(i) && unique(j) {
                let moved = |n: &u32| match *n as usize { n if n == i => j, n if n == j => i, n => n } as u32;
                let mut expected: Vec<u32> = top_k(&scores, k).iter().map(moved).collect();
                expected.sort_unstable();
                prop_assert_eq!(top_k(&swapped, k), expected);
            }
        }
    }
}

/// The definition of a mass: weights in the order of the ranks, one more until they are enough.
fn naive_top_mass(ranks: &[f64], saliency: &[f64], mass: f64) -> Vec<u32> {
    let lowest = saliency.iter().copied().fold(0.0, f64::min);
    let order = naive_order(ranks);
    let weights: Vec<f64> = order.iter().map(|&n| (saliency[n] - lowest).max(0.0)).collect();
    let held = |k: usize| weights[..k].iter().sum::<f64>();
    let enough = |&k: &usize| match mass {
        1.0 => weights[k..].iter().all(|&weight| weight == 0.0),
        _ => held(k) >= mass * held(weights.len()),
    };
    let k = (1..=ranks.len()).find(enough).unwrap();
    let mut kept: Vec<u32> = order[..k].iter().map(|&n| n as u32).collect();
    kept.sort_unstable();
    kept
}

#[test]
fn a_mass_keeps_what_it_says() {
    let scores = [1.0, 4.0, 2.0, 0.0, 2.0, 1.0];
    let kept = |mass: f64| top_mass(&scores, &scores, mass);
    // 4, then of the equal twos the first: 6 of 10.
    assert_eq!((kept(0.000_001), kept(0.4), kept(0.6)), (vec![1], vec![1], vec![1, 2]));
    assert_eq!((kept(0.600_001), kept(0.9), kept(1.0)), (vec![1, 2, 4], vec![0, 1, 2, 4], vec![0, 1, 2, 4, 5]));
    // Where all scores are 0 one patch holds as much as all.
    assert_eq!((top_mass(&[0.0; 4], &[0.0; 4], 0.9), top_mass(&[0.0; 4], &[0.0; 4], 1.0)), (vec![0], vec![0]));
    // Below 0 the lowest weighs nothing: 3, 2, 1, 0.
    let below = [-4.0, -1.0, -2.0, -3.0];
    assert_eq!((top_mass(&below, &below, 0.5), top_mass(&below, &below, 0.9)), (vec![1], vec![1, 2, 3]));
    assert_eq!((top_mass(&below, &below, 1.0), top_mass(&[-5.0; 3], &[-5.0; 3], 0.9)), (vec![1, 2, 3], vec![0]));
    // Weights that vanish beside the sum are still kept by a mass of 1.
    assert_eq!(top_mass(&[1.0, 1e-30, 0.0], &[1.0, 1e-30, 0.0], 1.0), [0, 1]);
    let odd = [f64::NAN, 1.0, f64::INFINITY];
    assert_eq!((top_mass(&odd, &odd, 0.9), top_mass(&odd, &odd, 1.0)), (vec![2], vec![1, 2]));
}

#[test]
fn every_scorer_keeps_its_mass_image_by_image() {
    let grid = Grid { height: 48, width: 32, patch: 8 };
    for scorer in SCORERS {
        for (text, mass) in [("mass:0.9", 0.9), ("mass:0.5", 0.5), ("mass:1", 1.0)] {
            let config = config(text, scorer);
            let together = kept(&config, &grid, &[0, 1, 2, 3, 4]);
            assert_eq!(together.indices.len(), together.spans.rows());
            for number in 0..5 {
                let (normalized, rgb) = image(&grid, number);
                let saliency = scores(&config, &grid, &normalized, &rgb, u64::from(number), 2).unwrap();
                let ranks = rank(&config, &grid, &normalized, &rgb, u64::from(number), 2);
                assert_eq!(together.of(number as usize), naive_top_mass(&ranks, &saliency, mass), "{scorer:?}, {text}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_mass_is_kept_by_the_fewest_patches(scores in awkward_scores(), millionths in 1u32..1_000_000) {
        let mass = f64::from(millionths) / 1e6;
        let finite: Vec<f64> = scores.iter().map(|x| if x.is_finite() { *x } else { 0.0 }).collect();
        let kept = top_mass(&finite, &finite, mass);
        prop_assert_eq!(&kept, &naive_top_mass(&finite, &finite, mass));
        prop_assert_eq!(&kept, &top_k(&finite, kept.len()));
        // Without the last one kept, less than the mass would be held.
        let lowest = finite.iter().copied().fold(0.0, f64::min);
        let held = |k: usize| naive_order(&finite)[..k].iter().map(|&n| finite[n] - lowest).sum::<f64>();
        let share = mass * held(finite.len());
        prop_assert!(held(kept.len()) >= share);
        prop_assert!(kept.len() == 1 || held(kept.len() - 1) < share);
    }

    #[test]
    fn more_mass_never_keeps_less(scores in awkward_scores(), a in 1u32..=1_000_000, b in 1u32..=1_000_000) {
        let kept = |millionths: u32| top_mass(&scores, &scores, f64::from(millionths) / 1e6);
        let (fewer, more) = (kept(a.min(b)), kept(a.max(b)));
        prop_assert!(!fewer.is_empty() && fewer.iter().all(|n| more.binary_search(n).is_ok()));
    }
}
