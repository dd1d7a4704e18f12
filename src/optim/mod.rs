//! AdamW over the flat arena, the learning-rate schedule, and which parameters are spared the decay.
#![forbid(unsafe_code)]

mod average;
mod clip;
mod layers;
mod loss_scale;
mod no_decay;
mod schedule;

pub use average::Average;
pub use clip::clip_grad_norm;
pub use layers::{Freeze, Layer, layers, rates};
pub use loss_scale::LossScale;
pub use no_decay::{NoDecay, no_decay_ranges};
pub use schedule::{Decay, Schedule, ScheduleKind};

use crate::device::cuda::Gpu;
use crate::error::{Error, Result};
use crate::ops::adamw::{self, AdamWStep, cuda};
use crate::tape::ParamArena;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// AdamW's constants; PyTorch's defaults but for the decay, which is the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

/// AdamW with moments laid out as the parameter arena.
pub struct AdamW {
    pub config: AdamWConfig,
    /// Ranges of the arena that are not decayed.
    pub no_decay: Vec<Range<usize>>,
    /// The elements that are trained, and their share of the rate.
    pub rates: Vec<(Range<usize>, f64)>,
    /// Running mean of the gradient, (len,).
    pub exp_avg: Tensor,
    /// Running mean of the squared gradient, (len,).
    pub exp_avg_sq: Tensor,
    /// Updates applied so far.
    pub step: u64,
    /// Longest gradient, by the L2 norm over all parameters.
    pub clip_grad: Option<f64>,
    /// The moving average of the parameters, where one is kept.
    pub average: Option<Average>,
}

impl AdamW {
    /// Zero moments for `len` parameters.
    pub fn new(len: usize, config: AdamWConfig, no_decay: Vec<Range<usize>>) -> Self {
        let (exp_avg, exp_avg_sq) = (Tensor::zeros(&[len]), Tensor::zeros(&[len]));
        let rates = vec![(0..len, 1.0)];
        AdamW { config, no_decay, rates, exp_avg, exp_avg_sq, step: 0, clip_grad: None, average: None }
    }

    /// Moves the moments, and the average if there is one, to a card.
    pub fn move_to(&mut self, gpu: &Arc<Gpu>) -> Result<()> {
        self.exp_avg = self.exp_avg.to_card(gpu)?;
        self.exp_avg_sq = self.exp_avg_sq.to_card(gpu)?;
        self.average.as_mut().map_or(Ok(()), |average| average.move_to(gpu))
    }

    /// The scalars of update number `step` at a rate.
    fn hyper(&self, lr: f64, step: u64) -> AdamWStep {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        AdamWStep { lr, beta1, beta2, eps, weight_decay, step }
    }

    /// One update on a card, by gradients that come multiplied by `scale`; nothing when one of them is not finite.
    /// Returns whether the update was applied, once the card has come to it.
    pub fn update_on_card(&mut self, params: &mut ParamArena, grads: &Tensor, scale: f32, lr: f64) -> Result<bool> {
        let flag = self.begin_on_card(params, grads, scale, lr)?;
        self.settle(params, flag)
    }

