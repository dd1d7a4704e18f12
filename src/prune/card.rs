//! Selection on a card, from bytes that are there already: the patches that `select` names, to the last bit of a score.
#![forbid(unsafe_code)]

use super::scorers::{entropy, l2};
use super::{Grid, Kept, Pixels, PruneConfig, SaliencyDomain, Scorer, select};
use crate::device::cuda::{Buffer, Gpu, Slice, Store};
use crate::error::Result;
use crate::ops::saliency::cuda::{self, LARGEST_PATCH, MOST_PATCHES, Statistic};
use std::sync::Arc;

/// The kept patches of images (B,h,w,3) on the card, by random numbers of `ids` and `epoch` where luck chooses. `levels`
/// (3,256), all finite, is what the model is fed for each byte. `None` when a card does not choose so: the host must.
pub fn select_on_card(
    gpu: &Arc<Gpu>,
    config: &PruneConfig,
    grid: &Grid,
    rgb: Slice<u8>,
    levels: &[f32],
    ids: &[u64],
    epoch: u32,
) -> Result<Option<Kept>> {
    let (n, b) = (grid.patches(), ids.len());
    config.keep.check_on_card()?;
    let k = config.keep.count(n, config.round);
    let blind = matches!(config.scorer, Scorer::Random | Scorer::Center);
    if k == n || blind {
        return select(config, grid, &Pixels { normalized: &[], rgb: &[], ids, epoch }).map(Some);
    }
    if n > MOST_PATCHES || grid.patch > LARGEST_PATCH || b == 0 || levels.iter().any(|level| !level.is_finite()) {
        return Ok(None);
    }
    let pixels = grid.patch * grid.patch;
    let table: Vec<f64> = match (config.scorer, config.domain) {
        (Scorer::L2, SaliencyDomain::Normalized) => levels.iter().map(|&level| f64::from(level).powi(2)).collect(),
        (Scorer::L2, SaliencyDomain::Raw) => l2::raw_squares().repeat(3),
        (Scorer::Entropy, _) => (0..=pixels as u32).map(|count| entropy::term(count, pixels)).collect(),
        _ => Vec::new(),
    };
    let room = |words| Buffer::new(gpu, words, Store::F32);
    let (table_room, scores, kept) = (room(2 * table.len())?, room(2 * b * n)?, room(b * k)?);
    gpu.stream().upload(table_room.doubles(), &table)?;
    let (table, scores, kept) = (table_room.doubles(), scores.doubles(), kept.words());
    let statistic = match config.scorer {
        Scorer::L2 => Statistic::L2 { squares: table },
        Scorer::Entropy => Statistic::Entropy { terms: table, bins: config.entropy_bins as usize },
        _ => Statistic::Sobel,
    };
    cuda::scores(gpu, rgb, [grid.height, grid.width, grid.patch], statistic, scores)?;
    cuda::top_k(gpu, scores, n, k, kept)?;
    Ok(Some(Kept::even(gpu.stream().download(kept)?, b, k)))
}
