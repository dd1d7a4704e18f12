//! The part of a run's settings that augments training images, under timm's names.
#![forbid(unsafe_code)]

use crate::data::{Augment, Erase, EraseMode, Mix, RandAugment};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most boxes that random erasing may draw.
const MAX_BOXES: u32 = 100;

/// Augmentation beyond the paper's. The defaults are none, so that a config.toml that says nothing of it still means what
/// it meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Augmentation {
    pub crop_ratio: [f64; 2],
    pub vflip: f64,
    pub color_jitter: f64,
    pub grayscale_prob: f64,
    pub aa: Option<RandAugment>,
    pub reprob: f64,
    pub remode: EraseMode,
    pub recount: u32,
    pub mixup: f64,
    pub cutmix: f64,
    pub mixup_prob: f64,
    pub mixup_switch_prob: f64,
    pub mixup_off_epoch: u32,
}

impl Default for Augmentation {
    fn default() -> Self {
        let (erase, mix) = (Erase::default(), Mix::default());
        Augmentation {
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            vflip: 0.0,
            color_jitter: 0.0,
            grayscale_prob: 0.0,
            aa: None,
            reprob: erase.prob,
            remode: erase.mode,
            recount: erase.count,
            mixup: mix.mixup,
            cutmix: mix.cutmix,
            mixup_prob: mix.prob,
            mixup_switch_prob: mix.switch_prob,
            mixup_off_epoch: mix.off_epoch,
        }
    }
}

impl Augmentation {
    /// Refuses values that no run with batches of `batch_size` could use, naming the flag.
    pub(super) fn validate(&self, batch_size: usize) -> Result<()> {
        const RANGE: &str = "the value is out of range";
        let natural = |x: f64| x.is_finite() && x >= 0.0;
        let chance = |x: f64| (0.0..=1.0).contains(&x);
        let [low, high] = self.crop_ratio;
        let mixes = if self.mixup > 0.0 { "--mixup" } else { "--cutmix" };
        let checks: [(bool, &str, &str, &str); 12] = [
            (0.0 < low && low <= high && high.is_finite(), "--crop-ratio", RANGE, "two numbers A,B with 0 < A <= B"),
            (chance(self.vflip), "--vflip", RANGE, "a probability from 0 to 1"),
            (natural(self.color_jitter), "--color-jitter", RANGE, "0 or more"),
            (
                self.color_jitter == 0.0 || self.aa.is_none(),
                "--color-jitter",
                "RandAugment (--aa) changes colours already, and takes its place in timm too",
                "one of the two",
            ),
            (chance(self.grayscale_prob), "--grayscale-prob", RANGE, "a probability from 0 to 1"),
            (chance(self.reprob), "--reprob", RANGE, "a probability from 0 to 1"),
            ((1..=MAX_BOXES).contains(&self.recount), "--recount", RANGE, "from 1 to 100 boxes"),
            (natural(self.mixup), "--mixup", RANGE, "0 or more"),
            (natural(self.cutmix), "--cutmix", RANGE, "0 or more"),
            (chance(self.mixup_prob), "--mixup-prob", RANGE, "a probability from 0 to 1"),
            (chance(self.mixup_switch_prob), "--mixup-switch-prob", RANGE, "a probability from 0 to 1"),
            (
                batch_size > 1 || (self.mixup == 0.0 && self.cutmix == 0.0),
                mixes,
                "with --batch-size 1 an image has none to be mixed with",
                "a larger --batch-size",
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, flag, reason, rule)) => Err(Error::usage(flag, reason, format!("give {rule}"))),
            None => Ok(()),
        }
    }

    /// What the loader does.
    pub(super) fn augment(&self) -> Augment {
        Augment {
            vflip: self.vflip,
            color_jitter: self.color_jitter,
            grayscale: self.grayscale_prob,
            rand: self.aa,
            erase: Erase { prob: self.reprob, mode: self.remode, count: self.recount },
            mix: Mix {
                mixup: self.mixup,
                cutmix: self.cutmix,
                prob: self.mixup_prob,
                switch_prob: self.mixup_switch_prob,
                off_epoch: self.mixup_off_epoch,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::TrainConfig;
    use toml::Table;

    #[test]
    fn a_config_from_before_there_was_augmentation_means_none() {
        let config = TrainConfig::sample("70".parse().unwrap());
        let mut table = Table::try_from(&config).unwrap();
        let whole = table.len();
        for key in Table::try_from(Augmentation::default()).unwrap().keys() {
            table.remove(key).unwrap();
        }
        assert!(table.len() + 10 < whole);
        assert_eq!(table.clone().try_into::<TrainConfig>().unwrap(), config);
        table.insert("mix-up".into(), 0.8.into());
        assert!(table.try_into::<TrainConfig>().unwrap_err().to_string().contains("mix-up"));
    }

    #[test]
    fn unusable_values_are_usage_errors_that_name_the_flag() {
        let none = Augmentation::default;
        assert!(none().validate(1).is_ok());
        let aa = Some("rand-m9".parse().unwrap());
        let bad = [
            ("--crop-ratio", Augmentation { crop_ratio: [2.0, 1.0], ..none() }),
            ("--crop-ratio", Augmentation { crop_ratio: [0.0, 1.0], ..none() }),
            ("--vflip", Augmentation { vflip: 1.1, ..none() }),
            ("--color-jitter", Augmentation { color_jitter: f64::INFINITY, ..none() }),
            ("--color-jitter", Augmentation { color_jitter: 0.4, aa, ..none() }),
            ("--grayscale-prob", Augmentation { grayscale_prob: -0.1, ..none() }),
            ("--reprob", Augmentation { reprob: f64::NAN, ..none() }),
            ("--recount", Augmentation { recount: 0, ..none() }),
            ("--mixup", Augmentation { mixup: -1.0, ..none() }),
            ("--cutmix", Augmentation { cutmix: f64::NAN, ..none() }),
            ("--mixup-prob", Augmentation { mixup_prob: 2.0, ..none() }),
            ("--mixup-switch-prob", Augmentation { mixup_switch_prob: -1.0, ..none() }),
            ("--mixup", Augmentation { mixup: 0.8, ..none() }),
            ("--cutmix", Augmentation { cutmix: 1.0, ..none() }),
        ];
        for (flag, augment) in bad {
            let error = augment.validate(1).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(flag), "{error}");
        }
        assert!(Augmentation { mixup: 0.8, cutmix: 1.0, aa, ..none() }.validate(2).is_ok());
    }
}
