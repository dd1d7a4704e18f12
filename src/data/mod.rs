//! From files to batches: readers, splits, transforms, and a loader that decodes ahead of the step.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::ops::cross_entropy::Mixed;
use crate::rng::{Purpose, Stream};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub mod annotation;
pub mod augment;
mod cifar100;
pub mod corrupt;
pub mod decode;
mod folder;
pub mod jpeg;
mod loader;
mod manifest;
mod noise;
pub mod pack;
pub mod pickle;
pub mod resize;
pub mod sample;
pub mod sheet;
mod source;
pub mod split;
pub mod stats;
mod tiny_imagenet;
pub mod transform;
pub mod voc;

pub use augment::{Augment, Erase, EraseMode, Mix, RandAugment};
pub use cifar100::open_cifar100;
pub use folder::{images_below, open_folder, open_folder_of};
pub use loader::Loader;
pub use manifest::{doubles, training_content};
pub use noise::noise;
pub use source::{Records, Source};
pub use tiny_imagenet::open_tiny_imagenet;
pub use voc::open_voc;

/// One labelled image. `id` is its place in the data set, the same in every run: it keys random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub id: u64,
    pub source: Source,
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
    /// Everything that fixes the data, as pretty JSON: name, classes, notes (they say how labels and splits came
    /// about), per split a list of (path from the root, label, SHA-256 of the file), and the SHA-256 over all of it
    /// but the notes. The hash says whether two runs saw the same data; it does not depend on where the data lies.
    pub fn manifest_json(&self) -> Result<String> {
        manifest::json(self)
    }

    /// Where an image lies, from the root on, with slashes: as the manifest names it.
    pub fn place(&self, sample: &Sample) -> String {
        manifest::relative(&self.root, &sample.source.place())
    }

    /// Whether some of the images are JPEG files.
    pub fn has_jpeg(&self) -> bool {
        let jpeg = |sample: &Sample| is_jpeg(&sample.source.place());
        [&self.train, &self.val, &self.test].into_iter().flatten().any(jpeg)
    }

    /// A data set without a sample so far.
    fn empty(name: impl Into<String>, root: &Path, classes: Vec<String>, notes: Vec<String>) -> Self {
        let root = root.to_path_buf();
        Dataset { name: name.into(), root, classes, train: Vec::new(), val: Vec::new(), test: Vec::new(), notes }
    }

    /// Looks at every image file without decoding its pixels: a missing, empty, truncated or oversized one is an error
    /// here, before a run begins, rather than in the middle of an epoch.
    pub fn check_images(&self) -> Result<()> {
        [&self.train, &self.val, &self.test]
            .into_iter()
            .try_for_each(|samples| samples.par_iter().try_for_each(|sample| sample.source.check()))
    }

    /// Hands out the samples in the order given: ids count the used ones from 0.
    fn fill(&mut self, samples: Vec<(Sample, split::Part)>) {
        let mut id = 0;
        for (mut sample, part) in samples {
            let place = match part {
                split::Part::Train => &mut self.train,
                split::Part::Val => &mut self.val,
                split::Part::Test => &mut self.test,
                split::Part::Unused => continue,
            };
            sample.id = id;
            id += 1;
            place.push(sample);
        }
    }

    /// Refuses a data set with a class that has nothing to train on, or with nothing to validate on.
    fn check_filled(&self) -> Result<()> {
        for (c, class) in self.classes.iter().enumerate() {
            if !self.train.iter().any(|sample| sample.label == c) {
                let reason = format!("empty class: no image of '{class}' to train on");
                return Err(Error::data(&self.root, reason, "add images of it or take the class out"));
            }
        }
        if self.val.is_empty() {
            let reason = format!("no image to validate on, beside {} to train on", self.train.len());
            return Err(Error::data(&self.root, reason, "add images, or a validation split"));
        }
        Ok(())
    }
}

/// Whether a file is a JPEG by its name.
pub fn is_jpeg(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["jpg", "jpeg"].iter().any(|jpeg| ending.eq_ignore_ascii_case(jpeg)))
}

/// The text of a list, without the byte order mark that some editors of Windows put first.
fn text_of(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::data(path, "is not UTF-8", "save the list as UTF-8"))?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), String::from))
}

