//! What a run leaves on disk, and how it is picked up again.
//!
//! A run directory holds `config.toml`, `env.json`, `manifest.json`, `metrics.csv`, `metrics.jsonl`, `outcome.json` once it
//! is finished, the links `best` and `last`, `.lock`, event files of TensorBoard where they are asked for, and
//! `checkpoints/step-<n>/{model.safetensors,optim.safetensors,state.json}`.
//!
//! A checkpoint is built in a hidden folder beside its place: both tensor files, then state.json with their sizes and
//! hashes, each synced. Then the folder is synced, renamed, and the folder above synced. Only then do the links move,
//! and only then do older checkpoints go. So at every moment the newest folder whose hashes hold is a whole checkpoint.
#![forbid(unsafe_code)]

mod claim;
mod durable;
mod env;
mod folders;
mod metrics;
mod resolve;
mod run_dir;
mod state;
mod tensorboard;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trouble_tests;

pub use durable::replace;
pub use resolve::{card_of, resolve};

use crate::data::TransformConfig;
use crate::flops::Looked;
use crate::model::{VitConfig, VitOptions};
use crate::optim::LossScale;
use crate::prune::{Keep, PruneConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The folder of the checkpoints in a run directory.
const CHECKPOINTS: &str = "checkpoints";
/// Everything that ran, defaults included; its presence makes a folder a run directory.
const CONFIG: &str = "config.toml";
/// The images, with their hashes.
const MANIFEST: &str = "manifest.json";
/// The folder of what was found out about a run, in its directory.
const REPORT: &str = "report";
/// The metadata key of the model card.
const CARD: &str = "dynavit";

/// What travels inside model.safetensors (metadata key "dynavit", JSON) so that eval and predict need no flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    pub model: VitConfig,
    pub options: VitOptions,
    pub classes: Vec<String>,
    pub transform: TransformConfig,
    pub prune: PruneConfig,
}

impl ModelCard {
    /// Why no model can be built from this card, if so: a card comes from a file, which may say anything.
    fn check(&self) -> Result<(), String> {
        self.model.check()?;
        self.transform.check().map_err(|error| error.to_string())?;
        if self.transform.image_size != self.model.image_size {
            let (ours, theirs) = (self.transform.image_size, self.model.image_size);
            return Err(format!("images of {ours} pixels for a model of {theirs}"));
        }
        if !self.classes.is_empty() && self.classes.len() != self.model.classes {
            return Err(format!("{} names for {} classes", self.classes.len(), self.model.classes));
        }
        Ok(())
    }
}

/// Where training stands; everything a bit-exact resume needs beside the tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs finished.
    pub epoch: u32,
    /// Batches finished in the current epoch.
    pub batch: u32,
    /// Optimiser steps finished.
    pub step: u64,
    /// Sum of loss x images over the current epoch, and the images.
    pub loss_sum: f64,
    pub loss_count: u64,
    /// Seconds of training in the current epoch, for the rate in metrics.
    pub epoch_seconds: f64,
    /// At what the current epoch looked.
    #[serde(default)]
    pub epoch_looked: Looked,
    /// At what the whole run looked.
    #[serde(default)]
    pub looked: Looked,
    pub best_accuracy: Option<f64>,
    pub best_epoch: Option<u32>,
    /// Of a run in f16.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// Epochs that the run was last asked for, which may be more than its first settings say.
    #[serde(default)]
    pub epochs: u32,
}

/// One row of metrics.csv / metrics.jsonl; written once an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    pub epoch: u32,
    pub step: u64,
    pub lr: f64,
    pub train_loss: f64,
    pub val_loss: f64,
    pub val_accuracy: f64,
    pub images_per_second: f64,
    /// What the epoch's training kept; older rows do not tell, nor what follows.
    #[serde(default)]
    pub keep: Option<Keep>,
    /// Mean S of the epoch's training images.
    #[serde(default)]
    pub mean_seq_len: Option<f64>,
    /// Mean multiply-adds of a training image's forward pass, as executed.
    #[serde(default)]
    pub macs_executed: Option<f64>,
}

/// A run directory.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// Held by whoever writes it.
    claim: Option<claim::Claim>,
    /// True in the process that made it.
    made: bool,
}

/// What a save leaves behind.
#[derive(Debug)]
pub struct Saved {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// Older files that could not be cleared away, each with the reason: the checkpoint is none the worse.
    pub left: Vec<String>,
}

/// Where the best epoch's checkpoint was found again.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    pub epoch: u32,
    pub accuracy: f64,
    /// The folder's name.
    pub name: String,
}

impl RunDir {
    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
