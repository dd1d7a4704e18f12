//! `dynavit data`: draws, packs, measures and checks data sets.
#![forbid(unsafe_code)]

use super::data_stats::{StatsArgs, VerifyArgs};
use super::options::EngineFlags;
use super::{cache, data_bench, data_download, data_stats, print, source};
use crate::data::{Dataset, LabelPolicy, SplitPolicy};
use crate::error::Result;
use crate::train::{DatasetName, Stop};
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
    /// Fetch the archive of a data set
    Download(data_download::DataDownloadArgs),
    /// Decode every image and tell which are bad
    Verify(VerifyArgs),
    /// Count images, measure sizes, mean and deviation, draw a contact sheet
    Stats(StatsArgs),
    /// Decode all images into one file that trains without decoding
    Pack(PackArgs),
    /// Time decoding and the loader
    Bench(data_bench::BenchArgs),
}

/// Which data set.
#[derive(Args)]
pub struct SetFlags {
    /// Data set
    pub dataset: DatasetName,
    /// Folder of the data set [default: as in train]
    #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Images that count when several classes are annotated
    #[arg(long, value_name = "POLICY", default_value = "exclusive")]
    pub label_policy: LabelPolicy,
    /// Stratified by class, or the data set's own lists
    #[arg(long, visible_alias = "split-policy", value_name = "POLICY", default_value = "stratified")]
    pub split: SplitPolicy,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl SetFlags {
    /// Starts the threads and reads the data set.
    pub fn open(&self, stop: &Stop) -> Result<Dataset> {
        EngineFlags { threads: self.threads, ..Default::default() }.start()?;
        let name = source::or_sample(self.dataset, self.data.as_deref());
        if name != self.dataset {
            print::complain("notice", "no VOC found: taking the built-in sample of drawn images");
        }
        source::open(name, &source::root(name, self.data.as_deref())?, self.label_policy, self.split, stop)
    }
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

#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit data pack tiny-imagenet --data tiny-imagenet-200 --cache packed
  dynavit train tiny-imagenet 70 --data tiny-imagenet-200 --cache packed
  dynavit data pack voc --cache packed --cache-side 256

`train --cache` builds the pack itself when there is none and images are small.
With --cache-side, crops are taken from the shrunken images, so training sees
other pixels than without.")]
struct PackArgs {
    #[command(flatten)]
    set: SetFlags,
    /// Folder that gets the pack
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
    /// Shrink images to this shorter side
    #[arg(long, value_name = "PIXELS")]
    cache_side: Option<usize>,
}

/// Does what was asked for and prints the outcome.
pub fn run(args: DataArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    match args.command {
        DataCommand::Sample(args) => {
            let root = source::drawn(&args.output, args.images, args.seed, &stop)?;
            print::line(&root.display().to_string())
        }
        DataCommand::Download(args) => data_download::data(&args, &stop),
        DataCommand::Verify(args) => data_stats::verify(&args, &stop),
        DataCommand::Stats(args) => data_stats::stats(&args, &stop),
        DataCommand::Pack(args) => {
            let dataset = args.set.open(&stop)?;
            let path = cache::place(&args.cache, &dataset, args.cache_side)?;
            cache::build(&dataset, &path, args.cache_side, false, &stop)?;
            print::line(&path.display().to_string())
        }
        DataCommand::Bench(args) => data_bench::run(&args, &stop),
    }
}
