//! From pixels to kept patches: score each image, take the best by number or by mass, give them in raster order.
#![forbid(unsafe_code)]

use super::scorers::{center, entropy, l2, random, sobel};
use super::{Grid, Kept, Pixels, PruneConfig, SaliencyDomain, Scorer};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::cmp::Ordering;

/// The kept patches of each image of a batch (Eq. 2 of the paper, or by mass). Images are scored in parallel.
///
/// Only the pixels that the scorer reads have to be there. When every patch is kept, nothing is scored.
pub fn select(config: &PruneConfig, grid: &Grid, pixels: &Pixels) -> Result<Kept> {
    let batch = pixels.ids.len();
    let n = check(config, grid)?;
    let fixed = config.keep.fixed(n, config.round);
    if fixed == Some(n) {
        return Ok(Kept::all(batch, n));
    }
    let normalized_len = check_normalized(config, grid, pixels.normalized.len(), batch)?;
    let rgb_len = check_rgb(config, grid, pixels.rgb.len(), batch)?;
    let rows: Vec<Vec<u32>> = (0..batch)
        .into_par_iter()
        .map(|b| {
            let normalized = &pixels.normalized[b * normalized_len..(b + 1) * normalized_len];
            let rgb = &pixels.rgb[b * rgb_len..(b + 1) * rgb_len];
            let ranks = rank(config, grid, normalized, rgb, pixels.ids[b], pixels.epoch);
            match (fixed, config.keep.mass()) {
                (None, Some(mass)) => top_mass(&ranks, &saliency(config, &ranks), mass),
                (k, _) => top_k(&ranks, k.unwrap_or(n)),
            }
        })
        .collect();
    Ok(match fixed {
        Some(k) => Kept::even(rows.concat(), batch, k),
        None => Kept::of_images(&rows),
    })
}

/// The score of each patch of one image, (N,), for display: `normalized` is (C, h, w), `rgb` (h, w, 3).
pub fn scores(
    config: &PruneConfig,
    grid: &Grid,
    normalized: &[f32],
    rgb: &[u8],
    id: u64,
    epoch: u32,
) -> Result<Vec<f64>> {
    check(config, grid)?;
    check_normalized(config, grid, normalized.len(), 1)?;
    check_rgb(config, grid, rgb.len(), 1)?;
    Ok(saliency(config, &rank(config, grid, normalized, rgb, id, epoch)))
}

/// The order in which patches are kept: the higher score first, of equal ones the lower index; NaN comes last.
fn before(scores: &[f64]) -> impl Fn(&u32, &u32) -> Ordering + '_ {
    |&a, &b| {
        let (x, y) = (scores[a as usize], scores[b as usize]);
        y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan())).then(a.cmp(&b))
    }
}

/// The indices of the `k` highest scores, ascending. The lower index wins a tie; NaN ranks below everything.
pub fn top_k(scores: &[f64], k: usize) -> Vec<u32> {
    let mut indices: Vec<u32> = (0..scores.len() as u32).collect();
    if k < indices.len() {
        indices.select_nth_unstable_by(k, before(scores));
        indices.truncate(k);
    }
    indices.sort_unstable();
    indices
}

/// The fewest patches, in the order of `ranks`, whose weights add up to at least `mass` (above 0, at most 1) of the sum of
/// all; their indices, ascending. Always one at least.
///
/// A patch weighs its `saliency`. Where the lowest is below 0, as with `center`, it is subtracted from all, so that the
/// last patch weighs nothing; NaN weighs nothing. The sum runs in f64 in the order of the ranks. A mass of 1 keeps what weighs
/// more than 0, however small; and where nothing does, the first patch holds as much as all of them.
pub fn top_mass(ranks: &[f64], saliency: &[f64], mass: f64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..ranks.len() as u32).collect();
    order.sort_unstable_by(before(ranks));
    let lowest = saliency.iter().copied().fold(0.0, f64::min);
    let weight = |n: &u32| Some(saliency[*n as usize] - lowest).filter(|&weight| weight > 0.0).unwrap_or(0.0);
    let sums: Vec<f64> = order
        .iter()
        .scan(0.0, |sum, n| {
            *sum += weight(n);
            Some(*sum)
        })
        .collect();
    let k = if mass < 1.0 {
        let share = mass * sums.last().copied().unwrap_or(0.0);
        sums.iter().take_while(|&&sum| sum < share).count() + 1
    } else {
        order.iter().filter(|n| weight(n) > 0.0).count().max(1)
    };
    order.truncate(k);
    order.sort_unstable();
    order
}

