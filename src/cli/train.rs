//! `dynavit train`: settles every setting, then runs or resumes.
#![forbid(unsafe_code)]

use super::augment::AugmentFlags;
use super::doubts::doubts;
use super::inherited::{own_settings, tell_of_preparation};
use super::keeping::KeepFlags;
use super::options::{Engine, EngineFlags, ImageFlags, PruneFlags, SizeFlags};
use super::outcome::{Outcome, each_seed, refuse_taken};
use super::plan::{self, header};
use super::progress::Progress;
use super::recipe::RecipeFlags;
use super::resume::{resumable, resume, run_of_seed, same_engine};
use super::run_name::{numbered, utc_stamp};
use super::{cache, print, source};
use crate::checkpoint::resolve;
use crate::data::annotation::is_plain_name;
use crate::data::{Dataset, LabelPolicy, SplitPolicy, doubles};
use crate::error::{Error, Result};
use crate::optim::NoDecay;
use crate::prune::Keep;
use crate::train::{DatasetName, Run, Stop, TrainConfig, train};
use clap::builder::RangedU64ValueParser;
use clap::{Args, FromArgMatches};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use toml::Table;

/// Flags of `train`.
#[derive(Args, Clone)]
#[command(after_help = "\
Examples:
  dynavit train voc 70
  dynavit train voc 70 --data VOCdevkit --weights vit_base.safetensors
  dynavit train cifar100 70 --data cifar-100-binary --weights vit.safetensors
  dynavit train tiny-imagenet 70 --data tiny-imagenet-200
  dynavit train folder 50 --data photos --model vit_small_patch16_224
  dynavit train voc mass:0.9 --data VOCdevkit --device cpu
  dynavit train voc 70 --keep-schedule 100
  dynavit train --resume runs/voc-k70-l2-s42-20260101-120000

The defaults above are the paper's recipe for VOC. Its other data sets differ in
cifar100: 5 epochs, batch 64, norm cifar; tiny-imagenet: 5 epochs. Of their
training images a tenth validates, and the images held out (test.bin, val) test;
--split lists trains on all and validates on those. The built-in sample has a
recipe of its own: vit_micro, 10 epochs, batch 16, lr 1e-3, warm-up 1, step 3,
gamma 0.5.

Settings come from, first to last: flags, DYNAVIT_* variables, --config, the
data set's preset, the paper's recipe. A run keeps all of them in config.toml,
which --config reads back.")]
pub struct TrainArgs {
    #[command(flatten)]
    pub flags: TrainFlags,
    /// TOML file of settings, named as the flags
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Go on with a run: its folder, or auto for the newest that fits, with
    /// --seeds for that of each seed
    #[arg(long, value_name = "DIR|auto", help_heading = "Run")]
    pub resume: Option<PathBuf>,
    /// Folder that gets a folder for each run
    #[arg(long, value_name = "DIR", default_value = "runs", help_heading = "Run")]
    pub output: PathBuf,
    /// Name of the run's folder [default: from settings and time]
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    pub run_name: Option<String>,
    /// One run after the other, each with its seed, as 42,43,44; prints mean
    /// and deviation
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "seed", value_parser = seed(), help_heading = "Run")]
    pub seeds: Option<Vec<u64>>,
    /// Print what the run would do, and write nothing
    #[arg(long, conflicts_with = "resume", help_heading = "Run")]
    dry_run: bool,
    /// Print the result as one JSON document
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    /// No progress on stderr
    #[arg(long, help_heading = "Run")]
    pub quiet: bool,
    /// Whether the warnings that these settings deserve were given before.
    #[arg(skip)]
    pub warned: bool,
}

