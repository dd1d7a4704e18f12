//! Everything that decides what a training run does: the content of its config.toml.
#![forbid(unsafe_code)]

use super::augment::Augmentation;
use super::keeping::Keeping;
use super::recipe::Recipe;
use crate::data::{EvalResize, Interpolation, LabelPolicy, Norm, SplitPolicy, TransformConfig, default_crop_pct};
use crate::device::cpu::gemm::Operands;
use crate::error::{Error, Result};
use crate::model::{EmbedMode, PosMode, VitConfig, VitOptions};
use crate::optim::{AdamWConfig, NoDecay, Schedule};
use crate::prune::{Keep, PruneConfig, Round, SaliencyDomain, Scorer};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

/// The data sets that can be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetName {
    /// PASCAL VOC, five classes
    Voc,
    /// CIFAR-100, 100 classes of 32 x 32 pixels
    #[value(alias = "cifar-100")]
    Cifar100,
    /// Tiny-ImageNet, 200 classes of 64 x 64 pixels
    #[value(alias = "tiny-imagenet-200")]
    TinyImagenet,
    /// One folder a class
    Folder,
    /// The built-in sample, drawn by the program
    Sample,
}

impl std::fmt::Display for DatasetName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DatasetName::Voc => "voc",
            DatasetName::Cifar100 => "cifar100",
            DatasetName::TinyImagenet => "tiny-imagenet",
            DatasetName::Folder => "folder",
            DatasetName::Sample => "sample",
        })
    }
}

/// Where the numbers are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceName {
    /// A card when there is one, else the CPU
    Auto,
    Cpu,
    /// The first card of the installed driver
    Cuda,
    /// The virtual card: slow, and checks every access
    PtxVm,
}

/// Arithmetic of the step: what a card stores activations as, and what the CPU's products read; sums, statistics, master
/// weights and moments are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f16 on a card; on the CPU bf16 where that is faster than f32, else f32
    Auto,
    F32,
    /// On the CPU the operands of products; on cards of compute capability 8.0 and later
    Bf16,
    /// On cards, with a dynamic loss scale
    F16,
}

/// A run's settings, all of them; its TOML keys are the long flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainConfig {
    pub dataset: DatasetName,
    #[serde(deserialize_with = "keep_of_any_type")]
    pub keep: Keep,
    pub data: Option<PathBuf>,
    /// Folder of packed images; none are packed when absent.
    pub cache: Option<PathBuf>,
    /// The shorter side that packed images are shrunk to.
    pub cache_side: Option<usize>,
    pub weights: Option<PathBuf>,
    pub model: String,
    /// Side of the model's images; that of its name when absent.
    pub img_size: Option<usize>,
    pub epochs: u32,
    pub batch_size: usize,
    pub lr: f64,
    pub weight_decay: f64,
    pub step_size: u32,
    pub gamma: f64,
    pub warmup_epochs: f64,
    pub no_decay: Vec<NoDecay>,
    pub label_smoothing: f64,
    pub crop_scale: [f64; 2],
    pub flip: f64,
    #[serde(flatten)]
    pub augment: Augmentation,
    pub seed: u64,
    pub label_policy: LabelPolicy,
    pub split: SplitPolicy,
    pub scorer: Scorer,
    pub saliency_domain: SaliencyDomain,
    pub entropy_bins: u32,
    pub round: Round,
    pub pos: PosMode,
    pub embed: EmbedMode,
    pub full_last_block: bool,
    pub norm: Norm,
    pub interpolation: Interpolation,
    pub eval_resize: EvalResize,
    #[serde(default = "default_crop_pct")]
    pub crop_pct: f64,
    pub device: DeviceName,
    pub precision: Precision,
    /// Threads of the engine; all cores when absent.
    pub threads: Option<usize>,
    /// Threads that decode; at most four, and no more than `threads`, when absent.
    pub workers: Option<usize>,
    /// Minutes between checkpoints inside an epoch; 0 for none.
    pub save_every: f64,
    /// Steps between checkpoints inside an epoch.
    pub save_steps: Option<u64>,
    pub keep_checkpoints: usize,
    #[serde(flatten)]
    pub recipe: Recipe,
    #[serde(flatten)]
    pub keeping: Keeping,
}

