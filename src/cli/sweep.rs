//! `dynavit sweep`: a grid of training runs in one folder, which can be stopped and gone on with at any moment.
#![forbid(unsafe_code)]

use super::doubts::doubts;
use super::options::{Engine, percent};
use super::outcome::Outcome;
use super::resume::resume;
use super::sweep_plan::{Passed, Planned, State, parsed, same_settings, settle, show_plan, state};
use super::{print, progress, train};
use crate::checkpoint::RunDir;
use crate::data::corrupt::Corruptions;
use crate::error::{Error, Result};
use crate::experiment::assess::{More, assess, missing};
use crate::experiment::grid::varied;
use crate::experiment::record::{Record, without_k};
use crate::prune::{Keep, Scorer};
use crate::train::{DatasetName, Stop};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `sweep`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit sweep voc --data VOCdevkit --weights vit.safetensors --output paper
  dynavit sweep voc --keep 70 --scorer l2,sobel,entropy,random,center --output s
  dynavit sweep sample --keep 50,100 --seeds 42 --vary lr=1e-3,3e-3 --output lr
  dynavit report paper --output paper-tables

Every option of train passes through; --vary takes any of them with several
values (parted by semicolons where a value has commas). Runs go seed by seed.
K = 100 does not depend on the scorer and is trained once a seed.

The same command goes on after a stop: finished runs are skipped, one that was
cut goes on from its last checkpoint. After each run its best epoch is evaluated
image by image, on validation and test, for `report`. A run that fails is told
and the others go on; the exit code is then 1.")]
pub struct SweepArgs {
    /// Data set
    pub dataset: DatasetName,
    /// Keep ratios in percent
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_value = "30,50,70,90,100", help_heading = "Grid")]
    #[arg(value_parser = percent)]
    pub keep: Vec<Keep>,
    /// Scorers [default: l2]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "Grid")]
    pub scorer: Vec<Scorer>,
    /// Seeds
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "42,43,44", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64), help_heading = "Grid")]
    pub seeds: Vec<u64>,
    /// Any option of train with several values, as lr=1e-5,3e-5
    #[arg(long, value_name = "OPTION=A,B", value_parser = varied, help_heading = "Grid")]
    pub vary: Vec<(String, Vec<String>)>,
    /// Evaluate each run at these keep ratios too
    #[arg(long, value_name = "K,...", value_delimiter = ',', value_parser = percent, help_heading = "Grid")]
    pub eval_keep: Vec<Keep>,
    /// Evaluate each run at its own K on corrupted images too, as noise:3 or
    /// all:1..5 (see eval)
    #[arg(long, value_name = "LIST", help_heading = "Grid")]
    pub corrupt: Option<Corruptions>,
    /// Folder of the sweep, a folder in it for each run
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub output: PathBuf,
    /// TOML file of settings, named as the flags of train
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Print the runs in order and what is done of them, and write nothing
    #[arg(long, help_heading = "Run")]
    dry_run: bool,
    /// Print the result as one JSON document
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub passed: Passed,
}

impl SweepArgs {
    /// What is evaluated beyond each run's own K on clean images.
    fn more(&self) -> More<'_> {
        More { keeps: &self.eval_keep, corruptions: self.corrupt.as_ref().map_or(&[], |list| list.0.as_slice()) }
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
    // What is idle in some cells, as the bins of entropy are in those of another scorer, may be at work in others.
    let mut doubts_of_all: Option<Vec<String>> = None;
    for (cell, words) in cells {
        let asked = parsed(&words, &cell)?;
        let (config, ..) = train::prepare(&asked, Some(&engine))?;
        let found = doubts(&train::given(&asked.flags)?, &config)?;
        match &mut doubts_of_all {
            Some(all) => all.retain(|text| found.contains(text)),
            None => doubts_of_all = Some(found),
        }
        if let Some(reason) = without_k(&config) {
            return Err(Error::usage("sweep", format!("{reason}; a sweep goes by K"), "use train, or leave it out"));
        }
        let dir = args.output.join(&cell.name);
        let (state, left, damage) = match state(&dir, &config, args.more()) {
            Ok((state, left)) => (state, left, None),
            Err(error) => (State::Failed, 0.0, Some(error)),
        };
        plan.push(Planned { cell, words, config, state, damage, left });
    }
    same_settings(&args, &plan)?;
    doubts_of_all.iter().flatten().for_each(|text| print::complain("warning", text));
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
            let done = match &planned.damage {
                Some(damage) => Err(Error::Unfinished { what: damage.to_string(), remedy: "the others go on".into() }),
                None => sweep.cell(planned, &dir, &lead),
            };
            match done {
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
            resume(&args, RunDir::open(dir)?, Some(engine), &self.stop)?.0
        };
        let headed = !std::mem::replace(&mut self.headed, true);
        let progress = train::progress(&args, &run).within(lead.to_string());
        let before = run.progress.epoch;
        train::finish(&mut run, engine, progress, headed, &self.stop).map(|_: Outcome| ())?;
        let record = Record::read(dir)?;
        let bar = progress::bar(self.args.passed.quiet, &format!("{lead} verdicts"), "images");
        let wanted = missing(&record, self.args.more());
        let evaluated = assess(&record, &run.dataset, engine.gpu.as_ref(), run.workers, &wanted, &mut |split, done| {
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
        let best = run.progress.best_accuracy.unwrap_or(0.0);
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
