//! The Vision Transformer with pruned patches in front; never asks which device it is on.
//!
//! timm's `VisionTransformer` (class token, learned positions, pre-norm, exact GELU, eps 1e-6), fed the kept patches.
//! Sequences of different lengths lie one after the other in a batch, without padding: only embedding, attention and the
//! gather of [CLS] ask where an image ends.
//! Two exact shortcuts are on by default: only kept patches are embedded, and the last block runs for [CLS] alone.
#![forbid(unsafe_code)]

mod block;
mod config;
mod drop_path;
mod embed;
mod load;
mod naming;
mod positions;

pub use config::{MAX_IMAGE_SIZE, VitConfig};
pub use drop_path::DropPath;
pub use embed::Images;
pub use load::{HeadPolicy, LoadReport};
pub use naming::{Found, Named, Naming};
pub use positions::resample;

use crate::device::cuda::Gpu;
use crate::error::{Error, Result};
use crate::ops::cross_entropy;
use crate::ops::gather;
use crate::ops::layer_norm;
use crate::ops::matmul::{self, Epilogue};
use crate::prune::Kept;
use crate::tape::{ParamArena, ParamId, Tape, Var};
use crate::tensor::{Spans, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// timm's epsilon of every layer norm.
pub const LAYER_NORM_EPS: f32 = 1e-6;

/// Which rows of the position table the kept patches get (Eq. 7 and 3.6(i) of the paper).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PosMode {
    /// Row 1 + i for patch i.
    #[default]
    Gathered,
    /// The first k rows, as Eq. 7 prints.
    Prefix,
}

/// Whether only the kept patches are embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EmbedMode {
    /// Only the kept patches.
    #[default]
    Sparse,
    /// All patches, then a gather, as the paper does.
    Dense,
}

/// Choices of the forward pass that readings.md leaves to the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VitOptions {
    pub pos: PosMode,
    pub embed: EmbedMode,
    /// Runs the last block for all tokens although only [CLS] is read.
    pub full_last_block: bool,
}

/// A ViT: its shape, options and parameters. A clone views the same parameters.
#[derive(Clone)]
pub struct Vit {
    pub config: VitConfig,
    pub options: VitOptions,
    pub params: ParamArena,
    /// Which residual branches passes with a tape leave out, as last drawn; passes without one leave out none.
    pub drop_path: Option<DropPath>,
    /// Whether passes with a tape keep only the input of each block but the last, and run it again on the way back.
    pub recompute: bool,
}

impl Vit {
    /// Moves the parameters to a card.
    pub fn move_to(&mut self, gpu: &Arc<Gpu>) -> Result<()> {
        self.params.move_to(gpu)
    }

    fn id(&self, name: &str) -> ParamId {
        self.params.find(name).unwrap_or_else(|| panic!("the model has no parameter {name}"))
    }

    fn param(&self, name: &str) -> Var {
        self.params.var(self.id(name))
    }

    /// Whether any parameter before the head is trained.
    fn trains_body(&self) -> bool {
        self.params.ids().any(|id| !self.params.is_frozen(id) && !self.params.name(id).starts_with("head."))
    }

    /// Logits (B, classes) on a tape, or without one.
    fn forward(&self, mut tape: Option<&mut Tape>, images: &Images, kept: &Kept) -> Result<Var> {
        let (c, side) = (self.config.channels, self.config.image_size);
        let expected = [kept.batch(), c, side, side];
        if images.shape() != expected || kept.indices.len() != kept.spans.rows() {
            return Err(Error::shape("vit", format!("images {:?}, not {expected:?}", images.shape())));
        }
        // Without a trained parameter before the head, nothing before it needs a way back.
        let mut body = if self.trains_body() { tape.as_deref_mut() } else { None };
        let view = self.recompute.then(|| Arc::new(self.clone()));
        let mut x = self.embed(body.as_deref_mut(), images, kept)?;
        let mut spans = kept.spans.longer(1);
        for l in 0..self.config.depth {
            let last = l + 1 == self.config.depth;
            x = match (body.as_deref_mut(), &view) {
                (tape, _) if last && !self.options.full_last_block => {
                    let x = self.short_block(tape, &x, &spans, l)?;
                    spans = Spans::even(kept.batch(), 1);
                    x
                }
                // The last block is the first on the way back: to keep nothing of it would save nothing.
                (Some(tape), Some(view)) if !last => {
                    let (view, spans) = (view.clone(), spans.clone());
                    tape.recomputed(&x, move |tape, x| view.block(Some(tape), x, &spans, l))?
                }
                (tape, _) => self.block(tape, &x, &spans, l)?,
            };
        }
        self.head(tape, &x, &spans)
    }