/// K may be written as a number or as a string in TOML.
fn keep_of_any_type<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Keep, D::Error> {
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text,
        other => other.to_string(),
    };
    text.parse().map_err(serde::de::Error::custom)
}

/// Most threads of either kind; more would only cost memory.
pub const MAX_THREADS: usize = 1024;

impl TrainConfig {
    /// The paper's recipe for the data set (section 4.3; readings.md where the paper is silent).
    pub fn paper(dataset: DatasetName, keep: Keep) -> Self {
        let (epochs, batch_size, norm) = match dataset {
            DatasetName::Cifar100 => (5, 64, Norm::Cifar),
            DatasetName::TinyImagenet => (5, 32, Norm::Imagenet),
            DatasetName::Voc | DatasetName::Folder | DatasetName::Sample => (10, 32, Norm::Imagenet),
        };
        TrainConfig {
            dataset,
            keep,
            data: None,
            cache: None,
            cache_side: None,
            weights: None,
            model: "vit_base_patch16_224".into(),
            img_size: None,
            epochs,
            batch_size,
            lr: 3e-5,
            weight_decay: 0.05,
            step_size: 3,
            gamma: 0.1,
            warmup_epochs: 0.0,
            no_decay: Vec::new(),
            label_smoothing: 0.0,
            crop_scale: [0.08, 1.0],
            flip: 0.5,
            augment: Augmentation::default(),
            seed: 42,
            label_policy: LabelPolicy::default(),
            split: SplitPolicy::default(),
            scorer: Scorer::default(),
            saliency_domain: SaliencyDomain::default(),
            entropy_bins: 256,
            round: Round::default(),
            pos: PosMode::default(),
            embed: EmbedMode::default(),
            full_last_block: false,
            norm,
            interpolation: Interpolation::default(),
            eval_resize: EvalResize::default(),
            crop_pct: default_crop_pct(),
            device: DeviceName::Auto,
            precision: Precision::Auto,
            threads: None,
            workers: None,
            save_every: 10.0,
            save_steps: None,
            keep_checkpoints: 3,
            recipe: Recipe::default(),
            keeping: Keeping::default(),
        }
    }

    /// The recipe of the built-in sample: a small ViT from random weights, so a larger rate with warm-up and gentler crops.
    pub fn sample(keep: Keep) -> Self {
        TrainConfig {
            model: "vit_micro_patch16_224".into(),
            epochs: 10,
            batch_size: 16,
            lr: 1e-3,
            warmup_epochs: 1.0,
            step_size: 3,
            gamma: 0.5,
            crop_scale: [0.6, 1.0],
            ..Self::paper(DatasetName::Sample, keep)
        }
    }

    /// How products of the CPU read their operands.
    pub fn operands(&self) -> Operands {
        let bf16 = self.precision == Precision::Bf16 && self.device == DeviceName::Cpu;
        if bf16 { Operands::Bf16 } else { Operands::F32 }
    }

