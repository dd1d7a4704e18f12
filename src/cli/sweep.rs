//! `dynavit sweep`: a grid of training runs in one folder, which can be stopped and gone on with at any moment.
#![forbid(unsafe_code)]

use super::options::Engine;
use super::outcome::Outcome;
use super::train::{self, FREE_ON_RESUME, TrainArgs};
use super::{print, progress, source};
use crate::checkpoint::RunDir;
use crate::error::{Error, Result};
use crate::experiment::assess::{assess, missing};
use crate::experiment::grid::{Cell, Grid, varied};
use crate::experiment::record::{Record, scorer_name};
use crate::flops::Cost;
use crate::prune::{Keep, Scorer};
use crate::train::{DatasetName, Stop, TrainConfig};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use toml::Table;

/// Options that the sweep has in its own form.
const OWN: [&str; 11] =
    ["dataset", "keep", "scorer", "seed", "seeds", "config", "resume", "output", "run_name", "dry_run", "json"];
/// Options that cannot differ between runs of one process.
const ONE_ENGINE: [&str; 3] = ["threads", "device", "precision"];

/// Flags of `sweep`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit sweep voc --output runs/paper --data VOCdevkit --weights vit.safetensors
  dynavit sweep voc --keep 70 --scorer l2,sobel,entropy,random,center --output s
  dynavit sweep sample --keep 50,100 --seeds 42 --vary lr=1e-3,3e-3 --output lr
  dynavit report runs/paper --output paper-tables

Every option of train passes through; --vary takes any of them with several
values (parted by semicolons where a value has commas). Runs go seed by seed.
K = 100 does not depend on the scorer and is trained once a seed.

The same command goes on after a stop: finished runs are skipped, one that was
cut goes on from its last checkpoint. After each run its best epoch is evaluated
image by image, on validation and test, for `report`. A run that fails is told
and the others go on; the exit code is then 1.")]
pub struct SweepArgs {
    /// Data set
    dataset: DatasetName,
    /// Keep ratios in percent
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_value = "30,50,70,90,100", help_heading = "Grid")]
    keep: Vec<Keep>,
    /// Scorers [default: l2]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "Grid")]
    scorer: Vec<Scorer>,
    /// Seeds
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "42,43,44", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64), help_heading = "Grid")]
    seeds: Vec<u64>,
    /// Any option of train with several values, as lr=1e-5,3e-5
    #[arg(long, value_name = "OPTION=A,B", value_parser = varied, help_heading = "Grid")]
    vary: Vec<(String, Vec<String>)>,
    /// Evaluate each run at these keep ratios too
    #[arg(long, value_name = "K,...", value_delimiter = ',', help_heading = "Grid")]
    eval_keep: Vec<Keep>,
    /// Folder of the sweep, a folder in it for each run
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    output: PathBuf,
    /// TOML file of settings, named as the flags of train
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    config: Option<PathBuf>,
    /// Print the runs in order and what is done of them, and write nothing
    #[arg(long, help_heading = "Run")]
    dry_run: bool,
    /// Print the result as one JSON document
    #[arg(long, help_heading = "Run")]
    json: bool,
    #[command(flatten)]
    passed: Passed,
}

/// Options of `train` that were given, as words of its command line.
struct Passed {
    words: Vec<String>,
    quiet: bool,
}

