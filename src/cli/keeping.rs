//! The flags of `train` that say what is kept in which epoch and in evaluation, and how lengths are told.
#![forbid(unsafe_code)]

use crate::flops::Cost;
use crate::model::VitConfig;
use crate::prune::Keep;
use crate::train::{KeepSchedule, TrainConfig};
use clap::Args;
use serde::Serialize;

/// What is kept where it is not the run's keep all along.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Pruning")]
pub struct KeepFlags {
    /// Keep of the first epoch, as 100 or mass:1; from there it moves to the
    /// run's keep in equal steps, or as cosine:100 by half a cosine
    #[arg(long, value_name = "[cosine:]KEEP")]
    pub keep_schedule: Option<KeepSchedule>,
    /// Epochs of the schedule, of which the last has the run's keep
    /// [default: all epochs]
    #[arg(long, value_name = "N", requires = "keep_schedule")]
    pub keep_schedule_epochs: Option<u32>,
    /// What validation, test and the checkpoint keep [default: the run's keep]
    #[arg(long, value_name = "KEEP", allow_negative_numbers = true)]
    pub val_keep: Option<Keep>,
}

/// The tokens of a sequence: "138 of 197 tokens (K = 70 %)", or what is known of a mass before an image is seen.
pub fn tokens(config: &TrainConfig, vit: &VitConfig) -> String {
    let (n, first) = (vit.patches(), config.keep_in(0));
    let of = |keep: Keep| match keep.fixed(n, config.round) {
        Some(k) => format!("{} of {} tokens ({})", 1 + k, 1 + n, keep.words()),
        None => format!("2 to {} tokens, as each image needs ({keep})", 1 + n),
    };
    let mut words = of(config.keep);
    if first != config.keep {
        words += &format!(", beginning with {}", of(first));
    }
    if let Some(keep) = config.keeping.val_keep {
        words += &format!(", evaluated with {}", of(keep));
    }
    words
}

/// What an image's forward pass costs, and what it would without pruning, both as this program computes it:
/// "11.156 GMACs an image forward, as executed; unpruned 16.120".
pub fn compute(config: &TrainConfig, vit: &VitConfig) -> String {
    let giga = |count: u64| count as f64 / 1e9;
    let cost = Cost::new(vit, &config.options(), config.keep.count(vit.patches(), config.round));
    let most = if config.keep.mass().is_some() { "at most " } else { "" };
    let whole = Cost::new(vit, &config.options(), vit.patches());
    format!(
        "{most}{:.3} GMACs an image forward, as executed; unpruned {:.3}",
        giga(cost.executed),
        giga(whole.executed)
    )
}