    /// The classifier on [CLS], the first token of each image in x (B,S,D) or (tokens,D).
    pub fn head(&self, mut tape: Option<&mut Tape>, x: &Var, spans: &Spans) -> Result<Var> {
        let b = spans.images();
        let mut body = if self.trains_body() { tape.as_deref_mut() } else { None };
        let cls = gather::forward_within(body.as_deref_mut(), x, &vec![0; b].into(), [spans, &Spans::even(b, 1)])?;
        let (weight, bias) = (self.param("norm.weight"), self.param("norm.bias"));
        let normal = layer_norm::forward(body, &cls, &weight, &bias, LAYER_NORM_EPS)?;
        let rows = normal.reshape(&[b, self.config.width]);
        matmul::forward(tape, &rows, &self.param("head.weight"), &self.param("head.bias"), Epilogue::Bias)
    }

    /// Logits (B, classes) of images (B,C,h,w) at their kept patches, on the host; records nothing.
    pub fn logits(&self, images: impl Into<Images>, kept: &Kept) -> Result<Tensor> {
        self.classify(images, kept)?.to_host()
    }

    /// [`Vit::logits`] where the parameters are: a card may still be at it.
    pub fn classify(&self, images: impl Into<Images>, kept: &Kept) -> Result<Tensor> {
        Ok(self.forward(None, &images.into().beside(self.params.flat())?, kept)?.value)
    }

    /// Mean cross-entropy and logits (B, classes) of a batch; overwrites `grads`, laid out as `params.flat()`, with the
    /// gradient of `scale` times the loss. Only the loss comes to the host. A parameter that no gradient reaches is an
    /// error that names it.
    pub fn loss_and_gradients<'a>(
        &self,
        images: impl Into<Images>,
        kept: &Kept,
        labels: impl Into<cross_entropy::Labels<'a>>,
        label_smoothing: f32,
        scale: f32,
        grads: &mut Tensor,
    ) -> Result<(f32, Tensor)> {
        let (loss, logits, _) = self.gradients(images, kept, labels, label_smoothing, scale, grads)?;
        Ok((loss.to_host()?.data()[0], logits))
    }

    /// [`Vit::loss_and_gradients`] with the loss (1,) where the parameters are, as a card may still be at it, and whether all gradients
    /// are finite, as [`Tape::backward`] says.
    pub fn gradients<'a>(
        &self,
        images: impl Into<Images>,
        kept: &Kept,
        labels: impl Into<cross_entropy::Labels<'a>>,
        label_smoothing: f32,
        scale: f32,
        grads: &mut Tensor,
    ) -> Result<(Tensor, Tensor, bool)> {
        let mut tape = Tape::new();
        let images = images.into().beside(self.params.flat())?;
        let logits = self.forward(Some(&mut tape), &images, kept)?;
        let loss = cross_entropy::forward(Some(&mut tape), &logits, labels, label_smoothing)?;
        let upstream = Tensor::from_vec(vec![scale], &[1]).beside(self.params.flat())?;
        let finite = tape.backward(&loss, upstream, &self.params, grads)?;
        Ok((loss.value, logits.value, finite))
    }
}