impl Args for Passed {
    fn augment_args(command: clap::Command) -> clap::Command {
        passing().into_iter().fold(command, |command, arg| command.arg(arg))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Passed {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut words = Vec::new();
        for arg in passing().iter().filter(|arg| arg.get_action().takes_values()) {
            let id = arg.get_id().as_str();
            let given = matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
            if let (true, Some(values), Some(long)) = (given, matches.get_raw(id), arg.get_long()) {
                let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
                words.push(format!("--{long}={}", values.join(",")));
            }
        }
        Ok(Passed { words, quiet: matches.get_flag("quiet") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The options of `train` that pass through.
fn passing() -> Vec<clap::Arg> {
    let command = TrainArgs::augment_args(clap::Command::new("train"));
    command.get_arguments().filter(|arg| !OWN.contains(&arg.get_id().as_str())).cloned().collect()
}

/// A cell with its settled settings and what there is of it.
struct Planned {
    cell: Cell,
    words: Vec<String>,
    config: TrainConfig,
    state: State,
    /// Work that is left, in multiply-adds of training images.
    left: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Done,
    Partial,
    New,
    Failed,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Partial => "to go on with",
            State::New => "to begin",
            State::Failed => "failed",
        }
    }
}

/// A line of the result.
#[derive(Serialize)]
struct Line {
    run: String,
    state: State,
    keep: f64,
    seed: u64,
    epochs: usize,
    val_accuracy: Option<f64>,
    error: Option<String>,
}

/// Trains what is left of the grid.
pub fn run(args: SweepArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let cells = settle(&args)?;
    let (_, fell_back, engine) = train::prepare(&parsed(&cells[0].1, &cells[0].0)?, None)?;
    let mut plan = Vec::new();
    for (cell, words) in cells {
        let (config, ..) = train::prepare(&parsed(&words, &cell)?, Some(&engine))?;
        let dir = args.output.join(&cell.name);
        let (state, left) = state(&dir, &config, &args.eval_keep)?;
        plan.push(Planned { cell, words, config, state, left });
    }
    same_settings(&args, &plan)?;
    if args.dry_run {
        return show_plan(&args, &plan);
    }
    let mut sweep = Sweep { args: &args, engine, stop, fell_back, clock: None, worked: 0.0, headed: false };
    let mut lines = Vec::new();
    let mut open: Vec<&Planned> = plan.iter().filter(|planned| planned.state != State::Done).collect();
    sweep.say(&format!("sweep      {} runs in {}, {} to do", plan.len(), args.output.display(), open.len()));
    for (i, planned) in plan.iter().enumerate() {
        let dir = args.output.join(&planned.cell.name);
        let mut error = None;
        if planned.state != State::Done {
            let lead = format!("[{}/{} {}{}]", i + 1, plan.len(), planned.cell.name, sweep.eta(&open));
            match sweep.cell(planned, &dir, &lead) {
                Ok(words) => sweep.say(&format!("{lead} {words}")),
                Err(Error::Interrupted { .. }) => {
                    let left = open.len();
                    return Err(Error::Interrupted {
                        saved: format!("{left} of {} runs are left, the same command goes on", plan.len()),
                    });
                }
                Err(failed) => {
                    print::complain("failed", &format!("{}: {failed}", planned.cell.name));
                    error = Some(failed.to_string());
                }
            }
            open.remove(0);
        }
        lines.push(line(planned, &dir, error));
    }
    finish(&args, &lines)
}

/// The cells in order, with the words of each one's settings, all of which `train` can read.
fn settle(args: &SweepArgs) -> Result<Vec<(Cell, Vec<String>)>> {
    twice("--keep", &args.keep)?;
    twice("--seeds", &args.seeds)?;
    twice("--eval-keep", &args.eval_keep)?;
    twice("--vary", &args.vary.iter().map(|(key, _)| key).collect::<Vec<_>>())?;
    twice("--scorer", &args.scorer.iter().map(|scorer| scorer_name(*scorer)).collect::<Vec<_>>())?;
    let known = passing();
    for (key, _) in &args.vary {
        let reason_remedy = match key.as_str() {
            "keep" | "scorer" => Some((format!("{key} has a flag of its own"), format!("use --{key} A,B"))),
            "seed" | "seeds" => Some(("seeds have a flag of their own".into(), "use --seeds A,B".into())),
            one if ONE_ENGINE.contains(&one) => {
                Some((format!("one engine serves the whole sweep, so {one} cannot vary"), "sweep twice".into()))
            }
            other => {
                let takes = |arg: &&clap::Arg| arg.get_long() == Some(other) && arg.get_action().takes_values();
                match known.iter().find(takes) {
                    None => Some((format!("{other} is no option of train with a value"), "see train --help".into())),
                    Some(_) if args.passed.words.iter().any(|word| word.starts_with(&format!("--{other}="))) => {
                        Some((format!("--{other} is given as well"), "leave one of them out".into()))
                    }
                    Some(_) => None,
                }
            }
        };
        if let Some((reason, remedy)) = reason_remedy {
            return Err(Error::usage("--vary", reason, remedy));
        }
    }
    let passed = [
        args.passed.words.clone(),
        args.config.iter().map(|path| format!("--config={}", path.display())).collect(),
        if args.passed.quiet { vec!["--quiet".to_string()] } else { Vec::new() },
    ]
    .concat();
    let mut scorers: Vec<String> = args.scorer.iter().map(|scorer| scorer_name(*scorer)).collect();
    let dataset = source::or_sample(args.dataset, data_of(&passed).as_deref()).to_string();
    if scorers.is_empty() {
        scorers.push(default_scorer(args)?);
    }
    let grid = Grid { keeps: args.keep.clone(), scorers, seeds: args.seeds.clone(), varied: args.vary.clone() };
    let cells = grid.cells(&dataset)?;
    let words = |cell: &Cell| {
        let mut words = vec![args.dataset.to_string(), cell.keep.to_string()];
        words.extend(passed.iter().cloned().chain(cell.words()));
        words.push(format!("--output={}", args.output.display()));
        words.push(format!("--run-name={}", cell.name));
        words
    };
    Ok(cells.into_iter().map(|cell| (cell.clone(), words(&cell))).collect())
}

/// The scorer that a run without `--scorer` has.
fn default_scorer(args: &SweepArgs) -> Result<String> {
    let Some(path) = &args.config else { return Ok(scorer_name(Scorer::default())) };
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
    let table: Table = text.parse().unwrap_or_default();
    Ok(table.get("scorer").and_then(|value| value.as_str()).map_or(scorer_name(Scorer::default()), String::from))
}

fn data_of(words: &[String]) -> Option<PathBuf> {
    words.iter().find_map(|word| word.strip_prefix("--data=")).map(PathBuf::from)
}

fn twice<T: PartialEq + std::fmt::Debug>(flag: &str, values: &[T]) -> Result<()> {
    match (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
        None => Ok(()),
        Some(i) => Err(Error::usage(flag, format!("{:?} stands there twice", values[i]), "give each once")),
    }
}

/// The words of a cell as `train` reads them; what it refuses is the sweep's error.
fn parsed(words: &[String], cell: &Cell) -> Result<TrainArgs> {
    train::parse(words.to_vec()).map_err(|error| {
        let text = error.render().to_string();
        let reason = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ").replace('\n', " ");
        let options: Vec<String> = cell.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Error::usage(format!("sweep ({})", options.join(" ")), reason, "see train --help")
    })
}

/// What there is of a cell, and the work that is left of it.
fn state(dir: &Path, config: &TrainConfig, eval_keep: &[Keep]) -> Result<(State, f64)> {
    let vit = config.vit(1)?;
    let k = config.keep.count(vit.patches(), config.round);
    let epoch = Cost::new(&vit, &config.options(), k).executed as f64;
    if !dir.join("config.toml").is_file() || !dir.join("checkpoints").is_dir() {
        return Ok((State::New, f64::from(config.epochs) * epoch));
    }
    let record = Record::read(dir)?;
    if record.finished() && missing(&record, eval_keep).is_empty() {
        return Ok((State::Done, 0.0));
    }
    let left = config.epochs.saturating_sub(record.rows.len() as u32).max(u32::from(!record.finished()));
    Ok((State::Partial, f64::from(left) * epoch + 0.1 * epoch))
}

/// Refuses settings that differ from those of runs that the folder holds already, naming the option.
fn same_settings(args: &SweepArgs, plan: &[Planned]) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(&args.output) else { return Ok(()) };
    let free = |key: &str| FREE_ON_RESUME.contains(&key) && !["epochs", "patience"].contains(&key);
    for entry in entries {
        let dir = entry.map_err(|error| Error::io(&args.output, &error))?.path();
        if !dir.join("config.toml").is_file() || !dir.join("checkpoints").is_dir() {
            continue;
        }
        let theirs = Record::read(&dir)?;
        let own = plan.iter().find(|planned| planned.cell.name == theirs.name);
        // Another part of the same sweep may differ in what is varied, and in nothing else.
        let Some(ours) = own.or(plan.first()) else { continue };
        let aside = |key: &str| match own {
            Some(planned) => planned.cell.keep == Keep::ALL && key == "scorer",
            None => ["keep", "scorer", "seed"].contains(&key) || args.vary.iter().any(|(varied, _)| varied == key),
        };
        let mut config = ours.config.clone();
        config.data = Some(train::absolute(&source::root(config.dataset, config.data.as_deref())?)?);
        let table = |config: &TrainConfig| {
            Table::try_from(config).map_err(|error| Error::usage("settings", error.to_string(), "report this"))
        };
        let (ours, theirs) = (table(&config)?, table(&theirs.config)?);
        let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
        keys.sort();
        let differs = |key: &&&String| !free(key) && !aside(key) && ours.get(**key) != theirs.get(**key);
        if let Some(key) = keys.iter().find(differs) {
            let show = |table: &Table| table.get(*key).map_or("unset".into(), ToString::to_string);
            return Err(Error::usage(
                format!("--{key}"),
                format!("is {}, and {} was trained with {}", show(&ours), dir.display(), show(&theirs)),
                "give the options that the folder was begun with, or another --output",
            ));
        }
    }
    Ok(())
}

/// What the cells share while they run.
struct Sweep<'a> {
    args: &'a SweepArgs,
    engine: Engine,
    stop: Stop,
    fell_back: bool,
    /// Seconds of finished cells, and the work that they did.
    clock: Option<f64>,
    worked: f64,
    headed: bool,
}

impl Sweep<'_> {
    fn say(&self, text: &str) {
        if !self.args.passed.quiet {
            eprintln!("{text}");
        }
    }

