//! Images as bytes: scores, selection and patches on the card, which have the bits of the CPU's.
#![forbid(unsafe_code)]

use dynavit::data::Norm;
use dynavit::data::transform::{levels, normalise};
use dynavit::device::cuda::{Arena, Gpu, Half, Store, Values};
use dynavit::ops::patchify::{cuda, reference};
use dynavit::prune::{Grid, Pixels, PruneConfig, Round, SaliencyDomain, Scorer, choose_on_card, select};
use dynavit::rng::{Purpose, Stream};
use std::sync::Arc;

const BYTES: u64 = 1 << 24;

/// Noise of three kinds by image: all levels, few of them, and one colour, where every score ties.
fn images(b: usize, pixels: usize) -> Vec<u8> {
    let mut stream = Stream::new(3, Purpose::Fixture, pixels as u32, 0);
    let mut byte = |image: usize| match image % 3 {
        0 => stream.below(256) as u8,
        1 => 100 + 20 * stream.below(3) as u8,
        _ => 77,
    };
    (0..b).flat_map(|image| (0..3 * pixels).map(move |_| image)).map(&mut byte).collect()
}

pub fn check(gpu: &Arc<Gpu>, half: Half) {
    for (b, rows, columns, patch) in [
        (3, 14, 14, 16),
        (1, 1, 2, 16),
        (2, 3, 5, 14),
        (4, 2, 2, 32),
        (3, 4, 4, 16),
        (2, 9, 7, 8),
        (5, 3, 3, 1),
        (3, 5, 1, 4),
    ] {
        let grid = Grid { height: rows * patch, width: columns * patch, patch };
        let rgb = images(b, grid.height * grid.width);
        for norm in [Norm::Imagenet, Norm::Half] {
            check_images(gpu, half, grid, b, &rgb, norm);
        }
    }
}

fn check_images(gpu: &Arc<Gpu>, half: Half, grid: Grid, b: usize, rgb: &[u8], norm: Norm) {
    let arena = Arena::new(gpu, BYTES).unwrap();
    let (levels, ids): (_, Vec<u64>) = (levels(norm), (0..b as u64).collect());
    let rgb_card = arena.upload(rgb).unwrap();
    // The second stream has to find them.
    gpu.stream().synchronise().unwrap();
    let area = 3 * grid.height * grid.width;
    let normalized: Vec<f32> = rgb.chunks_exact(area).flat_map(|image| normalise(image, norm)).collect();
    let pixels = Pixels { normalized: &normalized, rgb, ids: &ids, epoch: 2 };
    for (scorer, domain, entropy_bins) in [
        (Scorer::L2, SaliencyDomain::Normalized, 256),
        (Scorer::L2, SaliencyDomain::Raw, 256),
        (Scorer::Sobel, SaliencyDomain::Normalized, 256),
        (Scorer::Entropy, SaliencyDomain::Normalized, 256),
        (Scorer::Entropy, SaliencyDomain::Normalized, 32),
        (Scorer::Random, SaliencyDomain::Normalized, 256),
    ] {
        for keep in ["1", "30", "70", "100"] {
            let keep = keep.parse().unwrap();
            let config = PruneConfig { keep, round: Round::Floor, scorer, domain, entropy_bins, seed: 4 };
            let expected = select(&config, &grid, &pixels).unwrap();
            let choice = choose_on_card(gpu, &config, &grid, rgb_card, &levels, &ids, 2).unwrap().unwrap();
            let got = choice.made().unwrap();
            assert_eq!(got.indices, expected.indices, "{scorer:?} {domain:?} {entropy_bins} {keep} of {grid:?}");
            if scorer == Scorer::L2 && domain == SaliencyDomain::Raw {
                patches(
                    gpu,
                    &arena,
                    half,
                    grid,
                    &normalized,
                    (rgb_card, &levels),
                    &got.indices,
                    got.spans.common().unwrap(),
                );
            }
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "a case")]
fn patches(
    gpu: &Gpu,
    arena: &Arena,
    half: Half,
    grid: Grid,
    normalized: &[f32],
    (rgb, levels): (dynavit::device::cuda::Slice<u8>, &[f32]),
    kept: &[u32],
    k: usize,
) {
    let cut = reference::Cut { channels: 3, height: grid.height, width: grid.width, patch: grid.patch };
    let expected = reference::forward(normalized, kept, k, cut);
    let (levels, kept) = (arena.upload(levels).unwrap(), arena.upload(kept).unwrap());
    for store in [Store::F32, half.into()] {
        let y = arena.values(store, expected.len()).unwrap();
        cuda::from_bytes(gpu, rgb, levels, kept, k, cut, y).unwrap();
        let got: Vec<f32> = match y {
            Values::F32(y) => gpu.stream().download(y).unwrap(),
            Values::Half(half, y) => {
                super::support::wide(half, &gpu.stream().download(y).unwrap()).iter().map(|&v| v as f32).collect()
            }
        };
        let expected: Vec<f32> = match store {
            Store::F32 => expected.clone(),
            _ => {
                let bits = super::support::bits(half, &expected);
                super::support::wide(half, &bits).iter().map(|&v| v as f32).collect()
            }
        };
        assert_eq!(got, expected, "{store:?} {grid:?}");
    }
}
