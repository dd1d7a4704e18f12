//! The flags of `train` that go beyond the paper's recipe; their names are timm's where timm has them.
#![forbid(unsafe_code)]

use crate::optim::{Freeze, ScheduleKind};
use clap::Args;
use serde::Serialize;

/// What timm's recipes add to the paper's.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Recipe")]
pub struct RecipeFlags {
    /// How the learning rate falls [default: step]
    #[arg(long, visible_alias = "sched", value_name = "KIND")]
    pub schedule: Option<ScheduleKind>,
    /// Rate that a cosine ends at [default: 0]
    #[arg(long, value_name = "F")]
    pub min_lr: Option<f64>,
    /// Epochs after which the multistep schedule decays, as 3,6
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub decay_milestones: Option<Vec<u32>>,
    /// Rate that the warm-up begins at, as timm's [default: none, a share]
    #[arg(long, value_name = "F")]
    pub warmup_lr: Option<f64>,
    /// Clip the gradient to this L2 norm over all parameters
    #[arg(long, value_name = "F")]
    pub clip_grad: Option<f64>,
    /// Batches of --batch-size that make one update [default: 1]
    #[arg(long, visible_alias = "grad-accum-steps", value_name = "N")]
    pub grad_accum: Option<usize>,
    /// Average the weights over updates; the average validates and is saved
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub model_ema: Option<bool>,
    /// Share of the average that an update leaves [default: 0.9998]
    #[arg(long, value_name = "F")]
    pub model_ema_decay: Option<f64>,
    /// Factor of the rate from each layer to the one before [default: 1]
    #[arg(long, value_name = "F")]
    pub layer_decay: Option<f64>,
    /// What is not trained [default: none]
    #[arg(long, value_name = "WHAT")]
    pub freeze: Option<Freeze>,
    /// Chance that the last block drops a branch of an image [default: 0]
    #[arg(long, value_name = "F")]
    pub drop_path: Option<f64>,
    /// Less memory for a third more work: blocks run again on the way back
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub grad_checkpointing: Option<bool>,
    /// Stop after so many epochs without better validation accuracy
    #[arg(long, value_name = "N")]
    pub patience: Option<u32>,
    /// Write TensorBoard event files beside metrics.csv
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Run")]
    pub tensorboard: Option<bool>,
}
