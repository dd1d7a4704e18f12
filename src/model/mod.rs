//! The Vision Transformer with pruned patches in front; never asks which device it is on.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::prune::{Grid, Kept};
use crate::tape::ParamArena;
use crate::tensor::Tensor;
use crate::weights::Weights;
use serde::{Deserialize, Serialize};

/// Shape of a ViT. Notation of readings.md: D, H, F, L, P, C.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VitConfig {
    pub name: String,
    pub image_size: usize,
    pub patch: usize,
    pub channels: usize,
    pub width: usize,
    pub heads: usize,
    pub mlp: usize,
    pub depth: usize,
    pub classes: usize,
}

/// Which rows of the position table the kept patches get (Eq. 7 and 3.6(i) of the paper).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PosMode {
    #[default]
    Gathered,
    Prefix,
}

/// Whether only the kept patches are embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EmbedMode {
    #[default]
    Sparse,
    Dense,
}

/// Choices of the forward pass that readings.md leaves to the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VitOptions {
    pub pos: PosMode,
    pub embed: EmbedMode,
    pub full_last_block: bool,
}

/// A ViT: its shape, options and parameters.
pub struct Vit {
    pub config: VitConfig,
    pub options: VitOptions,
    pub params: ParamArena,
}

/// What loading found, to be told to the user.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Why the head was initialised instead of loaded, if it was.
    pub fresh_head: Option<String>,
    /// Tensors of the file that the model has no place for.
    pub unexpected: Vec<String>,
}

/// What to do when the file's head is missing or has another number of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPolicy {
    /// Initialise a new head (training).
    Replace,
    /// Refuse (eval, predict).
    Require,
}

impl VitConfig {
    /// The configuration of a timm name (`vit_{tiny,small,base,large}_patch16_224`) or of `vit_micro_patch16_224`.
    pub fn named(name: &str, classes: usize) -> Result<Self> {
        let _ = (name, classes);
        todo!()
    }
    /// Names that `named` knows.
    pub fn names() -> &'static [&'static str] {
        &[
            "vit_micro_patch16_224",
            "vit_tiny_patch16_224",
            "vit_small_patch16_224",
            "vit_base_patch16_224",
            "vit_large_patch16_224",
        ]
    }
    /// N, the number of patches.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch).pow(2)
    }
    /// The patch grid of the model's images.
    pub fn grid(&self) -> Grid {
        Grid { height: self.image_size, width: self.image_size, patch: self.patch }
    }
    /// (name, shape) of every parameter, timm's names, in the order of the forward pass.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        todo!()
    }
}

impl Vit {
    /// Random weights: truncated normal 0.02, zero biases, unit norms; depends on seed and names alone.
    pub fn init(config: VitConfig, options: VitOptions, seed: u64) -> Self {
        let _ = (config, options, seed);
        todo!()
    }
    /// Weights by timm's names. Lists every missing, unexpected or mis-shaped tensor in one error.
    /// `seed` is that of a head that has to be initialised.
    pub fn load(
        config: VitConfig,
        options: VitOptions,
        weights: &Weights,
        head: HeadPolicy,
        seed: u64,
    ) -> Result<(Self, LoadReport)> {
        let _ = (config, options, weights, head, seed);
        todo!()
    }
    /// Logits (B, classes) of normalised images (B, C, h, w) at their kept patches; records nothing.
    pub fn logits(&self, images: &Tensor, kept: &Kept) -> Result<Tensor> {
        let _ = (images, kept);
        todo!()
    }
    /// Mean cross-entropy and logits of a batch; overwrites `grads` (flat, as `params.flat()`) with the gradient.
    pub fn loss_and_gradients(
        &self,
        images: &Tensor,
        kept: &Kept,
        labels: &[usize],
        label_smoothing: f32,
        grads: &mut Tensor,
    ) -> Result<(f32, Tensor)> {
        let _ = (images, kept, labels, label_smoothing, grads);
        todo!()
    }
}
