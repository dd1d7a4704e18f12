//! What a run's best checkpoint says of every image of a split, measured once and kept beside the run.
#![forbid(unsafe_code)]

use super::record::Record;
use crate::checkpoint::{RunDir, resolve};
use crate::data::{Dataset, Sample};
use crate::device::cuda::Gpu;
use crate::error::{Error, Result};
use crate::eval::{Feed, evaluate};
use crate::model::{HeadPolicy, Vit};
use crate::prune::{Keep, Scorer};
use crate::weights::Weights;
use serde::{Deserialize, Serialize};
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

/// The content of `report/eval-<split>-k<K>.json`. Lists go in the order of the manifest's split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub version: u32,
    pub dataset: String,
    /// The manifest's hash over classes, splits and files.
    pub sha256: String,
    pub split: Split,
    /// K of this evaluation, whatever it was trained with.
    pub keep: Keep,
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

    fn file_name(split: Split, keep: Keep) -> String {
        format!("eval-{}-k{keep}.json", split.name())
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
        found.sort_by(|a, b| {
            (a.split, a.keep.percent()).partial_cmp(&(b.split, b.keep.percent())).expect("K is finite")
        });
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

/// What `record` still lacks of `keeps` (its own K where there are none) on the splits that `record` has.
pub fn missing(record: &Record, keeps: &[Keep]) -> Vec<(Split, Keep)> {
    let splits = [(Split::Val, record.manifest.val.len()), (Split::Test, record.manifest.test.len())];
    let own = std::iter::once(record.config.keep);
    let mut wanted: Vec<(Split, Keep)> = Vec::new();
    for keep in own.chain(keeps.iter().copied()) {
        for (split, _) in splits.iter().filter(|(_, images)| *images > 0) {
            let done = record.evaluations.iter().any(|e| (e.split, e.keep) == (*split, keep));
            if !done && !wanted.contains(&(*split, keep)) {
                wanted.push((*split, keep));
            }
        }
    }
    wanted
}

/// Evaluates a run's best checkpoint on what is `wanted` and keeps the verdicts. `watch` is told the split, K and the
/// images done, and ends it by returning an error; what is measured by then is kept.
pub fn assess(
    record: &Record,
    dataset: &Dataset,
    gpu: Option<&Arc<Gpu>>,
    workers: usize,
    wanted: &[(Split, Keep)],
    watch: &mut dyn FnMut(Split, Keep, usize) -> Result<()>,
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
    let feed = Feed { transform: &card.transform, batch_size: record.config.batch_size, workers };
    for &(split, keep) in wanted {
        let prune = crate::prune::PruneConfig { keep, ..card.prune.clone() };
        let clock = Instant::now();
        let samples = split.of(dataset);
        let report = evaluate(&vit, &prune, samples, feed, &mut |images| watch(split, keep, images))?;
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
        dir.put_report(&Evaluation::file_name(split, keep), &text)?;
    }
    Ok(())
}