    /// What is left after the runs that this process has finished, by their time for a multiply-add.
    fn eta(&self, open: &[&Planned]) -> String {
        let Some(seconds) = self.clock.filter(|_| self.worked > 0.0) else { return String::new() };
        let left = seconds / self.worked * open.iter().map(|planned| planned.left).sum::<f64>();
        format!(", {} left", duration(left))
    }

    /// Trains a cell to its end and evaluates it; returns what came of it.
    fn cell(&mut self, planned: &Planned, dir: &Path, lead: &str) -> Result<String> {
        if self.stop.requested() {
            return Err(Error::Interrupted { saved: String::new() });
        }
        let clock = Instant::now();
        let mut args = parsed(&planned.words, &planned.cell)?;
        args.warned = self.headed;
        let (config, engine) = (planned.config.clone(), &self.engine);
        let mut run = if RunDir::clear_unbegun(dir)? {
            train::start(&args, config, self.fell_back, engine, &self.stop)?
        } else {
            train::resume(&args, RunDir::open(dir)?, Some(engine), &self.stop)?.0
        };
        let headed = !std::mem::replace(&mut self.headed, true);
        let progress = train::progress(&args, &run).within(lead.to_string());
        let before = run.progress.epoch;
        train::finish(&mut run, engine, progress, headed, &self.stop).map(|_: Outcome| ())?;
        let record = Record::read(dir)?;
        let bar = progress::bar(self.args.passed.quiet, &format!("{lead} verdicts"), "images");
        let wanted = missing(&record, &self.args.eval_keep);
        let evaluated =
            assess(&record, &run.dataset, engine.gpu.as_ref(), run.workers, &wanted, &mut |split, _, done| {
                bar.show(done as u64, split.of(&run.dataset).len() as u64);
                match self.stop.requested() {
                    true => Err(Error::Interrupted { saved: String::new() }),
                    false => Ok(()),
                }
            });
        bar.clear();
        evaluated?;
        if before < run.progress.epoch {
            self.clock = Some(self.clock.unwrap_or(0.0) + clock.elapsed().as_secs_f64());
            self.worked += planned.left;
        }
        let record = Record::read(dir)?;
        let best = record.best().map_or(0.0, |row| row.val_accuracy);
        let seconds = record.seconds_per_epoch().unwrap_or(0.0);
        Ok(format!("validation accuracy {:.2} %, {seconds:.1} s/epoch", 100.0 * best))
    }
}

