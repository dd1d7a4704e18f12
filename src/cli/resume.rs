//! `dynavit train --resume`: which run is meant, and what may be asked of it anew.
#![forbid(unsafe_code)]

use super::options::{Engine, word};
use super::train::{TrainArgs, cached, given, layer, settle, settled, unreadable};
use super::{print, source};
use crate::checkpoint::RunDir;
use crate::error::{Error, Result};
use crate::train::{Run, Stop, TrainConfig};
use std::path::Path;
use toml::Table;

/// Settings that a resumed run may be given anew: none of them changes its numbers up to the last epoch asked for.
pub const FREE_ON_RESUME: [&str; 10] = [
    "data",
    "threads",
    "workers",
    "cache",
    "epochs",
    "patience",
    "tensorboard",
    "save-every",
    "save-steps",
    "keep-checkpoints",
];

/// The run that `--resume` means; none when `auto` finds nothing to go on with.
pub fn resumable(args: &TrainArgs, which: &Path) -> Result<Option<RunDir>> {
    if which != Path::new("auto") {
        return RunDir::open(which).map(Some);
    }
    let begins = args.flags.dataset.is_some() && args.flags.keep.is_some();
    let prefix = if begins { settle(args)?.0.run_prefix() } else { String::new() };
    let found = match &args.run_name {
        Some(name) => RunDir::open(&args.output.join(name)).ok(),
        None => {
            let asked = given(&args.flags)?;
            let fits = |dir: &RunDir| recorded(dir).is_ok_and(|table| contradiction(&asked, &table).is_none());
            RunDir::newest_first(&args.output, &prefix)?.into_iter().find(fits)
        }
    };
    if found.is_none() && !begins {
        let reason = "there is no run to resume that these flags fit";
        return Err(Error::data(&args.output, reason, "begin one, or name it with --resume DIR"));
    }
    if found.is_none() {
        print::complain("notice", &format!("nothing to resume under {}: beginning a new run", args.output.display()));
    }
    Ok(found)
}

/// The run of a seed that was begun under the settings `wanted`, which may lie under the run's name or, newest first, under
/// one that begins as its would; none when there is none. A run of that name under other settings is an error.
///
/// What may change on a resume may differ, but epochs and patience only where they are asked for: the runs of several seeds
/// are summed up, and must be of one recipe.
pub fn run_of_seed(args: &TrainArgs, wanted: &TrainConfig) -> Result<Option<RunDir>> {
    let (named, all) = (layer(args)?, table_of(wanted));
    let free = |key: &str| {
        let summed = matches!(key, "epochs" | "patience") && !named.contains_key(key);
        (FREE_ON_RESUME.contains(&key) && !summed) || matches!(key, "device" | "precision")
    };
    let differs = |dir: &RunDir| -> Result<Option<String>> {
        let was = recorded(dir)?;
        let keys = was.keys().chain(all.keys());
        Ok(keys.into_iter().find(|key| !free(key) && was.get(*key) != all.get(*key)).cloned())
    };
    let Some(name) = &args.run_name else {
        let same = |dir: &RunDir| matches!(differs(dir), Ok(None));
        return Ok(RunDir::newest_first(&args.output, &wanted.run_prefix())?.into_iter().find(same));
    };
    let Ok(dir) = RunDir::open(&args.output.join(name)) else { return Ok(None) };
    match differs(&dir)? {
        None => Ok(Some(dir)),
        Some(key) => {
            let reason = format!("{} was begun with another --{key}", dir.root().display());
            Err(Error::usage("--resume auto", reason, "ask for that one, or choose another --run-name"))
        }
    }
}

/// Refuses an engine that is not the one that the run in `dir` was trained with.
pub fn same_engine(dir: &RunDir, engine: &Engine) -> Result<()> {
    let TrainConfig { device, precision, .. } = recorded_config(dir)?;
    if (device, precision) == engine.choice() {
        return Ok(());
    }
    let (device, precision) = (word(&device), word(&precision));
    let reason = format!("{} was trained on {device} in {precision}", dir.root().display());
    Err(Error::usage("--resume auto", reason, format!("give --device {device} --precision {precision}")))
}