/// The settings that may stand in `--config` too.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainFlags {
    /// Data set
    #[arg(required_unless_present_any = ["config", "resume"])]
    pub dataset: Option<DatasetName>,
    /// Percent of the patches to keep, above 0 and up to 100; or mass:0.9, the
    /// fewest patches that hold 0.9 of an image's saliency
    #[arg(required_unless_present_any = ["config", "resume"], allow_negative_numbers = true)]
    pub keep: Option<Keep>,
    /// Folder of the data set [default: data/VOCdevkit for voc, else in data]
    #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of packed images, built when they are not there and it pays
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Shrink packed images to this shorter side; large ones need it
    #[arg(long, value_name = "PIXELS", requires = "cache")]
    cache_side: Option<usize>,
    /// Weights to start from: safetensors with timm's names, or a run
    #[arg(long, value_name = "FILE|DIR")]
    weights: Option<PathBuf>,
    /// Model, by timm's name [default: vit_base_patch16_224]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Images that count when several classes are annotated
    #[arg(long, value_name = "POLICY")]
    label_policy: Option<LabelPolicy>,
    /// Stratified by class, or the data set's own lists
    #[arg(long, visible_alias = "split-policy", value_name = "POLICY")]
    split: Option<SplitPolicy>,

    /// Epochs [default: 10]
    #[arg(long, value_name = "N", help_heading = "Recipe")]
    pub epochs: Option<u32>,
    /// Images in a step [default: 32]
    #[arg(long, value_name = "N", help_heading = "Recipe")]
    batch_size: Option<usize>,
    /// Learning rate [default: 3e-5]
    #[arg(long, value_name = "F", help_heading = "Recipe")]
    lr: Option<f64>,
    /// AdamW's decoupled weight decay [default: 0.05]
    #[arg(long, value_name = "F", help_heading = "Recipe")]
    weight_decay: Option<f64>,
    /// Epochs between decays of the rate [default: 3]
    #[arg(long, visible_alias = "decay-epochs", value_name = "N", help_heading = "Recipe")]
    step_size: Option<u32>,
    /// Factor of each decay of the rate [default: 0.1]
    #[arg(long, visible_alias = "decay-rate", value_name = "F", help_heading = "Recipe")]
    gamma: Option<f64>,
    /// Epochs of linear warm-up, may be a fraction [default: 0]
    #[arg(long, value_name = "F", help_heading = "Recipe")]
    warmup_epochs: Option<f64>,
    /// Parameters without weight decay, as bias,norm [default: none]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Recipe")]
    no_decay: Option<Vec<NoDecay>>,
    /// Label smoothing [default: 0]
    #[arg(long, visible_alias = "smoothing", value_name = "F", help_heading = "Recipe")]
    label_smoothing: Option<f64>,
    /// Share of the image that crops cover [default: 0.08,1]
    #[arg(long, visible_alias = "scale", value_name = "A,B", value_parser = pair, help_heading = "Recipe")]
    crop_scale: Option<Pair>,
    /// Probability of a mirrored image [default: 0.5]
    #[arg(long, visible_alias = "hflip", value_name = "F", help_heading = "Recipe")]
    flip: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    augment: AugmentFlags,
    /// Seed of everything random [default: 42]
    #[arg(long, value_name = "N", value_parser = seed(), help_heading = "Recipe")]
    seed: Option<u64>,

    #[command(flatten)]
    #[serde(flatten)]
    recipe: RecipeFlags,
    #[command(flatten)]
    #[serde(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    #[serde(flatten)]
    keeping: KeepFlags,
    #[command(flatten)]
    #[serde(flatten)]
    size: SizeFlags,
    #[command(flatten)]
    #[serde(flatten)]
    image: ImageFlags,
    #[command(flatten)]
    #[serde(flatten)]
    engine: EngineFlags,
    /// Threads that decode images [default: threads, at most 4, or with a card
    /// all but one]
    #[arg(long, value_name = "N", help_heading = "Engine")]
    workers: Option<usize>,

    /// Minutes between checkpoints inside an epoch, 0 for none [default: 10]
    #[arg(long, value_name = "MINUTES", help_heading = "Run")]
    save_every: Option<f64>,
    /// Steps between checkpoints inside an epoch
    #[arg(long, value_name = "N", help_heading = "Run")]
    save_steps: Option<u64>,
    /// Checkpoints kept beside the best [default: 3]
    #[arg(long, value_name = "N", help_heading = "Run")]
    keep_checkpoints: Option<usize>,
}

/// Seeds that a TOML integer can hold.
fn seed() -> RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(..=i64::MAX as u64)
}

