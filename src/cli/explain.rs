//! `dynavit explain`: LIME on the engine itself and attention rollout, as pictures and numbers.
#![forbid(unsafe_code)]

use super::eval::at_least_one;
use super::images::{Failed, files};
use super::options::{EngineFlags, ImageFlags, PruneFlags, SizeFlags, word};
use super::pictures::{self, Boxes, Scorers, Square};
use super::{print, source};
use crate::checkpoint::ModelCard;
use crate::error::{Error, Result};
use crate::eval::{image_key, softmax};
use crate::explain::boxes::Boxed;
use crate::explain::canvas::{Canvas, sheet};
use crate::explain::compare::{self, Compared};
use crate::explain::lime::{self, Masks};
use crate::explain::overlay;
use crate::explain::perturb::{Asked, Hide, Selection};
use crate::explain::rollout::rollout;
use crate::explain::segments::{Method, Segments};
use crate::explain::verdict::{self, Overlap, Stability};
use crate::model::{HeadPolicy, Vit};
use crate::prune::{Grid, Keep, Scorer};
use crate::train::Stop;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Flags of `explain`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit explain cat.jpg --weights runs/voc-k70 --output cat.png
  dynavit explain photos --weights runs/voc-k70 --output pictures --segments slic
  dynavit explain cat.jpg --weights vit_tiny.safetensors --output cat.png \\
      --keep 50 --selection frozen --seeds 5 --json
  dynavit explain photos --weights runs/voc-k100 --compare all

LIME hides segments of the image, asks the model about each such image, and fits
a linear model to its answers: weights say what speaks for the class. The
definitions are lime 0.2.0.1's. With --seeds the fit is repeated, to tell how
far its weights can be trusted. `kept` figures say how much of what speaks for
the class lies in kept patches; by luck it would be k/N. --compare says the same
of patches that other scorers would keep, and means over the images: explain a
model that sees all patches (--keep 100), lest it be blind to what it drops.")]
pub struct ExplainArgs {
    /// Images, and folders: the JPEG and PNG files in and below them, in order
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    /// A run, a checkpoint folder or a weight file
    #[arg(long, value_name = "FILE|DIR", visible_alias = "checkpoint")]
    weights: PathBuf,
    /// Where the picture goes; a folder for several images [default: none]
    #[arg(long, value_name = "FILE.png|DIR")]
    output: Option<PathBuf>,
    /// Model, by timm's name, when neither file nor shapes say
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Percent of the patches to keep [default: the file's, or 70]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    keep: Option<Keep>,
    /// Class to explain, by name or number [default: the likeliest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// What is shown and hidden
    #[arg(long, value_name = "HOW", default_value = "grid", help_heading = "LIME")]
    segments: Method,
    /// About how many superpixels SLIC makes
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one, help_heading = "LIME")]
    segment_count: usize,
    /// Perturbed images, the original among them
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = some_samples, help_heading = "LIME")]
    samples: usize,
    /// Patches that the model sees of a perturbed image
    #[arg(long, value_name = "WHICH", default_value = "recomputed", help_heading = "LIME")]
    selection: Selection,
    /// Colour of a hidden segment
    #[arg(long, value_name = "COLOUR", default_value = "mean", help_heading = "LIME")]
    hide: Hide,
    /// Width of the kernel that weighs images by nearness
    #[arg(long, value_name = "W", default_value_t = lime::KERNEL_WIDTH, value_parser = some_width)]
    #[arg(help_heading = "LIME")]
    kernel_width: f64,
    /// Segments in the linear model, the weightiest of a first fit [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "LIME")]
    features: Option<usize>,
    /// Segments that are shown and compared as the explanation
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one, help_heading = "LIME")]
    top: usize,
    /// First seed, also of the random scorer
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "LIME")]
    #[arg(value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    /// Repeat with this many seeds, to tell how stable the explanation is
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "LIME")]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    seeds: usize,
    /// Compare LIME with what these scorers would keep: l2, sobel, entropy,
    /// random, center, or all
    #[arg(long, value_name = "LIST", value_parser = pictures::scorers, help_heading = "Comparison")]
    compare: Option<Scorers>,
    /// Keep ratios of the comparison
    #[arg(long, value_name = "K,...", value_delimiter = ',', value_parser = super::options::percent)]
    #[arg(default_value = "30,50,70,90", requires = "compare", help_heading = "Comparison")]
    compare_keep: Vec<Keep>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one, help_heading = "Engine")]
    batch_size: usize,
    /// Magnify each panel N times
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = pictures::some_scale)]
    scale: usize,
    /// VOC annotation whose boxes are drawn [default: that of the VOC tree]
    #[arg(long, value_name = "FILE.xml")]
    boxes: Option<PathBuf>,
    /// Print one JSON document, weights and answers included
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    size: SizeFlags,
    #[command(flatten)]
    image: ImageFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

