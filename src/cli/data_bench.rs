//! `dynavit data bench`: how fast images are read, decoded, transformed and handed over in batches.
#![forbid(unsafe_code)]

use super::data::SetFlags;
use super::eval::at_least_one;
use super::{cache, print};
use crate::data::{Dataset, Loader, Mode, Sample, TransformConfig, Wanted, transform};
use crate::error::{Error, Result};
use crate::train::Stop;
use clap::Args;
use serde::Serialize;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

/// Images that are decoded and transformed one by one for the first two figures.
const ONE_BY_ONE: usize = 256;

/// Flags of `data bench`.
#[derive(Args)]
#[command(after_help = "\
Example:
  dynavit data bench tiny-imagenet --data tiny-imagenet-200 --cache packed

The loader does what training does: random crop, resize, flip, normalise, batch.")]
pub struct BenchArgs {
    #[command(flatten)]
    set: SetFlags,
    /// Folder of packed images, as in train
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Shorter side of packed images, as in train
    #[arg(long, value_name = "PIXELS", requires = "cache")]
    cache_side: Option<usize>,
    /// Threads of the loader
    #[arg(long, value_name = "N", default_value = "2", value_parser = at_least_one)]
    workers: usize,
    /// Images that the loader hands over in a turn
    #[arg(long, value_name = "N", default_value = "4096", value_parser = at_least_one)]
    images: usize,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    batch_size: usize,
    /// Side of the model's input, in pixels
    #[arg(long, value_name = "PIXELS", default_value = "224", value_parser = at_least_one)]
    image_size: usize,
    /// Turns; the fastest, the median and the slowest are told
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least_one)]
    turns: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome {
    dataset: String,
    packed: bool,
    workers: usize,
    image_size: usize,
    batch_size: usize,
    /// One thread: milliseconds to read and decode an image from its file, and from the pack.
    decode_milliseconds: f64,
    unpack_milliseconds: Option<f64>,
    /// One thread: milliseconds to crop, resize, flip and normalise it.
    transform_milliseconds: f64,
    /// Share of decoding in the work on an image that comes from its file.
    decode_share: f64,
    /// Megapixels decoded a second by one thread.
    decode_megapixels_per_second: f64,
    images_per_second: Spread,
}

#[derive(Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// Measures, and prints the figures.
pub fn run(args: &BenchArgs, stop: &Stop) -> Result<()> {
    let config = TransformConfig::paper(args.image_size);
    config.check()?;
    let mut dataset = args.set.open(stop)?;
    let plain = chosen(&dataset);
    let (decode_milliseconds, pixels) = decode(&plain)?;
    let mut unpack_milliseconds = None;
    if let Some(folder) = &args.cache {
        cache::attach(&mut dataset, folder, args.cache_side, true, stop)?;
        unpack_milliseconds = Some(decode(&chosen(&dataset))?.0);
    }
    let transform_milliseconds = transforms(&chosen(&dataset), &config)?;
    let mut rates = (0..args.turns).map(|_| turn(&dataset, args, &config, stop)).collect::<Result<Vec<f64>>>()?;
    rates.sort_by(f64::total_cmp);
    let outcome = Outcome {
        packed: dataset.train.iter().any(|sample| matches!(sample.source, crate::data::Source::Packed(..))),
        dataset: dataset.name,
        workers: args.workers,
        image_size: args.image_size,
        batch_size: args.batch_size,
        decode_milliseconds,
        unpack_milliseconds,
        transform_milliseconds,
        decode_share: decode_milliseconds / (decode_milliseconds + transform_milliseconds),
        decode_megapixels_per_second: pixels / 1e3 / decode_milliseconds,
        images_per_second: Spread { median: rates[rates.len() / 2], min: rates[0], max: rates[rates.len() - 1] },
    };
    if args.json { print::json(&outcome) } else { print::line(&table(&outcome)) }
}

/// The first images to train on, enough for a figure.
fn chosen(dataset: &Dataset) -> Vec<Sample> {
    dataset.train.iter().take(ONE_BY_ONE).cloned().collect()
}

/// Milliseconds to decode an image, the files being in memory after a first pass; and the mean number of pixels.
fn decode(samples: &[Sample]) -> Result<(f64, f64)> {
    let mut pixels = 0;
    for sample in samples {
        pixels += sample.source.picture()?.pixels.len() / 3;
    }
    let began = Instant::now();
    for sample in samples {
        black_box(sample.source.picture()?);
    }
    let n = samples.len() as f64;
    Ok((began.elapsed().as_secs_f64() * 1e3 / n, pixels as f64 / n))
}

/// Milliseconds to transform an image that is decoded.
fn transforms(samples: &[Sample], config: &TransformConfig) -> Result<f64> {
    let mut seconds = 0.0;
    for sample in samples {
        let picture = sample.source.picture()?;
        let began = Instant::now();
        let rgb = transform::apply(&picture, sample.id, config, Mode::Train { seed: 0, epoch: 0 });
        black_box(transform::normalise(&rgb, config.norm));
        seconds += began.elapsed().as_secs_f64();
    }
    Ok(seconds * 1e3 / samples.len() as f64)
}

/// Images a second that the loader hands over.
fn turn(dataset: &Dataset, args: &BenchArgs, config: &TransformConfig, stop: &Stop) -> Result<f64> {
    let samples: Vec<Sample> = dataset.train.iter().cycle().take(args.images).cloned().collect();
    let began = Instant::now();
    let mode = Mode::Train { seed: 0, epoch: 0 };
    for batch in Loader::new(samples, config.clone(), Wanted::Values, mode, args.batch_size, 0, args.workers) {
        black_box(batch?);
        if stop.requested() {
            return Err(Error::Interrupted { saved: "nothing was measured".into() });
        }
    }
    Ok(args.images as f64 / began.elapsed().as_secs_f64())
}

/// The figures for people.
fn table(outcome: &Outcome) -> String {
    let rate = &outcome.images_per_second;
    let unpack = outcome.unpack_milliseconds.map_or(String::new(), |ms| format!("from the pack {ms:.3} ms, "));
    format!(
        "{}, images of {} x {} in batches of {}\none thread: decoding {:.3} ms an image ({:.0} megapixels/s), {unpack}\
         crop, resize, flip and normalise {:.3} ms; decoding is {:.0} % of the two\n\
         loader, {} threads{}: {:.0} images/s (from {:.0} to {:.0})",
        outcome.dataset,
        outcome.image_size,
        outcome.image_size,
        outcome.batch_size,
        outcome.decode_milliseconds,
        outcome.decode_megapixels_per_second,
        outcome.transform_milliseconds,
        100.0 * outcome.decode_share,
        outcome.workers,
        if outcome.packed { ", packed" } else { "" },
        rate.median,
        rate.min,
        rate.max,
    )
}
