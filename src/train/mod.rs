//! Training, told in order: batches, steps, validation, checkpoint, the next epoch, and at last the test split.
#![forbid(unsafe_code)]

mod augment;
mod config;
mod keeping;
mod memory;
mod pace;
mod recipe;
mod run;
mod signals;

pub use augment::Augmentation;
pub use config::{DatasetName, DeviceName, MAX_THREADS, Precision, TrainConfig};
pub use keeping::{KeepSchedule, Keeping};
pub use memory::Memory;
pub use pace::Pace;
pub use recipe::Recipe;
pub use run::Run;
pub use signals::Stop;

use crate::checkpoint::{EpochMetrics, resolve};
use crate::data::{Batch, Loader, Mode, epoch_order};
use crate::device::Device;
use crate::device::cuda::Store;
use crate::error::{Error, Result};
use crate::eval::{Look, Report, Seen, evaluate};
use crate::flops::Looked;
use crate::model::{HeadPolicy, Vit};
use crate::ops::all_finite;
use crate::ops::cross_entropy::Labels;
use crate::optim::{AdamW, LossScale, clip_grad_norm};
use crate::prune::PruneConfig;
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::time::Instant;

/// What happens in a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// An epoch (0-based) begins, or goes on after `done` batches of it.
    Epoch { epoch: u32, done: u32 },
    /// A step is done. `loss` is the mean over the epoch so far, `images` those of this batch.
    Step { step: u64, images: usize, loss: f64, lr: f64 },
    /// So many images of a split are evaluated.
    Evaluated { split: &'static str, images: usize, of: usize },
    /// An epoch is over and saved.
    EpochEnd { row: &'a EpochMetrics, best: bool },
    /// Something went wrong that does not end the run.
    Trouble { what: &'a str },
    /// The run ends after `epoch` of `epochs` epochs, since the validation accuracy grows no more.
    OutOfPatience { epoch: u32, epochs: u32 },
}

/// What a finished run leaves.
#[derive(Clone, Debug)]
pub struct Summary {
    /// 1-based.
    pub best_epoch: u32,
    pub best_accuracy: f64,
    /// The test split, read once with the best epoch's weights; absent when there is none.
    pub test: Option<Report>,
    /// At what the run looked in training, those before a resume included.
    pub looked: Looked,
}

/// Runs the epochs that are left, then reads the test split. An interrupted run is saved before the error is returned.
pub fn train(run: &mut Run, stop: &Stop, show: &mut dyn FnMut(Event)) -> Result<Summary> {
    while run.progress.epoch < run.config.epochs && !run.out_of_patience() {
        run.dir.drop_outcome()?;
        epoch(run, stop, show)?;
    }
    if run.progress.epoch < run.config.epochs {
        show(Event::OutOfPatience { epoch: run.progress.epoch, epochs: run.config.epochs });
    }
    let (Some(best_epoch), Some(best_accuracy)) = (run.progress.best_epoch, run.progress.best_accuracy) else {
        let reason = "no checkpoint of a best epoch is left";
        return Err(Error::data(
            run.dir.root(),
            reason,
            "name one of its checkpoints to eval, or train on with --epochs",
        ));
    };
    let test = if run.dataset.test.is_empty() { None } else { Some(test(run, stop, show)?) };
    Ok(Summary { best_epoch, best_accuracy, test, looked: run.progress.looked })
}

/// One epoch, from where it stands to its checkpoint.
fn epoch(run: &mut Run, stop: &Stop, show: &mut dyn FnMut(Event)) -> Result<()> {
    let epoch = run.progress.epoch;
    show(Event::Epoch { epoch, done: run.progress.batch });
    let mut loader = Loader::new(
        epoch_order(&run.dataset.train, run.config.seed, epoch),
        run.card.transform.clone(),
        Look::wanted(&run.vit),
        Mode::Train { seed: run.config.seed, epoch },
        run.config.batch_size,
        run.progress.batch as usize,
        run.workers,
    );
    let mut clock = Instant::now();
    let mut begun = Begun::default();
    let prune = run.config.prune_in(epoch);
    let mut ahead = |vit: &Vit| loader.next().map(|batch| Look::begin(vit, &prune, batch?, epoch));
    let mut next = ahead(&run.vit);
    while let Some(look) = next {
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                // The state is good up to here; only the image is not.
                if run.progress.batch > 0 {
                    // The first error says more than one that follows from it.
                    let _ = run.save(false);
                }
                return Err(error);
            }
        };
        let lr = run.schedule.at(epoch, run.progress.step);
        let whole = run.images_of_update();
        let seen = look.finish(&run.vit, &prune, epoch)?;
        let images = seen.batch.labels.len();
        let (loss, looked);
        (loss, looked, next) = step(run, seen, begun.images, whole, lr, &mut ahead)?;
        begun.batches += 1;
        begun.images += images;
        if loss.is_finite() {
            begun.loss += f64::from(loss) * images as f64;
            begun.counted += images;
        }
        begun.looked.add(looked);
        if begun.images < whole {
            if stop.requested() {
                // What is saved stands before this update; a resumed run begins it anew.
                return Err(run.interrupted(show)?);
            }
            continue;
        }
        let Begun { batches, images, loss, counted, looked } = std::mem::take(&mut begun);
        let progress = &mut run.progress;
        progress.batch += batches;
        progress.step += 1;
        progress.loss_sum += loss;
        progress.loss_count += counted as u64;
        progress.epoch_looked.add(looked);
        progress.looked.add(looked);
        progress.epoch_seconds += clock.elapsed().as_secs_f64();
        // Not a number while every batch so far has overflowed.
        let loss = progress.loss_sum / progress.loss_count as f64;
        show(Event::Step { step: progress.step, images, loss, lr });
        if stop.requested() {
            return Err(run.interrupted(show)?);
        }
        if run.save_is_due() {
            match run.save(false) {
                Ok(left) => left.iter().for_each(|what| show(Event::Trouble { what })),
                // The disk may have room again when the next one is due.
                Err(error @ Error::Data { .. }) => {
                    show(Event::Trouble { what: &format!("step {} is not saved: {error}", run.progress.step) });
                }
                Err(error) => return Err(error),
            }
        }
        clock = Instant::now();
    }
    Tensor::release_memory();
    end_epoch(run, stop, show)
}

