//! `dynavit bench`: images a second of inference or training, on noise or image files and random weights.
#![forbid(unsafe_code)]

use super::bench_kernels::{self, KernelTime};
use super::eval::at_least_one;
use super::images::files;
use super::options::{Engine, EngineFlags, PruneFlags, SizeFlags, set};
use super::print;
use crate::data::{Batch, TransformConfig, load_image, noise};
use crate::device::Device;
use crate::device::cuda::Store;
use crate::error::{Error, Result};
use crate::eval::{Look, Seen};
use crate::flops::Looked;
use crate::model::{Vit, VitConfig, VitOptions};
use crate::optim::{AdamW, LossScale, no_decay_ranges};
use crate::prune::{Keep, PruneConfig};
use crate::tensor::Tensor;
use crate::train::{DatasetName, Learner, TrainConfig};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Saliency, selection and the forward pass
    Infer,
    /// The whole step: saliency, selection, forward, backward, AdamW
    Train,
}

/// Flags of `bench`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit bench infer --keep 70 --batch-size 8
  dynavit bench train --model vit_small_patch16_224 --keep 50 --json
  dynavit bench infer --keep mass:0.9 --data photos --device cpu
  dynavit bench train --device cuda --batch-size 256 --kernels")]
pub struct BenchArgs {
    /// What to time
    what: What,
    /// Model, by timm's name
    #[arg(long, value_name = "NAME", default_value = "vit_base_patch16_224")]
    model: String,
    /// Percent of the patches to keep, or mass:0.9 as in train; noise, whose
    /// patches are all alike, needs more of them than photographs do
    #[arg(long, value_name = "K", default_value = "70", allow_negative_numbers = true)]
    keep: Keep,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=4096))]
    batch_size: usize,
    /// Folder of JPEG and PNG files to time on, in turn, instead of noise;
    /// reading them is not timed, nor what a card brings of them meanwhile
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Classes of the head
    #[arg(long, alias = "num-classes", value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    classes: usize,
    /// Timed steps; one more warms up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    steps: usize,
    /// Do a step at each line of standard input and print its seconds, for a
    /// program that times others in turn; names itself first
    #[arg(long, conflicts_with_all = ["json", "kernels", "steps"])]
    turns: bool,
    /// Training: blocks keep only their input and run again on the way back
    #[arg(long)]
    grad_checkpointing: bool,
    /// On a card: the time of each kernel in one more step
    #[arg(long)]
    kernels: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    size: SizeFlags,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome {
    images_per_second: f64,
    milliseconds: Milliseconds,
    gflops_per_second: f64,
    /// Of the process; null on a card, and where the system does not tell.
    peak_memory_bytes: Option<u64>,
    /// Executed FLOP/s as a share of what the card's matrix units do at most; null where that is not known.
    share_of_peak: Option<f64>,
    /// Mean S of the images.
    mean_seq_len: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernels: Vec<KernelTime>,
}

/// Of one step.
#[derive(Serialize)]
struct Milliseconds {
    median: f64,
    min: f64,
    max: f64,
}