fn some_samples(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (2..=1_000_000).contains(n))
        .ok_or_else(|| "a number from 2 to 1000000 is needed".into())
}

fn some_width(text: &str) -> std::result::Result<f64, String> {
    text.parse()
        .ok()
        .filter(|w| (0.01..=1000.0).contains(w))
        .ok_or_else(|| "a number from 0.01 to 1000 is needed".into())
}

/// The result as `--json` prints it.
#[derive(Serialize)]
struct Outcome<'a> {
    model: &'a str,
    #[serde(serialize_with = "Keep::shown")]
    keep: Keep,
    scorer: Scorer,
    /// Null under a mass, where each image keeps its own number.
    seq_len: Option<usize>,
    segments: Method,
    samples: usize,
    selection: Selection,
    hide: Hide,
    kernel_width: f64,
    /// How many were asked for; an interrupt leaves fewer.
    asked: usize,
    images: Vec<Explained>,
    /// The files that cannot be read; left out when there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Failed>,
    /// Of --compare, means over images.
    #[serde(skip_serializing_if = "Option::is_none")]
    lime_overlap: Option<Vec<compare::Row>>,
}

/// What is told of one image.
#[derive(Serialize)]
struct Explained {
    path: String,
    output: Option<String>,
    class: Option<String>,
    index: usize,
    /// Of the class, on the original.
    probability: f64,
    kept: Vec<u32>,
    boxes: Vec<Boxed>,
    segment_count: usize,
    /// Segment of each pixel of the model's square, raster order; left out for the grid, where patches are segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_of_pixel: Option<Vec<u32>>,
    fits: Vec<Fitted>,
    stability: Stability,
    /// Of the first seed.
    lime_in_kept: Overlap,
    /// Of the first seed, by scorer and keep ratio.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compared: Vec<Compared>,
    rollout: Rolled,
}

#[derive(Serialize)]
struct Fitted {
    seed: u64,
    intercept: f64,
    /// Weighted R2 of the linear model.
    fidelity: f64,
    /// What the linear model says of the original.
    prediction: f64,
    /// By segment; 0 for those left out by --features.
    weights: Vec<f64>,
}

#[derive(Serialize)]
struct Rolled {
    cls: f64,
    /// By patch; null for those that were dropped.
    patches: Vec<Option<f64>>,
    /// Spearman's, over kept patches: rollout against LIME's weight of the first seed, a patch having its pixels' mean.
    rank_correlation_with_lime: Option<f64>,
}

/// Explains each image, writes its picture and prints the figures.
pub fn run(args: &ExplainArgs) -> Result<()> {
    let engine = args.engine.start()?;
    let stop = Stop::on_signals()?;
    let flags = (&args.prune, &args.size, &args.image);
    let (weights, card) =
        source::open_for_images(&args.weights, args.model.as_deref(), (args.keep, Some(args.seed)), flags, &engine)?;
    let asked_class = args.class.as_deref().map(|class| class_number(class, &card)).transpose()?;
    let (paths, mut unread) = files(&args.images)?;
    let asked = paths.len() + unread.failed.len();
    pictures::check_boxes(args.boxes.as_deref(), asked)?;
    pictures::scale(Some(args.scale), PANELS, card.transform.image_size)?;
    let places = args.output.as_deref().map(|output| pictures::places(output, &paths, asked)).transpose()?;
    let (mut vit, report) = Vit::load(card.model.clone(), card.options, &weights, HeadPolicy::Require, 0)?;
    source::tell(&report);
    engine.take(&mut vit)?;
    if !args.json {
        args.engine.tell(&engine);
    }
    let mut images = Vec::new();
    let mut stopped = Ok(());
    for (i, path) in paths.iter().enumerate() {
        let place = places.as_ref().map(|places| places[i].as_path());
        let watch = Watch { stop: &stop, image: i, of: paths.len() };
        match explain(args, &card, &vit, path, place, asked_class, &watch) {
            Ok(mut explained) => {
                if !args.json {
                    print::line(&sentences(&explained, &card, args))?;
                    explained.segment_of_pixel = None;
                }
                images.push(explained);
            }
            Err(error) => {
                // What is done is told all the same.
                stopped = unread.over(path, error);
                if stopped.is_err() {
                    break;
                }
            }
        }
    }
    let verdict = unread.verdict(asked);
    tell(args, &card, asked, images, unread.failed)?;
    stopped.and(verdict)
}