/// A length of time in words of at most two units.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0..=1 => format!("{seconds:.0} s"),
        2..=119 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

fn line(planned: &Planned, dir: &Path, error: Option<String>) -> Line {
    let record = Record::read(dir).ok();
    Line {
        run: dir.display().to_string(),
        state: if error.is_some() { State::Failed } else { State::Done },
        keep: planned.cell.keep.percent(),
        seed: planned.cell.seed,
        epochs: record.as_ref().map_or(0, |record| record.rows.len()),
        val_accuracy: record.as_ref().and_then(Record::best).map(|row| row.val_accuracy),
        error,
    }
}

/// Prints the result; an error when a cell failed.
fn finish(args: &SweepArgs, lines: &[Line]) -> Result<()> {
    if args.json {
        print::json(&lines)?;
    } else {
        for line in lines {
            let accuracy = line.val_accuracy.map_or("-".into(), |val| format!("{:.2} %", 100.0 * val));
            print::line(&format!("{accuracy:>8}  {:6}  {}", line.state.words(), line.run))?;
        }
        print::line(&format!(
            "tables and plots: dynavit report {} --output {}",
            args.output.display(),
            args.output.join("report").display()
        ))?;
    }
    let failed: Vec<&str> = lines.iter().filter(|line| line.error.is_some()).map(|line| line.run.as_str()).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::Unfinished {
            what: format!("{} of {} runs failed: {}", failed.len(), lines.len(), failed.join(", ")),
            remedy: "mend what was told above and give the same command again".into(),
        }),
    }
}

