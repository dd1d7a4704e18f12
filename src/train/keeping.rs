//! The part of a run's settings that says how much is kept when: a keep that changes over epochs, and that of evaluation.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::prune::Keep;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much is kept where it is not the run's keep all along. The defaults change nothing, so that a config.toml that
/// says nothing of it still means what it meant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Keeping {
    pub keep_schedule: Option<KeepSchedule>,
    /// Epochs after which the schedule has reached the run's keep; all epochs when absent.
    pub keep_schedule_epochs: Option<u32>,
    /// What validation, test and the checkpoint keep; the run's keep when absent.
    pub val_keep: Option<Keep>,
}

/// Where the keep of the first epoch begins, and how it goes from there to the run's.
///
/// Parsed by `FromStr`: a keep, as "100" or "mass:1", after "linear:" (the default) or "cosine:".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepSchedule {
    pub from: Keep,
    cosine: bool,
}

const LINEAR: &str = "linear:";
const COSINE: &str = "cosine:";

impl KeepSchedule {
    /// The keep of an epoch (0-based): `from` in the first, `to` from epoch number `epochs` on. Between them it changes
    /// from epoch to epoch by equal steps, or by half a cosine, to the nearest millionth.
    pub fn at(&self, to: Keep, epoch: u32, epochs: u32) -> Keep {
        let last = u64::from(epochs.max(1) - 1);
        let epoch = u64::from(epoch);
        if epoch >= last {
            return to;
        }
        let (a, b) = (i128::from(self.from.millionths()), i128::from(to.millionths()));
        let value = if self.cosine {
            let left = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * epoch as f64 / last as f64));
            b + ((a - b) as f64 * left).round() as i128
        } else {
            let (way, last) = ((b - a) * i128::from(epoch), i128::from(last));
            a + (2 * way + last).div_euclid(2 * last)
        };
        to.with_millionths(value.max(1) as u64)
    }
}

impl std::str::FromStr for KeepSchedule {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim();
        let (cosine, from) = match (text.strip_prefix(COSINE), text.strip_prefix(LINEAR)) {
            (Some(from), _) => (true, from),
            (None, from) => (false, from.unwrap_or(text)),
        };
        Ok(KeepSchedule { from: from.parse()?, cosine })
    }
}

impl std::fmt::Display for KeepSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.cosine { COSINE } else { LINEAR }, self.from)
    }
}

impl Serialize for KeepSchedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepSchedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Keeping {
    /// What an epoch (0-based) of a run of `epochs` epochs trains on.
    pub(super) fn in_epoch(&self, keep: Keep, epoch: u32, epochs: u32) -> Keep {
        let epochs = self.keep_schedule_epochs.unwrap_or(epochs);
        self.keep_schedule.map_or(keep, |schedule| schedule.at(keep, epoch, epochs))
    }

    /// Refuses what no run that ends at `keep` could use, naming the flag.
    pub(super) fn validate(&self, keep: Keep) -> Result<()> {
        let kinds_differ = |from: Keep| from.mass().is_some() != keep.mass().is_some();
        if let Some(KeepSchedule { from, .. }) = self.keep_schedule.filter(|schedule| kinds_differ(schedule.from)) {
            let reason =
                format!("nothing lies between {from} and {keep}, a share of the patches and one of the saliency");
            return Err(Error::usage("--keep-schedule", reason, "give two percentages, or two masses"));
        }
        match (self.keep_schedule, self.keep_schedule_epochs) {
            (None, Some(_)) => {
                let reason = "there is no schedule whose epochs it could be";
                Err(Error::usage("--keep-schedule-epochs", reason, "give --keep-schedule as well, or leave it out"))
            }
            (_, Some(0 | 1)) => {
                let reason = "the schedule has no epoch to begin in";
                Err(Error::usage("--keep-schedule-epochs", reason, "give at least 2"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(schedule: &str, to: &str, epochs: u32) -> Vec<String> {
        let (schedule, to): (KeepSchedule, Keep) = (schedule.parse().unwrap(), to.parse().unwrap());
        (0..epochs + 1).map(|epoch| schedule.at(to, epoch, epochs).to_string()).collect()
    }

    #[test]
    fn it_begins_at_its_keep_and_ends_at_the_runs() {
        assert_eq!(shown("100", "70", 4), ["100", "90", "80", "70", "70"]);
        assert_eq!(shown("cosine:100", "70", 3), ["100", "85", "70", "70"]);
        assert_eq!(shown("linear:mass:1", "mass:0.9", 3), ["mass:1", "mass:0.95", "mass:0.9", "mass:0.9"]);
        // It may rise too; thirds are rounded to millionths.
        assert_eq!(shown("30", "40", 4), ["30", "33.333333", "36.666667", "40", "40"]);
        assert_eq!(shown("100", "70", 1), ["70", "70"]);
    }

    #[test]
    fn text_goes_there_and_back() {
        for (text, shown) in
            [("100", "linear:100"), ("cosine:62.50", "cosine:62.5"), ("linear:mass:1", "linear:mass:1")]
        {
            let schedule: KeepSchedule = text.parse().unwrap();
            assert_eq!(schedule.to_string(), shown);
            assert_eq!(shown.parse::<KeepSchedule>().unwrap(), schedule);
        }
        for text in ["", "cosine", "cosine:", "quadratic:100", "100:70", "0", "mass:2"] {
            assert!(text.parse::<KeepSchedule>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let keeping = |schedule: Option<&str>, epochs| Keeping {
            keep_schedule: schedule.map(|text| text.parse().unwrap()),
            keep_schedule_epochs: epochs,
            val_keep: None,
        };
        let keep: Keep = "70".parse().unwrap();
        assert!(keeping(Some("100"), Some(2)).validate(keep).is_ok());
        for wrong in [keeping(Some("mass:1"), None), keeping(None, Some(3)), keeping(Some("100"), Some(1))] {
            assert_eq!(wrong.validate(keep).unwrap_err().exit_code(), 2);
        }
    }

    proptest! {
        #[test]
        fn every_epoch_lies_between_the_ends(
            from in 1u64..=100_000_000, to in 1u64..=100_000_000, epochs in 1u32..40, cosine: bool,
        ) {
            let [from, to] = [from, to].map(|value| Keep::ALL.with_millionths(value));
            let schedule = KeepSchedule { from, cosine };
            let values: Vec<u64> = (0..epochs).map(|epoch| schedule.at(to, epoch, epochs).millionths()).collect();
            let falls = from.millionths() >= to.millionths();
            let onwards = |pair: &[u64]| (pair[0] >= pair[1]) == falls || pair[0] == pair[1];
            prop_assert!(values.windows(2).all(onwards));
            prop_assert!(epochs == 1 || values[0] == from.millionths());
            prop_assert_eq!(values[values.len() - 1], to.millionths());
        }
    }
}
