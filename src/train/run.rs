//! A run: everything that lives from the first step to the last, begun afresh or picked up from its folder.
#![forbid(unsafe_code)]

use super::Event;
use super::config::TrainConfig;
use crate::checkpoint::{ModelCard, Progress, RunDir, card_of};
use crate::data::Dataset;
use crate::device::Device;
use crate::device::cuda::{Gpu, Store};
use crate::error::{Error, Result};
use crate::eval::Feed;
use crate::model::{DropPath, HeadPolicy, Vit};
use crate::optim::{AdamW, Average, Decay, Schedule, no_decay_ranges, rates};
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What to say of a run that is picked up and saw other pixels.
const OTHER_PIXELS: &str = "the run was begun with another JPEG decoder, whose pixels differ in their last bits: from here on its \
                            numbers are not those of a run that was never stopped";

/// A training run.
pub struct Run {
    pub config: TrainConfig,
    pub dataset: Dataset,
    pub dir: RunDir,
    pub card: ModelCard,
    pub vit: Vit,
    pub progress: Progress,
    /// Threads that decode.
    pub workers: usize,
    /// What the user should know of how the run began.
    pub notes: Vec<String>,
    /// What was found amiss when it was picked up.
    pub troubles: Vec<String>,
    /// The step of the newest checkpoint, once there is one.
    pub saved: Option<u64>,
    pub(super) optim: AdamW,
    pub(super) schedule: Schedule,
    /// The flat gradient, as `vit.params.flat()`.
    pub(super) grads: Tensor,
    /// The sum of the gradients of an update's batches so far, where an update has several.
    pub(super) gathered: Option<Tensor>,
    /// The event file of this process, once it has one.
    pub(super) events: Option<PathBuf>,
    saved_at: Instant,
}

impl Run {
    /// Begins a run in the new folder `root`, which is made only when model and data are in order.
    pub fn start(
        config: TrainConfig,
        dataset: Dataset,
        roots: impl Iterator<Item = PathBuf>,
        workers: usize,
    ) -> Result<Self> {
        config.validate()?;
        let mut notes = Vec::new();
        let vit = fresh_model(&config, &dataset, &mut notes)?;
        let text =
            toml::to_string(&config).map_err(|error| Error::usage("config", error.to_string(), "report this"))?;
        dataset.check_images()?;
        let dir = RunDir::create_first(roots, &text, &dataset.manifest_json()?)?;
        Self::assemble(config, dataset, dir, vit, workers, notes)
    }

