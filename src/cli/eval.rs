//! `dynavit eval`: a checkpoint on a split, without augmentation.
#![forbid(unsafe_code)]

use super::doubts::small;
use super::eval_outcome::{About, Condition, Outcome, conditions_csv, conditions_table, table};
use super::home::Home;
use super::options::{EngineFlags, ImageFlags, PruneFlags, SizeFlags, Split, set};
use super::progress::bar;
use super::train::absolute;
use super::{cache, print, source};
use crate::checkpoint::replace;
use crate::data::corrupt::{Corruption, Corruptions};
use crate::data::{Dataset, LabelPolicy, Sample, SplitPolicy, TransformConfig, open_folder_of};
use crate::error::{Error, Result};
use crate::eval::{Feed, Report, Subject, evaluate, files};
use crate::model::{HeadPolicy, Vit};
use crate::prune::Keep;
use crate::train::{DatasetName, Stop, TrainConfig};
use clap::Args;
use std::path::{Path, PathBuf};

/// Flags of `eval`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit eval voc 70 --checkpoint runs/voc-k70-l2-s42-20260101-120000
  dynavit eval voc 50 --checkpoint model.safetensors --split test --json
  dynavit eval voc 70 --checkpoint RUN --report out
  dynavit eval voc 70 --checkpoint RUN --corrupt noise:3
  dynavit eval voc 70 --checkpoint RUN --corrupt all --report out

--report writes confusion.csv and .svg, calibration.svg, predictions.csv (rank:
classes ahead of the true one), mistakes.png and report.json.

--corrupt takes noise, blur, jpeg, contrast and brightness (ImageNet-C's, with
its constants) at severities 1 to 5: noise:3, noise:1..5,blur:2, noise, all.
Images are corrupted after the resize, before patches are scored. One corruption
is reported in full; of several there is a table, and the report is that of the
clean images.

Class folders with no train, val and test above them are split as train splits
them; --split all takes every image, as of a folder that was kept for a test.

Model, classes, preprocessing and scorer come from the checkpoint; a flag
overrides them. A checkpoint inside a run knows its data set too, and how many
of the images it was trained on (trained_on in --json and report.json).")]
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
    /// Split to evaluate, or all images
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
    /// Seed of the random scorer and of noise [default: the checkpoint's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Corrupt the images: KIND, KIND:N, KIND:N..M or all, with commas between
    #[arg(long, value_name = "LIST")]
    corrupt: Option<Corruptions>,
    /// Write the report's files into this folder, which is made
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    size: SizeFlags,
    #[command(flatten)]
    image: ImageFlags,
    #[command(flatten)]
    engine: EngineFlags,
    /// Threads that decode images [default: threads, at most 4, or with a card
    /// all but one]
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