/// The plan as `--json` prints it.
#[derive(Serialize)]
struct PlanLine<'a> {
    run: &'a str,
    state: State,
    keep: f64,
    seed: u64,
    options: &'a [(String, String)],
    share_of_the_work_left: f64,
}

fn show_plan(args: &SweepArgs, plan: &[Planned]) -> Result<()> {
    let all: f64 = plan.iter().map(|planned| planned.left).sum();
    let share = |planned: &Planned| planned.left / all.max(1.0);
    if args.json {
        let lines = plan.iter().map(|planned| PlanLine {
            run: &planned.cell.name,
            state: planned.state,
            keep: planned.cell.keep.percent(),
            seed: planned.cell.seed,
            options: &planned.cell.options,
            share_of_the_work_left: share(planned),
        });
        return print::json(&lines.collect::<Vec<_>>());
    }
    let done = plan.iter().filter(|planned| planned.state == State::Done).count();
    print::line(&format!("{} runs in {}, {done} done", plan.len(), args.output.display()))?;
    for (i, planned) in plan.iter().enumerate() {
        let (state, name) = (planned.state.words(), &planned.cell.name);
        print::line(&format!("{:3}  {state:13}  {:5.1} % of the work  {name}", i + 1, 100.0 * share(planned)))?;
    }
    Ok(())
}
