//! What a model looks at of a batch: its pixels and the patches that it keeps.
#![forbid(unsafe_code)]

use crate::data::{Batch, Wanted, transform};
use crate::device::Device;
use crate::device::cuda::Upload;
use crate::error::Result;
use crate::model::{Images, Vit};
use crate::ops::patchify::ByteImages;
use crate::prune::{Choice, Kept, Pixels, PruneConfig, choose_on_card, select};
use crate::tensor::Tensor;

/// A look at a batch that has begun. To a card its pixels travel, as bytes where these are enough, while it computes
/// something else; bytes are scored there, values here.
#[derive(Debug)]
pub struct Look {
    batch: Batch,
    card: Option<(Sent, Choice)>,
}

/// Pixels on their way to a card.
#[derive(Debug)]
enum Sent {
    Bytes(ByteImages),
    Values(Tensor, Upload),
}

/// A batch as the model takes it. On the CPU the values of its pixels have moved to `images`; on a card the batch is whole.
#[derive(Debug)]
pub struct Seen {
    pub batch: Batch,
    pub images: Images,
    pub kept: Kept,
}

/// (B,C,h,w) of a batch for `vit`.
fn shape(vit: &Vit, batch: &Batch) -> [usize; 4] {
    [batch.labels.len(), vit.config.channels, vit.config.image_size, vit.config.image_size]
}

/// The patches that the host names.
fn select_here(vit: &Vit, prune: &PruneConfig, batch: &Batch, epoch: u32) -> Result<Kept> {
    let pixels = Pixels { normalized: &batch.images, rgb: &batch.rgb, ids: &batch.ids, epoch };
    select(prune, &vit.config.grid(), &pixels)
}

impl Look {
    /// What a loader has to make of the images that `vit` looks at.
    pub fn wanted(vit: &Vit) -> Wanted {
        match vit.params.flat().device() {
            Device::Cpu => Wanted::Values,
            Device::Cuda => Wanted::Bytes,
        }
    }

    /// Begins to look at `batch` for `vit`, which gets `prune`'s patches of it.
    pub fn begin(vit: &Vit, prune: &PruneConfig, mut batch: Batch, epoch: u32) -> Result<Self> {
        if vit.params.flat().device() == Device::Cpu {
            batch.make_values();
            return Ok(Look { batch, card: None });
        }
        let (gpu, shape) = (vit.params.flat().gpu(), shape(vit, &batch));
        if let (Some(norm), [b, 3, h, w]) = (batch.norm, shape) {
            let levels = transform::levels(norm);
            let images = ByteImages::begin(gpu, &batch.rgb, &levels, [b, h, w])?;
            let grid = vit.config.grid();
            if let Some(choice) = choose_on_card(gpu, prune, &grid, images.rgb(), &levels, &batch.ids, epoch)? {
                return Ok(Look { batch, card: Some((Sent::Bytes(images), choice)) });
            }
        }
        batch.make_values();
        let (values, upload) = Tensor::sent(gpu, &batch.images, &shape)?;
        let choice = Choice::Made(select_here(vit, prune, &batch, epoch)?);
        Ok(Look { batch, card: Some((Sent::Values(values, upload), choice)) })
    }

    /// The batch with its kept patches; what was not begun on a card is done here.
    pub fn finish(self, vit: &Vit, prune: &PruneConfig, epoch: u32) -> Result<Seen> {
        let Look { mut batch, card } = self;
        let Some((sent, choice)) = card else {
            let (kept, shape) = (select_here(vit, prune, &batch, epoch)?, shape(vit, &batch));
            let images = Images::Values(Tensor::from_vec(std::mem::take(&mut batch.images), &shape));
            return Ok(Seen { batch, images, kept });
        };
        let images = match sent {
            Sent::Bytes(images) => Images::Bytes(images),
            Sent::Values(values, upload) => {
                upload.before(values.gpu().stream())?;
                Images::Values(values)
            }
        };
        Ok(Seen { batch, images, kept: choice.made()? })
    }

    /// Both at once.
    pub fn at(vit: &Vit, prune: &PruneConfig, batch: Batch, epoch: u32) -> Result<Seen> {
        Self::begin(vit, prune, batch, epoch)?.finish(vit, prune, epoch)
    }
}