/// Evaluates, and prints the report.
pub fn run(args: EvalArgs) -> Result<()> {
    let engine = args.engine.start()?;
    let stop = Stop::on_signals()?;
    let source::Source { weights, mut card, own_card } =
        source::open_weights("--checkpoint", &args.checkpoint, args.model.as_deref())?;
    set(&mut card.prune.keep, args.keep);
    let keep = card.prune.keep;
    if let Some(text) = small(keep, card.model.patches(), card.prune.round) {
        print::complain("warning", &text);
    }
    if engine.gpu.is_some() {
        keep.check_on_card()?;
    }
    set(&mut card.prune.seed, args.seed);
    if !own_card {
        card.transform.norm = TrainConfig::paper(args.dataset, keep).norm;
    }
    let own = card.clone();
    args.prune.apply(&mut card);
    args.size.apply(&mut card)?;
    args.image.apply(&mut card);
    card.transform.check()?;
    if own_card {
        source::tell_changes(&own, &card);
    } else if let Some(text) = source::norm_warning(&weights, card.transform.norm) {
        print::complain("warning", &text);
    }
    let home = match Home::of(&args.checkpoint)? {
        None => Home::of(weights.path())?,
        found => found,
    };
    // Names beside a file of another program may be other words for the classes.
    let known = if own_card { &card.classes[..] } else { &[] };
    let (dataset, run_batch_size) = open(&args, home.as_ref(), known, &stop)?;
    if !own_card && foreign_names(&card.classes, &dataset.classes) {
        let text = "the class names beside the weights are not the data set's; classes are compared by their numbers";
        print::complain("notice", text);
        card.classes.clear();
    }
    same_classes(&card.classes, card.model.classes, &dataset, weights.path())?;
    let samples = &args.split.of(&dataset)?;
    let trained_on = home.as_ref().map_or(Ok(None), |home| home.trained_on(samples, &stop))?;
    if let (Some(count @ 1..), Some(home)) = (trained_on, &home)
        && args.split != Split::Train
    {
        let text = format!(
            "{} was trained on {count} of these {} images, which its manifest.json lists for training: what is measured \
             on them says nothing of new images",
            home.folder.display(),
            samples.len()
        );
        print::complain("warning", &text);
    }
    let (mut vit, report) = Vit::load(card.model.clone(), card.options, &weights, HeadPolicy::Require, 0)?;
    source::tell(&report);
    engine.take(&mut vit)?;
    let job = Job {
        vit: &vit,
        prune: &card.prune,
        transform: &card.transform,
        samples,
        batch_size: args.batch_size.or(run_batch_size).unwrap_or(32),
        workers: engine.workers(args.workers),
        stop: &stop,
    };
    let (device, precision) = engine.choice();
    let about = About {
        model: card.model.name.clone(),
        dataset: dataset.name.clone(),
        split: args.split,
        keep,
        scorer: card.prune.scorer,
        seq_len: keep.fixed(card.model.patches(), card.prune.round).map(|k| 1 + k),
        device,
        precision,
        trained_on,
    };
    finish(&args, &job, &dataset, about)
}

/// Everything that an evaluation needs, whatever is done to the images.
struct Job<'a> {
    vit: &'a Vit,
    prune: &'a crate::prune::PruneConfig,
    transform: &'a TransformConfig,
    samples: &'a [Sample],
    batch_size: usize,
    workers: usize,
    stop: &'a Stop,
}

impl Job<'_> {
    /// Evaluates on images that are corrupted so; `done` tells what an interrupt leaves behind.
    fn run(&self, corrupt: Option<Corruption>, done: &str) -> Result<(Report, TransformConfig)> {
        let transform = TransformConfig { corrupt, ..self.transform.clone() };
        let feed = Feed { transform: &transform, batch_size: self.batch_size, workers: self.workers };
        let bar = bar(false, &corrupt.map_or("evaluating".into(), |corruption| corruption.to_string()), "images");
        let report = evaluate(self.vit, self.prune, self.samples, feed, &mut |images| {
            bar.show(images as u64, self.samples.len() as u64);
            match self.stop.requested() {
                true => Err(Error::Interrupted { saved: done.into() }),
                false => Ok(()),
            }
        });
        bar.clear();
        Ok((report?, transform))
    }
}

