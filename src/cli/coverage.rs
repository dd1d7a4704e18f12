//! `dynavit coverage`: how much of the annotated objects each scorer keeps, over a data set.
#![forbid(unsafe_code)]

use super::options::{EngineFlags, Split, word};
use super::pictures::{self, SelectionFlags};
use super::{print, source};
use crate::checkpoint::replace;
use crate::data::{LabelPolicy, SplitPolicy};
use crate::error::{Error, Result};
use crate::explain::coverage::{CONTROLS, Coverage, Plan, Row, measure};
use crate::train::{DatasetName, Stop};
use clap::Args;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;

/// Flags of `coverage`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit coverage voc --data VOCdevkit --scorer all --keep 30,50,70,90
  dynavit coverage sample --scorer l2 --keep 50 --csv coverage.csv

The coverage of an image is the share of the union of its boxes, on the model's
square, that lies in kept patches. Boxes of the five classes count, difficult
ones too. The controls random and center are always measured. Keeping patches
by luck covers k/N; enrichment is coverage over k/N. A difference is the mean
over images of a scorer's coverage minus the control's, with Student's 95 %
interval over images. No weights are needed.")]
pub struct CoverageArgs {
    /// Data set in VOC's layout: voc or sample
    dataset: DatasetName,
    /// Folder of the data set [default: as in train]
    #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Images that are counted
    #[arg(long, value_enum, default_value_t = Split::All)]
    split: Split,
    /// Images that count when several classes are annotated
    #[arg(long, value_name = "POLICY", default_value = "exclusive")]
    label_policy: LabelPolicy,
    /// Stratified by class, or the data set's own lists
    #[arg(long, value_name = "POLICY", default_value = "stratified")]
    split_policy: SplitPolicy,
    /// Tell each class by itself too
    #[arg(long)]
    per_class: bool,
    /// Write all rows, classes included, as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON document, classes included
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    selection: SelectionFlags,
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome<'a> {
    dataset: &'a str,
    split: Split,
    label_policy: LabelPolicy,
    split_policy: SplitPolicy,
    /// How images and labels came about.
    notes: &'a [String],
    classes: &'a [String],
    image_size: usize,
    patch: usize,
    #[serde(flatten)]
    coverage: Coverage,
}

/// Measures, and prints the table.
pub fn run(args: &CoverageArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let card = args.selection.card()?;
    if !matches!(args.dataset, DatasetName::Voc | DatasetName::Sample) {
        return Err(Error::usage("DATASET", "only VOC's layout has boxes", "choose voc or sample"));
    }
    let keeps = args.selection.percents()?;
    args.csv.as_deref().map_or(Ok(()), pictures::check_folder)?;
    EngineFlags { threads: args.threads, ..Default::default() }.start()?;
    let name = source::or_sample(args.dataset, args.data.as_deref());
    if name != args.dataset {
        print::complain("notice", "no VOC found: measuring on the built-in sample of drawn images");
    }
    let root = source::root(name, args.data.as_deref())?;
    let dataset = source::open(name, &root, args.label_policy, args.split_policy, &stop)?;
    let samples = args.split.of(&dataset)?;
    let scorers = pictures::with_controls(args.selection.scorers());
    let plan = Plan {
        classes: &dataset.classes,
        scorers: &scorers,
        keeps: &keeps,
        prune: &card.prune,
        transform: &card.transform,
        grid: card.model.grid(),
    };
    let bar = super::progress::bar(false, "measuring", "images");
    let coverage = measure(&plan, &samples, &mut |done| {
        bar.show(done as u64, samples.len() as u64);
        match stop.requested() {
            true => Err(Error::Interrupted { saved: "nothing was measured".into() }),
            false => Ok(()),
        }
    });
    bar.clear();
    let outcome = Outcome {
        dataset: &dataset.name,
        split: args.split,
        label_policy: args.label_policy,
        split_policy: args.split_policy,
        notes: &dataset.notes,
        classes: &dataset.classes,
        image_size: card.model.image_size,
        patch: card.model.patch,
        coverage: coverage?,
    };
    if let Some(path) = &args.csv {
        replace(path, csv(&outcome.coverage.rows).as_bytes())?;
    }
    if args.json { print::json(&outcome) } else { print::line(&table(&outcome, args.per_class)) }
}

/// All rows; `all` stands for every class.
fn csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "scorer,keep,chance,class,images,coverage,standard_error,enrichment,\
         minus_random,random_low,random_high,minus_center,center_low,center_high\n",
    );
    for row in rows {
        let class = row.class.as_deref().unwrap_or("all");
        let (scorer, m) = (word(&row.scorer), &row.mean);
        let _ = write!(text, "{scorer},{},{:.6},{class},{},", row.keep, row.chance, m.images);
        let _ = write!(text, "{:.6},{:.6},{:.6}", m.coverage, m.standard_error, m.enrichment);
        for control in CONTROLS {
            match row.minus.iter().find(|minus| minus.control == control) {
                Some(d) => drop(write!(text, ",{:.6},{:.6},{:.6}", d.mean, d.low, d.high)),
                None => text.push_str(",,,"),
            }
        }
        text.push('\n');
    }
    text
}

/// The table for people, at most 80 columns wide.
fn table(outcome: &Outcome, per_class: bool) -> String {
    let Coverage { images, outside, object_share, rows } = &outcome.coverage;
    let (split, policy) = (word(&outcome.split), word(&outcome.label_policy));
    let mut text = format!("{}, split {split}, label policy {policy}: {images} images", outcome.dataset);
    let _ = writeln!(text, "\nboxes take {:.1} % of the square on average", 100.0 * object_share);
    if *outside > 0 {
        let _ = writeln!(text, "{outside} images are left out, as their boxes lie outside the square");
    }
    for note in outcome.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let head = format!("\n{}\n", pictures::share_head("coverage"));
    let classes = if per_class { outcome.classes } else { &[] };
    for class in std::iter::once(None).chain(classes.iter().map(Some)) {
        if let Some(class) = class {
            let count = rows.iter().find(|row| row.class.as_ref() == Some(class)).map_or(0, |row| row.mean.images);
            let _ = write!(text, "\n{class}: {count} images");
        }
        text.push_str(&head);
        for row in rows.iter().filter(|row| row.class.as_ref() == class) {
            let _ = writeln!(text, "{}", line(row));
        }
    }
    text.trim_end().to_owned()
}

fn line(row: &Row) -> String {
    let m = &row.mean;
    pictures::share_line(row.scorer, row.keep, (m.coverage, m.standard_error, m.enrichment), &row.minus)
}
