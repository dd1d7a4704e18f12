//! AdamW over the flat arena, and the learning-rate schedule.
#![forbid(unsafe_code)]

use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// AdamW's constants; PyTorch's defaults but for the decay, which is the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

/// AdamW with moments laid out as the parameter arena.
pub struct AdamW {
    pub config: AdamWConfig,
    /// Ranges of the arena that are not decayed.
    pub no_decay: Vec<Range<usize>>,
    pub exp_avg: Tensor,
    pub exp_avg_sq: Tensor,
    /// Updates applied so far.
    pub step: u64,
}

impl AdamW {
    /// Zero moments for `len` parameters.
    pub fn new(len: usize, config: AdamWConfig, no_decay: Vec<Range<usize>>) -> Self {
        let _ = (len, config, no_decay);
        todo!()
    }
    /// One update; equals torch.optim.AdamW (decoupled decay, bias correction).
    pub fn update(&mut self, params: &mut Tensor, grads: &Tensor, lr: f64) {
        let _ = (params, grads, lr);
        todo!()
    }
}

/// StepLR after an optional linear warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub lr: f64,
    /// Epochs between decays.
    pub step_size: u32,
    pub gamma: f64,
    /// Steps of linear warm-up from lr/warmup_steps to lr; 0 for none.
    pub warmup_steps: u64,
}

impl Schedule {
    /// The rate at global step `step` (0-based) of epoch `epoch` (0-based).
    pub fn at(&self, epoch: u32, step: u64) -> f64 {
        let _ = (epoch, step);
        todo!()
    }
}