/// Evaluates under every condition asked for, and tells it. Of several conditions the clean images come first and are the
/// report; what is done is on disk, or printed, when an interrupt comes.
fn finish(args: &EvalArgs, job: &Job, dataset: &Dataset, about: About) -> Result<()> {
    let mut corruptions = args.corrupt.clone().map_or(Vec::new(), |list| list.0);
    corruptions.iter_mut().for_each(|corruption| corruption.seed = job.prune.seed);
    if let Some(folder) = &args.report {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
    }
    let single = corruptions.len() < 2;
    let first = if single { corruptions.first().copied() } else { None };
    let (report, transform) = job.run(first, "nothing was measured")?;
    let mut outcome = Outcome::new(about, &dataset.classes, &report, first);
    if let Some(folder) = &args.report {
        let title = outcome.title();
        let subject = Subject { title: &title, dataset, samples: job.samples, transform: &transform };
        for (name, bytes) in files(&report, &subject)? {
            replace(&folder.join(name), &bytes)?;
        }
    }
    if !single {
        let of = corruptions.len();
        let mut rows = vec![Condition::new(None, &report)];
        tell(&rows[0], 0, of);
        for corruption in corruptions {
            let done = match &args.report {
                Some(folder) => format!("{} of {of} corruptions are in {}", rows.len() - 1, folder.display()),
                None => format!("{} of {of} corruptions were measured", rows.len() - 1),
            };
            match job.run(Some(corruption), &done) {
                Ok((report, _)) => rows.push(Condition::new(Some(corruption), &report)),
                Err(error @ Error::Interrupted { .. }) => {
                    if !args.json {
                        print::line(&conditions_table(&rows))?;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
            tell(&rows[rows.len() - 1], rows.len() - 1, of);
            if let Some(folder) = &args.report {
                replace(&folder.join("corruptions.csv"), conditions_csv(&rows).as_bytes())?;
            }
        }
        outcome.compare(rows);
    }
    if let Some(folder) = &args.report {
        let text = serde_json::to_string_pretty(&outcome).expect("results are plain structures with string keys");
        replace(&folder.join("report.json"), text.as_bytes())?;
    }
    if args.json {
        return print::json(&outcome);
    }
    let mut text = table(&outcome);
    if let Some(rows) = &outcome.corruptions {
        text += &format!("\n\n{}", conditions_table(rows));
    }
    print::line(&text)
}

/// One line of progress, since each condition takes a while.
fn tell(row: &Condition, done: usize, of: usize) {
    print::complain(&row.name(), &format!("accuracy {:.2} % ({done} of {of} corruptions)", 100.0 * row.accuracy));
}

/// The data set, as the flags say, else as the run that holds the checkpoint says; and that run's batch size. The model knows
/// the classes `known`, where its file names them.
fn open(args: &EvalArgs, home: Option<&Home>, known: &[String], stop: &Stop) -> Result<(Dataset, Option<usize>)> {
    let same = |config: &TrainConfig| {
        config.dataset == args.dataset
            || (config.dataset == DatasetName::Sample
                && source::or_sample(args.dataset, args.data.as_deref()) == DatasetName::Sample)
    };
    let config = home.map(|home| &home.config).filter(|config| same(config));
    let data = args.data.clone().or_else(|| config.and_then(|config| config.data.clone()));
    let name = match config {
        Some(config) if args.data.is_none() => config.dataset,
        _ => source::or_sample(args.dataset, data.as_deref()),
    };
    let labels = args.label_policy.or(config.map(|config| config.label_policy)).unwrap_or_default();
    let split = args.split_policy.or(config.map(|config| config.split)).unwrap_or_default();
    if name == DatasetName::Sample && args.dataset == DatasetName::Voc {
        print::complain("notice", "no VOC found: evaluating on the built-in sample of drawn images");
    }
    if config.is_none() && args.split_policy.is_none() && !matches!(name, DatasetName::Folder | DatasetName::Sample) {
        let because = match home {
            Some(Home { folder, config }) => {
                format!("{} was trained on {}, not {name}", folder.display(), config.dataset)
            }
            None => "the checkpoint lies in no run".into(),
        };
        let text = format!("{because}, so the splits are the default ones; --split-policy says otherwise");
        print::complain("notice", &text);
    }
    let root = source::root(name, data.as_deref())?;
    let mut dataset = match name {
        DatasetName::Folder if !known.is_empty() => open_folder_of(&root, known)?,
        _ => source::open(name, &root, labels, split, stop)?,
    };
    // Of its own images the run has told this before.
    let own = config.is_some_and(|config| config.data.as_deref() == absolute(&root).ok().as_deref());
    if name == DatasetName::Folder && !own {
        let of = dataset.train.len() + dataset.val.len() + dataset.test.len();
        let count = args.split.of(&dataset)?.len();
        let rest = (count < of).then(|| format!("{count} of {of} images are evaluated; --split all takes every one"));
        dataset.notes.iter().chain(&rest).for_each(|note| print::complain("note", note));
    }
    // Shrunken images give other numbers, and the run's are meant; whole ones are the same from a pack or not.
    if let Some((folder, side)) = config.and_then(|config| Some((config.cache.as_ref()?, config.cache_side?))) {
        cache::attach(&mut dataset, folder, Some(side), true, stop)?;
    }
    Ok((dataset, config.map(|config| config.batch_size)))
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