/// The document, or what is left to say after the images.
fn tell(args: &ExplainArgs, card: &ModelCard, asked: usize, images: Vec<Explained>, failed: Vec<Failed>) -> Result<()> {
    let compared: Vec<&[Compared]> = images.iter().map(|image| &image.compared[..]).collect();
    let lime_overlap = args.compare.as_ref().map(|_| compare::summary(&compared));
    match args.json {
        _ if images.is_empty() && (failed.is_empty() || !args.json) => Ok(()),
        false => lime_overlap.map_or(Ok(()), |rows| print::line(&overlaps(&rows, images.len(), asked))),
        true => print::json(&Outcome {
            model: &card.model.name,
            keep: card.prune.keep,
            scorer: card.prune.scorer,
            seq_len: card.prune.keep.fixed(card.model.patches(), card.prune.round).map(|k| 1 + k),
            segments: args.segments,
            samples: args.samples,
            selection: args.selection,
            hide: args.hide,
            kernel_width: args.kernel_width,
            asked,
            images,
            failed,
            lime_overlap,
        }),
    }
}

/// The table of --compare, at most 80 columns wide.
fn overlaps(rows: &[compare::Row], images: usize, asked: usize) -> String {
    let told = rows.first().map_or(0, |row| row.images);
    let short = if images < asked { format!(" of {asked} asked for") } else { String::new() };
    let mut lines = vec![
        "positive LIME weight in patches that would be kept:".to_owned(),
        format!("{told} of {images} images{short} have some"),
    ];
    lines.push(pictures::share_head("share"));
    lines.extend(rows.iter().map(|row| {
        let share = (row.positive_weight, row.standard_error, row.enrichment);
        pictures::share_line(row.scorer, row.keep, share, &row.minus)
    }));
    lines.join("\n")
}

/// Which image is under way, and whether to go on.
struct Watch<'a> {
    stop: &'a Stop,
    image: usize,
    of: usize,
}

impl Watch<'_> {
    fn check(&self) -> Result<()> {
        match self.stop.requested() {
            true => Err(Error::Interrupted { saved: format!("{} of {} images are explained", self.image, self.of) }),
            false => Ok(()),
        }
    }
}

/// The number of a class that is given by name or number.
fn class_number(class: &str, card: &ModelCard) -> Result<usize> {
    let named = card.classes.iter().position(|name| name == class);
    named.or_else(|| class.parse().ok().filter(|&index| index < card.model.classes)).ok_or_else(|| {
        let known = match card.classes.is_empty() {
            true => format!("a number below {}", card.model.classes),
            false => format!("one of {}", card.classes.join(", ")),
        };
        Error::usage("--class", format!("the model has no class {class:?}"), format!("give {known}"))
    })
}

fn explain(
    args: &ExplainArgs,
    card: &ModelCard,
    vit: &Vit,
    path: &Path,
    place: Option<&Path>,
    asked_class: Option<usize>,
    watch: &Watch,
) -> Result<Explained> {
    let square = pictures::square(path, Boxes { file: args.boxes.as_deref(), none: false }, &card.transform)?;
    let grid = card.model.grid();
    let asked = Asked { vit, prune: &card.prune, norm: card.transform.norm, id: image_key(path)?, rgb: &square.rgb };
    let (values, kept) = asked.original()?;
    let logits = vit.logits(&values, &kept)?;
    let probabilities = softmax(logits.data());
    let likeliest = (0..probabilities.len()).rev().max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
    let class = asked_class.or(likeliest).unwrap_or(0);
    let segments = Segments::of(args.segments, &square.rgb, &grid, args.segment_count);
    if args.samples < 3 * segments.count.min(args.features.unwrap_or(usize::MAX)) {
        let text =
            format!("{} samples for {} segments: the fit is loose, its R2 flatters it", args.samples, segments.count);
        print::complain("note", &text);
    }
    let seeds = args.seed..args.seed + args.seeds as u64;
    let total = (args.seeds * args.samples) as u64;
    let bar = super::progress::bar(false, &format!("image {}/{}", watch.image + 1, watch.of), "images");
    let mut fits = Vec::new();
    for (turn, seed) in seeds.enumerate() {
        let masks = Masks::draw(seed, args.samples, segments.count);
        let how = (args.hide, args.selection);
        let answers = asked.answers(&segments, &masks, how, class, args.batch_size, &mut |done| {
            bar.show((turn * args.samples + done) as u64, total);
            watch.check()
        })?;
        let fit = lime::fit(&masks, &answers, args.kernel_width, args.features.unwrap_or(segments.count))?;
        let mut weights = vec![0.0; segments.count];
        fit.weights.iter().for_each(|&(segment, weight)| weights[segment] = weight);
        fits.push(Fitted { seed, intercept: fit.intercept, fidelity: fit.score, prediction: fit.prediction, weights });
    }
    bar.clear();
    let all: Vec<&[f64]> = fits.iter().map(|fit| &fit.weights[..]).collect();
    let stability = verdict::stability(&segments, &all, args.top);
    let lime_in_kept = verdict::overlap_with_kept(&segments, all[0], &grid, &kept.indices, args.top);
    let against = args.compare.as_ref().map_or(Vec::new(), |scorers| pictures::with_controls(scorers.0.clone()));
    let compared =
        compare::compare(&asked, (&segments, all[0], args.top), &against, &pictures::once(&args.compare_keep))?;
    let rolled = rollout(vit, &values, &kept)?;
    let mut patches = vec![None; grid.patches()];
    kept.indices.iter().zip(&rolled.patches).for_each(|(&i, &share)| patches[i as usize] = Some(share));
    let by_patch = verdict::by_patch(&segments, all[0], &grid);
    let lime_of_kept: Vec<f64> = kept.indices.iter().map(|&i| by_patch[i as usize]).collect();
    let correlation = crate::explain::agreement::rank_correlation(&rolled.patches, &lime_of_kept);
    let explained = Explained {
        path: path.display().to_string(),
        output: place.map(|place| place.display().to_string()),
        class: card.classes.get(class).cloned(),
        index: class,
        probability: probabilities[class],
        kept: kept.indices,
        segment_count: segments.count,
        segment_of_pixel: (args.segments != Method::Grid).then(|| segments.labels.clone()),
        stability,
        lime_in_kept,
        compared,
        rollout: Rolled { cls: rolled.cls, patches, rank_correlation_with_lime: correlation },
        boxes: square.boxes.clone(),
        fits,
    };
    if let Some(place) = place {
        pictures::write(&draw(args, &grid, &square, &segments, &explained), place)?;
    }
    Ok(explained)
}