/// Goes on with a run under its own settings, on `engine` or on one of its own.
pub fn resume(args: &TrainArgs, dir: RunDir, engine: Option<&Engine>, stop: &Stop) -> Result<(Run, Engine)> {
    let path = dir.root().join("config.toml");
    let mut table = recorded(&dir)?;
    // What `--config` says beside the flags was held to the run's settings before.
    let flags = given(&args.flags)?;
    let asked = match &args.config {
        Some(_) => {
            let (named, all) = (layer(args)?, table_of(&settle(args)?.0));
            all.into_iter().filter(|(key, _)| named.contains_key(key)).collect()
        }
        None => flags,
    };
    let epochs = asked.get("epochs").and_then(|epochs| epochs.as_integer()).and_then(|epochs| epochs.try_into().ok());
    let moves = |key: &str| asked.get(key).is_some_and(|v| v.as_str() != Some("auto") && table.get(key) != Some(v));
    let (to_device, to_precision, to_data) = (moves("device"), moves("precision"), moves("data"));
    if to_device {
        // What was picked for the other device need not exist on this one.
        table.insert("precision".into(), "auto".into());
    }
    if let Some(key) = contradiction(&asked, &table) {
        let was = table.get(key).map_or("unset".into(), ToString::to_string);
        return Err(Error::usage(
            format!("--{key}"),
            format!("{} contradicts the run being resumed, which has {was}", asked[key]),
            "leave the flag (or its DYNAVIT_ variable) out, or begin a new run",
        ));
    }
    let taken: Vec<_> = asked.into_iter().filter(|(key, value)| may_change(key, value)).collect();
    table.extend(taken);
    let config: TrainConfig = table.try_into().map_err(|error| unreadable(&path, &error))?;
    config.validate()?;
    let (config, engine) = settled(config, engine)?;
    let root = source::root(config.dataset, config.data.as_deref())?;
    let mut dataset = source::open(config.dataset, &root, config.label_policy, config.split, stop)?;
    cached(&config, &mut dataset, args.quiet, stop)?;
    let workers = engine.workers(config.workers);
    let mut run = Run::resume(config, dataset, dir, workers, epochs)?;
    if to_data {
        run.notes.push("the same images from another folder: name it again at the next resume".into());
    }
    if to_device || to_precision {
        run.notes.push(format!(
            "going on with {}: numbers differ from here on as the arithmetic does; name it again at the next resume",
            engine.words()
        ));
    }
    Ok((run, engine))
}

/// The settings that a run was begun with; those that its file is too old to know have their defaults.
fn recorded_config(dir: &RunDir) -> Result<TrainConfig> {
    let path = dir.root().join("config.toml");
    let table: Table = dir.config()?.parse().map_err(|error| unreadable(&path, &error))?;
    table.try_into().map_err(|error| unreadable(&path, &error))
}

fn recorded(dir: &RunDir) -> Result<Table> {
    recorded_config(dir).map(|config| table_of(&config))
}

fn table_of(config: &TrainConfig) -> Table {
    Table::try_from(config).expect("settings are plain values")
}

/// The first flag of `asked` that a run with the settings `table` cannot be resumed with.
fn contradiction<'a>(asked: &'a Table, table: &Table) -> Option<&'a str> {
    let contradicts =
        |(key, value): &(&String, &toml::Value)| !may_change(key, value) && !agrees(key, value, table.get(*key));
    asked.iter().find(contradicts).map(|(key, _)| key.as_str())
}

/// True when a resumed run takes this flag in the place of its own setting.
fn may_change(key: &str, value: &toml::Value) -> bool {
    let engine = matches!(key, "device" | "precision") && value.as_str() != Some("auto");
    engine || FREE_ON_RESUME.contains(&key)
}

/// True when a flag given on resume says what the run's settings say.
fn agrees(key: &str, value: &toml::Value, was: Option<&toml::Value>) -> bool {
    let automatic = matches!(key, "device" | "precision") && value.as_str() == Some("auto");
    // `train voc` of the same run fell back to the sample.
    let fallback = key == "dataset" && value.as_str() == Some("voc") && was.and_then(|v| v.as_str()) == Some("sample");
    automatic || fallback || was == Some(value)
}