type Pair = [f64; 2];

/// Reads A,B.
pub fn pair(text: &str) -> std::result::Result<Pair, String> {
    let numbers = text.split(',').map(|part| part.trim().parse()).collect::<std::result::Result<Vec<f64>, _>>();
    numbers.ok().and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| "two numbers A,B are needed".into())
}

/// Trains, and prints the outcome.
pub fn run(args: TrainArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    if args.config.is_some() && args.resume.is_some() && args.seeds.is_none() {
        let reason = "a run that is resumed has its own settings";
        return Err(Error::usage("--config", reason, "leave it or --resume out"));
    }
    let found = match (&args.resume, &args.seeds) {
        (Some(which), None) => resumable(&args, which)?,
        _ => None,
    };
    if let Some(dir) = found {
        let (mut run, engine) = resume(&args, dir, None, &stop)?;
        let progress = progress(&args, &run);
        return finish(&mut run, &engine, progress, true, &stop)?.print(args.json);
    }
    let (config, fell_back, engine) = prepare(&args, None)?;
    doubts(&given(&args.flags)?, &config)?.iter().for_each(|text| print::complain("warning", text));
    if args.dry_run {
        return plan(&config, fell_back, &engine, &args, &stop);
    }
    let Some(seeds) = &args.seeds else {
        let mut run = start(&args, config, fell_back, &engine, &stop)?;
        let progress = progress(&args, &run);
        return finish(&mut run, &engine, progress, true, &stop)?.print(args.json);
    };
    match (&args.resume, &args.run_name) {
        (Some(which), _) if which != Path::new("auto") => {
            let reason = "one run cannot be gone on with under several seeds";
            return Err(Error::usage("--resume", reason, "give auto, which goes on with the run of each seed"));
        }
        (None, Some(name)) => refuse_taken(&args.output, name, seeds)?,
        _ => {}
    }
    let first = seeds[0];
    each_seed(seeds, &args, |seed| {
        let one = TrainArgs { warned: seed != first, ..of_seed(&args, seed) };
        let config = TrainConfig { seed, ..config.clone() };
        let found = match args.resume {
            Some(_) => run_of_seed(&one, &in_place(&config)?)?,
            None => None,
        };
        let mut run = match found {
            Some(dir) => {
                same_engine(&dir, &engine)?;
                resume(&one, dir, Some(&engine), &stop)?.0
            }
            None => {
                if args.resume.is_some() {
                    let text = format!("no run of these settings under {}: beginning a new run", args.output.display());
                    print::complain("notice", &text);
                }
                start(&one, config, fell_back, &engine, &stop)?
            }
        };
        let progress = progress(&one, &run);
        finish(&mut run, &engine, progress, true, &stop)
    })
}

/// What the command line asks of one of `--seeds`.
fn of_seed(args: &TrainArgs, seed: u64) -> TrainArgs {
    let mut one = args.clone();
    one.run_name = args.run_name.as_ref().map(|name| format!("{name}-s{seed}"));
    (one.flags.seed, one.seeds) = (Some(seed), None);
    one
}