    /// Picks up the run in `dir` from its newest sound checkpoint, or from the beginning when it never saved one.
    /// Without `epochs` it goes on to the number that the run was last asked for.
    pub fn resume(
        mut config: TrainConfig,
        dataset: Dataset,
        mut dir: RunDir,
        workers: usize,
        epochs: Option<u32>,
    ) -> Result<Self> {
        config.epochs = epochs.unwrap_or(config.epochs);
        config.validate()?;
        dir.claim()?;
        let manifest = dir.root().join("manifest.json");
        if let Some(difference) = difference(&manifest, &dir.manifest()?, &dataset.manifest_json()?)? {
            return Err(Error::data(
                &dataset.root,
                format!("the images are not those of {}: {difference}", manifest.display()),
                "restore the data or begin a new run",
            ));
        }
        let mut notes = Vec::new();
        let (checkpoint, mut told) = dir.latest()?;
        if !dir.decodes_alike() && dataset.has_jpeg() {
            told.push(OTHER_PIXELS.into());
        }
        let Some(checkpoint) = checkpoint else {
            notes.push("no checkpoint was saved yet: beginning at the first step".into());
            let vit = fresh_model(&config, &dataset, &mut notes)?;
            dir.truncate_metrics(0)?;
            let mut run = Self::assemble(config, dataset, dir, vit, workers, notes)?;
            run.troubles.extend(told);
            return Ok(run);
        };
        let mut shape = config.vit(dataset.classes.len())?;
        // The weights that the run began with decided it, and they need not be there any more.
        shape.layer_scale = card_of(&checkpoint)?.is_some_and(|card| card.model.layer_scale);
        let vit = Vit::init(shape, config.options(), config.seed);
        let mut run = Self::assemble(config, dataset, dir, vit, workers, notes)?;
        run.troubles.extend(told);
        run.progress = run.dir.restore(&checkpoint, &mut run.vit, &mut run.optim)?;
        if epochs.is_none() && run.progress.epochs > 0 {
            run.config.epochs = run.progress.epochs;
        }
        run.schedule = run.config.schedule(run.dataset.train.len());
        if matches!(run.schedule.decay, Decay::Cosine { .. }) && run.progress.epochs != run.config.epochs {
            let (was, now) = (run.progress.epochs, run.config.epochs);
            run.notes.push(format!("the cosine spans {now} epochs from here on, and spanned {was} before"));
        }
        let spans_all = run.config.keeping.keep_schedule.is_some() && run.config.keeping.keep_schedule_epochs.is_none();
        if spans_all && run.progress.epochs != run.config.epochs {
            let (was, now) = (run.progress.epochs, run.config.epochs);
            run.notes.push(format!("the keep schedule spans {now} epochs from here on, and spanned {was} before"));
        }
        // Rows belong to finished epochs; one written for the current epoch is written again when that ends.
        let accum = run.config.recipe.grad_accum;
        let rows =
            run.dir.truncate_metrics(run.progress.step - u64::from(run.progress.batch).div_ceil(accum as u64))?;
        let lost: Vec<String> =
            (1..=run.progress.epoch).filter(|epoch| !rows.contains(epoch)).map(|epoch| epoch.to_string()).collect();
        if !lost.is_empty() {
            run.troubles
                .push(format!("metrics.csv and metrics.jsonl have lost the rows of epochs {}", lost.join(", ")));
        }
        run.mend_best(&checkpoint)?;
        run.saved = Some(run.progress.step);
        run.notes.push(format!(
            "resuming at step {} (epoch {} of {}, {} batches into it)",
            run.progress.step,
            (run.progress.epoch + 1).min(run.config.epochs),
            run.config.epochs,
            run.progress.batch
        ));
        Ok(run)
    }

    /// Makes sure that the best epoch's checkpoint is there, and takes the best of those that are where it is not.
    fn mend_best(&mut self, checkpoint: &Path) -> Result<()> {
        let Some(epoch) = self.progress.best_epoch else { return Ok(()) };
        let (found, faults) = self.dir.mend_best(&self.progress, checkpoint)?;
        if found.as_ref().is_none_or(|best| best.epoch != epoch) {
            let why = if faults.is_empty() { "is gone".into() } else { format!("is lost ({})", faults.join(", ")) };
            let then = match &found {
                Some(best) => {
                    format!("epoch {}, {:.2} %, is the best of those left", best.epoch, 100.0 * best.accuracy)
                }
                None => "the best epoch is found anew".into(),
            };
            let was = 100.0 * self.progress.best_accuracy.unwrap_or(0.0);
            self.troubles.push(format!("the checkpoint of epoch {epoch}, the best with {was:.2} %, {why}: {then}"));
        }
        self.progress.best_epoch = found.as_ref().map(|best| best.epoch);
        self.progress.best_accuracy = found.as_ref().map(|best| best.accuracy);
        Ok(())
    }

