//! From pixels and kept patches to the encoder's input.
#![forbid(unsafe_code)]

use super::{EmbedMode, PosMode, Vit};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::matmul::{self, Epilogue};
use crate::ops::patchify::{self, ByteImages};
use crate::ops::{assemble, gather};
use crate::prune::Kept;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use std::sync::Arc;

/// What the model looks at.
#[derive(Debug)]
pub enum Images {
    /// Normalised values (B,C,h,w).
    Values(Tensor),
    /// Bytes on the model's card.
    Bytes(ByteImages),
}

impl From<&Tensor> for Images {
    fn from(values: &Tensor) -> Self {
        Images::Values(values.clone())
    }
}

impl Images {
    /// (B,C,h,w).
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Images::Values(values) => values.shape().to_vec(),
            Images::Bytes(bytes) => bytes.shape().to_vec(),
        }
    }

    /// The same images where `params` are.
    pub(super) fn beside(self, params: &Tensor) -> Result<Self> {
        match self {
            Images::Values(values) => Ok(Images::Values(values.beside(params)?)),
            Images::Bytes(_) if params.device() == Device::Cuda => Ok(self),
            Images::Bytes(_) => Err(Error::shape("vit", "bytes on a card for a model that is on none")),
        }
    }

    fn patches(&self, kept: &Kept, patch: usize) -> Result<Var> {
        match (self, kept.spans.common()) {
            (Images::Values(values), _) => patchify::forward_within(values, &kept.indices, &kept.spans, patch),
            (Images::Bytes(bytes), Some(k)) => bytes.patches(&kept.indices, k, patch),
            (Images::Bytes(_), None) => Err(Error::shape("vit", "a card takes images that keep one number of patches")),
        }
    }
}

impl Vit {
    /// The sequences (B,1+k,D): kept patches embedded, with [CLS] in front and positions added (paper, Eqs. 5 to 8). Where
    /// images keep different numbers they lie one after the other, (tokens,D).
    ///
    /// Sparse embedding cuts out the kept patches first; dense embeds all N and gathers, as the paper does.
    pub fn embed(&self, mut tape: Option<&mut Tape>, images: &Images, kept: &Kept) -> Result<Var> {
        let (weight, bias) = (self.param("patch_embed.proj.weight"), self.param("patch_embed.proj.bias"));
        let tokens = match self.options.embed {
            EmbedMode::Sparse => {
                let patches = images.patches(kept, self.config.patch)?;
                matmul::forward(tape.as_deref_mut(), &patches, &weight, &bias, Epilogue::Bias)?
            }
            EmbedMode::Dense => {
                let all = Kept::all(kept.batch(), self.config.patches());
                let patches = images.patches(&all, self.config.patch)?;
                let tokens = matmul::forward(tape.as_deref_mut(), &patches, &weight, &bias, Epilogue::Bias)?;
                let indices: Arc<[u32]> = kept.indices.as_slice().into();
                gather::forward_within(tape.as_deref_mut(), &tokens, &indices, [&all.spans, &kept.spans])?
            }
        };
        let rows: Arc<[u32]> = match self.options.pos {
            PosMode::Gathered => kept.indices.iter().map(|&i| 1 + i).collect(),
            PosMode::Prefix => kept.spans.lengths().flat_map(|k| 1..=k as u32).collect(),
        };
        let (cls, pos) = (self.param("cls_token"), self.param("pos_embed"));
        assemble::forward_within(tape, &tokens, &kept.spans, &cls, &pos, &rows)
    }
}
