//! `dynavit data verify` and `dynavit data stats`.
#![forbid(unsafe_code)]

use super::data::SetFlags;
use super::print;
use super::progress::bar;
use crate::checkpoint::replace;
use crate::data::{Dataset, Sample, doubles, stats};
use crate::error::{Error, Result};
use crate::train::Stop;
use clap::Args;
use rayon::prelude::*;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Bad images that are named.
const MOST_NAMED: usize = 20;

/// Flags of `data verify`.
#[derive(Args)]
#[command(after_help = "\
Example:
  dynavit data verify cifar100 --data cifar-100-python

Prints the SHA-256 of classes, splits and images, which a run keeps in its
manifest.json, and warns of images that are there twice: in training and in
validation or test, or under two classes. Exit code 3 when an image is bad; up
to 20 are named.")]
pub struct VerifyArgs {
    #[command(flatten)]
    set: SetFlags,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What `verify --json` prints of images that are all sound.
#[derive(Serialize)]
struct Verified<'a> {
    dataset: &'a str,
    classes: usize,
    /// Training, validation and test images.
    images: [usize; 3],
    /// What is amiss with images that are there twice.
    doubles: Vec<String>,
    sha256: &'a str,
}

/// Flags of `data stats`.
#[derive(Args)]
#[command(after_help = "\
Example:
  dynavit data stats tiny-imagenet --data tiny-imagenet-200 --sheet sheet.png")]
pub struct StatsArgs {
    #[command(flatten)]
    set: SetFlags,
    /// Write a contact sheet: a row of training images for each class
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// Images in a row of the sheet
    #[arg(long, value_name = "N", default_value_t = 12)]
    columns: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn interrupted(stop: &Stop, what: &str) -> Result<()> {
    match stop.requested() {
        true => Err(Error::Interrupted { saved: format!("nothing was {what}") }),
        false => Ok(()),
    }
}

/// Decodes every image.
pub fn verify(args: &VerifyArgs, stop: &Stop) -> Result<()> {
    let dataset = args.set.open(stop)?;
    let samples: Vec<&Sample> = [&dataset.train, &dataset.val, &dataset.test].into_iter().flatten().collect();
    let (mut bad, mut done) = (Vec::new(), 0);
    let bar = bar(false, "decoding", "images");
    for chunk in samples.chunks(256) {
        bad.extend(chunk.par_iter().filter_map(|sample| sample.source.verify().err()).collect::<Vec<Error>>());
        done += chunk.len();
        bar.show(done as u64, samples.len() as u64);
        interrupted(stop, "verified to the end")?;
    }
    bar.clear();
    if let Some(first) = bad.first() {
        bad.iter().skip(1).take(MOST_NAMED - 1).for_each(|error| print::complain("bad", &error.to_string()));
        let reason = format!("{} of {} images are bad, as {first}", bad.len(), samples.len());
        return Err(Error::data(&dataset.root, reason, "mend or remove them"));
    }
    let manifest = dataset.manifest_json()?;
    let doubles = doubles(&manifest);
    let manifest: serde_json::Value =
        serde_json::from_str(&manifest).map_err(|e| Error::data(&dataset.root, e.to_string(), "report this"))?;
    let [train, val, test] = sizes(&dataset);
    for note in &dataset.notes {
        print::complain("note", note);
    }
    doubles.iter().for_each(|text| print::complain("warning", text));
    let sha256 = manifest["sha256"].as_str().unwrap_or("");
    if args.json {
        let (images, name) = ([train, val, test], &dataset.name);
        return print::json(&Verified { dataset: name, classes: dataset.classes.len(), images, doubles, sha256 });
    }
    print::line(&format!(
        "{}: {} classes, {train} training, {val} validation and {test} test images, all sound; SHA-256 {}",
        dataset.name,
        dataset.classes.len(),
        sha256
    ))
}

fn sizes(dataset: &Dataset) -> [usize; 3] {
    [dataset.train.len(), dataset.val.len(), dataset.test.len()]
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome<'a> {
    dataset: &'a str,
    classes: &'a [String],
    notes: &'a [String],
    #[serde(flatten)]
    stats: stats::Stats,
}

/// Measures every image.
pub fn stats(args: &StatsArgs, stop: &Stop) -> Result<()> {
    let dataset = args.set.open(stop)?;
    let bar = bar(false, "measuring", "images");
    let stats = stats::measure(&dataset, &mut |done, of| {
        bar.show(done as u64, of as u64);
        interrupted(stop, "measured")
    });
    bar.clear();
    let stats = stats?;
    if let Some(path) = &args.sheet {
        write_sheet(&dataset, args.columns, path)?;
    }
    let outcome = Outcome { dataset: &dataset.name, classes: &dataset.classes, notes: &dataset.notes, stats };
    if args.json { print::json(&outcome) } else { print::line(&table(&outcome)) }
}

/// Writes the contact sheet; readers see all of it or nothing.
fn write_sheet(dataset: &Dataset, columns: usize, path: &Path) -> Result<()> {
    let sheet = stats::contact_sheet(dataset, columns)?;
    let failed =
        |e: image::ImageError| Error::data(path, e.to_string(), "name a file ending in .png that can be written");
    replace(path, &sheet.png().map_err(failed)?)
}

/// The statistics for people.
fn table(outcome: &Outcome) -> String {
    let stats = &outcome.stats;
    let width = outcome.classes.iter().map(|class| class.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!("{:width$} {:>8} {:>8} {:>8}\n", "class", "train", "val", "test");
    let mut all = [0; 3];
    for (class, counts) in outcome.classes.iter().zip(&stats.per_class) {
        let _ = writeln!(text, "{class:width$} {:>8} {:>8} {:>8}", counts[0], counts[1], counts[2]);
        (0..3).for_each(|part| all[part] += counts[part]);
    }
    let _ = writeln!(text, "{:width$} {:>8} {:>8} {:>8}\n", "all", all[0], all[1], all[2]);
    let [least, median, most] = [0, 1, 2].map(|i| format!("{} x {}", stats.width[i], stats.height[i]));
    let _ = writeln!(text, "{} images, {} of them grey", stats.images, stats.grey);
    let _ = writeln!(text, "width x height, each by itself: least {least}, median {median}, largest {most}");
    let three = |values: [f64; 3]| values.map(|v| format!("{v:.4}")).join(", ");
    let _ = writeln!(text, "mean of R, G, B {}; deviation {}", three(stats.mean), three(stats.deviation));
    for note in outcome.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text.trim_end().to_owned()
}