    fn assemble(
        config: TrainConfig,
        dataset: Dataset,
        dir: RunDir,
        mut vit: Vit,
        workers: usize,
        notes: Vec<String>,
    ) -> Result<Self> {
        let len = vit.params.flat().len();
        let card = ModelCard {
            model: vit.config.clone(),
            options: vit.options,
            classes: dataset.classes.clone(),
            transform: config.transform(&vit.config),
            prune: config.prune(),
        };
        let mut optim = AdamW::new(len, config.adamw(), no_decay_ranges(&vit.params, &config.no_decay));
        let layers = config.recipe.layers(&vit.config.parameters(), &config.no_decay);
        optim.rates = rates(&layers);
        vit.drop_path = (config.recipe.drop_path > 0.0).then(|| DropPath::new(config.recipe.drop_path, config.seed));
        vit.recompute = config.recipe.grad_checkpointing;
        vit.params.set_operands(config.operands());
        vit.params.freeze(|name| config.recipe.freeze.holds(name));
        optim.clip_grad = config.recipe.clip_grad;
        optim.average = config.recipe.model_ema.then(|| Average::new(config.recipe.model_ema_decay, vit.params.flat()));
        Ok(Run {
            optim,
            schedule: config.schedule(dataset.train.len()),
            grads: Tensor::zeros(&[len]),
            gathered: (config.recipe.grad_accum > 1).then(|| Tensor::zeros(&[len])),
            progress: Progress::default(),
            events: None,
            troubles: dir
                .unlocked()
                .map(|why| {
                    let root = dir.root().display();
                    format!("{root} cannot be locked ({why}): see to it that no other process trains in it")
                })
                .into_iter()
                .collect(),
            saved: None,
            saved_at: Instant::now(),
            config,
            dataset,
            dir,
            card,
            vit,
            workers,
            notes,
        })
    }

    /// Computes on a card from now on: parameters, moments and gradients live there.
    pub fn move_to(&mut self, gpu: &Arc<Gpu>) -> Result<()> {
        self.config.check_on_card()?;
        self.vit.move_to(gpu)?;
        self.optim.move_to(gpu)?;
        self.grads = self.grads.to_card(gpu)?;
        self.gathered = self.gathered.as_ref().map(|sum| sum.to_card(gpu)).transpose()?;
        if self.config.recipe.clip_grad.is_some() {
            self.notes.push("--clip-grad copies the gradient to the host at every update, for its norm".into());
        }
        if gpu.compute() == Store::F16 {
            self.progress.loss_scale.get_or_insert_default();
        } else {
            self.progress.loss_scale = None;
        }
        Ok(())
    }

    /// The card that the run is on, if it is on one.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match self.grads.device() {
            Device::Cpu => None,
            Device::Cuda => Some(self.grads.gpu()),
        }
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        self.dataset.train.len().div_ceil(self.config.batch_size)
    }

    /// Puts the averaged weights in the model's place and the model's in theirs, where an average is kept.
    pub(super) fn swap_average(&mut self) -> Result<()> {
        self.optim.average.as_mut().map_or(Ok(()), |average| self.vit.params.swap(&mut average.values))
    }

    /// Images of the update that the next batch begins; at the end of an epoch fewer than `grad_accum` batches.
    pub(super) fn images_of_update(&self) -> usize {
        let (begin, most) = (self.progress.batch as usize, self.config.recipe.grad_accum);
        let at = |batch: usize| batch.saturating_mul(self.config.batch_size).min(self.dataset.train.len());
        at(begin + most) - at(begin)
    }

    /// How validation and test images are fed.
    pub fn feed(&self) -> Feed<'_> {
        Feed { transform: &self.card.transform, batch_size: self.config.batch_size, workers: self.workers }
    }

    /// True when the validation accuracy has not grown for as many epochs as the run has patience for.
    pub fn out_of_patience(&self) -> bool {
        let since = self.progress.epoch - self.progress.best_epoch.unwrap_or(self.progress.epoch);
        self.config.recipe.patience.is_some_and(|patience| since >= patience)
    }

    /// True when a checkpoint inside the epoch is due; never after its last batch, where the epoch saves anyway.
    pub(super) fn save_is_due(&self) -> bool {
        let minutes = self.config.save_every;
        let by_time = minutes > 0.0 && self.saved_at.elapsed().as_secs_f64() >= minutes * 60.0;
        let by_steps = self.config.save_steps.is_some_and(|steps| self.progress.step.is_multiple_of(steps));
        (by_time || by_steps) && (self.progress.batch as usize) < self.batches()
    }

    /// Writes a checkpoint of the present state. Returns what could not be cleared away.
    pub(super) fn save(&mut self, best: bool) -> Result<Vec<String>> {
        let keep = self.config.keep_checkpoints;
        self.progress.epochs = self.config.epochs;
        // A failed attempt counts too: the next one is due after as long a time again.
        self.saved_at = Instant::now();
        let saved = self.dir.save(&self.vit, &self.optim, &self.progress, &self.card, best, keep)?;
        self.saved = Some(self.progress.step);
        self.saved_at = Instant::now();
        Ok(saved.left)
    }

    /// Saves, and returns the error that ends an interrupted run.
    pub(super) fn interrupted(&mut self, show: &mut dyn FnMut(Event)) -> Result<Error> {
        self.save(false)?.iter().for_each(|what| show(Event::Trouble { what }));
        Ok(self.interruption())
    }

    /// The error that ends an interrupted run whose state is saved.
    pub(super) fn interruption(&self) -> Error {
        Error::Interrupted {
            saved: format!(
                "saved at step {}, go on with `dynavit train --resume {}`",
                self.progress.step,
                self.dir.root().display()
            ),
        }
    }
}