/// Times, and prints.
pub fn run(args: &BenchArgs) -> Result<()> {
    let engine = args.engine.start()?;
    if args.kernels && engine.gpu.is_none() {
        return Err(Error::usage("--kernels", "the CPU engine launches none", "add --device cuda or ptx-vm"));
    }
    if args.grad_checkpointing && args.what == What::Infer {
        let reason = "inference keeps nothing to compute again";
        return Err(Error::usage("--grad-checkpointing", reason, "leave it out, or time train"));
    }
    let config = args.size.of(VitConfig::named(&args.model, args.classes)?)?;
    let mut options = VitOptions::default();
    set(&mut options.pos, args.prune.pos);
    set(&mut options.embed, args.prune.embed);
    set(&mut options.full_last_block, args.prune.full_last_block);
    let recipe = TrainConfig::paper(DatasetName::Voc, args.keep);
    let mut prune = recipe.prune();
    set(&mut prune.scorer, args.prune.scorer);
    set(&mut prune.domain, args.prune.saliency_domain);
    set(&mut prune.entropy_bins, args.prune.entropy_bins);
    set(&mut prune.round, args.prune.round);

    if engine.gpu.is_some() {
        prune.keep.check_on_card()?;
    }
    let mut vit = Vit::init(config.clone(), options, 0);
    vit.recompute = args.grad_checkpointing;
    let Measured { mut times, kernels, looked } = measure(args, &prune, vit, &recipe, &engine)?;
    if args.turns {
        return Ok(());
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    // A backward pass computes two products for each of the forward's: attention's a little more, the embedding's less.
    let passes = if args.what == What::Train { 3 } else { 1 };
    let flops = 2 * passes * looked.macs / args.steps as u64;
    let units = engine.gpu.as_ref().filter(|gpu| gpu.compute() != Store::F32);
    let peak = units.map_or(Ok(None), |gpu| gpu.peak_flops())?;
    let outcome = Outcome {
        images_per_second: args.batch_size as f64 / median,
        milliseconds: Milliseconds { median: median * 1e3, min: times[0] * 1e3, max: times[times.len() - 1] * 1e3 },
        gflops_per_second: flops as f64 / median / 1e9,
        peak_memory_bytes: if engine.gpu.is_some() { None } else { peak_memory() },
        share_of_peak: peak.map(|peak| flops as f64 / median / peak),
        mean_seq_len: looked.mean_seq_len(),
        kernels,
    };
    if args.json {
        return print::json(&outcome);
    }
    let what = if args.what == What::Train { "training" } else { "inference" };
    let s = looked.mean_seq_len().unwrap_or_default();
    let length = if prune.keep.mass().is_some() { format!("mean S = {s:.1}") } else { format!("S = {s}") };
    print::line(&format!("{what} of {}, {} ({length})", config.name, args.keep.words()))?;
    print::line(&format!("batch {}, {}, {} steps", args.batch_size, engine.words(), args.steps))?;
    let about = if args.what == What::Train { ", a step counted as three forward passes" } else { "" };
    let Milliseconds { median, min, max } = outcome.milliseconds;
    print::line(&format!("{:10.2} images a second", outcome.images_per_second))?;
    print::line(&format!("{median:10.1} ms a step (from {min:.1} to {max:.1})"))?;
    print::line(&format!("{:10.1} GFLOP/s executed{}", outcome.gflops_per_second, about))?;
    if let Some(share) = outcome.share_of_peak {
        print::line(&format!("{:10.1} % of the card's peak", share * 100.0))?;
    }
    if let Some(bytes) = outcome.peak_memory_bytes {
        print::line(&format!("{:10.2} GiB of memory at most", bytes as f64 / 2f64.powi(30)))?;
    }
    if outcome.kernels.is_empty() { Ok(()) } else { bench_kernels::table(&outcome.kernels) }
}

/// What was measured.
struct Measured {
    /// Seconds of each timed step.
    times: Vec<f64>,
    /// Of one more step.
    kernels: Vec<KernelTime>,
    /// In all timed steps.
    looked: Looked,
}

/// Warms up, times the steps, and then looks at the kernels of one more.
fn measure(
    args: &BenchArgs,
    prune: &PruneConfig,
    mut vit: Vit,
    recipe: &TrainConfig,
    engine: &Engine,
) -> Result<Measured> {
    engine.take(&mut vit)?;
    let mut looks = Looks::new(args, prune, vit.config.image_size)?;
    match args.what {
        What::Infer => {
            let mut step = || {
                let look = looks.next(&vit)?;
                let clock = Instant::now();
                let Seen { batch, images, kept } = look.finish(&vit, prune, 0)?;
                let logits = vit.classify(images, &kept)?;
                looks.ahead(&vit, batch)?;
                logits.to_host()?;
                Ok((clock.elapsed().as_secs_f64(), Looked::at(&vit.config, &vit.options, &kept)))
            };
            step()?;
            steps(args, engine, &mut step)
        }
        What::Train => {
            let len = vit.params.flat().len();
            let mut optim = AdamW::new(len, recipe.adamw(), no_decay_ranges(&vit.params, &recipe.no_decay));
            let mut grads = Tensor::zeros(&[len]);
            let mut loss_scale = None;
            if let Some(gpu) = &engine.gpu {
                optim.move_to(gpu)?;
                grads = grads.to_card(gpu)?;
                loss_scale = (gpu.compute() == Store::F16).then(LossScale::default);
            }
            let mut learner =
                Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut loss_scale };
            let mut step = || {
                let look = looks.next(learner.vit)?;
                let clock = Instant::now();
                let seen = look.finish(learner.vit, prune, 0)?;
                let (_, looked, begun) =
                    learner.step_seen(seen, 0, 0.0, recipe.lr, |vit, batch| looks.ahead(vit, batch))?;
                begun?;
                Ok((clock.elapsed().as_secs_f64(), looked, learner.optim.step))
            };
            // A loss scale that is still too large skips updates, which would flatter the time.
            while step()?.2 == 0 {}
            steps(args, engine, &mut || step().map(|(seconds, looked, _)| (seconds, looked)))
        }
    }
}

