//! What a run's best checkpoint says of every image of a split, measured once and kept beside the run.
#![forbid(unsafe_code)]

use super::record::Record;
use crate::checkpoint::{RunDir, resolve};
use crate::data::corrupt::Corruption;
use crate::data::{Dataset, Sample, TransformConfig};
use crate::device::cuda::Gpu;
use crate::error::{Error, Result};
use crate::eval::{Feed, evaluate};
use crate::model::{HeadPolicy, Vit};
use crate::prune::{Keep, Scorer};
use crate::weights::Weights;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A split that is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Val,
    Test,
}

impl Split {
    /// Its samples.
    pub fn of(self, dataset: &Dataset) -> &[Sample] {
        match self {
            Split::Val => &dataset.val,
            Split::Test => &dataset.test,
        }
    }

    /// Its name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Split::Val => "val",
            Split::Test => "test",
        }
    }
}

/// What a checkpoint is evaluated on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    pub split: Split,
    pub keep: Keep,
    /// None for images as they are.
    pub corruption: Option<Corruption>,
}

/// Conditions beyond a run's own K on clean images.
#[derive(Clone, Copy, Debug, Default)]
pub struct More<'a> {
    /// On clean images.
    pub keeps: &'a [Keep],
    /// At the run's own K. Their seed is the run's, whatever is said here.
    pub corruptions: &'a [Corruption],
}

impl Condition {
    fn file_name(&self) -> String {
        let corruption = self.corruption.map_or(String::new(), |c| format!("-{}{}", c.kind.name(), c.severity));
        format!("eval-{}-k{}{corruption}.json", self.split.name(), self.keep)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} at K = {} %", self.split.name(), self.keep)?;
        self.corruption.map_or(Ok(()), |corruption| write!(f, " under {corruption}"))
    }
}

/// The content of `report/eval-<split>-k<K>[-<corruption>].json`. Lists go in the order of the manifest's split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub version: u32,
    pub dataset: String,
    /// The manifest's hash over classes, splits and files.
    pub sha256: String,
    pub split: Split,
    /// K of this evaluation, whatever it was trained with.
    pub keep: Keep,
    /// What was done to the images; absent for images as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corruption: Option<Corruption>,
    pub scorer: Scorer,
    /// The checkpoint's folder.
    pub checkpoint: String,
    pub accuracy: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Wall time with reading, decoding and scoring.
    pub milliseconds_per_image: f64,
    /// The images, by their paths in the data set.
    pub names: Vec<String>,
    /// True classes.
    pub labels: Vec<usize>,
    pub predicted: Vec<usize>,
    /// Probability of the predicted class.
    pub confidence: Vec<f32>,
    /// Classes that were likelier than the true one.
    pub rank: Vec<usize>,
}

impl Evaluation {
    /// Whether each image's class was found.
    pub fn hits(&self) -> impl Iterator<Item = bool> + '_ {
        self.labels.iter().zip(&self.predicted).map(|(label, predicted)| label == predicted)
    }

    /// What it was measured on.
    pub fn condition(&self) -> Condition {
        Condition { split: self.split, keep: self.keep, corruption: self.corruption }
    }

    /// The evaluations kept in a run, those of a checkpoint that is no longer the best left out.
    pub fn of_run(dir: &RunDir, best: &str) -> Result<Vec<Self>> {
        let folder = dir.reports();
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| Error::io(&folder, &e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("eval-") && name.ends_with(".json") {
                found.push(Self::read(&path)?);
            }
        }
        found.retain(|evaluation| evaluation.checkpoint == best);
        let order = |e: &Evaluation| (e.split, e.keep.percent(), e.corruption.map(|c| (c.kind as usize, c.severity)));
        found.sort_by(|a, b| order(a).partial_cmp(&order(b)).expect("K is finite"));
        Ok(found)
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
        let damaged = |why: String| Error::data(path, why, "remove it, and evaluate again");
        let read: Evaluation = serde_json::from_str(&text).map_err(|e| damaged(format!("is not readable ({e})")))?;
        let n = read.names.len();
        if [read.labels.len(), read.predicted.len(), read.confidence.len(), read.rank.len()] != [n; 4] {
            return Err(damaged("its lists differ in length".into()));
        }
        Ok(read)
    }
}

