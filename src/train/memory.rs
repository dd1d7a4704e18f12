//! What a training step holds in memory, by formula: an estimate to plan with, not a measurement.
#![forbid(unsafe_code)]

use super::config::{DeviceName, Precision, TrainConfig};
use crate::model::{EmbedMode, VitConfig};
use serde::Serialize;

/// Bytes of a training step by what they are for. Left out: the program, packed weights, workspaces of products, decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights in f32, their copy in 16 bits on a card, and their average.
    pub weights: u64,
    /// The gradient, and the sum of an update's batches.
    pub gradients: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// What the way back needs of the forward pass, and one block's gradients.
    pub activations: u64,
    /// Pixels of the batch and of two batches decoded ahead, in f32 and in bytes; a card that takes bytes spares the host
    /// those in f32.
    pub images: u64,
}

impl Memory {
    /// The estimate for `config` on a model of shape `vit` with `parameters` parameters and k kept patches.
    ///
    /// A block saves, for each token, its input, the input of the MLP (2 D) and the hidden values before GELU (F); and what products
    /// read, which the CPU keeps as they read it: both norms' outputs, queries, keys and values, the mixed values (6 D) and the
    /// hidden values (F). Queries, keys and values of heads of an odd width take more than that. The short last block saves its
    /// input and its norm's output for all tokens, on a card keys and values too. Blocks that are run again save their input
    /// alone. Under a frozen backbone one block's values are held at a time.
    pub fn estimate(config: &TrainConfig, vit: &VitConfig, parameters: u64, k: usize) -> Self {
        let (d, f, b, s) = (vit.width as u64, vit.mlp as u64, config.batch_size as u64, k as u64 + 1);
        // On the CPU only the operands of products are 16 bits wide.
        let half = matches!(config.precision, Precision::F16 | Precision::Bf16) && config.device != DeviceName::Cpu;
        let size = if half { 2 } else { 4 };
        let (operand, last) = match config.device {
            DeviceName::Cpu => (config.operands().row_bytes().min(4), 2 * 4),
            _ => (size, 4 * size),
        };
        let embedded = if config.embed == EmbedMode::Dense { vit.patches() } else { k } as u64;
        let patches = embedded * (vit.patch * vit.patch * vit.channels) as u64;
        let block = s * (size * (2 * d + f) + operand * (6 * d + f));
        let blocks = match vit.depth as u64 {
            _ if config.recipe.freeze.holds("norm.weight") => 0,
            depth => {
                let each = if config.recipe.grad_checkpointing { size * s * d } else { block };
                (depth - 1) * each + if config.full_last_block { block } else { last * s * d }
            }
        };
        let pixels = (vit.image_size * vit.image_size * vit.channels) as u64;
        let copies = 1 + u64::from(config.recipe.model_ema);
        Memory {
            weights: parameters * (4 * copies + if half { 2 } else { 0 }),
            gradients: parameters * 4 * (1 + u64::from(config.recipe.grad_accum > 1)),
            moments: parameters * 8,
            activations: b * (size * patches + blocks + block),
            images: 3 * b * pixels * 5,
        }
    }

    /// What of it lies on a card: of the pixels one batch of values, which is more than the two of bytes.
    pub fn on_card(&self) -> u64 {
        self.total() - self.images / 3 * 2
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.activations + self.images
    }
}
