//! What a run leaves on disk, and how it is picked up again: see design section "Files".
#![forbid(unsafe_code)]

use crate::data::TransformConfig;
use crate::error::Result;
use crate::model::{Vit, VitConfig, VitOptions};
use crate::optim::AdamW;
use crate::prune::PruneConfig;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What travels inside model.safetensors (metadata key "dynavit", JSON) so that eval and predict need no flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    pub model: VitConfig,
    pub options: VitOptions,
    pub classes: Vec<String>,
    pub transform: TransformConfig,
    pub prune: PruneConfig,
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
    pub best_accuracy: Option<f64>,
    pub best_epoch: Option<u32>,
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
}

/// A run directory.
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Makes `root` (which must not exist or be empty) with config.toml, env.json and manifest.json.
    pub fn create(root: &Path, config_toml: &str, manifest_json: &str) -> Result<Self> {
        let _ = (root, config_toml, manifest_json);
        todo!()
    }
    /// An existing run directory.
    pub fn open(root: &Path) -> Result<Self> {
        let _ = root;
        todo!()
    }
    /// The newest run under `output` that can be resumed, for `--resume auto`, whose name begins with `prefix`.
    pub fn newest(output: &Path, prefix: &str) -> Result<Option<Self>> {
        let _ = (output, prefix);
        todo!()
    }
    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// config.toml's text.
    pub fn config(&self) -> Result<String> {
        todo!()
    }
    /// Saves a checkpoint durably, points `last` (and `best` when `is_best`) at it, and drops the oldest beyond `keep`.
    pub fn save(
        &self,
        vit: &Vit,
        optim: &AdamW,
        progress: &Progress,
        card: &ModelCard,
        is_best: bool,
        keep: usize,
    ) -> Result<PathBuf> {
        let _ = (vit, optim, progress, card, is_best, keep);
        todo!()
    }
    /// The newest checkpoint whose hashes hold, passing over torn ones (told in the second value).
    pub fn latest(&self) -> Result<Option<(PathBuf, Vec<String>)>> {
        todo!()
    }
    /// Restores parameters, moments and progress from a checkpoint folder.
    pub fn restore(&self, checkpoint: &Path, vit: &mut Vit, optim: &mut AdamW) -> Result<Progress> {
        let _ = (checkpoint, vit, optim);
        todo!()
    }
    /// Appends an epoch to metrics.csv and metrics.jsonl.
    pub fn append_metrics(&self, row: &EpochMetrics) -> Result<()> {
        let _ = row;
        todo!()
    }
    /// Drops rows beyond `step`, which a killed run wrote after its last checkpoint.
    pub fn truncate_metrics(&self, step: u64) -> Result<()> {
        let _ = step;
        todo!()
    }
}

/// The weight file and card that `--checkpoint` or `--weights` names: a run directory (its best), a checkpoint folder, or a file.
/// The card is None for a plain timm file.
pub fn resolve(path: &Path) -> Result<(PathBuf, Option<ModelCard>)> {
    let _ = path;
    todo!()
}
