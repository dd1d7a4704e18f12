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
mod eval;
mod eval_outcome;
mod explain;
mod flops;
mod flops_model;
mod home;
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

use crate::error::Result;
use clap::error::ErrorKind;
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
DYNAVIT_LR; a flag on the command line goes first.
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
    match cli.command {
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
///
/// A variable means one thing everywhere: so `eval --split`, which names a part and not a policy, has none, and neither
/// have the lists of `flops` or the flags that say which run or file a single call is about.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|subcommand| {
        let name = subcommand.get_name().to_owned();
        subcommand.mut_args(|arg| match arg.get_long() {
            Some(long) if arg.get_action().takes_values() => {
                let long = long.to_owned();
                // A negative number is a bad value of its flag, not an unknown flag.
                let arg = arg.allow_negative_numbers(true);
                let variable = match (name.as_str(), long.as_str()) {
                    ("flops" | "inspect" | "data" | "weights" | "completions" | "bench" | "report", _)
                    | ("visualize" | "coverage" | "explain", _)
                    | ("eval", "split" | "corrupt" | "report")
                    | ("sweep", "keep" | "vary" | "eval-keep") => return arg,
                    (_, "config" | "resume" | "run-name" | "seeds") => return arg,
                    _ => format!("DYNAVIT_{}", long.to_uppercase().replace('-', "_")),
                };
                // The parser is built once and lives as long as the process.
                arg.env(&*variable.leak()).hide_env(true)
            }
            _ => arg,
        })
    })
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