/// What the steps look at. On a card each look but the first begins while the step before computes, as in training and
/// evaluation. Batches are made, and freed, while no clock runs.
struct Looks<'a> {
    prune: &'a PruneConfig,
    batches: Batches<'a>,
    begun: Option<Look>,
    /// On a card: for the look after `begun`.
    ready: Option<Batch>,
    /// Of the step before.
    done: Option<Batch>,
}

impl<'a> Looks<'a> {
    fn new(args: &'a BenchArgs, prune: &'a PruneConfig, side: usize) -> Result<Self> {
        Ok(Looks { prune, batches: Batches::new(args, side)?, begun: None, ready: None, done: None })
    }

    /// The look of the next step; to be called while no clock runs.
    fn next(&mut self, vit: &Vit) -> Result<Look> {
        let card = vit.params.flat().device() == Device::Cuda;
        // All noise is the same, and on a card a batch is whole after its step.
        let again = self.done.take().filter(|_| card && self.batches.files.is_empty());
        let look = match self.begun.take() {
            Some(look) => look,
            None => Look::begin(vit, self.prune, self.batches.next()?, 0)?,
        };
        if card {
            self.ready = Some(again.map_or_else(|| self.batches.next(), Ok)?);
        }
        Ok(look)
    }

    /// Begins the look after that one on a card, which has all to do; `done` is what the step looked at.
    fn ahead(&mut self, vit: &Vit, done: Batch) -> Result<()> {
        self.done = Some(done);
        self.begun = self.ready.take().map(|batch| Look::begin(vit, self.prune, batch, 0)).transpose()?;
        Ok(())
    }
}

/// The images of the steps: noise, or the files of a folder, over and over.
struct Batches<'a> {
    args: &'a BenchArgs,
    files: Vec<PathBuf>,
    transform: TransformConfig,
    /// Files taken so far.
    taken: usize,
}

impl<'a> Batches<'a> {
    fn new(args: &'a BenchArgs, side: usize) -> Result<Self> {
        let files = match &args.data {
            Some(folder) => {
                let (paths, mut unread) = files(std::slice::from_ref(folder))?;
                unread.verdict(1)?;
                paths
            }
            None => Vec::new(),
        };
        Ok(Batches { args, files, transform: TransformConfig::paper(side), taken: 0 })
    }

    fn next(&mut self) -> Result<Batch> {
        let (b, norm) = (self.args.batch_size, self.transform.norm);
        let mut batch = noise(b, self.transform.image_size, norm, self.args.classes, 0);
        if !self.files.is_empty() {
            let place = |i: usize| &self.files[(self.taken + i) % self.files.len()];
            let load = |i: usize| load_image(place(i), &self.transform);
            let images = (0..b).into_par_iter().map(load).collect::<Result<Vec<_>>>()?;
            (batch.images, batch.rgb) = (Vec::new(), Vec::new());
            for (values, rgb) in images {
                batch.images.extend(values);
                batch.rgb.extend(rgb);
            }
            self.taken += b;
        }
        Ok(batch)
    }
}

/// Times `step`, which tells its seconds and at what it looked.
fn steps(args: &BenchArgs, engine: &Engine, step: &mut dyn FnMut() -> Result<(f64, Looked)>) -> Result<Measured> {
    let (mut times, mut looked, mut kernels) = (Vec::new(), Looked::default(), Vec::new());
    if args.turns {
        print::line(&format!("dynavit {} {}", env!("CARGO_PKG_VERSION"), engine.words()))?;
        // A line that cannot be read ends the turns as the end of the input does.
        for _ in std::io::stdin().lines().map_while(|line| line.ok()) {
            print::line(&step()?.0.to_string())?;
        }
        return Ok(Measured { times, kernels, looked });
    }
    for _ in 0..args.steps {
        let (seconds, images) = step()?;
        times.push(seconds);
        looked.add(images);
    }
    if let (true, Some(gpu)) = (args.kernels, &engine.gpu) {
        // The look that the step before has begun is none of this one's.
        for stream in [gpu.second(), gpu.stream()] {
            stream.synchronise()?;
            stream.begin_profile();
        }
        cuda_driver::reset_counters();
        step()?;
        kernels = bench_kernels::by_kernel(
            gpu,
            &[gpu.second().end_profile()?, gpu.stream().end_profile()?].concat(),
            args.batch_size,
        )?;
    }
    Ok(Measured { times, kernels, looked })
}

/// The most memory that this process has held at a time, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