/// The batches of an update that is not complete yet; `loss` is summed over `counted` images, all but those of batches
/// that overflowed on a card.
#[derive(Default)]
struct Begun {
    batches: u32,
    images: usize,
    loss: f64,
    counted: usize,
    looked: Looked,
}

/// A batch of an update of `whole` images, of which `done` came before; the last one updates. Returns its mean loss, at
/// what the model looked, and what `ahead` gives, which is called when a card has all to do and the host only waits.
fn step<T>(
    run: &mut Run,
    seen: Seen,
    done: usize,
    whole: usize,
    lr: f64,
    ahead: &mut dyn FnMut(&Vit) -> T,
) -> Result<(f32, Looked, T)> {
    let (step, epoch, smoothing) = (run.progress.step, run.progress.epoch, run.config.label_smoothing as f32);
    let (images, gathered) = (seen.batch.labels.len(), &mut run.gathered);
    let loss_scale = &mut run.progress.loss_scale;
    let mut learner = Learner { vit: &mut run.vit, optim: &mut run.optim, grads: &mut run.grads, loss_scale };
    let take = || {
        let (loss, looked, _) = learner.begin_gradients(seen, epoch, smoothing, images as f32 / whole as f32)?;
        let last = done + images == whole;
        if let Some(sum) = gathered.as_mut().filter(|_| images < whole) {
            if done > 0 {
                sum.add(learner.grads)?;
            }
            if done == 0 || last {
                std::mem::swap(sum, learner.grads);
            }
        }
        let update = if last { learner.begin_update(lr, images < whole)? } else { None };
        let next = ahead(learner.vit);
        let loss = learner.value(&loss)?;
        learner.settle(loss, update)?;
        Ok((loss, looked, next))
    };
    take().map_err(|error| match error {
        Error::NonFinite { what, .. } => Error::NonFinite {
            what: format!("{what} of step {} (epoch {})", step + 1, epoch + 1),
            remedy: match run.gpu() {
                Some(gpu) if gpu.compute() == Store::F16 => {
                    format!("use --precision bf16 or f32, whose range is wider, or lower --lr (now {lr:.1e})")
                }
                _ => format!("lower --lr (now {lr:.1e}) or warm up longer with --warmup-epochs"),
            },
        },
        other => other,
    })
}

/// What a step changes: the model, its optimiser, and room for the gradient, laid out as the parameters.
pub struct Learner<'a> {
    pub vit: &'a mut Vit,
    pub optim: &'a mut AdamW,
    pub grads: &'a mut Tensor,
    /// Present where gradients are f16.
    pub loss_scale: &'a mut Option<LossScale>,
}