/// The settings that `words` on `train`'s command line mean.
pub fn parse(words: Vec<String>) -> std::result::Result<TrainArgs, clap::Error> {
    let command = TrainArgs::augment_args(clap::Command::new("train").no_binary_name(true));
    TrainArgs::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// The view of a run's events.
pub fn progress(args: &TrainArgs, run: &Run) -> Progress {
    let config = &run.config;
    let mut progress = Progress::new(args.quiet, config.epochs, run.dataset.train.len(), config.batch_size);
    progress.tell_lengths(config.keep.mass().is_some() || config.keeping.keep_schedule.is_some());
    progress
}

/// Trains a run that is begun or picked up, to its end; `headed` says first what is about to run.
pub fn finish(run: &mut Run, engine: &Engine, mut progress: Progress, headed: bool, stop: &Stop) -> Result<Outcome> {
    match &engine.gpu {
        Some(gpu) => {
            if let Err(error) = run.move_to(gpu) {
                tell_saved(run, &error);
                return Err(error);
            }
        }
        None => run.progress.loss_scale = None,
    }
    for trouble in run.troubles.drain(..) {
        print::complain("warning", &trouble);
    }
    if headed {
        header(run, engine, &progress);
    }
    let summary = train(run, stop, &mut |event| progress.show(event));
    progress.clear();
    let summary = summary.inspect_err(|error| tell_saved(run, error))?;
    let outcome = Outcome::of(run, &summary);
    if let Err(error) = run.dir.put_outcome(&outcome.to_json()?) {
        print::complain("warning", &format!("the result is not written: {error}"));
    }
    Ok(outcome)
}

/// Says what is left of a run that ends with an error: the way to go on with it, or that nothing was saved and its folder
/// is gone.
fn tell_saved(run: &Run, error: &Error) {
    let root = run.dir.root().display();
    match (run.saved, error) {
        (_, Error::Interrupted { .. }) => drop(run.dir.discard_unsaved()),
        (Some(step), Error::NonFinite { .. }) => {
            let from = match run.progress.best_epoch {
                Some(epoch) => format!("the best epoch of this one, {epoch}"),
                None => format!("step {step} of this one"),
            };
            print::complain("notice", &format!("a new run can begin from {from}: --weights {root}"));
        }
        (Some(step), _) => {
            let how = format!("saved up to step {step}: go on with `dynavit train --resume {root}`");
            print::complain("notice", &how);
        }
        (None, _) => {
            if run.dir.discard_unsaved() {
                print::complain("notice", &format!("nothing was saved yet: {root} is taken away again"));
            }
        }
    }
}

/// Settles and checks a new run's settings and starts the engine, where none runs already; tells whether VOC had to be
/// replaced by the sample.
pub fn prepare(args: &TrainArgs, engine: Option<&Engine>) -> Result<(TrainConfig, bool, Engine)> {
    if let Some(name) = args.run_name.as_deref().filter(|name| !is_plain_name(name)) {
        return Err(Error::usage(
            "--run-name",
            format!("{name:?} is not a plain name"),
            "give a folder's name; --output says where",
        ));
    }
    let seeds = args.seeds.as_deref().unwrap_or_default();
    if let Some(seed) = (1..seeds.len()).find(|&i| seeds[..i].contains(&seeds[i])).map(|i| seeds[i]) {
        return Err(Error::usage("--seeds", format!("{seed} stands there twice"), "give each seed once"));
    }
    let (config, fell_back) = settle(args)?;
    config.validate()?;
    let (config, engine) = settled(config, engine)?;
    // A bad name is told before the data set, which may be large, is read.
    config.vit(1)?;
    Ok((config, fell_back, engine))
}

/// Prints what a run would do; reads the data set and writes nothing.
fn plan(config: &TrainConfig, fell_back: bool, engine: &Engine, args: &TrainArgs, stop: &Stop) -> Result<()> {
    let root = source::root(config.dataset, config.data.as_deref())?;
    if config.dataset == DatasetName::Sample && !root.is_dir() {
        let because = if fell_back { "no VOC was found, and the" } else { "the" };
        let reason = format!("{because} built-in sample is not drawn yet in {}", root.display());
        return Err(Error::usage("--dry-run", reason, "draw it first with `dynavit data sample`, or give --data DIR"));
    }
    if fell_back {
        let place = format!("no --data, no DYNAVIT_DATA, no {}", source::VOC_ROOT);
        let text = format!(
            "no VOC found ({place}): the plan is for the built-in sample of drawn images in {}",
            root.display()
        );
        print::complain("notice", &text);
    }
    tell_of_preparation(config)?;
    let dataset = source::open(config.dataset, &root, config.label_policy, config.split, stop)?;
    plan::print(config, &dataset, engine, stop, args.json)
}

/// Begins a new run under checked settings.
pub fn start(args: &TrainArgs, config: TrainConfig, fell_back: bool, engine: &Engine, stop: &Stop) -> Result<Run> {
    let root = source::root(config.dataset, config.data.as_deref())?;
    if fell_back && !args.warned {
        print::complain(
            "notice",
            &format!(
                "no VOC found (no --data, no DYNAVIT_DATA, no {}): training a small ViT from random weights on the \
                 built-in sample of drawn images in {}",
                source::VOC_ROOT,
                root.display()
            ),
        );
    }
    let mut dataset = source::open(config.dataset, &root, config.label_policy, config.split, stop)?;
    cached(&config, &mut dataset, args.quiet, stop)?;
    if config.weights.is_none() && config.dataset != DatasetName::Sample && !args.warned {
        let text = format!("{} starts from random weights; --weights FILE gives it pretrained ones", config.model);
        print::complain("warning", &text);
    }
    if !args.warned {
        tell_of_preparation(&config)?;
    }
    let config = in_place(&config)?;
    let workers = engine.workers(config.workers);
    if stop.requested() {
        return Err(Error::Interrupted { saved: "nothing was begun".into() });
    }
    let run = match &args.run_name {
        Some(name) => Run::start(config, dataset, std::iter::once(args.output.join(name)), workers)?,
        None => {
            let name = format!("{}{}", config.run_prefix(), utc_stamp(SystemTime::now()));
            Run::start(config, dataset, numbered(&args.output, &name), workers)?
        }
    };
    if !args.warned {
        run.dir.manifest().iter().flat_map(|text| doubles(text)).for_each(|text| print::complain("warning", &text));
    }
    Ok(run)
}

/// The settings as a run keeps them: with the place of its images.
fn in_place(config: &TrainConfig) -> Result<TrainConfig> {
    let root = source::root(config.dataset, config.data.as_deref())?;
    Ok(TrainConfig { data: Some(absolute(&root)?), ..config.clone() })
}

/// Takes the images from the cache that the settings name, if they do.
pub fn cached(config: &TrainConfig, dataset: &mut Dataset, quiet: bool, stop: &Stop) -> Result<()> {
    match &config.cache {
        Some(folder) => cache::attach(dataset, folder, config.cache_side, quiet, stop),
        None => Ok(()),
    }
}

/// The engine given, or the one that the settings ask for, and the settings with what was picked: the step goes by them, and
/// a resumed run keeps it. Refuses what they ask of a card and it cannot do.
pub fn settled(config: TrainConfig, engine: Option<&Engine>) -> Result<(TrainConfig, Engine)> {
    let flags = EngineFlags { threads: config.threads, device: Some(config.device), precision: Some(config.precision) };
    let engine = engine.map_or_else(|| flags.start(), |engine| Ok(engine.clone()))?;
    engine.gpu.as_ref().map_or(Ok(()), |_| config.check_on_card())?;
    let (device, precision) = engine.choice();
    Ok((TrainConfig { device, precision, ..config }, engine))
}

/// What flags and `--config` say, flags first, by their long names; paths made absolute.
pub fn layer(args: &TrainArgs) -> Result<Table> {
    let mut layer = match &args.config {
        Some(path) => config_file(path)?,
        None => Table::new(),
    };
    for key in ["data", "cache", "weights"] {
        if let Some(path) = layer.get(key).and_then(|value| value.as_str()) {
            let path = absolute(Path::new(path))?.display().to_string();
            layer.insert(key.into(), path.into());
        }
    }
    layer.extend(given(&args.flags)?);
    Ok(layer)
}

/// Every setting of a new run, and whether VOC had to be replaced by the sample.
pub fn settle(args: &TrainArgs) -> Result<(TrainConfig, bool)> {
    let layer = layer(args)?;
    let blame = |error: &dyn std::fmt::Display| match &args.config {
        Some(path) => Error::usage(format!("--config {}", path.display()), first_line(error), "correct the file"),
        None => Error::usage("settings", first_line(error), "see --help"),
    };
    let need = |key: &str| {
        layer.get(key).cloned().ok_or_else(|| Error::usage(key, "neither given nor in --config", "give it"))
    };
    let asked: DatasetName = need("dataset")?.try_into().map_err(|error| blame(&error))?;
    let keep = match need("keep")? {
        toml::Value::String(text) => text,
        other => other.to_string(),
    };
    let keep: Keep = keep.parse().map_err(|error| blame(&format!("keep: {error}")))?;
    let data = layer.get("data").and_then(|value| value.as_str()).map(PathBuf::from);
    let dataset = source::or_sample(asked, data.as_deref());
    let mut base = match dataset {
        DatasetName::Sample => TrainConfig::sample(keep),
        _ => TrainConfig::paper(dataset, keep),
    };
    if let Some(weights) = layer.get("weights").and_then(|value| value.as_str()) {
        match resolve(Path::new(weights))? {
            (_, Some(card)) => own_settings(&mut base, card),
            (file, None) => base.model = source::name_by_shapes(&file).map_or(base.model, String::from),
        }
    }
    let mut table = Table::try_from(&base).map_err(|error| blame(&error))?;
    table.extend(layer);
    table.insert("dataset".into(), dataset.to_string().into());
    let config = table.try_into().map_err(|error: toml::de::Error| blame(&error))?;
    Ok((config, dataset != asked))
}

/// The flags that were given, by their long names; paths made absolute, so that a run can be resumed from anywhere.
pub fn given(flags: &TrainFlags) -> Result<Table> {
    let mut flags = flags.clone();
    for path in [&mut flags.data, &mut flags.cache, &mut flags.weights].into_iter().flatten() {
        *path = absolute(path)?;
    }
    Table::try_from(&flags)
        .map_err(|error| Error::usage("flags", error.to_string(), "give paths in UTF-8 and numbers below 2^63"))
}

/// The content of `--config`, whose keys are all known.
fn config_file(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
    let table: Table = text.parse().map_err(|error| unreadable(path, &error))?;
    let command = TrainFlags::augment_args(clap::Command::new("train"));
    let known: Vec<&str> = command.get_arguments().map(|arg| arg.get_long().unwrap_or(arg.get_id().as_str())).collect();
    let unknown: Vec<&str> = table.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
    if unknown.is_empty() {
        return Ok(table);
    }
    Err(Error::usage(
        format!("--config {}", path.display()),
        format!("unknown key {}", unknown.join(", ")),
        format!("known keys are {}", known.join(", ")),
    ))
}

/// The error of a file of settings that cannot be read as one.
pub fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::data(path, first_line(error), "correct the file")
}

