//! `dynavit predict`: classes, logits and kept patches of image files.
#![forbid(unsafe_code)]

use super::eval::at_least_one;
use super::images::{Failed, Unread, files};
use super::options::{EngineFlags, ImageFlags, PruneFlags, SizeFlags};
use super::{print, source};
use crate::error::{Error, Result};
use crate::eval::{Prediction, predict};
use crate::model::{HeadPolicy, Vit};
use crate::prune::{Keep, Scorer};
use crate::train::Stop;
use clap::Args;
use serde::Serialize;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Flags of `predict`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit predict cat.png dog.jpg --weights runs/voc-k70-l2-s42-20260101-120000
  dynavit predict photos --weights vit_tiny.safetensors \\
      --model vit_tiny_patch16_224 --keep 50 --json
  find photos -name '*.jpg' | dynavit predict - --weights RUN --jsonl

Files that are no images, or not there, are told on stderr and passed over;
--json lists them under failed, --jsonl gives each a line with path and reason.
The exit code is then 3. After Ctrl-C what is done is printed, and the exit code
is 130.

With - names are read as they come and answered in their order, so another
program can keep one process and ask it name by name: the model is loaded once,
and a batch waits for no name that has not come yet.")]
pub struct PredictArgs {
    /// Images, and folders: the JPEG and PNG files in and below them, in order;
    /// or - for names of images on standard input, a line each
    #[arg(required = true, value_name = "IMAGE|FOLDER|-")]
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
    /// Most images in a batch
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

/// Predicts, and prints batch by batch or all at once.
pub fn run(args: PredictArgs) -> Result<()> {
    let engine = args.engine.start()?;
    let flags = (&args.prune, &args.size, &args.image);
    let (weights, card) =
        source::open_for_images(&args.weights, args.model.as_deref(), (args.keep, args.seed), flags, &engine)?;
    let (mut asked, mut unread) = Asked::new(&args.images)?;
    let (mut vit, report) = Vit::load(card.model.clone(), card.options, &weights, HeadPolicy::Require, 0)?;
    source::tell(&report);
    engine.take(&mut vit)?;
    if !args.json && !args.jsonl {
        args.engine.tell(&engine);
    }
    if args.jsonl {
        unread.failed.iter().try_for_each(print::json)?;
    }
    let (mut images, mut seen) = (Vec::new(), unread.failed.len());
    let ended = each(&mut asked, args.batch_size, &mut |batch| {
        let done = predict(&vit, &card.prune, &card.transform, &card.classes, batch, args.top)?;
        for (path, prediction) in batch.iter().zip(done) {
            match prediction {
                Ok(prediction) if args.json => images.push(prediction),
                Ok(prediction) if args.jsonl => print::json(&prediction)?,
                Ok(prediction) => print::line(&sentence(&prediction))?,
                Err(error) => {
                    unread.over(path, error)?;
                    if args.jsonl {
                        print::json(unread.failed.last().expect("it was put there"))?;
                    }
                    if !args.json {
                        unread.forget();
                    }
                }
            }
        }
        seen += batch.len();
        Ok(())
    });
    let verdict = unread.verdict(seen);
    // What is done is told, whatever came after it.
    if args.json && (ended.is_ok() || !images.is_empty() || !unread.failed.is_empty()) {
        let keep = card.prune.keep;
        print::json(&Outcome {
            seq_len: keep.fixed(card.model.patches(), card.prune.round).map(|k| 1 + k),
            model: card.model.name,
            keep,
            scorer: card.prune.scorer,
            images,
            failed: unread.failed,
        })?;
    }
    ended.and(verdict)
}

/// Hands the images to `predict` in batches of `most` or fewer, until an interrupt.
fn each(asked: &mut Asked, most: usize, predict: &mut dyn FnMut(&[PathBuf]) -> Result<()>) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut done = 0;
    loop {
        let batch = asked.batch(most, &stop)?;
        if stop.requested() {
            let of = asked.all.map_or(String::new(), |all| format!(" of {all}"));
            return Err(Error::Interrupted { saved: format!("{done}{of} images were looked at") });
        }
        if batch.is_empty() {
            return Ok(());
        }
        predict(&batch)?;
        done += batch.len();
    }
}

/// The images asked for that are still to be looked at.
struct Asked {
    left: Left,
    /// How many were asked for in all; none where their names come one by one.
    all: Option<usize>,
}

enum Left {
    Named(std::vec::IntoIter<PathBuf>),
    /// Names as they come in on standard input, and why no more come, once that is so.
    Coming(Receiver<Result<PathBuf>>, Option<Error>),
}

impl Asked {
    /// What is asked for, and what of it is not there to begin with.
    fn new(asked: &[PathBuf]) -> Result<(Self, Unread)> {
        let dash = Path::new("-");
        if asked.iter().any(|path| path == dash) && asked.len() > 1 {
            let reason = "- stands for the names on standard input, and others are given too";
            return Err(Error::usage("IMAGE", reason, "give - alone, or name a file of that name as ./-"));
        }
        if asked == [dash] {
            return Ok((Asked { left: Left::Coming(names(), None), all: None }, Unread::of(None)));
        }
        let (paths, unread) = files(asked)?;
        let all = Some(paths.len() + unread.failed.len());
        Ok((Asked { left: Left::Named(paths.into_iter()), all }, unread))
    }

    /// The next images, `most` or fewer, and none at the end. Of names that come one by one it waits for the first alone, and
    /// no longer when the user interrupts.
    fn batch(&mut self, most: usize, stop: &Stop) -> Result<Vec<PathBuf>> {
        let (coming, broken) = match &mut self.left {
            Left::Named(paths) => return Ok(paths.take(most).collect()),
            Left::Coming(coming, broken) => (coming, broken),
        };
        if let Some(error) = broken.take() {
            return Err(error);
        }
        let mut names = Vec::new();
        loop {
            let next = match names.is_empty() {
                true => coming.recv_timeout(Duration::from_millis(100)),
                false => coming.try_recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(Ok(name)) => names.push(name),
                Ok(Err(error)) if names.is_empty() => return Err(error),
                // What came before it is looked at first.
                Ok(Err(error)) => *broken = Some(error),
                Err(RecvTimeoutError::Timeout) if !stop.requested() => continue,
                Err(_) => return Ok(names),
            }
            if names.len() == most || broken.is_some() {
                return Ok(names);
            }
        }
    }
}

/// The lines of standard input, read ahead by a thread of their own.
fn names() -> Receiver<Result<PathBuf>> {
    let (send, receive) = sync_channel(1024);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            let name = line.map(name).map_err(|error| Error::io("standard input", &error));
            let broken = name.is_err();
            if send.send(name).is_err() || broken {
                return;
            }
        }
    });
    receive
}

/// The file that a line names.
fn name(mut line: Vec<u8>) -> PathBuf {
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    #[cfg(unix)]
    let name = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(line);
    #[cfg(not(unix))]
    let name = String::from_utf8_lossy(&line).into_owned();
    name.into()
}

/// One line for people.
fn sentence(prediction: &Prediction) -> String {
    let classes = prediction.top.iter().map(|top| {
        let name = top.class.as_deref().map(print::printable).unwrap_or_else(|| format!("class {}", top.index));
        format!("{name} {:.1} %", 100.0 * top.prob)
    });
    format!("{}: {}", print::printable(&prediction.path), classes.collect::<Vec<_>>().join(", "))
}