/// The scores that `ranks` stand for: the paper's Eq. 1 is the root of what ranks.
fn saliency(config: &PruneConfig, ranks: &[f64]) -> Vec<f64> {
    match config.scorer {
        Scorer::L2 => ranks.iter().map(|square| square.sqrt()).collect(),
        _ => ranks.to_vec(),
    }
}

/// The values that rank the patches of one image: the scores, but the square of the L2 norm.
fn rank(config: &PruneConfig, grid: &Grid, normalized: &[f32], rgb: &[u8], id: u64, epoch: u32) -> Vec<f64> {
    match config.scorer {
        Scorer::L2 => match config.domain {
            SaliencyDomain::Normalized => l2::normalized(grid, normalized),
            SaliencyDomain::Raw => l2::raw(grid, rgb),
        },
        Scorer::Sobel => sobel::score(grid, rgb),
        Scorer::Entropy => entropy::score(grid, rgb, config.entropy_bins as usize),
        Scorer::Random => random::score(grid, config.seed, epoch, id),
        Scorer::Center => center::score(grid),
    }
}

/// N, after checking that the patches tile the image and the options make sense.
fn check(config: &PruneConfig, grid: &Grid) -> Result<usize> {
    let Grid { height, width, patch } = *grid;
    let tiles = patch > 0 && height > 0 && width > 0 && height % patch == 0 && width % patch == 0;
    if !tiles || grid.patches() > u32::MAX as usize {
        return Err(Error::shape("prune", format!("patches of side {patch} do not tile {height} x {width} pixels")));
    }
    if config.scorer == Scorer::Entropy && !matches!(config.entropy_bins, 32 | 64 | 256) {
        return Err(Error::usage(
            "--entropy-bins",
            format!("{} bins are not offered", config.entropy_bins),
            "choose 32, 64 or 256",
        ));
    }
    Ok(grid.patches())
}

/// Values of one normalised image, or 0 when the scorer does not read them.
fn check_normalized(config: &PruneConfig, grid: &Grid, len: usize, batch: usize) -> Result<usize> {
    if (config.scorer, config.domain) != (Scorer::L2, SaliencyDomain::Normalized) || batch == 0 {
        return Ok(0);
    }
    let Grid { height, width, .. } = *grid;
    if len == 0 || !len.is_multiple_of(batch * height * width) {
        let want = format!("(B, C, h, w) = ({batch}, C, {height}, {width})");
        return Err(Error::shape("prune", format!("{len} normalised values are not {want}")));
    }
    Ok(len / batch)
}

/// Bytes of one RGB image, or 0 when the scorer does not read them.
fn check_rgb(config: &PruneConfig, grid: &Grid, len: usize, batch: usize) -> Result<usize> {
    let reads = match config.scorer {
        Scorer::L2 => config.domain == SaliencyDomain::Raw,
        Scorer::Sobel | Scorer::Entropy => true,
        Scorer::Random | Scorer::Center => false,
    };
    if !reads {
        return Ok(0);
    }
    let Grid { height, width, .. } = *grid;
    if len != batch * height * width * 3 {
        let want = format!("(B, h, w, C) = ({batch}, {height}, {width}, 3)");
        return Err(Error::shape("prune", format!("{len} bytes of RGB are not {want}")));
    }
    Ok(height * width * 3)
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