/// Panels of a picture.
const PANELS: usize = 5;

/// The image, its kept patches, LIME's weights, the segments that speak most for the class, the rollout.
fn draw(args: &ExplainArgs, grid: &Grid, square: &Square, segments: &Segments, explained: &Explained) -> Canvas {
    let (rgb, scale) = (&square.rgb, args.scale);
    let weights = &explained.fits[0].weights;
    let mut image = Canvas::of(rgb, grid.width, scale);
    overlay::draw_boxes(&mut image, &square.boxes, scale);
    let class = explained.class.clone().unwrap_or_else(|| format!("class {}", explained.index));
    let best = verdict::best(segments, weights, args.top);
    let flow: Vec<f64> = explained.rollout.patches.iter().map(|share| share.map_or(f64::NAN, f64::ln)).collect();
    sheet(&[vec![
        (format!("{class} {:.1} %", 100.0 * explained.probability), image),
        ("kept patches".into(), overlay::kept_patches(rgb, grid, &explained.kept, scale)),
        ("LIME: blue for, orange against".into(), overlay::weights(rgb, grid.width, segments, weights, scale)),
        (format!("LIME: best {}", args.top), overlay::spotlight(rgb, grid.width, &best, scale)),
        ("attention rollout (log)".into(), overlay::heat(rgb, grid, &flow, scale)),
    ]])
}

/// The figures for people.
fn sentences(explained: &Explained, card: &ModelCard, args: &ExplainArgs) -> String {
    let e = explained;
    let class = e.class.as_deref().map(print::printable).unwrap_or_else(|| format!("class {}", e.index));
    let method = word(&args.segments);
    let figure = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
    let fidelity = e.fits.iter().map(|fit| fit.fidelity).sum::<f64>() / e.fits.len() as f64;
    let (keep, scorer) = (card.prune.keep.words(), word(&card.prune.scorer));
    let mut lines = vec![
        format!("{}: {class} {:.1} %, {keep}, {scorer}", print::printable(&e.path), 100.0 * e.probability),
        format!("  {} segments ({method}), fidelity R2 {fidelity:.3}", e.segment_count),
    ];
    if args.seeds > 1 {
        let s = &e.stability;
        lines.push(format!(
            "  over {} seeds: rank correlation {}, IoU of the best {} {}",
            args.seeds,
            figure(s.rank_correlation),
            args.top,
            figure(s.overlap_of_best)
        ));
    }
    let o = &e.lime_in_kept;
    lines.push(format!(
        "  in kept patches (chance {:.3}): positive area {}, positive",
        o.chance,
        figure(o.positive_area)
    ));
    lines.push(format!("    weight {}, best {} {}", figure(o.positive_weight), args.top, figure(o.best)));
    let correlation = figure(e.rollout.rank_correlation_with_lime);
    lines.push(format!("  attention rollout against LIME: rank correlation {correlation}"));
    if let Some(output) = &e.output {
        lines.push(format!("  written to {output}"));
    }
    lines.join("\n")
}