impl Learner<'_> {
    /// One step: score, prune, forward, backward, update. Returns the mean loss of the batch. A loss or gradient that
    /// is not finite is an error, and nothing is updated. With a loss scale such a gradient halves it instead, as
    /// torch's `GradScaler` does; such a loss leaves the scale, which is not to blame, and is an error when it comes
    /// too often.
    pub fn step(&mut self, prune: &PruneConfig, batch: Batch, epoch: u32, smoothing: f32, lr: f64) -> Result<f32> {
        Ok(self.step_looking(prune, batch, epoch, smoothing, lr)?.0)
    }

    /// [`Learner::step`], which also returns at what the model looked.
    pub fn step_looking(
        &mut self,
        prune: &PruneConfig,
        batch: Batch,
        epoch: u32,
        smoothing: f32,
        lr: f64,
    ) -> Result<(f32, Looked)> {
        let seen = Look::at(self.vit, prune, batch, epoch)?;
        self.step_seen(seen, epoch, smoothing, lr, |_, batch| drop(batch)).map(|(loss, looked, ())| (loss, looked))
    }

    /// [`Learner::step_looking`] for a look that was begun before. `ahead` gets the batch back when a card has all to do and
    /// the host only waits; what it gives is returned.
    pub fn step_seen<T>(
        &mut self,
        seen: Seen,
        epoch: u32,
        smoothing: f32,
        lr: f64,
        ahead: impl FnOnce(&Vit, Batch) -> T,
    ) -> Result<(f32, Looked, T)> {
        let (loss, looked, batch) = self.begin_gradients(seen, epoch, smoothing, 1.0)?;
        let begun = self.begin_update(lr, false)?;
        let next = ahead(self.vit, batch);
        let loss = self.value(&loss)?;
        self.settle(loss, begun)?;
        Ok((loss, looked, next))
    }

    /// Score, prune, forward, backward: leaves the gradient of `share` times the loss, times the loss scale, in
    /// `grads`. Returns the mean loss of the batch and at what the model looked; an error when the loss is not finite and there is no
    /// loss scale, or on the CPU a gradient is not finite.
    pub fn gradients(
        &mut self,
        prune: &PruneConfig,
        batch: Batch,
        epoch: u32,
        smoothing: f32,
        share: f32,
    ) -> Result<(f32, Looked)> {
        let seen = Look::at(self.vit, prune, batch, epoch)?;
        let (loss, looked, _) = self.begin_gradients(seen, epoch, smoothing, share)?;
        Ok((self.value(&loss)?, looked))
    }

    /// A loss (1,), once it is there.
    fn value(&self, loss: &Tensor) -> Result<f32> {
        let loss = loss.to_host()?.data()[0];
        if loss.is_finite() || self.loss_scale.is_some() { Ok(loss) } else { Err(blame("the loss")) }
    }

    /// [`Learner::gradients`] without waiting for a card: the loss (1,) is where the model is. On the CPU a loss or a gradient that
    /// is not finite is an error; on a card the gradient is then not finite either, and the update does nothing. Returns the
    /// batch too.
    fn begin_gradients(
        &mut self,
        seen: Seen,
        epoch: u32,
        smoothing: f32,
        share: f32,
    ) -> Result<(Tensor, Looked, Batch)> {
        let Seen { batch, images, kept } = seen;
        let looked = Looked::at(&self.vit.config, &self.vit.options, &kept);
        let targets = Labels { own: &batch.labels, mixed: batch.mixed.as_ref() };
        if let Some(drop) = &mut self.vit.drop_path {
            drop.draw(self.vit.config.depth, epoch, &batch.ids);
        }
        let scale = share * self.loss_scale.map_or(1.0, |scale| scale.scale);
        let (loss, _, finite) = self.vit.gradients(images, &kept, targets, smoothing, scale, self.grads)?;
        if loss.device() == Device::Cpu {
            self.value(&loss)?;
            if !finite {
                return Err(blame("a gradient"));
            }
        }
        Ok((loss, looked, batch))
    }

    /// Updates the model by `grads`, which come with the loss scale, clipped when the optimiser is told to. A gradient that is not finite
    /// is treated as in [`Learner::step`].
    pub fn update(&mut self, lr: f64) -> Result<()> {
        let begun = self.begin_update(lr, true)?;
        self.settle(0.0, begun)
    }

    /// [`Learner::update`], for [`Learner::settle`] to wait for where a card does it. On the CPU gradients are looked at where they are
    /// not just as [`Learner::gradients`], which looked at them, has left them.
    fn begin_update(&mut self, lr: f64, look: bool) -> Result<Option<Tensor>> {
        let mut scale = self.loss_scale.map_or(1.0, |scale| scale.scale);
        if self.grads.device() == Device::Cpu && (look || cfg!(debug_assertions)) && !all_finite::check(self.grads) {
            assert!(look, "a gradient that is not finite was not seen as it was made");
            return Err(blame("a gradient"));
        }
        if let Some(max) = self.optim.clip_grad {
            scale = clip_grad_norm(self.grads, max, scale)?;
        }
        match self.grads.device() {
            Device::Cpu => {
                self.optim.update(self.vit.params.flat_mut(), self.grads, lr);
                Ok(None)
            }
            Device::Cuda => self.optim.begin_on_card(&mut self.vit.params, self.grads, scale, lr).map(Some),
        }
    }

    /// Waits for an update that a card was told after a loss, and lets the loss scale follow.
    fn settle(&mut self, loss: f32, begun: Option<Tensor>) -> Result<()> {
        let applied = begun.map(|flag| self.optim.settle(&self.vit.params, flag)).transpose()?;
        if let Some(scale) = self.loss_scale {
            scale.lost = if loss.is_finite() { 0 } else { scale.lost + 1 };
            if scale.lost > LossScale::MOST_LOST {
                return Err(blame("the loss, many times in a row,"));
            }
        }
        let Some(applied) = applied.filter(|_| loss.is_finite()) else { return Ok(()) };
        match self.loss_scale {
            Some(scale) => scale.after(applied),
            None if !applied => return Err(blame("a gradient")),
            None => {}
        }
        if self.loss_scale.is_some_and(|scale| scale.is_spent()) {
            return Err(blame("a gradient, at every loss scale,"));
        }
        Ok(())
    }
}

