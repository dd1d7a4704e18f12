//! The learning rate of every step: StepLR after an optional linear warm-up.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// StepLR after an optional linear warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub lr: f64,
    /// Epochs between decays; 0 for none.
    pub step_size: u32,
    pub gamma: f64,
    /// Steps of linear warm-up from lr/warmup_steps to lr; 0 for none.
    pub warmup_steps: u64,
}

impl Schedule {
    /// The rate at global step `step` (0-based) of epoch `epoch` (0-based).
    ///
    /// Equals torch.optim.lr_scheduler.StepLR, which multiplies by gamma once for each decay, to the last bit;
    /// while step < warmup_steps the share (step + 1) / warmup_steps of it.
    pub fn at(&self, epoch: u32, step: u64) -> f64 {
        let decays = epoch.checked_div(self.step_size).unwrap_or(0);
        let rate = (0..decays).fold(self.lr, |rate, _| rate * self.gamma);
        if step < self.warmup_steps { rate * ((step + 1) as f64 / self.warmup_steps as f64) } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decays_every_step_size_epochs() {
        let schedule = Schedule { lr: 3e-5, step_size: 3, gamma: 0.5, warmup_steps: 0 };
        let rates: Vec<f64> = (0..7).map(|epoch| schedule.at(epoch, 1000)).collect();
        assert_eq!(rates, [3e-5, 3e-5, 3e-5, 1.5e-5, 1.5e-5, 1.5e-5, 0.75e-5]);
    }

    #[test]
    fn warms_up_linearly_and_ends_at_the_full_rate() {
        let schedule = Schedule { lr: 1.0, step_size: 1, gamma: 0.5, warmup_steps: 4 };
        let rates: Vec<f64> = (0..6).map(|step| schedule.at(0, step)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(schedule.at(1, 1), 0.25);
    }

    #[test]
    fn a_step_size_of_zero_never_decays() {
        let schedule = Schedule { lr: 1.0, step_size: 0, gamma: 0.5, warmup_steps: 0 };
        assert_eq!(schedule.at(100, 0), 1.0);
    }
}
