//! `dynavit predict`: classes, logits and kept patches of image files.
#![forbid(unsafe_code)]

use super::eval::at_least_one;
use super::options::{EngineFlags, ImageFlags, PruneFlags, SizeFlags};
use super::{print, source};
use crate::error::{Error, Result};
use crate::eval::{Prediction, predict};
use crate::model::{HeadPolicy, Vit};
use crate::prune::{Keep, Scorer};
use crate::train::Stop;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Flags of `predict`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit predict cat.png dog.jpg --weights runs/voc-k70-l2-s42-20260101-120000
  dynavit predict photos --weights vit_tiny.safetensors \\
      --model vit_tiny_patch16_224 --keep 50 --json

Files that are no images are told on stderr and passed over; the exit code is
then 3. One that is not there ends the command before it begins. After Ctrl-C
what is done is printed, and the exit code is 130.")]
pub struct PredictArgs {
    /// Images, and folders whose JPEG and PNG files are taken in order
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    /// A run, a checkpoint folder or a weight file
    #[arg(long, value_name = "FILE|DIR", visible_alias = "checkpoint")]
    weights: PathBuf,
    /// Model, by timm's name, when neither file nor shapes say
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Percent of the patches to keep, or mass:0.9 as in train [default: the
    /// file's, or 70]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    keep: Option<Keep>,
    /// Likeliest classes to tell
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    batch_size: usize,
    /// Seed of the random scorer, which draws by it and the file's bytes
    /// [default: the file's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print one JSON document
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// Print a JSON document for each image, on a line
    #[arg(long)]
    jsonl: bool,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    size: SizeFlags,
    #[command(flatten)]
    image: ImageFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome {
    model: String,
    #[serde(serialize_with = "Keep::shown")]
    keep: Keep,
    scorer: Scorer,
    /// Null under a mass, where each image has its own.
    seq_len: Option<usize>,
    images: Vec<Prediction>,
    /// The files that cannot be read; left out when there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Failed>,
}

/// A file that cannot be read.
#[derive(Serialize)]
struct Failed {
    path: String,
    reason: String,
}

/// Predicts, and prints batch by batch or all at once.
pub fn run(args: PredictArgs) -> Result<()> {
    let engine = args.engine.start()?;
    let flags = (&args.prune, &args.size, &args.image);
    let (weights, card) =
        source::open_for_images(&args.weights, args.model.as_deref(), (args.keep, args.seed), flags, &engine)?;
    let paths = files(&args.images)?;
    let (mut vit, report) = Vit::load(card.model.clone(), card.options, &weights, HeadPolicy::Require, 0)?;
    source::tell(&report);
    engine.take(&mut vit)?;
    if !args.json && !args.jsonl {
        args.engine.tell(&engine);
    }
    let (mut images, mut failed) = (Vec::new(), Vec::new());
    let ended = each(&args, &paths, &mut |batch| {
        let done = predict(&vit, &card.prune, &card.transform, &card.classes, batch, args.top)?;
        for (path, prediction) in batch.iter().zip(done) {
            match prediction {
                Ok(prediction) if args.json => images.push(prediction),
                Ok(prediction) if args.jsonl => print::json(&prediction)?,
                Ok(prediction) => print::line(&sentence(&prediction))?,
                Err(error) if paths.len() == 1 => return Err(error),
                Err(error) => {
                    print::complain("bad", &error.to_string());
                    failed.push(Failed { path: path.display().to_string(), reason: error.to_string() });
                }
            }
        }
        Ok(())
    });
    let bad = failed.first().map(|first| {
        let reason = format!("{} of {} images cannot be read, this one first", failed.len(), paths.len());
        Error::data(&first.path, reason, "mend them, or leave them out")
    });
    // What is done is told, whatever came after it.
    if args.json && (ended.is_ok() || !images.is_empty()) {
        let keep = card.prune.keep;
        print::json(&Outcome {
            seq_len: keep.fixed(card.model.patches(), card.prune.round).map(|k| 1 + k),
            model: card.model.name,
            keep,
            scorer: card.prune.scorer,
            images,
            failed,
        })?;
    }
    ended.and(bad.map_or(Ok(()), Err))
}

/// Hands the images to `predict` batch by batch, until an interrupt.
fn each(args: &PredictArgs, paths: &[PathBuf], predict: &mut dyn FnMut(&[PathBuf]) -> Result<()>) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut done = 0;
    for batch in paths.chunks(args.batch_size) {
        if stop.requested() {
            return Err(Error::Interrupted { saved: format!("{done} of {} images were looked at", paths.len()) });
        }
        predict(batch)?;
        done += batch.len();
    }
    Ok(())
}

/// The images asked for, folders opened.
pub fn files(asked: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for path in asked {
        let meta = std::fs::metadata(path).map_err(|error| Error::io(path, &error))?;
        if !meta.is_dir() {
            paths.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|error| Error::io(path, &error))? {
            let entry = entry.map_err(|error| Error::io(path, &error))?.path();
            if is_image(&entry) {
                inside.push(entry);
            }
        }
        if inside.is_empty() {
            return Err(Error::data(path, "the folder holds no JPEG or PNG file", "name another folder"));
        }
        inside.sort();
        paths.extend(inside);
    }
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("").to_ascii_lowercase();
    matches!(extension.as_str(), "jpg" | "jpeg" | "png") && path.is_file()
}

/// One line for people.
fn sentence(prediction: &Prediction) -> String {
    let classes = prediction.top.iter().map(|top| {
        let name = top.class.as_deref().map(print::printable).unwrap_or_else(|| format!("class {}", top.index));
        format!("{name} {:.1} %", 100.0 * top.prob)
    });
    format!("{}: {}", print::printable(&prediction.path), classes.collect::<Vec<_>>().join(", "))
}