/// The error of numbers that are not finite.
fn blame(what: &str) -> Error {
    Error::NonFinite { what: what.into(), remedy: "lower the rate".into() }
}

/// Validates, and makes the epoch count: progress, checkpoint, metrics.
fn end_epoch(run: &mut Run, stop: &Stop, show: &mut dyn FnMut(Event)) -> Result<()> {
    run.swap_average()?;
    let report = watched(run, &run.vit, "val", stop, show);
    run.swap_average()?;
    let report = match report {
        Err(Error::Interrupted { .. }) => return Err(run.interrupted(show)?),
        Err(error) => {
            // The epoch's training is good; the first error says more than one that follows from it.
            let _ = run.save(false);
            return Err(error);
        }
        Ok(report) => report,
    };
    // Validation packed every weight a second time; training packs as it goes.
    run.vit.params.forget_panels();
    Tensor::release_memory();
    let progress = &mut run.progress;
    let row = EpochMetrics {
        epoch: progress.epoch + 1,
        step: progress.step,
        lr: run.schedule.at(progress.epoch, progress.step.saturating_sub(1)),
        train_loss: progress.loss_sum / progress.loss_count as f64,
        val_loss: report.loss(),
        val_accuracy: report.accuracy(),
        images_per_second: progress.epoch_looked.images as f64 / progress.epoch_seconds.max(1e-9),
        keep: Some(run.config.keep_in(progress.epoch)),
        mean_seq_len: progress.epoch_looked.mean_seq_len(),
        macs_executed: progress.epoch_looked.mean_macs(),
    };
    let best = progress.best_accuracy.is_none_or(|best| row.val_accuracy > best);
    if best {
        progress.best_accuracy = Some(row.val_accuracy);
        progress.best_epoch = Some(row.epoch);
    }
    progress.epoch += 1;
    progress.batch = 0;
    (progress.loss_sum, progress.loss_count, progress.epoch_seconds) = (0.0, 0, 0.0);
    progress.epoch_looked = Looked::default();
    // The row goes first: a run killed before the checkpoint drops it again on resume, while a row never written is
    // lost.
    run.dir.append_metrics(&row)?;
    if run.config.recipe.tensorboard {
        run.dir.append_event(&mut run.events, &row)?;
    }
    let left = run.save(best)?;
    left.iter().for_each(|what| show(Event::Trouble { what }));
    show(Event::EpochEnd { row: &row, best });
    if stop.requested() && run.progress.epoch < run.config.epochs && !run.out_of_patience() {
        return Err(run.interruption());
    }
    Ok(())
}

/// The test split under the best epoch's weights.
fn test(run: &Run, stop: &Stop, show: &mut dyn FnMut(Event)) -> Result<Report> {
    let (path, _) = resolve(run.dir.root())?;
    let weights = Weights::open(&path)?;
    let (mut vit, _) =
        Vit::load(run.vit.config.clone(), run.vit.options, &weights, HeadPolicy::Require, run.config.seed)?;
    vit.params.set_operands(run.config.operands());
    if let Some(gpu) = run.gpu() {
        vit.move_to(gpu)?;
    }
    match watched(run, &vit, "test", stop, show) {
        Err(Error::Interrupted { .. }) => Err(run.interruption()),
        other => other,
    }
}

/// Evaluates a split, telling how far it is and giving up when asked to stop.
fn watched(run: &Run, vit: &Vit, split: &'static str, stop: &Stop, show: &mut dyn FnMut(Event)) -> Result<Report> {
    let samples = if split == "test" { &run.dataset.test } else { &run.dataset.val };
    evaluate(vit, &run.card.prune, samples, run.feed(), &mut |images| {
        show(Event::Evaluated { split, images, of: samples.len() });
        if stop.requested() && images < samples.len() {
            return Err(Error::Interrupted { saved: String::new() });
        }
        Ok(())
    })
}
