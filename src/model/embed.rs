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

    fn patches(&self, kept: &[u32], k: usize, patch: usize) -> Result<Var> {
        match self {
            Images::Values(values) => patchify::forward(values, kept, k, patch),
            Images::Bytes(bytes) => bytes.patches(kept, k, patch),
        }
    }
}

impl Vit {
    /// The sequence (B,1+k,D): kept patches embedded, with [CLS] in front and positions added (paper, Eqs. 5 to 8).
    ///
    /// Sparse embedding cuts out the kept patches first; dense embeds all N and gathers, as the paper does.
    pub fn embed(&self, mut tape: Option<&mut Tape>, images: &Images, kept: &Kept) -> Result<Var> {
        let (weight, bias) = (self.param("patch_embed.proj.weight"), self.param("patch_embed.proj.bias"));
        let tokens = match self.options.embed {
            EmbedMode::Sparse => {
                let patches = images.patches(&kept.indices, kept.k, self.config.patch)?;
                matmul::forward(tape.as_deref_mut(), &patches, &weight, &bias, Epilogue::Bias)?
            }
            EmbedMode::Dense => {
                let all = Kept::all(kept.batch, self.config.patches());
                let patches = images.patches(&all.indices, all.k, self.config.patch)?;
                let tokens = matmul::forward(tape.as_deref_mut(), &patches, &weight, &bias, Epilogue::Bias)?;
                let indices: Arc<[u32]> = kept.indices.as_slice().into();
                gather::forward(tape.as_deref_mut(), &tokens, &indices, kept.k)?
            }
        };
        let rows: Arc<[u32]> = match self.options.pos {
            PosMode::Gathered => kept.indices.iter().map(|&i| 1 + i).collect(),
            PosMode::Prefix => (0..kept.batch).flat_map(|_| 1..=kept.k as u32).collect(),
        };
        assemble::forward(tape, &tokens, &self.param("cls_token"), &self.param("pos_embed"), &rows)
    }
}