    /// Refuses values that no run could use, naming the flag.
    pub fn validate(&self) -> Result<()> {
        self.augment.validate(self.batch_size)?;
        self.keeping.validate(self.keep)?;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let natural = |x: f64| x.is_finite() && x >= 0.0;
        let [low, high] = self.crop_scale;
        let checks: [(bool, &str, &str); 16] = [
            (self.epochs > 0, "--epochs", "at least 1"),
            (self.batch_size > 0, "--batch-size", "at least 1"),
            (positive(self.lr), "--lr", "a number above 0"),
            (natural(self.weight_decay), "--weight-decay", "0 or more"),
            (self.step_size > 0, "--step-size", "at least 1"),
            (positive(self.gamma), "--gamma", "a number above 0"),
            (natural(self.warmup_epochs), "--warmup-epochs", "0 or more"),
            ((0.0..1.0).contains(&self.label_smoothing), "--label-smoothing", "0 or more and below 1"),
            (0.0 < low && low <= high && high <= 1.0, "--crop-scale", "two numbers A,B with 0 < A <= B <= 1"),
            ((0.0..=1.0).contains(&self.flip), "--flip", "a probability from 0 to 1"),
            ([32, 64, 256].contains(&self.entropy_bins), "--entropy-bins", "32, 64 or 256"),
            (0.0 < self.crop_pct && self.crop_pct <= 1.0, "--crop-pct", "a share above 0 and up to 1"),
            (natural(self.save_every), "--save-every", "0 or more minutes"),
            (self.save_steps != Some(0), "--save-steps", "at least 1"),
            (self.keep_checkpoints > 0, "--keep-checkpoints", "at least 1"),
            (self.workers.is_none_or(|n| (1..=MAX_THREADS).contains(&n)), "--workers", "from 1 to 1024"),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, flag, rule)) => Err(Error::usage(flag, "the value is out of range", format!("give {rule}"))),
            None => self.recipe.validate(self.lr),
        }
    }

    /// Refuses what the settings ask of a card and it cannot do, naming the flag.
    pub fn check_on_card(&self) -> Result<()> {
        self.keep.check_on_card()?;
        self.keeping.val_keep.map_or(Ok(()), |keep| keep.check_on_card())
    }

    /// What an epoch (0-based) trains on.
    pub fn keep_in(&self, epoch: u32) -> Keep {
        self.keeping.in_epoch(self.keep, epoch, self.epochs)
    }

    /// The most patches of so many that a training image may keep, in whichever epoch.
    pub fn most_kept(&self, patches: usize) -> usize {
        let first = self.keeping.keep_schedule.map_or(self.keep, |schedule| schedule.from);
        self.keep.count(patches, self.round).max(first.count(patches, self.round))
    }

    /// What decides the kept patches of an epoch's training images.
    pub fn prune_in(&self, epoch: u32) -> PruneConfig {
        PruneConfig { keep: self.keep_in(epoch), ..self.prune() }
    }

    /// What decides the kept patches of evaluated images, in the run and by its checkpoints.
    pub fn prune(&self) -> PruneConfig {
        PruneConfig {
            keep: self.keeping.val_keep.unwrap_or(self.keep),
            round: self.round,
            scorer: self.scorer,
            domain: self.saliency_domain,
            entropy_bins: self.entropy_bins,
            seed: self.seed,
        }
    }

    /// The model's shape for so many classes.
    pub fn vit(&self, classes: usize) -> Result<VitConfig> {
        let model = VitConfig::named(&self.model, classes)?;
        self.img_size.map_or(Ok(model.clone()), |side| model.with_image_size(side))
    }

    /// What becomes of an image before `vit` sees it.
    pub fn transform(&self, vit: &VitConfig) -> TransformConfig {
        TransformConfig {
            norm: self.norm,
            interpolation: self.interpolation,
            eval_resize: self.eval_resize,
            crop_pct: self.crop_pct,
            crop_scale: self.crop_scale,
            crop_ratio: self.augment.crop_ratio,
            flip: self.flip,
            augment: self.augment.augment(),
            ..TransformConfig::paper(vit.image_size)
        }
    }

    /// Choices of the forward pass.
    pub fn options(&self) -> VitOptions {
        VitOptions { pos: self.pos, embed: self.embed, full_last_block: self.full_last_block }
    }

    /// The optimiser's constants.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: self.weight_decay }
    }

    /// Updates in an epoch of so many images.
    pub fn updates(&self, images: usize) -> usize {
        images.div_ceil(self.batch_size).div_ceil(self.recipe.grad_accum)
    }

    /// The rate of every update of a run on so many images.
    pub fn schedule(&self, images: usize) -> Schedule {
        let updates = self.updates(images);
        let all = u64::from(self.epochs) * updates as u64;
        Schedule {
            lr: self.lr,
            decay: self.recipe.decay(self.step_size, self.gamma, all),
            warmup_steps: (self.warmup_epochs * updates as f64).round() as u64,
            warmup_lr: self.recipe.warmup_lr,
        }
    }

    /// How the name of this run's folder begins; a time follows.
    pub fn run_prefix(&self) -> String {
        let scorer = toml::Value::try_from(self.scorer).ok().and_then(|v| v.as_str().map(String::from));
        let keep = self.keep.to_string().replace(':', "");
        format!("{}-k{keep}-{}-s{}-", self.dataset, scorer.unwrap_or_default(), self.seed)
    }
}
