//! `dynavit report`: the paper's tables, tests of significance and plots of finished runs.
#![forbid(unsafe_code)]

use super::options::EngineFlags;
use super::{cache, print, progress, source};
use crate::checkpoint::RunDir;
use crate::data::corrupt::Corruptions;
use crate::data::is_jpeg;
use crate::error::{Error, Result};
use crate::experiment::assess::{Condition, More, assess, missing};
use crate::experiment::beside::section;
use crate::experiment::record::{Record, find_runs, without_k};
use crate::experiment::report::Report;
use crate::prune::Keep;
use crate::train::Stop;
use clap::Args;
use std::path::{Path, PathBuf};

/// Flags of `report`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit report runs/paper --output paper-tables
  dynavit report runs/voc-k70-l2-s42-* runs/voc-k100-l2-s42-* --output two
  dynavit report runs/paper --evaluate --eval-keep 30,50,70,100 --output matrix
  dynavit report runs/paper --evaluate --corrupt all:3 --output robust
  dynavit coverage voc --scorer all --json > c.json
  dynavit report runs/paper --with c.json --output all

Writes report.md, report.html (one file, no script, opens anywhere) and a CSV
file for each table. Runs are compared where they share recipe and images;
others get sections of their own. Tests between runs need every image's verdict,
which sweep leaves in a run; --evaluate makes those that lack.")]
pub struct ReportArgs {
    /// Runs of train, or folders of runs such as a sweep's
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// Folder for the report; older files of its names are replaced
    #[arg(long, value_name = "OUT")]
    output: PathBuf,
    /// Evaluate runs whose verdicts are missing first, and keep them in the runs
    #[arg(long)]
    evaluate: bool,
    /// Evaluate at these keep ratios too: accuracy by K of training and of
    /// evaluation
    #[arg(long, value_name = "K,...", value_delimiter = ',', value_parser = super::options::percent, requires = "evaluate")]
    eval_keep: Vec<Keep>,
    /// Evaluate at each run's own K on corrupted images too, as noise:3 or
    /// all:1..5 (see eval)
    #[arg(long, value_name = "LIST", requires = "evaluate")]
    corrupt: Option<Corruptions>,
    /// Show these beside the runs: what `coverage --json` and `explain --compare
    /// --json` printed
    #[arg(long, value_name = "FILE.json,...", value_delimiter = ',')]
    with: Vec<PathBuf>,
    /// Leave times out: equal runs then give equal tables, to the byte
    #[arg(long)]
    no_times: bool,
    #[command(flatten)]
    engine: EngineFlags,
    /// Print the report as one JSON document
    #[arg(long)]
    json: bool,
    /// No progress on stderr
    #[arg(long)]
    quiet: bool,
}

/// Reads the runs, evaluates what is asked for, and writes the report.
pub fn run(args: &ReportArgs) -> Result<()> {
    let folders = find_runs(&args.runs)?;
    let beside = args.with.iter().map(|path| section(path)).collect::<Result<Vec<_>>>()?;
    let mut records = folders.iter().map(|folder| Record::read(folder)).collect::<Result<Vec<_>>>()?;
    if args.evaluate {
        evaluate(args, &records)?;
        records = folders.iter().map(|folder| Record::read(folder)).collect::<Result<Vec<_>>>()?;
    }
    if let Some(text) = decoders(&records) {
        print::complain("warning", &text);
    }
    let mut report = Report::of(records, args.no_times)?;
    if report.sections.is_empty() {
        let reason = format!("no run is finished ({})", report.left_out.join("; "));
        return Err(Error::data(&args.runs[0], reason, "train them to their end first"));
    }
    beside.into_iter().for_each(|section| report.add(section));
    let written = report.write(&args.output)?;
    if args.json {
        return print::json(&report);
    }
    for section in &report.sections {
        if !section.title.is_empty() {
            print::line(&format!("{}:", section.title))?;
        }
        for text in &section.findings {
            print::line(&format!("- {text}"))?;
        }
        if !section.missing.is_empty() {
            print::line(&format!("missing: {}", section.missing.join("; ")))?;
        }
    }
    if !report.left_out.is_empty() {
        print::line(&format!("left out: {}", report.left_out.join("; ")))?;
    }
    print::line(&format!("wrote {} files, first {}", written.len(), args.output.join("report.html").display()))
}

/// What to say of runs on JPEG files of which some saw other pixels than others.
fn decoders(records: &[Record]) -> Option<String> {
    let jpeg = |record: &&Record| record.manifest.val.iter().any(|path| is_jpeg(Path::new(path)));
    let alike = |record: &&Record| RunDir::open(&record.dir).is_ok_and(|dir| dir.decodes_alike());
    let (now, before): (Vec<_>, Vec<_>) = records.iter().filter(jpeg).partition(alike);
    let (now, before) = (now.first()?, before.first()?);
    Some(format!(
        "runs such as {} saw the pixels of another JPEG decoder than runs such as {}: differences between them may come of \
         that",
        before.name, now.name
    ))
}

/// Evaluates every finished run whose verdicts are missing.
fn evaluate(args: &ReportArgs, records: &[Record]) -> Result<()> {
    let stop = Stop::on_signals()?;
    let more =
        More { keeps: &args.eval_keep, corruptions: args.corrupt.as_ref().map_or(&[], |list| list.0.as_slice()) };
    let todo: Vec<_> = records
        .iter()
        .filter(|record| record.finished() && without_k(&record.config).is_none())
        .map(|record| (record, missing(record, more)))
        .filter(|(_, wanted)| !wanted.is_empty())
        .collect();
    if todo.is_empty() {
        return Ok(());
    }
    let engine = args.engine.start()?;
    for (i, (record, wanted)) in todo.iter().enumerate() {
        let config = &record.config;
        let root = source::root(config.dataset, config.data.as_deref())?;
        let mut dataset = source::open(config.dataset, &root, config.label_policy, config.split, &stop)?;
        // Whole images are the same from a cache or not; shrunken ones are not.
        if let (Some(folder), Some(side)) = (&config.cache, config.cache_side) {
            cache::attach(&mut dataset, folder, Some(side), true, &stop)?;
        }
        let hash: serde_json::Value = serde_json::from_str(&dataset.manifest_json()?).unwrap_or_default();
        if hash["sha256"].as_str() != Some(&record.manifest.sha256) {
            let reason = format!("the images are not those that {} was trained on", record.name);
            return Err(Error::data(&root, reason, "restore the data, or leave the run out"));
        }
        let lead = format!("[{}/{} {}]", i + 1, todo.len(), record.name);
        let bar = progress::bar(args.quiet, &lead, "images");
        let workers = engine.workers(config.workers);
        let done = assess(record, &dataset, engine.gpu.as_ref(), workers, wanted, &mut |split, images| {
            bar.show(images as u64, split.of(&dataset).len() as u64);
            match stop.requested() {
                true => Err(Error::Interrupted { saved: "finished evaluations are kept".into() }),
                false => Ok(()),
            }
        });
        bar.clear();
        done?;
        if !args.quiet {
            eprintln!("{lead} evaluated on {}", words(wanted));
        }
    }
    Ok(())
}

fn words(wanted: &[Condition]) -> String {
    let words: Vec<String> = wanted.iter().map(Condition::to_string).collect();
    words.join(", ")
}
