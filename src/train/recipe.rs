//! The part of a run's settings that goes beyond the paper's recipe, under timm's names.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::optim::{Decay, Freeze, Layer, NoDecay, ScheduleKind, layers};
use serde::{Deserialize, Serialize};

/// Most batches of an update.
const MAX_ACCUM: usize = 1 << 16;

/// Settings that the paper's recipe does without. Their defaults are the paper's recipe, so that a config.toml that says
/// nothing of them still means what it meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Recipe {
    pub schedule: ScheduleKind,
    /// Where a cosine ends.
    pub min_lr: f64,
    /// Epochs (0-based, ascending) at which the multistep schedule decays.
    pub decay_milestones: Vec<u32>,
    /// Where the warm-up begins, as in timm.
    pub warmup_lr: Option<f64>,
    /// Longest gradient, by the L2 norm over all parameters.
    pub clip_grad: Option<f64>,
    /// Batches that make an update.
    pub grad_accum: usize,
    /// Whether a moving average of the weights is kept, validated and exported.
    pub model_ema: bool,
    pub model_ema_decay: f64,
    /// What of the rate each layer leaves to the one before it.
    pub layer_decay: f64,
    pub freeze: Freeze,
    /// Probability that the last block leaves a residual branch of an image out; it rises linearly from the first's 0.
    pub drop_path: f64,
    /// Whether a step keeps only the inputs of the blocks and computes the rest again on the way back.
    pub grad_checkpointing: bool,
    /// Epochs without a better validation accuracy that end the run.
    pub patience: Option<u32>,
    /// Whether event files are written.
    pub tensorboard: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            schedule: ScheduleKind::Step,
            min_lr: 0.0,
            decay_milestones: Vec::new(),
            warmup_lr: None,
            clip_grad: None,
            grad_accum: 1,
            model_ema: false,
            model_ema_decay: 0.9998,
            layer_decay: 1.0,
            freeze: Freeze::None,
            drop_path: 0.0,
            grad_checkpointing: false,
            patience: None,
            tensorboard: false,
        }
    }
}

impl Recipe {
    /// Refuses values that no run at the peak rate `lr` could use, naming the flag.
    pub(super) fn validate(&self, lr: f64) -> Result<()> {
        const RANGE: &str = "the value is out of range";
        let rate = |x: f64| (0.0..=lr).contains(&x);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let ascending = self.decay_milestones.windows(2).all(|pair| pair[0] < pair[1]);
        let checks: [(bool, &str, &str, &str); 13] = [
            (rate(self.min_lr), "--min-lr", RANGE, "a rate from 0 to --lr"),
            (
                self.min_lr == 0.0 || self.schedule == ScheduleKind::Cosine,
                "--min-lr",
                "only the cosine schedule ends at a least rate",
                "--schedule cosine as well, or leave it out",
            ),
            (self.warmup_lr.is_none_or(rate), "--warmup-lr", RANGE, "a rate from 0 to --lr"),
            (
                ascending && self.decay_milestones.first() != Some(&0),
                "--decay-milestones",
                "the epochs do not ascend from 1",
                "ascending epochs, such as 3,6",
            ),
            (
                self.decay_milestones.is_empty() || self.schedule == ScheduleKind::MultiStep,
                "--decay-milestones",
                "only the multistep schedule has milestones",
                "--schedule multistep as well, or leave it out",
            ),
            (
                !self.decay_milestones.is_empty() || self.schedule != ScheduleKind::MultiStep,
                "--schedule multistep",
                "it decays at milestones, and none is given",
                "--decay-milestones, such as 3,6",
            ),
            (self.clip_grad.is_none_or(positive), "--clip-grad", RANGE, "a norm above 0"),
            ((1..=MAX_ACCUM).contains(&self.grad_accum), "--grad-accum", RANGE, "from 1 to 65536 batches"),
            ((0.0..1.0).contains(&self.drop_path), "--drop-path", RANGE, "0 or more and below 1"),
            (
                self.drop_path == 0.0 || self.freeze == Freeze::None,
                "--drop-path",
                "branches of a frozen backbone are not left out",
                "--freeze none as well, or leave it out",
            ),
            (self.patience != Some(0), "--patience", RANGE, "at least 1 epoch"),
            (positive(self.layer_decay) && self.layer_decay <= 1.0, "--layer-decay", RANGE, "above 0 and up to 1"),
            ((0.0..1.0).contains(&self.model_ema_decay), "--model-ema-decay", RANGE, "0 or more and below 1"),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, flag, reason, rule)) => Err(Error::usage(flag, reason, format!("give {rule}"))),
            None => Ok(()),
        }
    }

    /// How each layer of a model with these (name, shape) parameters is trained.
    pub fn layers(&self, parameters: &[(String, Vec<usize>)], no_decay: &[NoDecay]) -> Vec<Layer> {
        layers(parameters, self.layer_decay, self.freeze, no_decay)
    }

    /// How the rate falls in a run of `updates` updates.
    pub(super) fn decay(&self, step_size: u32, gamma: f64, updates: u64) -> Decay {
        match self.schedule {
            ScheduleKind::Constant => Decay::Constant,
            ScheduleKind::Step => Decay::Step { size: step_size, gamma },
            ScheduleKind::MultiStep => Decay::MultiStep { milestones: self.decay_milestones.clone(), gamma },
            ScheduleKind::Cosine => Decay::Cosine { min: self.min_lr, updates },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TrainConfig;
    use super::*;

    #[test]
    fn an_older_file_means_what_it_meant_and_an_unknown_key_is_refused() {
        let config = TrainConfig::sample("70".parse().unwrap());
        let text = toml::to_string(&config).unwrap();
        let ours = toml::Table::try_from(Recipe::default()).unwrap();
        let is_old = |line: &&str| !ours.contains_key(line.split(' ').next().unwrap());
        let old: String = text.lines().filter(is_old).map(|line| format!("{line}\n")).collect();
        assert_eq!(text.lines().count() - old.lines().count(), ours.len());
        assert_eq!(toml::from_str::<TrainConfig>(&old).unwrap(), config);
        let error = toml::from_str::<TrainConfig>(&format!("{old}scedule = 'cosine'\n")).unwrap_err();
        assert!(error.to_string().contains("scedule"), "{error}");
    }
}
