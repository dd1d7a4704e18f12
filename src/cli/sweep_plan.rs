//! What a sweep is about to do: its cells, the settings of each, and what its folder holds already.
#![forbid(unsafe_code)]

use super::resume::FREE_ON_RESUME;
use super::sweep::SweepArgs;
use super::train::{self, TrainArgs};
use super::{print, source};
use crate::error::{Error, Result};
use crate::experiment::assess::{More, missing};
use crate::experiment::grid::{Cell, Grid};
use crate::experiment::record::{Record, scorer_name};
use crate::flops::Cost;
use crate::prune::{Keep, Scorer};
use crate::train::TrainConfig;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};
use serde::Serialize;
use std::path::{Path, PathBuf};
use toml::Table;

/// Options that the sweep has in its own form.
const OWN: [&str; 11] =
    ["dataset", "keep", "scorer", "seed", "seeds", "config", "resume", "output", "run_name", "dry_run", "json"];
/// Options that cannot differ between runs of one process.
const ONE_ENGINE: [&str; 3] = ["threads", "device", "precision"];

/// Options of `train` that were given, as words of its command line.
pub struct Passed {
    pub words: Vec<String>,
    pub quiet: bool,
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
pub struct Planned {
    pub cell: Cell,
    pub words: Vec<String>,
    pub config: TrainConfig,
    pub state: State,
    /// Why what there is of it cannot be read.
    pub damage: Option<Error>,
    /// Work that is left, in multiply-adds of training images.
    pub left: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Done,
    Partial,
    New,
    Failed,
}

impl State {
    pub fn words(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Partial => "to go on with",
            State::New => "to begin",
            State::Failed => "failed",
        }
    }
}

/// The cells in order, with the words of each one's settings, all of which `train` can read.
pub fn settle(args: &SweepArgs) -> Result<Vec<(Cell, Vec<String>)>> {
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

fn twice<T: PartialEq + std::fmt::Display>(flag: &str, values: &[T]) -> Result<()> {
    match (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
        None => Ok(()),
        Some(i) => Err(Error::usage(flag, format!("{} stands there twice", values[i]), "give each once")),
    }
}

/// The words of a cell as `train` reads them; what it refuses is the sweep's error.
pub fn parsed(words: &[String], cell: &Cell) -> Result<TrainArgs> {
    train::parse(words.to_vec()).map_err(|error| {
        let text = error.render().to_string();
        let reason = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ").replace('\n', " ");
        Error::usage("--vary", format!("{}: {reason}", cell.name), "see train --help")
    })
}

/// What there is of a cell, and the work that is left of it.
pub fn state(dir: &Path, config: &TrainConfig, more: More) -> Result<(State, f64)> {
    let vit = config.vit(1)?;
    let k = config.keep.count(vit.patches(), config.round);
    let epoch = Cost::new(&vit, &config.options(), k).executed as f64;
    if !dir.join("config.toml").is_file() || !dir.join("checkpoints").is_dir() {
        return Ok((State::New, f64::from(config.epochs) * epoch));
    }
    let record = Record::read(dir)?;
    if record.finished() && missing(&record, more).is_empty() {
        return Ok((State::Done, 0.0));
    }
    let left = config.epochs.saturating_sub(record.rows.len() as u32).max(u32::from(!record.finished()));
    Ok((State::Partial, f64::from(left) * epoch + 0.1 * epoch))
}

/// Refuses settings that differ from those of runs that the folder holds already, naming the option.
pub fn same_settings(args: &SweepArgs, plan: &[Planned]) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(&args.output) else { return Ok(()) };
    let free = |key: &str| FREE_ON_RESUME.contains(&key) && !["data", "epochs", "patience"].contains(&key);
    for entry in entries {
        let dir = entry.map_err(|error| Error::io(&args.output, &error))?.path();
        if !dir.join("config.toml").is_file() || !dir.join("checkpoints").is_dir() {
            continue;
        }
        // A damaged run is told when its turn comes.
        let Ok(theirs) = Record::read(&dir) else { continue };
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

/// The plan as `--json` prints it.
#[derive(Serialize)]
struct PlanLine<'a> {
    run: &'a str,
    state: State,
    keep: f64,
    seed: u64,
    options: &'a [(String, String)],
    share_of_the_work_left: f64,
    error: Option<String>,
}

pub fn show_plan(args: &SweepArgs, plan: &[Planned]) -> Result<()> {
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
            error: planned.damage.as_ref().map(ToString::to_string),
        });
        return print::json(&lines.collect::<Vec<_>>());
    }
    let done = plan.iter().filter(|planned| planned.state == State::Done).count();
    print::line(&format!("{} runs in {}, {done} done", plan.len(), args.output.display()))?;
    for (i, planned) in plan.iter().enumerate() {
        let (state, name) = (planned.state.words(), &planned.cell.name);
        print::line(&format!("{:3}  {state:13}  {:5.1} % of the work  {name}", i + 1, 100.0 * share(planned)))?;
        if let Some(damage) = &planned.damage {
            print::line(&format!("     {damage}"))?;
        }
    }
    Ok(())
}
