//! Selection on a card, from bytes that are there already: the patches that `select` names, to the last bit of a score.
#![forbid(unsafe_code)]

use super::scorers::{entropy, l2};
use super::{Grid, Kept, Pixels, PruneConfig, SaliencyDomain, Scorer, select};
use crate::device::cuda::{Arena, Gpu, Slice};
use crate::error::Result;
use crate::ops::saliency::cuda::{self, LARGEST_PATCH, MOST_PATCHES, Statistic};

/// The kept patches of images (B,h,w,3) on the card, by random numbers of `ids` and `epoch` where luck chooses. `levels`
/// (3,256) is what the model is fed for each byte. `None` when a card does not choose so: then the host must.
pub fn select_on_card(
    gpu: &Gpu,
    config: &PruneConfig,
    grid: &Grid,
    rgb: Slice<u8>,
    levels: &[f32],
    ids: &[u64],
    epoch: u32,
) -> Result<Option<Kept>> {
    let (n, b) = (grid.patches(), ids.len());
    let k = config.keep.count(n, config.round);
    let blind = matches!(config.scorer, Scorer::Random | Scorer::Center);
    if k == n || blind {
        return select(config, grid, &Pixels { normalized: &[], rgb: &[], ids, epoch }).map(Some);
    }
    if n > MOST_PATCHES || grid.patch > LARGEST_PATCH || b == 0 {
        return Ok(None);
    }
    let pixels = grid.patch * grid.patch;
    let table: Vec<f64> = match (config.scorer, config.domain) {
        (Scorer::L2, SaliencyDomain::Normalized) => levels.iter().map(|&level| f64::from(level).powi(2)).collect(),
        (Scorer::L2, SaliencyDomain::Raw) => l2::raw_squares().repeat(3),
        (Scorer::Entropy, _) => (0..=pixels as u32).map(|count| entropy::term(count, pixels)).collect(),
        _ => Vec::new(),
    };
    let arena = Arena::new(gpu, (8 * (table.len() + b * n) + 4 * b * k + 4 * 256) as u64)?;
    let (table, scores, kept) = (arena.upload(&table)?, arena.alloc(b * n)?, arena.alloc(b * k)?);
    let statistic = match config.scorer {
        Scorer::L2 => Statistic::L2 { squares: table },
        Scorer::Entropy => Statistic::Entropy { terms: table, bins: config.entropy_bins as usize },
        _ => Statistic::Sobel,
    };
    cuda::scores(gpu, rgb, [grid.height, grid.width, grid.patch], statistic, scores)?;
    cuda::top_k(gpu, scores, n, k, kept)?;
    Ok(Some(Kept { indices: gpu.stream().download(kept)?, batch: b, k }))
}
