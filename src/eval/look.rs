//! What a model looks at of a batch: its pixels and the patches that it keeps.
#![forbid(unsafe_code)]

use crate::data::{Batch, transform};
use crate::device::Device;
use crate::error::Result;
use crate::model::{Images, Vit};
use crate::ops::patchify::ByteImages;
use crate::prune::{Choice, Kept, Pixels, PruneConfig, choose_on_card, select};
use crate::tensor::Tensor;

/// A look at a batch that has begun. On a card, where bytes are enough, they travel and are scored while the card
/// computes something else.
#[derive(Debug)]
pub struct Look {
    batch: Batch,
    card: Option<(ByteImages, Choice)>,
}

/// A batch as the model takes it; the values of its pixels have moved to `images`.
#[derive(Debug)]
pub struct Seen {
    pub batch: Batch,
    pub images: Images,
    pub kept: Kept,
}

impl Look {
    /// Begins to look at `batch` for `vit`, which gets `prune`'s patches of it.
    pub fn begin(vit: &Vit, prune: &PruneConfig, batch: Batch, epoch: u32) -> Result<Self> {
        let (b, p, grid) = (batch.labels.len(), vit.config.image_size, vit.config.grid());
        let mut card = None;
        if let (Some(norm), Device::Cuda, 3) = (batch.norm, vit.params.flat().device(), vit.config.channels) {
            let (gpu, levels) = (vit.params.flat().gpu(), transform::levels(norm));
            let images = ByteImages::begin(gpu, &batch.rgb, &levels, [b, p, p])?;
            let choice = choose_on_card(gpu, prune, &grid, images.rgb(), &levels, &batch.ids, epoch)?;
            card = choice.map(|choice| (images, choice));
        }
        Ok(Look { batch, card })
    }

    /// The batch with its kept patches; what was not begun on a card is done here.
    pub fn finish(self, vit: &Vit, prune: &PruneConfig, epoch: u32) -> Result<Seen> {
        let Look { mut batch, card } = self;
        if let Some((images, choice)) = card {
            return Ok(Seen { batch, images: Images::Bytes(images), kept: choice.made()? });
        }
        let shape = [batch.labels.len(), vit.config.channels, vit.config.image_size, vit.config.image_size];
        let pixels = Pixels { normalized: &batch.images, rgb: &batch.rgb, ids: &batch.ids, epoch };
        let kept = select(prune, &vit.config.grid(), &pixels)?;
        let images = Images::Values(Tensor::from_vec(std::mem::take(&mut batch.images), &shape));
        Ok(Seen { batch, images, kept })
    }

    /// Both at once.
    pub fn at(vit: &Vit, prune: &PruneConfig, batch: Batch, epoch: u32) -> Result<Seen> {
        Self::begin(vit, prune, batch, epoch)?.finish(vit, prune, epoch)
    }
}
