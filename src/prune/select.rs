//! From pixels to kept patches: score each image, take the k best, give them in raster order.
#![forbid(unsafe_code)]

use super::scorers::{center, entropy, l2, random, sobel};
use super::{Grid, Kept, Pixels, PruneConfig, SaliencyDomain, Scorer};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// The kept patches of each image of a batch (Eq. 2 of the paper). Images are scored in parallel.
///
/// Only the pixels that the scorer reads have to be there. When every patch is kept, nothing is scored.
pub fn select(config: &PruneConfig, grid: &Grid, pixels: &Pixels) -> Result<Kept> {
    let batch = pixels.ids.len();
    let n = check(config, grid)?;
    let k = config.keep.count(n, config.round);
    if k == n {
        return Ok(Kept::all(batch, n));
    }
    let normalized_len = check_normalized(config, grid, pixels.normalized.len(), batch)?;
    let rgb_len = check_rgb(config, grid, pixels.rgb.len(), batch)?;
    let rows: Vec<Vec<u32>> = (0..batch)
        .into_par_iter()
        .map(|b| {
            let normalized = &pixels.normalized[b * normalized_len..(b + 1) * normalized_len];
            let rgb = &pixels.rgb[b * rgb_len..(b + 1) * rgb_len];
            top_k(&rank(config, grid, normalized, rgb, pixels.ids[b], pixels.epoch), k)
        })
        .collect();
    Ok(Kept { indices: rows.concat(), batch, k })
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
    let mut scores = rank(config, grid, normalized, rgb, id, epoch);
    if config.scorer == Scorer::L2 {
        scores.iter_mut().for_each(|score| *score = score.sqrt());
    }
    Ok(scores)
}

/// The indices of the `k` highest scores, ascending. The lower index wins a tie; NaN ranks below everything.
pub fn top_k(scores: &[f64], k: usize) -> Vec<u32> {
    let first = |&a: &u32, &b: &u32| {
        let (x, y) = (scores[a as usize], scores[b as usize]);
        y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan())).then(a.cmp(&b))
    };
    let mut indices: Vec<u32> = (0..scores.len() as u32).collect();
    if k < indices.len() {
        indices.select_nth_unstable_by(k, first);
        indices.truncate(k);
    }
    indices.sort_unstable();
    indices
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
