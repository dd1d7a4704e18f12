//! From pixels and kept patches to the encoder's input.
#![forbid(unsafe_code)]

use super::{EmbedMode, PosMode, Vit};
use crate::error::Result;
use crate::ops::matmul::{self, Epilogue};
use crate::ops::{assemble, gather, patchify};
use crate::prune::Kept;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use std::sync::Arc;

impl Vit {
    /// The sequence (B,1+k,D): kept patches embedded, with [CLS] in front and positions added (paper, Eqs. 5 to 8).
    ///
    /// Sparse embedding cuts out the kept patches first; dense embeds all N and gathers, as the paper does.
    pub(super) fn embed(&self, mut tape: Option<&mut Tape>, images: &Tensor, kept: &Kept) -> Result<Var> {
        let (weight, bias) = (self.param("patch_embed.proj.weight"), self.param("patch_embed.proj.bias"));
        let tokens = match self.options.embed {
            EmbedMode::Sparse => {
                let patches = patchify::forward(images, &kept.indices, kept.k, self.config.patch)?;
                matmul::forward(tape.as_deref_mut(), &patches, &weight, &bias, Epilogue::Bias)?
            }
            EmbedMode::Dense => {
                let all = Kept::all(kept.batch, self.config.patches());
                let patches = patchify::forward(images, &all.indices, all.k, self.config.patch)?;
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
