//! `dynavit visualize`: kept patches over images, scorers by keep ratios in one sheet.
#![forbid(unsafe_code)]

use super::images::{Failed, Unread, files};
use super::options::word;
use super::pictures::{self, Boxes, SelectionFlags};
use super::print;
use crate::checkpoint::ModelCard;
use crate::data::transform;
use crate::error::{Error, Result};
use crate::eval::image_key;
use crate::explain::boxes::Boxed;
use crate::explain::canvas::{Canvas, sheet};
use crate::explain::overlay;
use crate::prune::{Keep, Pixels, PruneConfig, Scorer, scores, select};
use crate::train::Stop;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Flags of `visualize`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit visualize cat.jpg --output cat.png
  dynavit visualize cat.jpg --output grid.png --scorer all --keep 30,50,70
  dynavit visualize cat.jpg --output mass.png --scorer all --keep mass:0.9
  dynavit visualize VOC2007/JPEGImages --output pictures --heat --keep 50

Dropped patches are dark and grey, kept ones untouched. Images are shown as the
model sees them, squashed to its square. An image in a VOC tree gets the boxes
of its annotation. No weights are needed.")]
pub struct VisualizeArgs {
    /// Images, and folders: the JPEG and PNG files in and below them, in order
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    /// Where the picture goes; a folder for several images
    #[arg(long, value_name = "FILE.png|DIR")]
    output: PathBuf,
    /// Add each scorer's scores as a heat map
    #[arg(long)]
    heat: bool,
    /// VOC annotation whose boxes are drawn [default: that of the VOC tree]
    #[arg(long, value_name = "FILE.xml")]
    boxes: Option<PathBuf>,
    /// Draw no boxes
    #[arg(long, conflicts_with = "boxes")]
    no_boxes: bool,
    /// Magnify each image N times [default: 2, or 1 for more than six panels]
    #[arg(long, value_name = "N", value_parser = pictures::some_scale)]
    scale: Option<usize>,
    /// Print kept patches and scores as one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    selection: SelectionFlags,
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome {
    image_size: usize,
    patch: usize,
    images: Vec<Shown>,
    /// The files that cannot be read; left out when there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Shown {
    path: String,
    output: String,
    boxes: Vec<Boxed>,
    scorers: Vec<Scored>,
}

#[derive(Serialize)]
struct Scored {
    scorer: Scorer,
    /// (N,) in raster order.
    scores: Vec<f64>,
    selections: Vec<Chosen>,
}

#[derive(Serialize)]
struct Chosen {
    #[serde(serialize_with = "Keep::shown")]
    keep: Keep,
    /// Raster indices, ascending.
    kept: Vec<u32>,
}

/// Draws and writes a picture for each image.
pub fn run(args: &VisualizeArgs) -> Result<()> {
    let card = args.selection.card()?;
    let (paths, mut unread) = files(&args.images)?;
    let asked = paths.len() + unread.failed.len();
    pictures::check_boxes(args.boxes.as_deref(), asked)?;
    let places = pictures::places(&args.output, &paths, asked)?;
    let mut images = Vec::new();
    let ended = each(args, &card, &paths, &places, &mut images, &mut unread);
    let verdict = unread.verdict(asked);
    // What is done is told, whatever came after it.
    if args.json && (!images.is_empty() || !unread.failed.is_empty()) {
        let (image_size, patch) = (card.model.image_size, card.model.patch);
        print::json(&Outcome { image_size, patch, images, failed: unread.failed })?;
    }
    ended.and(verdict)
}

/// Draws image by image, until an interrupt; passes over those that cannot be read.
fn each(
    args: &VisualizeArgs,
    card: &ModelCard,
    paths: &[PathBuf],
    places: &[PathBuf],
    images: &mut Vec<Shown>,
    unread: &mut Unread,
) -> Result<()> {
    let stop = Stop::on_signals()?;
    let bar = super::progress::bar(paths.len() == 1, "drawing", "images");
    for (i, (path, place)) in paths.iter().zip(places).enumerate() {
        if stop.requested() {
            return Err(Error::Interrupted { saved: format!("{i} of {} pictures are written", paths.len()) });
        }
        match show(args, card, path, place) {
            Ok(shown) => {
                if !args.json {
                    print::line(&shown.output)?;
                }
                images.push(shown);
            }
            Err(error) => unread.over(path, error)?,
        }
        bar.show(i as u64 + 1, paths.len() as u64);
    }
    bar.clear();
    Ok(())
}

/// Draws one image.
fn show(args: &VisualizeArgs, card: &ModelCard, path: &Path, place: &Path) -> Result<Shown> {
    let boxes = Boxes { file: args.boxes.as_deref(), none: args.no_boxes };
    let square = pictures::square(path, boxes, &card.transform)?;
    let normalized = transform::normalise(&square.rgb, card.transform.norm);
    let id = image_key(path)?;
    let pixels = Pixels { normalized: &normalized, rgb: &square.rgb, ids: &[id], epoch: 0 };
    let grid = card.model.grid();
    let mut scorers = Vec::new();
    for scorer in args.selection.scorers() {
        let prune = PruneConfig { scorer, ..card.prune.clone() };
        let mut selections = Vec::new();
        for keep in args.selection.keeps() {
            let kept = select(&PruneConfig { keep, ..prune.clone() }, &grid, &pixels)?.indices;
            selections.push(Chosen { keep, kept });
        }
        let scores = scores(&prune, &grid, &normalized, &square.rgb, id, 0)?;
        scorers.push(Scored { scorer, scores, selections });
    }
    pictures::write(&draw(args, &grid, &square, &scorers)?, place)?;
    let (path, output) = (path.display().to_string(), place.display().to_string());
    Ok(Shown { path, output, boxes: square.boxes, scorers })
}

/// A row for each scorer: the image, the scores when asked for, and a panel for each keep ratio.
fn draw(
    args: &VisualizeArgs,
    grid: &crate::prune::Grid,
    square: &pictures::Square,
    scorers: &[Scored],
) -> Result<Canvas> {
    let columns = args.selection.keeps().len() + 1 + usize::from(args.heat);
    let scale = pictures::scale(args.scale, columns * scorers.len(), grid.width)?;
    let panel = |label: String, mut canvas: Canvas| {
        overlay::draw_boxes(&mut canvas, &square.boxes, scale);
        (label, canvas)
    };
    let mut rows = Vec::new();
    for scored in scorers {
        let scorer = word(&scored.scorer);
        let mut row = vec![panel("image".into(), Canvas::of(&square.rgb, grid.width, scale))];
        if args.heat {
            let most = scored.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let least = scored.scores.iter().copied().fold(f64::INFINITY, f64::min);
            let label = format!("{scorer} {} to {}", short(least), short(most));
            row.push(panel(label, overlay::heat(&square.rgb, grid, &scored.scores, scale)));
        }
        for chosen in &scored.selections {
            let canvas = overlay::kept_patches(&square.rgb, grid, &chosen.kept, scale);
            let keep = match chosen.keep.mass() {
                None => format!("K={}%", chosen.keep),
                Some(_) => format!("{}: {} of {}", chosen.keep, chosen.kept.len(), grid.patches()),
            };
            row.push(panel(format!("{scorer} {keep}"), canvas));
        }
        rows.push(row);
    }
    Ok(sheet(&rows))
}

/// A number of about three digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
