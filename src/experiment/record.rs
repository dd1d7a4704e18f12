//! A run as it is read back from its folder: settings, epochs, data, verdicts.
#![forbid(unsafe_code)]

use super::assess::{Condition, Evaluation, best_checkpoint};
use crate::checkpoint::{EpochMetrics, RunDir};
use crate::error::{Error, Result};
use crate::prune::{Keep, Scorer};
use crate::train::TrainConfig;
use clap::ValueEnum;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A run that was read.
#[derive(Clone, Debug)]
pub struct Record {
    pub dir: PathBuf,
    pub name: String,
    pub config: TrainConfig,
    /// One an epoch.
    pub rows: Vec<EpochMetrics>,
    /// The step of the checkpoint that the run is judged by.
    pub best_step: Option<u64>,
    pub manifest: Manifest,
    /// Of the best checkpoint.
    pub evaluations: Vec<Evaluation>,
    /// The processor that began it.
    pub cpu: Option<String>,
}

/// What is needed of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub name: String,
    pub classes: Vec<String>,
    pub sha256: String,
    /// Training images.
    pub train: usize,
    /// Paths of the images, in order.
    pub val: Vec<String>,
    pub test: Vec<String>,
}

impl Record {
    /// Reads a run directory.
    pub fn read(dir: &Path) -> Result<Self> {
        let run = RunDir::open(dir)?;
        let file = dir.join("config.toml");
        let config: TrainConfig = toml::from_str(&run.config()?)
            .map_err(|e| Error::data(&file, e.message().to_string(), "correct the file, or leave the run out"))?;
        let env = std::fs::read_to_string(dir.join("env.json")).unwrap_or_default();
        let env: Value = serde_json::from_str(&env).unwrap_or_default();
        let best = best_checkpoint(dir);
        let evaluations = match &best {
            Some(best) => Evaluation::of_run(&run, best)?,
            None => Vec::new(),
        };
        let best_step = best.and_then(|name| name.strip_prefix("step-")?.parse().ok());
        Ok(Record {
            name: dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned(),
            dir: dir.to_path_buf(),
            config,
            rows: run.metrics()?,
            best_step,
            manifest: Manifest::read(&dir.join("manifest.json"))?,
            evaluations,
            cpu: env["cpu"].as_str().map(String::from),
        })
    }

    /// Whether all epochs are over, or its patience is.
    pub fn finished(&self) -> bool {
        let (epochs, since) =
            (self.rows.len(), self.rows.len().saturating_sub(self.best().map_or(0, |row| row.epoch as usize)));
        epochs >= self.config.epochs as usize
            || (epochs > 0 && self.config.recipe.patience.is_some_and(|patience| since >= patience as usize))
    }

    /// The epoch whose checkpoint the run is judged by, which is the best by validation accuracy unless that one was lost;
    /// the first of equals where no checkpoint is there.
    pub fn best(&self) -> Option<&EpochMetrics> {
        if let Some(row) = self.rows.iter().find(|row| Some(row.step) == self.best_step) {
            return Some(row);
        }
        let mut rows = self.rows.iter();
        let first = rows.next()?;
        Some(rows.fold(first, |best, row| if row.val_accuracy > best.val_accuracy { row } else { best }))
    }

    /// What was measured under a condition.
    pub fn evaluation(&self, condition: &Condition) -> Option<&Evaluation> {
        self.evaluations.iter().find(|evaluation| evaluation.condition() == *condition)
    }

    /// Training seconds of an epoch, the median of its epochs, which one that was held up does not move; validation is not
    /// in it.
    pub fn seconds_per_epoch(&self) -> Option<f64> {
        let mut seconds: Vec<f64> =
            self.rows.iter().map(|row| self.manifest.train as f64 / row.images_per_second).collect();
        seconds.sort_by(f64::total_cmp);
        let (low, high) = (seconds.len().checked_sub(1)? / 2, seconds.len() / 2);
        Some((seconds[low] + seconds[high]) / 2.0)
    }

    /// Training images a second of such an epoch.
    pub fn images_per_second(&self) -> Option<f64> {
        self.seconds_per_epoch().map(|seconds| self.manifest.train as f64 / seconds)
    }

    /// The scorer, which is none where all patches are kept.
    pub fn scorer(&self) -> Option<Scorer> {
        (self.config.keep != Keep::ALL).then_some(self.config.scorer)
    }
}

/// The name that `--scorer` takes.
pub fn scorer_name(scorer: Scorer) -> String {
    scorer.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}

impl Manifest {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        Self::of(&value).ok_or_else(|| Error::data(path, "the file is damaged", "restore it, or leave the run out"))
    }

    fn of(value: &Value) -> Option<Self> {
        let strings = |list: &Value, key: Option<&str>| -> Option<Vec<String>> {
            let text = |item: &Value| key.map_or(item, |key| &item[key]).as_str().map(String::from);
            list.as_array()?.iter().map(text).collect()
        };
        let splits = &value["splits"];
        Some(Manifest {
            name: value["name"].as_str()?.into(),
            classes: strings(&value["classes"], None)?,
            sha256: value["sha256"].as_str()?.into(),
            train: splits["train"].as_array()?.len(),
            val: strings(&splits["val"], Some("path"))?,
            test: strings(&splits["test"], Some("path"))?,
        })
    }
}

/// Why the tables, which go by one K a run, have no place for a run with these settings.
pub fn without_k(config: &TrainConfig) -> Option<String> {
    let keeping = &config.keeping;
    if config.keep.mass().is_some() {
        return Some(format!("{} keeps another number of patches of each image", config.keep));
    }
    if keeping.keep_schedule.is_some() {
        return Some("keep-schedule changes K while it trains".into());
    }
    let other = keeping.val_keep.filter(|&keep| keep != config.keep);
    other.map(|keep| format!("val-keep {keep} evaluates with another keep than it trains"))
}

/// The run directories that `paths` name: runs themselves, or folders that hold some. Sorted by name within a folder.
pub fn find_runs(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let is_run = |path: &Path| path.join("config.toml").is_file() && path.join("manifest.json").is_file();
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        if is_run(path) {
            found.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, &e))?;
        let mut inside = Vec::new();
        for entry in entries {
            let folder = entry.map_err(|e| Error::io(path, &e))?.path();
            if is_run(&folder) {
                inside.push(folder);
            }
        }
        if inside.is_empty() {
            return Err(Error::data(
                path,
                "is no run and holds none",
                "name runs of `train`, or the folder of a sweep",
            ));
        }
        inside.sort();
        found.extend(inside);
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    Ok(found)
}
