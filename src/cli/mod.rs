//! The command line: one file a subcommand, each parses, calls and prints; nothing below this room prints.
#![forbid(unsafe_code)]

mod augment;
mod bench;
mod bench_kernels;
mod cache;
mod completions;
mod coverage;
mod data;
mod data_bench;
mod data_download;
mod data_stats;
mod doctor;
mod doubts;
mod environment;
mod eval;
mod eval_outcome;
mod explain;
mod flops;
mod flops_model;
mod home;
mod images;
mod inherited;
mod inspect;
mod keeping;
mod options;
mod outcome;
mod pictures;
mod plan;
mod predict;
pub mod print;
mod progress;
mod recipe;
mod report;
mod resume;
mod run_name;
mod source;
mod sweep;
mod sweep_plan;
mod train;
mod visualize;

use crate::error::{Error, Result};
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Vision Transformers that train and run faster by looking at fewer patches.
#[derive(Parser)]
#[command(name = "dynavit", version, max_term_width = 80, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  dynavit train voc 70                     train, keeping 70 % of the patches
  dynavit sweep voc --output DIR           the paper's grid of runs
  dynavit report DIR --output OUT          its tables, tests and plots
  dynavit eval voc 70 --checkpoint RUN     accuracy and per-class report
  dynavit predict cat.png --weights RUN    classify images
  dynavit visualize cat.png --output x.png the patches that are kept
  dynavit flops --keep 60,70,100           what pruning saves

Settings of train, eval and predict can also come from the environment, --lr as
DYNAVIT_LR, K as DYNAVIT_KEEP; the command line goes first.
Exit codes: 0 done, 1 failed, 2 usage, 3 bad data or weights,
4 numbers went non-finite, 130 interrupted and saved.";

#[derive(Subcommand)]
enum Command {
    /// Train a model and keep checkpoints that can be resumed
    Train(Box<train::TrainArgs>),
    /// Train a grid of runs: keep ratios, scorers, seeds and more
    Sweep(Box<sweep::SweepArgs>),
    /// Make the paper's tables, tests and plots of finished runs
    Report(report::ReportArgs),
    /// Measure a checkpoint on a split: accuracy, per-class report, confusion
    Eval(eval::EvalArgs),
    /// Classify images and tell which patches were looked at
    Predict(predict::PredictArgs),
    /// Draw the kept patches over images
    Visualize(Box<visualize::VisualizeArgs>),
    /// Measure how much of the annotated objects is kept
    Coverage(Box<coverage::CoverageArgs>),
    /// Explain predictions with LIME and attention rollout
    Explain(Box<explain::ExplainArgs>),
    /// Time inference or training on noise or image files
    Bench(bench::BenchArgs),
    /// Count multiply-adds for keep ratios or sequence lengths
    Flops(flops::FlopsArgs),
    /// Look into a weight file or checkpoint
    Inspect(inspect::InspectArgs),
    /// Tell what this machine offers, and whether a device works
    Doctor(doctor::DoctorArgs),
    /// Draw, fetch, check, measure and pack data sets
    Data(data::DataArgs),
    /// Fetch pretrained weights
    Weights(data_download::WeightsArgs),
    /// Write shell completions to stdout
    Completions(completions::CompletionsArgs),
}

/// The whole command: reads the process's arguments and environment and does what they say.
pub fn main() -> Result<()> {
    let matches = command().try_get_matches().unwrap_or_else(|error| refuse(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| refuse(&error));
    for name in environment::unknown(&command(), std::env::vars_os().map(|(name, _)| name)) {
        print::complain("warning", &format!("the variable {name} is no setting and changes nothing"));
    }
    obey(cli.command).map_err(|error| match error {
        Error::Usage { flag, reason, remedy } => {
            let flag = environment::origin(&command(), std::env::args_os(), &flag, None).unwrap_or(flag);
            Error::Usage { flag, reason, remedy }
        }
        other => other,
    })
}

fn obey(command: Command) -> Result<()> {
    match command {
        Command::Train(args) => train::run(*args),
        Command::Sweep(args) => sweep::run(*args),
        Command::Report(args) => report::run(&args),
        Command::Eval(args) => eval::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Visualize(args) => visualize::run(&args),
        Command::Coverage(args) => coverage::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Flops(args) => flops::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Data(args) => data::run(args),
        Command::Weights(args) => data_download::weights(&args),
        Command::Completions(args) => completions::run(args),
    }
}

/// The parser, with `DYNAVIT_*` behind the settings that a value is given to.
fn command() -> clap::Command {
    environment::behind(Cli::command())
}

/// Prints help as clap lays it out and everything else as one line, and leaves.
fn refuse(error: &clap::Error) -> ! {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        std::process::exit(0);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
    } else {
        let text = error.render().to_string();
        let reason = text.split("\n\nUsage:").next().unwrap_or(&text);
        let reason = reason.split("\n\nFor more information").next().unwrap_or(reason);
        let mut reason = reason.to_owned();
        if let Some(arg) = error.get(ContextKind::InvalidArg).map(ToString::to_string)
            && let bad = error.get(ContextKind::InvalidValue).map(ToString::to_string)
            && let Some(variable) = environment::origin(&command(), std::env::args_os(), &arg, bad.as_deref())
        {
            reason = reason.replacen(&format!("'{arg}'"), &variable, 1);
        }
        print::complain("error", &format!("{}; try --help", reason.trim_start_matches("error: ").trim_end()));
    }
    std::process::exit(2)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_parser_is_consistent() {
        super::command().debug_assert();
    }
}
