//! The learning rate of every update: constant, in steps, or along a cosine, after an optional linear warm-up.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// The kinds of schedule, by timm's names where timm has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Down by --gamma every --step-size epochs
    #[default]
    Step,
    /// Down a half cosine to --min-lr, update by update
    Cosine,
    /// Down by --gamma at each epoch of --decay-milestones
    MultiStep,
    /// The same rate throughout
    Constant,
}

/// How the rate falls from its peak.
#[derive(Clone, Debug, PartialEq)]
pub enum Decay {
    /// Not at all.
    Constant,
    /// By `gamma` every `size` epochs, 0 for never: torch.optim.lr_scheduler.StepLR.
    Step { size: u32, gamma: f64 },
    /// By `gamma` at each milestone, an epoch (0-based, ascending): torch.optim.lr_scheduler.MultiStepLR. timm's scheduler
    /// of that name decays one epoch earlier.
    MultiStep { milestones: Vec<u32>, gamma: f64 },
    /// At update t of T, `min + (lr - min) (1 + cos(pi t / T)) / 2`, and `min` from T on: timm's CosineLRScheduler of one
    /// cycle stepped by updates (`t_initial` T, no `warmup_prefix`, so a warm-up takes the place of the curve's beginning),
    /// and the closed form of torch.optim.lr_scheduler.CosineAnnealingLR.
    Cosine { min: f64, updates: u64 },
}

/// The rate of every update.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The peak.
    pub lr: f64,
    pub decay: Decay,
    /// Updates of linear warm-up; 0 for none.
    pub warmup_steps: u64,
    /// Where the warm-up begins, as timm's `warmup_lr`; without it the first update gets lr/warmup_steps.
    pub warmup_lr: Option<f64>,
}

impl Schedule {
    /// The rate at update `step` (0-based, over all epochs) of epoch `epoch` (0-based).
    ///
    /// Of a warm-up of W updates, update t has `warmup_lr + t (lr - warmup_lr) / W` as in timm, so that update W is the
    /// first at the peak; without `warmup_lr` it has the share (t + 1) / W of what the decay gives.
    pub fn at(&self, epoch: u32, step: u64) -> f64 {
        let warming = step < self.warmup_steps;
        if let (true, Some(first)) = (warming, self.warmup_lr) {
            return first + step as f64 * ((self.lr - first) / self.warmup_steps as f64);
        }
        // One product a fall, until a fall changes nothing any more.
        let falls = |times: usize, gamma: f64| {
            let mut rate = self.lr;
            for _ in 0..times {
                let next = rate * gamma;
                if next == rate {
                    break;
                }
                rate = next;
            }
            rate
        };
        let rate = match &self.decay {
            Decay::Constant => self.lr,
            Decay::Step { size, gamma } => falls(epoch.checked_div(*size).unwrap_or(0) as usize, *gamma),
            Decay::MultiStep { milestones, gamma } => falls(milestones.iter().filter(|&&m| m <= epoch).count(), *gamma),
            Decay::Cosine { min, updates } if step >= *updates => *min,
            Decay::Cosine { min, updates } => {
                let turn = std::f64::consts::PI * step as f64 / *updates as f64;
                min + 0.5 * (self.lr - min) * (1.0 + libm::cos(turn))
            }
        };
        if warming { rate * ((step + 1) as f64 / self.warmup_steps as f64) } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay, warmup_steps: u64) -> Schedule {
        Schedule { lr: 1.0, decay, warmup_steps, warmup_lr: None }
    }

    #[test]
    fn decays_every_step_size_epochs() {
        let schedule = Schedule { lr: 3e-5, ..schedule(Decay::Step { size: 3, gamma: 0.5 }, 0) };
        let rates: Vec<f64> = (0..7).map(|epoch| schedule.at(epoch, 1000)).collect();
        assert_eq!(rates, [3e-5, 3e-5, 3e-5, 1.5e-5, 1.5e-5, 1.5e-5, 0.75e-5]);
    }

    #[test]
    fn warms_up_linearly_and_ends_at_the_full_rate() {
        let schedule = schedule(Decay::Step { size: 1, gamma: 0.5 }, 4);
        let rates: Vec<f64> = (0..6).map(|step| schedule.at(0, step)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(schedule.at(1, 1), 0.25);
    }

    #[test]
    fn a_step_size_of_zero_never_decays() {
        assert_eq!(schedule(Decay::Step { size: 0, gamma: 0.5 }, 0).at(100, 0), 1.0);
        assert_eq!(schedule(Decay::Constant, 0).at(100, 12_345), 1.0);
    }

    #[test]
    fn a_cosine_begins_at_the_peak_and_stays_at_the_least_rate() {
        let cosine = schedule(Decay::Cosine { min: 0.1, updates: 10 }, 0);
        let rates: Vec<f64> = (0..12).map(|step| cosine.at(0, step)).collect();
        assert_eq!((rates[0], rates[10], rates[11]), (1.0, 0.1, 0.1));
        assert!(rates.windows(2).all(|pair| pair[1] <= pair[0]), "{rates:?}");
        approx::assert_relative_eq!(rates[5], 0.55, max_relative = 1e-15);
    }

    /// Reference rates of timm and torch; both work in f64, in an order of their own.
    #[test]
    fn rates_are_those_of_timm_and_torch() {
        let fixture: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/recipe.json")).unwrap();
        for case in fixture["schedules"].as_array().unwrap() {
            let number = |key: &str| case[key].as_f64();
            let whole = |key: &str| case[key].as_u64().unwrap();
            let decay = match case["kind"].as_str().unwrap() {
                "cosine" => Decay::Cosine { min: number("min_lr").unwrap(), updates: whole("updates") },
                "multistep" => Decay::MultiStep {
                    milestones: serde_json::from_value(case["milestones"].clone()).unwrap(),
                    gamma: number("gamma").unwrap(),
                },
                _ => Decay::Step { size: whole("step_size") as u32, gamma: number("gamma").unwrap() },
            };
            let schedule = Schedule {
                lr: number("lr").unwrap(),
                decay,
                warmup_steps: whole("warmup_steps"),
                warmup_lr: number("warmup_lr"),
            };
            for (t, want) in case["rates"].as_array().unwrap().iter().enumerate() {
                let rate = schedule.at((t as u64 / whole("updates_per_epoch")) as u32, t as u64);
                approx::assert_relative_eq!(rate, want.as_f64().unwrap(), max_relative = 1e-14);
            }
        }
    }
}
