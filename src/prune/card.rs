//! Selection on a card, from bytes that are there already: the patches that `select` names, to the last bit of a score.
#![forbid(unsafe_code)]

use super::scorers::{entropy, l2};
use super::{Grid, Kept, Pixels, PruneConfig, SaliencyDomain, Scorer, select};
use crate::device::cuda::{Buffer, Gpu, Slice, Store};
use crate::error::Result;
use crate::ops::saliency::cuda::{self, LARGEST_PATCH, MOST_PATCHES, Statistic};
use std::sync::Arc;

/// The kept patches of a batch, of which a card may still have to think.
#[derive(Debug)]
pub enum Choice {
    Made(Kept),
    /// k of each of b images, with what the card's second stream works on.
    Coming {
        kept: Buffer,
        room: [Buffer; 2],
        b: usize,
        k: usize,
    },
}

impl Choice {
    /// The kept patches, once the card has found them.
    pub fn made(self) -> Result<Kept> {
        match self {
            Choice::Made(kept) => Ok(kept),
            Choice::Coming { kept, room, b, k } => {
                let indices = kept.gpu().second().download(kept.words())?;
                drop(room);
                Ok(Kept::even(indices, b, k))
            }
        }
    }
}

/// Begins to choose, in the card's second stream, the kept patches of images (B,h,w,3) that are there for it; by random
/// numbers of `ids` and `epoch` where luck chooses. `levels` (3,256), all finite, is what the model is fed for each
/// byte. `None` when a card does not choose so: the host must.
pub fn choose_on_card(
    gpu: &Arc<Gpu>,
    config: &PruneConfig,
    grid: &Grid,
    rgb: Slice<u8>,
    levels: &[f32],
    ids: &[u64],
    epoch: u32,
) -> Result<Option<Choice>> {
    let (n, b) = (grid.patches(), ids.len());
    config.keep.check_on_card()?;
    let k = config.keep.count(n, config.round);
    let blind = matches!(config.scorer, Scorer::Random | Scorer::Center);
    if k == n || blind {
        return select(config, grid, &Pixels { normalized: &[], rgb: &[], ids, epoch })
            .map(|kept| Some(Choice::Made(kept)));
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
    let room = |words| Buffer::aside(gpu, words, Store::F32);
    let (room, kept) = ([room(2 * table.len())?, room(2 * b * n)?], room(b * k)?);
    gpu.second().upload(room[0].doubles(), &table)?;
    let [table, scores] = room.each_ref().map(Buffer::doubles);
    let statistic = match config.scorer {
        Scorer::L2 => Statistic::L2 { squares: table },
        Scorer::Entropy => Statistic::Entropy { terms: table, bins: config.entropy_bins as usize },
        _ => Statistic::Sobel,
    };
    cuda::scores(gpu, rgb, [grid.height, grid.width, grid.patch], statistic, scores)?;
    cuda::top_k(gpu, scores, n, k, kept.words())?;
    Ok(Some(Choice::Coming { kept, room, b, k }))
}
