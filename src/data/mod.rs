//! From files to batches: readers, splits, transforms, and a loader that decodes ahead of the step.
#![forbid(unsafe_code)]

use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub mod sample;

/// One labelled image. `id` is its place in the data set, the same in every run: it keys random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub id: u64,
    pub path: PathBuf,
    pub label: usize,
}

/// A data set, split.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// "voc2007", "folder", ...
    pub name: String,
    pub root: PathBuf,
    pub classes: Vec<String>,
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    pub test: Vec<Sample>,
    /// Things the user should know: images skipped and why.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Everything that fixes the data, as JSON text: classes, policy, per-split lists of (relative path, label, SHA-256 of the file).
    pub fn manifest_json(&self) -> Result<String> {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LabelPolicy {
    #[default]
    Exclusive,
    Largest,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SplitPolicy {
    #[default]
    Stratified,
    Lists,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    #[default]
    Imagenet,
    Cifar,
    Half,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    #[default]
    Bilinear,
    Bicubic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EvalResize {
    #[default]
    Squash,
    Crop,
}

/// From a decoded image to the model's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformConfig {
    pub image_size: usize,
    pub norm: Norm,
    pub interpolation: Interpolation,
    pub eval_resize: EvalResize,
    /// Smallest and largest share of the area in RandomResizedCrop.
    pub crop_scale: [f64; 2],
    /// Smallest and largest aspect ratio in RandomResizedCrop.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
}

/// Whether images are augmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Train { seed: u64, epoch: u32 },
    Eval,
}

/// A batch, ready for scorer and model.
pub struct Batch {
    /// (B, C, h, w), normalised.
    pub images: Vec<f32>,
    /// (B, h, w, C), 8-bit RGB after resize and flip.
    pub rgb: Vec<u8>,
    /// (B,)
    pub labels: Vec<usize>,
    /// (B,)
    pub ids: Vec<u64>,
}

/// Batches of `samples` in the given order, decoded ahead by worker threads; the last may be short.
pub struct Loader {}

impl Loader {
    /// Begins at batch `first_batch`. `workers` threads decode; results come in order whatever their number.
    pub fn new(
        samples: Vec<Sample>,
        transform: TransformConfig,
        mode: Mode,
        batch_size: usize,
        first_batch: usize,
        workers: usize,
    ) -> Self {
        let _ = (samples, transform, mode, batch_size, first_batch, workers);
        todo!()
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// The samples in the order of an epoch: Fisher-Yates from (seed, epoch).
pub fn epoch_order(samples: &[Sample], seed: u64, epoch: u32) -> Vec<Sample> {
    let _ = (samples, seed, epoch);
    todo!()
}

/// Reads and transforms one image file for `predict`: (image (C, h, w), rgb (h, w, C)).
pub fn load_image(path: &Path, transform: &TransformConfig) -> Result<(Vec<f32>, Vec<u8>)> {
    let _ = (path, transform);
    todo!()
}

/// A VOC data set. `root` is VOCdevkit, or VOC2012 or VOC2007 inside it; 2012 is taken when both are there.
pub fn open_voc(root: &Path, labels: LabelPolicy, split: SplitPolicy) -> Result<Dataset> {
    let _ = (root, labels, split);
    todo!()
}

/// Class-per-folder data: `root/{train,val[,test]}/CLASS/*`, or `root/CLASS/*` split 75/12.5/12.5 by class.
pub fn open_folder(root: &Path) -> Result<Dataset> {
    let _ = root;
    todo!()
}
