//! Flags that several subcommands share; their long names are the keys of `--config`.
#![forbid(unsafe_code)]

use crate::checkpoint::ModelCard;
use crate::data::{Dataset, EvalResize, Interpolation, Norm, Sample};
use crate::device::cpu::gemm::Operands;
use crate::device::cuda::{Gpu, Store, Target};
use crate::error::{Error, Result};
use crate::model::{EmbedMode, PosMode, Vit, VitConfig};
use crate::prune::{Keep, Round, SaliencyDomain, Scorer};
use crate::train::{DeviceName, MAX_THREADS, Precision};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::sync::Arc;

/// How patches are ranked and cut.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Pruning")]
pub struct PruneFlags {
    /// Statistic that ranks patches [default: l2]
    #[arg(long)]
    pub scorer: Option<Scorer>,
    /// Pixels the l2 scorer sees [default: normalized]
    #[arg(long, value_name = "DOMAIN")]
    pub saliency_domain: Option<SaliencyDomain>,
    /// Bins of the entropy scorer's histogram [default: 256]
    #[arg(long, value_name = "N", value_parser = bins())]
    pub entropy_bins: Option<u32>,
    /// How K percent of the patches becomes a count [default: floor]
    #[arg(long)]
    pub round: Option<Round>,
    /// Rows of the position table that kept patches get [default: gathered]
    #[arg(long)]
    pub pos: Option<PosMode>,
    /// Embed only the kept patches, or all [default: sparse]
    #[arg(long)]
    pub embed: Option<EmbedMode>,
    /// Compute the last block for all tokens, not for [CLS] alone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub full_last_block: Option<bool>,
}

/// How large the model's images are.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Images")]
pub struct SizeFlags {
    /// Side of the square image in pixels, a multiple of the patch; positions
    /// are resampled to it [default: the model's]
    #[arg(long, visible_alias = "image-size", value_name = "N")]
    pub img_size: Option<usize>,
}

/// From file to pixels. What is not given is the checkpoint's, or that of a run whose weights are trained on.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Images")]
pub struct ImageFlags {
    /// Mean and deviation of the pixels [default: that of the run whose weights
    /// are taken, else imagenet]
    #[arg(long)]
    pub norm: Option<Norm>,
    /// Filter of the resize, as Pillow's [default: the run's, else bilinear]
    #[arg(long)]
    pub interpolation: Option<Interpolation>,
    /// Squash to the square, or resize and crop its centre [default: the run's,
    /// else squash]
    #[arg(long, value_name = "HOW")]
    pub eval_resize: Option<EvalResize>,
    /// Share of the shorter side that --eval-resize crop leaves, as timm's
    /// [default: the run's, else 0.875]
    #[arg(long, value_name = "F")]
    pub crop_pct: Option<f64>,
}

/// What computes.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Engine")]
pub struct EngineFlags {
    /// Threads of the engine; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Where to compute [default: auto]
    #[arg(long)]
    pub device: Option<DeviceName>,
    /// Arithmetic of the step [default: auto]
    #[arg(long)]
    pub precision: Option<Precision>,
}

/// The word that a flag takes for `value`.
pub fn word<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

/// Bins that a histogram may have.
pub fn bins() -> impl TypedValueParser<Value = u32> {
    PossibleValuesParser::new(["32", "64", "256"]).map(|text| text.parse().expect("the possible values are numbers"))
}

/// A keep ratio where a mass has no place.
pub fn percent(text: &str) -> std::result::Result<Keep, String> {
    let keep: Keep = text.parse()?;
    match keep.mass() {
        None => Ok(keep),
        Some(_) => Err(format!("{keep} keeps another number of patches of each image; a percentage is needed here")),
    }
}

impl PruneFlags {
    /// Puts what was given in place of what the card says.
    pub fn apply(&self, card: &mut ModelCard) {
        set(&mut card.prune.scorer, self.scorer);
        set(&mut card.prune.domain, self.saliency_domain);
        set(&mut card.prune.entropy_bins, self.entropy_bins);
        set(&mut card.prune.round, self.round);
        set(&mut card.options.pos, self.pos);
        set(&mut card.options.embed, self.embed);
        set(&mut card.options.full_last_block, self.full_last_block);
    }
}

impl SizeFlags {
    /// The model for the size that was given.
    pub fn of(&self, model: VitConfig) -> Result<VitConfig> {
        match self.img_size {
            Some(side) => model.with_image_size(side),
            None => Ok(model),
        }
    }

    /// Puts what was given in place of what the card says.
    pub fn apply(&self, card: &mut ModelCard) -> Result<()> {
        card.model = self.of(card.model.clone())?;
        card.transform.image_size = card.model.image_size;
        Ok(())
    }
}

impl ImageFlags {
    /// Puts what was given in place of what the card says.
    pub fn apply(&self, card: &mut ModelCard) {
        set(&mut card.transform.norm, self.norm);
        set(&mut card.transform.interpolation, self.interpolation);
        set(&mut card.transform.eval_resize, self.eval_resize);
        set(&mut card.transform.crop_pct, self.crop_pct);
    }
}

/// The part of a data set that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Val,
    Test,
    /// Every image
    All,
}