/// The folder's name of the checkpoint that a run is judged by.
pub fn best_checkpoint(dir: &Path) -> Option<String> {
    let target = dir.join("best").canonicalize().ok().filter(|path| path.is_dir());
    let folder = match target {
        Some(folder) => folder,
        // A link in its portable form, or a run without a best epoch.
        None => resolve(dir).ok()?.0.parent()?.to_path_buf(),
    };
    Some(folder.file_name()?.to_string_lossy().into_owned())
}

/// What `record` still lacks, at its own K and of what `more` asks, on the splits that it has.
pub fn missing(record: &Record, more: More) -> Vec<Condition> {
    let own = record.config.keep;
    let clean = std::iter::once(own).chain(more.keeps.iter().copied()).map(|keep| (keep, None));
    let seed = record.config.seed;
    let corrupted = more.corruptions.iter().map(|&corruption| (own, Some(Corruption { seed, ..corruption })));
    let splits = [(Split::Val, record.manifest.val.len()), (Split::Test, record.manifest.test.len())];
    let mut wanted: Vec<Condition> = Vec::new();
    for (keep, corruption) in clean.chain(corrupted) {
        for (split, _) in splits.iter().filter(|(_, images)| *images > 0) {
            let condition = Condition { split: *split, keep, corruption };
            let done = record.evaluations.iter().any(|e| e.condition() == condition);
            if !done && !wanted.contains(&condition) {
                wanted.push(condition);
            }
        }
    }
    wanted
}

/// Evaluates a run's best checkpoint on what is `wanted` and keeps the verdicts. `watch` is told the split and the
/// images done, and ends it by returning an error; what is measured by then is kept.
pub fn assess(
    record: &Record,
    dataset: &Dataset,
    gpu: Option<&Arc<Gpu>>,
    workers: usize,
    wanted: &[Condition],
    watch: &mut dyn FnMut(Split, usize) -> Result<()>,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let dir = RunDir::open(&record.dir)?;
    let (file, card) = resolve(&record.dir)?;
    let card = card.ok_or_else(|| Error::data(&file, "has no model card", "train the run again"))?;
    let checkpoint = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let weights = Weights::open(&file)?;
    let (mut vit, _) = Vit::load(card.model.clone(), card.options, &weights, HeadPolicy::Require, 0)?;
    vit.params.set_operands(record.config.operands());
    if let Some(gpu) = gpu {
        vit.move_to(gpu)?;
    }
    for &condition in wanted {
        let Condition { split, keep, corruption } = condition;
        let transform = TransformConfig { corrupt: corruption, ..card.transform.clone() };
        let feed = Feed { transform: &transform, batch_size: record.config.batch_size, workers };
        let prune = crate::prune::PruneConfig { keep, ..card.prune.clone() };
        let clock = Instant::now();
        let samples = split.of(dataset);
        let report = evaluate(&vit, &prune, samples, feed, &mut |images| watch(split, images))?;
        let seconds = clock.elapsed().as_secs_f64();
        let names = match split {
            Split::Val => &record.manifest.val,
            Split::Test => &record.manifest.test,
        };
        let verdicts = &report.verdicts;
        if verdicts.len() != names.len() {
            let reason = format!("{} images of {} in the manifest", verdicts.len(), names.len());
            return Err(Error::data(&dataset.root, reason, "restore the data that the run was trained on"));
        }
        let evaluation = Evaluation {
            version: 1,
            dataset: dataset.name.clone(),
            sha256: record.manifest.sha256.clone(),
            split,
            keep,
            corruption,
            scorer: prune.scorer,
            checkpoint: checkpoint.clone(),
            accuracy: report.accuracy(),
            loss: report.loss(),
            milliseconds_per_image: 1e3 * seconds / verdicts.len().max(1) as f64,
            names: names.clone(),
            labels: verdicts.iter().map(|v| v.label).collect(),
            predicted: verdicts.iter().map(|v| v.predicted).collect(),
            confidence: verdicts.iter().map(|v| v.confidence as f32).collect(),
            rank: verdicts.iter().map(|v| v.rank).collect(),
        };
        let text = serde_json::to_string(&evaluation).expect("an evaluation has only string keys") + "\n";
        dir.put_report(&condition.file_name(), &text)?;
    }
    Ok(())
}
