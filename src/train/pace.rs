//! How long a run will take, from a small step that is timed on noise: an estimate to plan with.
#![forbid(unsafe_code)]

use super::{Learner, Stop, TrainConfig};
use crate::data::noise;
use crate::device::cuda::{Gpu, Store};
use crate::error::{Error, Result};
use crate::eval::{Look, Seen};
use crate::flops::macs_executed;
use crate::model::{DropPath, Vit, VitConfig};
use crate::optim::{AdamW, LossScale, no_decay_ranges};
use crate::tensor::Tensor;
use std::sync::Arc;
use std::time::Instant;

/// Images of the timed step, unless a batch has fewer.
const IMAGES: usize = 4;

/// Seconds of a run's parts, on images of noise. Decoding, which runs beside the engine, is left out.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Images of the step that was timed.
    pub images: usize,
    /// Of an image's way forward and back, at the run's keep.
    pub image: f64,
    /// Of an update.
    pub update: f64,
    /// Of an image's prediction.
    pub prediction: f64,
    /// How much more an image costs in the mean over the epochs of a keep schedule.
    pub schedule: f64,
}

impl Pace {
    /// Takes a step to warm up and times another.
    pub fn measure(config: &TrainConfig, shape: &VitConfig, gpu: Option<&Arc<Gpu>>, stop: &Stop) -> Result<Self> {
        let images = config.batch_size.min(IMAGES);
        let mut vit = Vit::init(shape.clone(), config.options(), config.seed);
        vit.drop_path = (config.recipe.drop_path > 0.0).then(|| DropPath::new(config.recipe.drop_path, config.seed));
        vit.params.freeze(|name| config.recipe.freeze.holds(name));
        vit.params.set_operands(config.operands());
        let len = vit.params.flat().len();
        let mut optim = AdamW::new(len, config.adamw(), no_decay_ranges(&vit.params, &config.no_decay));
        let (mut grads, mut loss_scale) = (Tensor::zeros(&[len]), None);
        if let Some(gpu) = gpu {
            vit.move_to(gpu)?;
            optim.move_to(gpu)?;
            grads = grads.to_card(gpu)?;
            loss_scale = (gpu.compute() == Store::F16).then(LossScale::default);
        }
        let batch = || noise(images, shape.image_size, config.norm, shape.classes, config.seed);
        let mut learner = Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut loss_scale };
        let (mut image, mut update) = (0.0, 0.0);
        let prune = config.prune_in(config.epochs);
        for _ in 0..2 {
            if stop.requested() {
                return Err(Error::Interrupted { saved: "nothing was begun".into() });
            }
            let batch = batch();
            let clock = Instant::now();
            learner.gradients(&prune, batch, 0, 0.0, 1.0)?;
            image = clock.elapsed().as_secs_f64() / images as f64;
            let clock = Instant::now();
            learner.update(0.0)?;
            update = clock.elapsed().as_secs_f64();
        }
        let batch = batch();
        let clock = Instant::now();
        let Seen { images: pixels, kept, .. } = Look::at(&vit, &config.prune(), batch, 0)?;
        vit.logits(pixels, &kept)?;
        let prediction = clock.elapsed().as_secs_f64() / images as f64;
        let macs = |epoch: u32| {
            let k = config.keep_in(epoch).count(shape.patches(), config.round);
            macs_executed(shape, &config.options(), k) as f64
        };
        let schedule = (0..config.epochs).map(macs).sum::<f64>() / f64::from(config.epochs) / macs(config.epochs);
        Ok(Pace { images, image, update, prediction, schedule })
    }

    /// Seconds of the whole run: so many training images and updates an epoch, validation after each, one test.
    pub fn seconds(&self, epochs: u32, train: usize, updates: usize, val: usize, test: usize) -> f64 {
        let epoch = train as f64 * self.image * self.schedule + updates as f64 * self.update;
        f64::from(epochs) * (epoch + val as f64 * self.prediction) + test as f64 * self.prediction
    }
}
