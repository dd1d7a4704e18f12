//! `dynavit eval`: a checkpoint on a split, without augmentation.
#![forbid(unsafe_code)]

use super::options::{EngineFlags, ImageFlags, PruneFlags, SizeFlags, set};
use super::{cache, print, source};
use crate::data::{Dataset, LabelPolicy, SplitPolicy};
use crate::error::{Error, Result};
use crate::eval::{ClassReport, Feed, MacroReport, Report, evaluate};
use crate::model::{HeadPolicy, Vit};
use crate::prune::Keep;
use crate::train::{DatasetName, Stop, TrainConfig};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Flags of `eval`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit eval voc 70 --checkpoint runs/voc-k70-l2-s42-20260101-120000
  dynavit eval voc 50 --checkpoint model.safetensors --split test --json

Model, classes, preprocessing and scorer come from the checkpoint; a flag
overrides them. A checkpoint inside a run knows its data set too.")]
pub struct EvalArgs {
    /// Data set
    dataset: DatasetName,
    /// Percent of the patches to keep, above 0 and up to 100, or mass:0.9 as in
    /// train [default: the checkpoint's]
    #[arg(allow_negative_numbers = true)]
    keep: Option<Keep>,
    /// A run, a checkpoint folder or a weight file
    #[arg(long, value_name = "DIR|FILE", visible_alias = "weights")]
    checkpoint: PathBuf,
    /// Folder of the data set [default: the run's, else as in train]
    #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Split to evaluate
    #[arg(long, value_enum, default_value_t = Split::Val)]
    split: Split,
    /// Model, when neither file nor shapes say
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Images that count when several classes are annotated [default: the run's]
    #[arg(long, value_name = "POLICY")]
    label_policy: Option<LabelPolicy>,
    /// How the splits were made [default: the run's]
    #[arg(long, value_name = "POLICY")]
    split_policy: Option<SplitPolicy>,
    /// Images in a batch [default: the run's, or 32]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    batch_size: Option<usize>,
    /// Seed of the random scorer [default: the checkpoint's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    size: SizeFlags,
    #[command(flatten)]
    image: ImageFlags,
    #[command(flatten)]
    engine: EngineFlags,
    /// Threads that decode images [default: threads, at most 4]
    #[arg(long, value_name = "N", help_heading = "Engine", value_parser = some_threads)]
    workers: Option<usize>,
    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
}

/// A count that is not 0.
pub fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a whole number of at least 1 is needed".into())
}

