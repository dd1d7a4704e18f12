//! `dynavit data`: makes data sets on disk.
#![forbid(unsafe_code)]

use super::{print, source};
use crate::error::Result;
use crate::train::Stop;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Flags of `data`.
#[derive(Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand)]
enum DataCommand {
    /// Draw the built-in sample: five VOC classes in VOC layout
    Sample(SampleArgs),
}

#[derive(Args)]
#[command(after_help = "\
Example:
  dynavit data sample --output data/sample --images 1200
  dynavit train voc 70 --data data/sample --model vit_micro_patch16_224")]
struct SampleArgs {
    /// Folder that gets VOC2012/
    #[arg(long, value_name = "DIR", default_value = source::SAMPLE_ROOT)]
    output: PathBuf,
    /// How many images to draw
    #[arg(long, value_name = "N", default_value_t = source::SAMPLE_IMAGES)]
    images: usize,
    /// Seed of the drawings
    #[arg(long, value_name = "N", default_value_t = source::SAMPLE_SEED)]
    seed: u64,
}

/// Makes what was asked for and prints where it lies.
pub fn run(args: DataArgs) -> Result<()> {
    match args.command {
        DataCommand::Sample(args) => {
            let root = source::drawn(&args.output, args.images, args.seed, &Stop::on_signals()?)?;
            print::line(&root.display().to_string())
        }
    }
}