/// What a TOML error says, without the excerpt it draws.
fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let lines = text.lines().filter(|line| !line.contains('|') && !line.trim().is_empty());
    lines.collect::<Vec<_>>().join(": ")
}

/// `path` from the root of the file system on.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Augmentation, Keeping, Recipe};

    #[test]
    fn every_setting_of_a_run_is_a_key_of_a_config_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let config = TrainConfig {
            data: Some("a".into()),
            cache: Some("c".into()),
            cache_side: Some(256),
            weights: Some("b".into()),
            augment: Augmentation { aa: Some("rand-m9".parse().unwrap()), ..Augmentation::default() },
            img_size: Some(384),
            threads: Some(1),
            workers: Some(1),
            save_steps: Some(1),
            no_decay: vec![NoDecay::Bias],
            keeping: Keeping {
                keep_schedule: Some("cosine:100".parse().unwrap()),
                keep_schedule_epochs: Some(3),
                val_keep: Some("mass:0.9".parse().unwrap()),
            },
            recipe: Recipe { warmup_lr: Some(1e-6), clip_grad: Some(1.0), patience: Some(2), ..Recipe::default() },
            ..TrainConfig::sample("62.5".parse().unwrap())
        };
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let table = config_file(&path).unwrap();
        assert_eq!(table.try_into::<TrainConfig>().unwrap(), config);
        let flags = TrainFlags::augment_args(clap::Command::new("train"));
        let written = std::fs::read_to_string(&path).unwrap().parse::<Table>().unwrap();
        assert_eq!(written.len(), flags.get_arguments().count());
    }

    #[test]
    fn flags_not_given_leave_no_key() {
        assert_eq!(given(&TrainFlags::default()).unwrap(), Table::new());
        let flags = TrainFlags {
            lr: Some(3e-5),
            engine: EngineFlags { threads: Some(2), ..Default::default() },
            ..Default::default()
        };
        assert_eq!(given(&flags).unwrap().keys().collect::<Vec<_>>(), ["lr", "threads"]);
    }
}