    /// [`AdamW::update_on_card`] without waiting for the card; what it returns is for [`AdamW::settle`], before the
    /// next.
    pub fn begin_on_card(&mut self, params: &mut ParamArena, grads: &Tensor, scale: f32, lr: f64) -> Result<Tensor> {
        let gpu = grads.gpu();
        let flag = Tensor::zeros_on_card(gpu, &[1])?;
        cuda::check(gpu, grads.floats(), flag.words())?;
        let merged = adamw::merged(&self.no_decay);
        for (part, share) in &self.rates {
            let factors = cuda::factors(&adamw::coefficients(&self.hyper(lr * share, self.step + 1)), scale);
            let factors = Tensor::from_vec(factors.to_vec(), &[cuda::FACTORS]).to_card(gpu)?;
            let spared: Vec<u32> =
                adamw::within(&merged, part).iter().flat_map(|r| [r.start as u32, r.end as u32]).collect();
            let spared = Tensor::indices(gpu, &spared)?;
            if !part.start.is_multiple_of(4) {
                return Err(Error::shape("adamw", format!("a part begins at {}, off the card's fours", part.start)));
            }
            let window = |all: &Tensor| all.window(part.start, &[part.len()]);
            let (flat, grads) = (window(params.flat()), window(grads));
            let (first, second) = (window(&self.exp_avg), window(&self.exp_avg_sq));
            let copy = params.compute().map(window);
            let arenas = cuda::Arenas {
                params: flat.floats(),
                grads: grads.floats(),
                exp_avg: first.floats(),
                exp_avg_sq: second.floats(),
                copy: copy.as_ref().map(Tensor::values),
            };
            cuda::step(gpu, arenas, factors.floats(), flag.words(), spared.words())?;
        }
        Ok(flag)
    }

    /// Whether the update that was begun was applied, once the card has come to it; it counts if so.
    pub fn settle(&mut self, params: &ParamArena, flag: Tensor) -> Result<bool> {
        let applied = flag.gpu().stream().download(flag.words())? == [0];
        self.step += u64::from(applied);
        match &mut self.average {
            Some(average) if applied => average.follow(params.flat(), self.step)?,
            _ => {}
        }
        Ok(applied)
    }

    /// One update of `params` (len,) by `grads` (len,); equals torch.optim.AdamW (decoupled decay, bias correction).
    ///
    /// Panics when the lengths differ or when `params` is shared.
    pub fn update(&mut self, params: &mut Tensor, grads: &Tensor, lr: f64) {
        self.step += 1;
        for (part, share) in self.rates.clone() {
            let hyper = self.hyper(lr * share, self.step);
            let (first, second) = (&mut self.exp_avg, &mut self.exp_avg_sq);
            adamw::step_part(params, grads, first, second, hyper, &self.no_decay, part);
        }
        if let Some(average) = &mut self.average {
            average.follow(params, self.step).expect("nothing fails on the CPU");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Minimises (p - 3)^2 / 2 from p = 0; the first update moves by the rate whatever the gradient's size.
    #[test]
    fn updates_count_up_and_go_downhill() {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let mut optim = AdamW::new(1, config, Vec::new());
        let mut params = Tensor::zeros(&[1]);
        for t in 1..=200 {
            let grads = Tensor::from_vec(vec![params.data()[0] - 3.0], &[1]);
            optim.update(&mut params, &grads, 0.1);
            assert_eq!(optim.step, t);
            if t == 1 {
                approx::assert_relative_eq!(params.data()[0], 0.1, max_relative = 1e-6);
            }
        }
        assert!((params.data()[0] - 3.0).abs() < 0.1, "ended at {}", params.data()[0]);
    }

    #[test]
    fn a_split_sequence_of_updates_equals_an_unbroken_one() {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.05 };
        let grads = |t: usize| Tensor::from_vec(vec![0.3 * t as f32, -1.0, 1e-4], &[3]);
        let start = || Tensor::from_vec(vec![1.0, -2.0, 0.5], &[3]);
        let mut whole = (AdamW::new(3, config, Vec::new()), start());
        for t in 0..6 {
            whole.0.update(&mut whole.1, &grads(t), 1e-3);
        }
        let mut first = (AdamW::new(3, config, Vec::new()), start());
        for t in 0..3 {
            first.0.update(&mut first.1, &grads(t), 1e-3);
        }
        let mut second = AdamW::new(3, config, Vec::new());
        second.exp_avg = Tensor::from_vec(first.0.exp_avg.data().to_vec(), &[3]);
        second.exp_avg_sq = Tensor::from_vec(first.0.exp_avg_sq.data().to_vec(), &[3]);
        second.step = first.0.step;
        for t in 3..6 {
            second.update(&mut first.1, &grads(t), 1e-3);
        }
        assert_eq!(whole.1.data(), first.1.data());
    }
}
