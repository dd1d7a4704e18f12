//! What `train` prints at the end: of one run, or of one run a seed with mean and deviation.
#![forbid(unsafe_code)]

use super::print;
use super::train::TrainArgs;
use crate::error::{Error, Result};
use crate::prune::Keep;
use crate::train::{Run, Summary};
use serde::Serialize;
use std::path::Path;

/// The result of a run as `--json` prints it.
#[derive(Serialize)]
pub struct Outcome {
    run: String,
    model: String,
    #[serde(serialize_with = "Keep::shown")]
    keep: Keep,
    /// What validation and test kept, to which the accuracies belong.
    #[serde(serialize_with = "Keep::shown")]
    val_keep: Keep,
    seed: u64,
    epochs: u32,
    best_epoch: u32,
    best_val_accuracy: f64,
    test_accuracy: Option<f64>,
    test_loss: Option<f64>,
    /// Mean S of the training images, and of their forward passes' executed multiply-adds.
    mean_seq_len: Option<f64>,
    macs_executed: Option<f64>,
    /// The same of the test images.
    test_mean_seq_len: Option<f64>,
    test_macs_executed: Option<f64>,
    #[serde(skip)]
    lengths_differ: bool,
}

impl Outcome {
    /// What a finished run comes to.
    pub fn of(run: &Run, summary: &Summary) -> Self {
        let test = summary.test.as_ref();
        Outcome {
            run: run.dir.root().display().to_string(),
            model: run.config.model.clone(),
            keep: run.config.keep,
            val_keep: run.config.prune().keep,
            seed: run.config.seed,
            epochs: run.progress.epoch,
            best_epoch: summary.best_epoch,
            best_val_accuracy: summary.best_accuracy,
            test_accuracy: test.map(|test| test.accuracy()),
            test_loss: test.map(|test| test.loss()),
            mean_seq_len: summary.looked.mean_seq_len(),
            macs_executed: summary.looked.mean_macs(),
            test_mean_seq_len: test.and_then(|test| test.looked.mean_seq_len()),
            test_macs_executed: test.and_then(|test| test.looked.mean_macs()),
            lengths_differ: run.config.keep.mass().is_some() || run.config.keeping.keep_schedule.is_some(),
        }
    }

    fn words(&self) -> String {
        let test = self.test_accuracy.map_or(String::new(), |test| format!(", test accuracy {:.2} %", 100.0 * test));
        let (epoch, val, run) = (self.best_epoch, 100.0 * self.best_val_accuracy, &self.run);
        let looked = self.mean_seq_len.zip(self.macs_executed).filter(|_| self.lengths_differ);
        let looked =
            looked.map_or(String::new(), |(s, macs)| format!(", mean S in training {s:.1} ({:.3} GMACs)", macs / 1e9));
        format!("best epoch {epoch}: validation accuracy {val:.2} %{test}{looked}; run in {run}")
    }

    /// What `--json` prints and outcome.json holds.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).expect("an outcome has only string keys");
        Ok(text + "\n")
    }

    /// Prints it.
    pub fn print(&self, json: bool) -> Result<()> {
        if json { print::json(self) } else { print::line(&self.words()) }
    }
}

/// Mean and sample deviation (of n - 1) of several runs; one run has no deviation.
#[derive(Debug, PartialEq, Serialize)]
struct Spread {
    mean: f64,
    deviation: Option<f64>,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        Spread { mean, deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) }
    }

    fn words(&self) -> String {
        let deviation = self.deviation.map_or(String::new(), |deviation| format!(" +- {:.2}", 100.0 * deviation));
        format!("{:.2}{deviation} %", 100.0 * self.mean)
    }
}

/// The result of `--seeds` as `--json` prints it.
#[derive(Serialize)]
struct Seeds<'a> {
    runs: &'a [Outcome],
    best_val_accuracy: Spread,
    test_accuracy: Option<Spread>,
}

/// Refuses a `--run-name` of several seeds of which one has its folder already, before any of them is trained.
pub fn refuse_taken(output: &Path, name: &str, seeds: &[u64]) -> Result<()> {
    match seeds.iter().map(|seed| output.join(format!("{name}-s{seed}"))).find(|folder| folder.exists()) {
        None => Ok(()),
        Some(folder) => {
            Err(Error::data(folder, "a run of that name is there", "choose another --run-name, or move it"))
        }
    }
}

/// Trains with each seed and prints the results; those there are, the seeds that are left and the way to go on with them,
/// when one fails.
pub fn each_seed(seeds: &[u64], args: &TrainArgs, train: impl Fn(u64) -> Result<Outcome>) -> Result<()> {
    let mut outcomes = Vec::new();
    for &seed in seeds {
        if !args.quiet {
            print::complain("seed", &format!("{seed}, {} of {}", outcomes.len() + 1, seeds.len()));
        }
        match train(seed) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                if !outcomes.is_empty() {
                    print_seeds(&outcomes, args.json)?;
                }
                let left: Vec<String> = seeds[outcomes.len()..].iter().map(u64::to_string).collect();
                let how = match (&error, &args.resume) {
                    (Error::Interrupted { .. }, None) => "; the same command with --resume auto goes on",
                    (Error::Interrupted { .. }, Some(_)) => "; the same command goes on",
                    _ => "",
                };
                print::complain("seeds", &format!("not finished: {}{how}", left.join(",")));
                return Err(error);
            }
        }
    }
    print_seeds(&outcomes, args.json)
}

/// Prints the runs of several seeds, at least one, with mean and sample deviation of their accuracies.
fn print_seeds(runs: &[Outcome], json: bool) -> Result<()> {
    let val: Vec<f64> = runs.iter().map(|run| run.best_val_accuracy).collect();
    let test: Option<Vec<f64>> = runs.iter().map(|run| run.test_accuracy).collect();
    let seeds = Seeds { runs, best_val_accuracy: Spread::of(&val), test_accuracy: test.as_deref().map(Spread::of) };
    if json {
        return print::json(&seeds);
    }
    for run in runs {
        print::line(&format!("seed {}: {}", run.seed, run.words()))?;
    }
    let test = seeds.test_accuracy.map_or(String::new(), |test| format!(", test accuracy {}", test.words()));
    let val = seeds.best_val_accuracy.words();
    let count = if runs.len() == 1 { "1 seed".into() } else { format!("{} seeds", runs.len()) };
    print::line(&format!("{count}, mean and sample deviation: validation accuracy {val}{test}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let spread = Spread::of(&[0.5, 0.75, 1.0]);
        assert_eq!(spread, Spread { mean: 0.75, deviation: Some(0.25) });
        assert_eq!(spread.words(), "75.00 +- 25.00 %");
        assert_eq!(Spread::of(&[0.5]), Spread { mean: 0.5, deviation: None });
    }
}