impl Split {
    /// Its images, in the order of their numbers; at least one.
    pub fn of(self, dataset: &Dataset) -> Result<Vec<Sample>> {
        let all = [(Split::Train, &dataset.train), (Split::Val, &dataset.val), (Split::Test, &dataset.test)];
        let mut samples: Vec<Sample> = Vec::new();
        for (_, part) in all.iter().filter(|(split, _)| self == Split::All || self == *split) {
            samples.extend_from_slice(part);
        }
        if samples.is_empty() {
            let there = all.iter().filter(|(_, part)| !part.is_empty());
            let there: Vec<String> = there.map(|(split, part)| format!("{} in {}", part.len(), word(split))).collect();
            let reason = format!("{} has no image in {}, and {}", dataset.name, word(&self), there.join(", "));
            return Err(Error::usage("--split", reason, "choose another"));
        }
        samples.sort_by_key(|sample| sample.id);
        Ok(samples)
    }
}

/// The engine that was picked.
#[derive(Clone, Debug)]
pub struct Engine {
    pub threads: usize,
    /// The card, when it computes there.
    pub gpu: Option<Arc<Gpu>>,
    /// How products of the CPU read their operands.
    operands: Operands,
}

impl EngineFlags {
    /// Picks the engine and starts its threads; called once in a process.
    pub fn start(&self) -> Result<Engine> {
        if self.threads == Some(0) {
            return Err(Error::usage("--threads", "no thread could compute", "give at least 1"));
        }
        if self.threads.is_some_and(|threads| threads > MAX_THREADS) {
            let reason = "more threads than help";
            return Err(Error::usage("--threads", reason, format!("give at most {MAX_THREADS}")));
        }
        let threads = self.threads.unwrap_or(0);
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .use_current_thread()
            .build_global()
            .map_err(|error| Error::usage("--threads", error.to_string(), "give a smaller number"))?;
        let operands = match self.precision {
            Some(Precision::Bf16) => Operands::Bf16,
            None | Some(Precision::Auto) => Operands::fastest(),
            Some(Precision::F32 | Precision::F16) => Operands::F32,
        };
        Ok(Engine { threads: rayon::current_num_threads(), gpu: self.card()?.map(Arc::new), operands })
    }

    /// Tells what `auto` picked where that is less exact than f32, for commands that name no engine in what they print.
    pub fn tell(&self, engine: &Engine) {
        let automatic = matches!(self.precision, None | Some(Precision::Auto));
        if automatic && engine.choice().1 != Precision::F32 {
            let text = format!("computing with {}; --precision f32 rounds less", engine.words());
            super::print::complain("note", &text);
        }
    }

    /// The card to compute on. Under `auto` a card that cannot be used is told and left alone, unless the precision that
    /// was asked for needs one.
    fn card(&self) -> Result<Option<Gpu>> {
        let precision = self.precision.unwrap_or(Precision::Auto);
        let store = match precision {
            Precision::F32 => Store::F32,
            Precision::Bf16 => Store::Bf16,
            Precision::Auto | Precision::F16 => Store::F16,
        };
        let open = |target| Gpu::open(target)?.computing_in(store);
        let needs_card = precision == Precision::F16;
        let gpu = match self.device.unwrap_or(DeviceName::Auto) {
            DeviceName::Cpu => None,
            DeviceName::Cuda => Some(open(Target::Cuda)?),
            DeviceName::PtxVm => Some(open(Target::PtxVm)?),
            DeviceName::Auto => match open(Target::Cuda) {
                Ok(gpu) => Some(gpu),
                // A machine without a driver is no news.
                Err(_) if cuda_driver::driver_missing().is_some() => None,
                Err(error) if needs_card => return Err(error),
                Err(error) => {
                    super::print::complain("note", &format!("computing on the CPU: {error}"));
                    None
                }
            },
        };
        if gpu.is_none() && needs_card {
            return Err(Error::usage("--precision", "the CPU engine computes in f32 or bf16", "use --precision f32"));
        }
        Ok(gpu)
    }
}

impl Engine {
    /// Brings a model to where it is computed.
    pub fn take(&self, vit: &mut Vit) -> Result<()> {
        match &self.gpu {
            Some(gpu) => vit.move_to(gpu),
            None => {
                vit.params.set_operands(self.operands);
                Ok(())
            }
        }
    }

    /// What was picked, by the names of the flags.
    pub fn choice(&self) -> (DeviceName, Precision) {
        let Some(gpu) = &self.gpu else {
            let precision = if self.operands == Operands::Bf16 { Precision::Bf16 } else { Precision::F32 };
            return (DeviceName::Cpu, precision);
        };
        let device = if gpu.is_virtual() { DeviceName::PtxVm } else { DeviceName::Cuda };
        let precision = match gpu.compute() {
            Store::F32 => Precision::F32,
            Store::F16 => Precision::F16,
            Store::Bf16 => Precision::Bf16,
        };
        (device, precision)
    }

    /// The engine and its arithmetic, in words.
    pub fn words(&self) -> String {
        match &self.gpu {
            Some(gpu) => format!("{} in {}", gpu.name(), gpu.compute().name()),
            None => format!("cpu in {}, {} threads", self.operands.words(), self.threads),
        }
    }

    /// Threads that decode images: what was asked for, or at most four; with a card all but the one that keeps it busy.
    pub fn workers(&self, asked: Option<usize>) -> usize {
        let others = match &self.gpu {
            // The virtual card computes with the threads itself.
            Some(gpu) if !gpu.is_virtual() => (self.threads - 1).max(1),
            _ => self.threads.min(4),
        };
        asked.unwrap_or(others)
    }
}

/// Replaces `place` when there is a value.
pub fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