/// The first thing in which a data set differs from the one that a run began with, as their manifests tell; None when it is
/// the same.
fn difference(path: &Path, recorded: &str, now: &str) -> Result<Option<String>> {
    let damaged = || Error::data(path, "the file is damaged", "restore it from a copy, or begin a new run");
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok().filter(|m| m["sha256"].is_string());
    let was = read(recorded).ok_or_else(damaged)?;
    let is = read(now).ok_or_else(|| Error::data(path, "cannot be compared", "report this"))?;
    if was["sha256"] == is["sha256"] {
        return Ok(None);
    }
    for split in ["train", "val", "test"] {
        let entries = |manifest: &serde_json::Value| manifest["splits"][split].as_array().cloned().unwrap_or_default();
        let (was, is) = (entries(&was), entries(&is));
        if let Some((was, is)) = was.iter().zip(&is).find(|(was, is)| was != is) {
            let (was_at, is_at) = (&was["path"], &is["path"]);
            return Ok(Some(match was_at == is_at {
                true => format!("{was_at} ({split}) has changed"),
                false => format!("{was_at} ({split}) was where {is_at} is now"),
            }));
        }
        if was.len() != is.len() {
            return Ok(Some(format!("{split} had {} images, and has {}", was.len(), is.len())));
        }
    }
    Ok(Some("its classes or its name differ".into()))
}

/// The model as the run begins: pretrained weights, or random ones.
fn fresh_model(config: &TrainConfig, dataset: &Dataset, notes: &mut Vec<String>) -> Result<Vit> {
    for (split, samples) in [("training", &dataset.train), ("validation", &dataset.val)] {
        if samples.is_empty() {
            return Err(Error::data(&dataset.root, format!("the {split} split has no image"), "add images"));
        }
    }
    let shape = config.vit(dataset.classes.len())?;
    let Some(path) = &config.weights else {
        return Ok(Vit::init(shape, config.options(), config.seed));
    };
    let (file, card) = crate::checkpoint::resolve(path)?;
    let weights = Weights::open(&file)?;
    let other = card.map(|card| card.classes).filter(|names| !names.is_empty() && *names != dataset.classes);
    let policy = if other.is_some() { HeadPolicy::Renew } else { HeadPolicy::Replace };
    let (vit, report) = Vit::load(shape, config.options(), &weights, policy, config.seed)?;
    match (&report.fresh_head, other) {
        (Some(_), Some(names)) => {
            let (theirs, ours) = (listed(&names), listed(&dataset.classes));
            notes.push(format!(
                "the head starts from random weights: the file's is for {theirs}, and the data have {ours}"
            ));
        }
        (Some(reason), None) => notes.push(format!("the head starts from random weights: {reason}")),
        (None, _) => {}
    }
    notes.extend(report.resampled_note());
    if !report.unexpected.is_empty() {
        notes.push(format!("{} has tensors without a place: {}", file.display(), report.unexpected.join(", ")));
    }
    Ok(vit)
}

/// Names of classes, not all of many.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        0..=SHOWN => names.join(", "),
        more => format!("{} and {} more", names[..SHOWN].join(", "), more - SHOWN),
    }
}