/// A count of threads that a machine may have.
fn some_threads(text: &str) -> std::result::Result<usize, String> {
    let most = crate::train::MAX_THREADS;
    at_least_one(text).ok().filter(|&n| n <= most).ok_or_else(|| format!("a whole number from 1 to {most} is needed"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Split {
    Train,
    Val,
    Test,
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome {
    model: String,
    dataset: String,
    split: Split,
    #[serde(serialize_with = "Keep::shown")]
    keep: Keep,
    scorer: crate::prune::Scorer,
    /// Null under a mass, whose lengths differ; the mean stands at the end.
    seq_len: Option<usize>,
    images: usize,
    accuracy: f64,
    loss: f64,
    classes: Vec<String>,
    per_class: Vec<Named>,
    #[serde(rename = "macro")]
    macro_average: MacroReport,
    /// Rows are the true classes, columns the predicted ones.
    confusion: Vec<Vec<u64>>,
    mean_seq_len: Option<f64>,
    /// Mean multiply-adds of an image, as executed.
    macs_executed: Option<f64>,
}

#[derive(Serialize)]
struct Named {
    class: String,
    #[serde(flatten)]
    report: ClassReport,
}

/// Evaluates, and prints the report.
pub fn run(args: EvalArgs) -> Result<()> {
    let engine = args.engine.start()?;
    let stop = Stop::on_signals()?;
    let source::Source { weights, mut card, own_card } =
        source::open_weights("--checkpoint", &args.checkpoint, args.model.as_deref())?;
    set(&mut card.prune.keep, args.keep);
    let keep = card.prune.keep;
    if engine.gpu.is_some() {
        keep.check_on_card()?;
    }
    set(&mut card.prune.seed, args.seed);
    args.prune.apply(&mut card);
    if !own_card {
        card.transform.norm = TrainConfig::paper(args.dataset, keep).norm;
    }
    args.size.apply(&mut card)?;
    args.image.apply(&mut card);
    if !own_card && let Some(text) = source::norm_warning(&weights, card.transform.norm) {
        print::complain("warning", &text);
    }
    let (dataset, run_batch_size) = open(&args, weights.path(), &stop)?;
    if !own_card && foreign_names(&card.classes, &dataset.classes) {
        let text = "the class names beside the weights are not the data set's; classes are compared by their numbers";
        print::complain("notice", text);
        card.classes.clear();
    }
    same_classes(&card.classes, card.model.classes, &dataset, weights.path())?;
    let samples = match args.split {
        Split::Train => &dataset.train,
        Split::Val => &dataset.val,
        Split::Test => &dataset.test,
    };
    if samples.is_empty() {
        return Err(Error::usage("--split", format!("{} has no image in this split", dataset.name), "choose another"));
    }
    let (mut vit, report) = Vit::load(card.model.clone(), card.options, &weights, HeadPolicy::Require, 0)?;
    source::tell(&report);
    engine.take(&mut vit)?;
    let workers = engine.workers(args.workers);
    let feed =
        Feed { transform: &card.transform, batch_size: args.batch_size.or(run_batch_size).unwrap_or(32), workers };
    let report = evaluate(&vit, &card.prune, samples, feed, &mut |_| match stop.requested() {
        true => Err(Error::Interrupted { saved: "nothing was measured".into() }),
        false => Ok(()),
    })?;
    let per_class = dataset.classes.iter().cloned().zip(report.per_class());
    let outcome = Outcome {
        model: card.model.name.clone(),
        dataset: dataset.name.clone(),
        split: args.split,
        keep,
        scorer: card.prune.scorer,
        seq_len: keep.fixed(card.model.patches(), card.prune.round).map(|k| 1 + k),
        images: report.images(),
        accuracy: report.accuracy(),
        loss: report.loss(),
        classes: dataset.classes.clone(),
        per_class: per_class.map(|(class, report)| Named { class, report }).collect(),
        macro_average: report.macro_average(),
        confusion: report.confusion.clone(),
        mean_seq_len: report.looked.mean_seq_len(),
        macs_executed: report.looked.mean_macs(),
    };
    if args.json { print::json(&outcome) } else { print::line(&table(&outcome, &report)) }
}

/// The data set, as the flags say, else as the run that holds the checkpoint says; and that run's batch size.
fn open(args: &EvalArgs, weights: &Path, stop: &Stop) -> Result<(Dataset, Option<usize>)> {
    let same = |config: &TrainConfig| {
        config.dataset == args.dataset
            || (config.dataset == DatasetName::Sample
                && source::or_sample(args.dataset, args.data.as_deref()) == DatasetName::Sample)
    };
    let config = match run_config(&args.checkpoint)? {
        None => run_config(weights)?,
        found => found,
    };
    let config = config.filter(same);
    let data = args.data.clone().or_else(|| config.as_ref().and_then(|config| config.data.clone()));
    let name = match &config {
        Some(config) if args.data.is_none() => config.dataset,
        _ => source::or_sample(args.dataset, data.as_deref()),
    };
    let labels = args.label_policy.or(config.as_ref().map(|config| config.label_policy)).unwrap_or_default();
    let split = args.split_policy.or(config.as_ref().map(|config| config.split)).unwrap_or_default();
    if name == DatasetName::Sample && args.dataset == DatasetName::Voc {
        print::complain("notice", "no VOC found: evaluating on the built-in sample of drawn images");
    }
    if config.is_none() && args.split_policy.is_none() && !matches!(name, DatasetName::Folder | DatasetName::Sample) {
        let text = "the checkpoint lies in no run, so the splits are the default ones; --split-policy says otherwise";
        print::complain("notice", text);
    }
    let mut dataset = source::open(name, &source::root(name, data.as_deref())?, labels, split, stop)?;
    // Shrunken images give other numbers, and the run's are meant; whole ones are the same from a pack or not.
    if let Some((folder, side)) = config.as_ref().and_then(|config| Some((config.cache.as_ref()?, config.cache_side?)))
    {
        cache::attach(&mut dataset, folder, Some(side), true, stop)?;
    }
    Ok((dataset, config.map(|config| config.batch_size)))
}

/// The settings of the run that `path` lies in, if any.
fn run_config(path: &Path) -> Result<Option<TrainConfig>> {
    let path = path.canonicalize().map_err(|error| Error::io(path, &error))?;
    for folder in path.ancestors().take(4) {
        let file = folder.join("config.toml");
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match toml::from_str(&text) {
            Ok(config) => return Ok(Some(config)),
            // Another program's file of that name is no concern of ours; a run's own must not be guessed around.
            Err(_) if !folder.join("checkpoints").is_dir() => {}
            Err(error) => {
                return Err(Error::data(
                    file,
                    error.message(),
                    "correct the file, or evaluate a copy of the weight file",
                ));
            }
        }
    }
    Ok(None)
}

/// Whether `theirs`, which are as many as `ours`, are other words for the classes and not the same in another order.
fn foreign_names(theirs: &[String], ours: &[String]) -> bool {
    theirs.len() == ours.len() && theirs != ours && !theirs.iter().all(|name| ours.contains(name))
}

/// Refuses a checkpoint of other classes; one without names must have as many.
fn same_classes(names: &[String], count: usize, dataset: &Dataset, file: &Path) -> Result<()> {
    let ours = &dataset.classes;
    if (names.is_empty() && count == ours.len()) || names == ours {
        return Ok(());
    }
    let theirs = if names.is_empty() { format!("{count} unnamed classes") } else { names.join(", ") };
    let reason = format!("its classes are {theirs}, those of {} are {}", dataset.name, ours.join(", "));
    Err(Error::data(file, reason, "evaluate it on the data set it was trained on"))
}

/// The report for people.
fn table(outcome: &Outcome, report: &Report) -> String {
    let width = outcome.classes.iter().map(|class| class.chars().count()).max().unwrap_or(0).max(9);
    let split = outcome.split.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let mut text = format!(
        "{} on {} ({}), {}, {}: {} images\n",
        outcome.model,
        outcome.dataset,
        split,
        outcome.keep.words(),
        match outcome.seq_len {
            Some(s) => format!("S = {s}"),
            None => format!("mean S = {:.1}", report.looked.mean_seq_len().unwrap_or_default()),
        },
        outcome.images
    );
    let _ = writeln!(text, "accuracy {:.2} %, loss {:.4}\n", 100.0 * outcome.accuracy, outcome.loss);
    let _ = writeln!(text, "{:width$} {:>10} {:>10} {:>10} {:>8}", "class", "precision", "recall", "F1", "support");
    for Named { class, report: c } in &outcome.per_class {
        let _ =
            writeln!(text, "{class:width$} {:>10.4} {:>10.4} {:>10.4} {:>8}", c.precision, c.recall, c.f1, c.support);
    }
    let mean = &outcome.macro_average;
    let _ = writeln!(
        text,
        "{:width$} {:>10.4} {:>10.4} {:>10.4} {:>8}\n",
        "macro avg",
        mean.precision,
        mean.recall,
        mean.f1,
        report.images()
    );
    let cell = outcome.images.to_string().len().max(3) + 1;
    let _ = write!(text, "{:width$}", "true \\ predicted");
    let _ = writeln!(text, "  (columns in the order of the rows)");
    for (class, row) in outcome.classes.iter().zip(&report.confusion) {
        let cells: String = row.iter().map(|n| format!("{n:>cell$}")).collect();
        let _ = writeln!(text, "{class:width$}{cells}");
    }
    text.trim_end().to_owned()
}