/// Which images of several classes count, and as what (readings.md, 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LabelPolicy {
    /// Only images that show exactly one of the classes
    #[default]
    Exclusive,
    /// Every image, as the class of its largest object
    Largest,
}

/// Where the splits come from (readings.md, 4.1 and 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SplitPolicy {
    /// Drawn by class: VOC's trainval in the paper's proportions; of the training images of CIFAR-100 and
    /// Tiny-ImageNet a tenth validates, and the images held out test
    #[default]
    Stratified,
    /// The data set's own: train.txt and val.txt of VOC; elsewhere the images held out validate, and none test
    Lists,
}

/// Mean and deviation that pixels are normalised with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// ImageNet's statistics
    #[default]
    Imagenet,
    /// CIFAR-100's statistics
    Cifar,
    /// 0.5 and 0.5, as timm's augreg weights were trained
    Half,
}

/// Filter of the resize, with antialias, as Pillow's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangle, support 1
    #[default]
    Bilinear,
    /// Cubic with a = -0.5, support 2
    Bicubic,
}

/// How an image becomes square without augmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EvalResize {
    /// Both sides to the model's size, whatever the shape
    #[default]
    Squash,
    /// The shorter side to the model's size over --crop-pct, then the centre
    Crop,
}

/// From a decoded image to the model's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformConfig {
    pub image_size: usize,
    pub norm: Norm,
    pub interpolation: Interpolation,
    pub eval_resize: EvalResize,
    /// What of the shorter side is left where `eval_resize` cuts out the centre, as timm's.
    #[serde(default = "default_crop_pct")]
    pub crop_pct: f64,
    /// Smallest and largest share of the area in RandomResizedCrop.
    pub crop_scale: [f64; 2],
    /// Smallest and largest aspect ratio in RandomResizedCrop.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// More for training images. No part of a checkpoint, since nothing but training reads it.
    #[serde(skip)]
    pub augment: Augment,
    /// What is done to images after the resize when they are evaluated. No part of a checkpoint either.
    #[serde(skip)]
    pub corrupt: Option<corrupt::Corruption>,
}

/// timm's default, and that of files from before there was a choice.
pub fn default_crop_pct() -> f64 {
    0.875
}

/// Whether images are augmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Train { seed: u64, epoch: u32 },
    Eval,
}

/// What the model will take of a batch's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Values and bytes.
    Values,
    /// The bytes alone, unless something is done to the values that makes others of them: for a card, which makes its values
    /// itself.
    Bytes,
}

/// A batch, ready for scorer and model.
#[derive(Debug)]
pub struct Batch {
    /// (B, C, h, w), normalised; empty where only bytes were wanted.
    pub images: Vec<f32>,
    /// (B, h, w, C), 8-bit RGB of the same pixels, augmented alike.
    pub rgb: Vec<u8>,
    /// (B,)
    pub labels: Vec<usize>,
    /// (B,)
    pub ids: Vec<u64>,
    /// The second labels, when images were mixed.
    pub mixed: Option<Mixed>,
    /// How `images` follows from `rgb`; `None` where more was done to it.
    pub norm: Option<Norm>,
}

impl Batch {
    /// Makes `images` where only bytes were wanted.
    pub fn make_values(&mut self) {
        let (true, Some(norm)) = (self.images.is_empty(), self.norm) else { return };
        let each = (self.rgb.len() / self.labels.len().max(1)).max(1);
        let values = self.rgb.par_chunks(each).map(|image| transform::normalise(image, norm));
        self.images = values.collect::<Vec<_>>().concat();
    }
}

/// The samples in the order of an epoch: Fisher-Yates from (seed, epoch).
pub fn epoch_order(samples: &[Sample], seed: u64, epoch: u32) -> Vec<Sample> {
    let mut order = samples.to_vec();
    Stream::new(seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
    order
}

/// Reads and transforms one image file for `predict`: (image (C, h, w), rgb (h, w, C)).
pub fn load_image(path: &Path, transform: &TransformConfig) -> Result<(Vec<f32>, Vec<u8>)> {
    transform::load(&Source::File(path.to_path_buf()), 0, transform, Mode::Eval)
}
