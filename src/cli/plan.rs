//! What a run is about to do: the lines it begins with, and the plan of `--dry-run`.
#![forbid(unsafe_code)]

use super::doubts::doubts_of_length;
use super::options::Engine;
use super::print;
use super::progress::Progress;
use super::{augment, keeping};
use crate::data::Dataset;
use crate::error::Result;
use crate::flops::Cost;
use crate::optim::Layer;
use crate::prune::Keep;
use crate::train::{Memory, Pace, Run, Stop, TrainConfig};
use serde::Serialize;

/// What is about to run.
pub fn header(run: &Run, engine: &Engine, progress: &Progress) {
    let (config, dataset, vit) = (&run.config, &run.dataset, &run.vit.config);
    progress.say(&format!("run        {}", run.dir.root().display()));
    progress.say(&format!(
        "model      {}, {} classes, {} parameters, {}",
        vit.name,
        vit.classes,
        run.vit.params.flat().len(),
        keeping::tokens(config, vit)
    ));
    progress.say(&format!("compute    {}", keeping::compute(config, vit)));
    progress.say(&format!(
        "data       {}: {} training, {} validation, {} test images",
        dataset.name,
        dataset.train.len(),
        dataset.val.len(),
        dataset.test.len()
    ));
    if let Some(words) = augment::words(&config.augment) {
        progress.say(&format!("augment    {words}"));
    }
    progress.say(&format!("engine     {}, {} decoding threads", engine.words(), run.workers));
    for text in tight(run, engine).into_iter().chain(doubts_of_length(config, dataset.train.len())) {
        progress.say(&format!("note       {text}"));
    }
    let layers = config.recipe.layers(&vit.parameters(), &config.no_decay);
    if layers.iter().any(|layer| layer.rate != 1.0 || layer.spared > 0) {
        table(&layers).iter().for_each(|line| progress.say(line));
    }
    for note in dataset.notes.iter().chain(&run.notes) {
        progress.say(&format!("note       {note}"));
    }
}

/// Words to the user where a step may not fit into what is free on the card, with the batch that may.
fn tight(run: &Run, engine: &Engine) -> Option<String> {
    let (free, _) = engine.gpu.as_ref()?.memory().ok()?;
    let vit = &run.vit.config;
    let (parameters, k) = (run.vit.params.flat().len() as u64, run.config.most_kept(vit.patches()));
    let of =
        |batch_size| Memory::estimate(&TrainConfig { batch_size, ..run.config.clone() }, vit, parameters, k).on_card();
    let need = of(run.config.batch_size);
    if need <= free {
        return None;
    }
    let gib = |bytes: u64| bytes as f64 / 2f64.powi(30);
    let (fixed, each) = (of(0), of(1) - of(0));
    let advice = match free.saturating_sub(fixed) / each.max(1) {
        0 => "not even one image fits by that estimate".to_string(),
        fits => format!("--batch-size {fits} should fit"),
    };
    Some(format!("a step needs about {:.1} GiB of the card, {:.1} are free: {advice}", gib(need), gib(free)))
}

/// A line for each layer, under a title.
fn table(layers: &[Layer]) -> Vec<String> {
    let row = |layer: &Layer| {
        let rate = if layer.rate == 0.0 { "frozen".into() } else { format!("{:.6}", layer.rate) };
        format!("{:10} {rate:>12} {:>14} {:>14}", layer.name, layer.decayed, layer.spared)
    };
    let title = format!("{:10} {:>12} {:>14} {:>14}", "layer", "share of lr", "decayed", "not decayed");
    std::iter::once(title).chain(layers.iter().map(row)).collect()
}

/// The plan as `--json` prints it.
#[derive(Serialize)]
struct Plan<'a> {
    dataset: &'a str,
    classes: usize,
    train_images: usize,
    val_images: usize,
    test_images: usize,
    model: &'a str,
    #[serde(serialize_with = "Keep::shown")]
    keep: Keep,
    /// The most there can be, under a mass.
    tokens: usize,
    tokens_unpruned: usize,
    /// Of an image's forward pass, with the short last block: no conventional count.
    macs_executed: u64,
    macs_executed_unpruned: u64,
    engine: String,
    epochs: u32,
    images_per_update: usize,
    updates_per_epoch: usize,
    updates: u64,
    lr: Rates,
    parameters_trained: usize,
    parameters_frozen: usize,
    layers: Vec<Row<'a>>,
    estimated_memory_bytes: u64,
    estimated_memory: Memory,
    /// From a step of so many images of noise; null on the virtual card.
    estimated_seconds: Option<f64>,
    timed_images: Option<usize>,
}

/// Rates of the first and last update, and the highest.
#[derive(Serialize)]
struct Rates {
    first: f64,
    peak: f64,
    last: f64,
}

/// A layer; `lr_share` is 0 where it is frozen.
#[derive(Serialize)]
struct Row<'a> {
    layer: &'a str,
    lr_share: f64,
    decayed: usize,
    not_decayed: usize,
}

/// How long the run will take, and how that was got.
fn time(config: &TrainConfig, pace: &Pace, seconds: f64) -> String {
    let long = match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    };
    let mass = if config.keep.mass().is_some() { ", which keeps more under a mass than photographs do" } else { "" };
    let (images, rate) = (pace.images, pace.image.recip());
    format!("time       about {long}, from a step of {images} images of noise{mass} ({rate:.1} images a second)")
}

/// Prints what a run of `config` would do.
pub fn print(config: &TrainConfig, dataset: &Dataset, engine: &Engine, stop: &Stop, json: bool) -> Result<()> {
    let vit = config.vit(dataset.classes.len())?;
    let layers = config.recipe.layers(&vit.parameters(), &config.no_decay);
    let parameters = layers.last().map_or(0, |layer| layer.range.end);
    let trained: usize = layers.iter().filter(|layer| layer.rate > 0.0).map(|layer| layer.range.len()).sum();
    let k = config.keep.count(vit.patches(), config.round);
    let cost = Cost::new(&vit, &config.options(), k);
    let per_epoch = config.updates(dataset.train.len());
    let updates = u64::from(config.epochs) * per_epoch as u64;
    let schedule = config.schedule(dataset.train.len());
    let rate = |t: u64| schedule.at((t / per_epoch.max(1) as u64) as u32, t);
    // A rate rises only within an epoch of the warm-up: the highest is the last of one, or the first after.
    let warm = schedule.warmup_steps.min(updates);
    let ends = (1..=warm.div_ceil(per_epoch.max(1) as u64).min(10_000)).map(|epoch| epoch * per_epoch as u64 - 1);
    let candidates = ends.chain([0, warm.saturating_sub(1), warm]).filter(|&t| t < updates.max(1));
    let memory = Memory::estimate(config, &vit, parameters as u64, config.most_kept(vit.patches()));
    // The virtual card checks every access, and would tell of itself.
    let timed = engine.gpu.as_ref().is_none_or(|gpu| !gpu.is_virtual());
    let pace = timed.then(|| Pace::measure(config, &vit, engine.gpu.as_ref(), stop)).transpose()?;
    let [train, val, test] = [&dataset.train, &dataset.val, &dataset.test].map(Vec::len);
    let seconds = pace.as_ref().map(|pace| pace.seconds(config.epochs, train, per_epoch, val, test));
    let plan = Plan {
        dataset: &dataset.name,
        classes: dataset.classes.len(),
        train_images: dataset.train.len(),
        val_images: dataset.val.len(),
        test_images: dataset.test.len(),
        model: &vit.name,
        keep: config.keep,
        tokens: 1 + k,
        tokens_unpruned: 1 + vit.patches(),
        macs_executed: cost.executed,
        macs_executed_unpruned: Cost::new(&vit, &config.options(), vit.patches()).executed,
        engine: engine.words(),
        epochs: config.epochs,
        images_per_update: config.batch_size.saturating_mul(config.recipe.grad_accum).min(dataset.train.len()),
        updates_per_epoch: per_epoch,
        updates,
        lr: Rates {
            first: rate(0),
            peak: candidates.map(rate).fold(0.0, f64::max),
            last: rate(updates.saturating_sub(1)),
        },
        parameters_trained: trained,
        parameters_frozen: parameters - trained,
        layers: layers
            .iter()
            .map(|l| Row { layer: &l.name, lr_share: l.rate, decayed: l.decayed, not_decayed: l.spared })
            .collect(),
        estimated_memory_bytes: memory.total(),
        estimated_memory: memory,
        estimated_seconds: seconds,
        timed_images: pace.as_ref().map(|pace| pace.images),
    };
    if json {
        return print::json(&plan);
    }
    let gib = |bytes: u64| bytes as f64 / 2f64.powi(30);
    let Rates { first, peak, last } = plan.lr;
    for line in [
        "plan       nothing is trained or written".to_string(),
        format!(
            "data       {}, {} classes: {} training, {} validation, {} test images",
            plan.dataset, plan.classes, plan.train_images, plan.val_images, plan.test_images
        ),
        format!("model      {}, {}", plan.model, keeping::tokens(config, &vit)),
        format!("compute    {}", keeping::compute(config, &vit)),
        format!("augment    {}", augment::words(&config.augment).unwrap_or_else(|| "crop and flip".into())),
        format!("engine     {}", plan.engine),
        format!(
            "updates    {updates}: {per_epoch} an epoch for {} epochs, {} images each",
            plan.epochs, plan.images_per_update
        ),
        format!("rate       first {first:.3e}, highest {peak:.3e}, last {last:.3e}"),
        format!("parameters {trained} trained, {} frozen", plan.parameters_frozen),
        format!(
            "memory     about {:.2} GiB, estimated: weights {:.2}, gradients {:.2}, moments {:.2}, activations {:.2}, \
             images {:.2}",
            gib(memory.total()),
            gib(memory.weights),
            gib(memory.gradients),
            gib(memory.moments),
            gib(memory.activations),
            gib(memory.images)
        ),
    ]
    .into_iter()
    .chain(pace.as_ref().zip(seconds).map(|(pace, seconds)| time(config, pace, seconds)))
    .chain(table(&layers))
    .chain(doubts_of_length(config, dataset.train.len()).into_iter().map(|text| format!("note       {text}")))
    .chain(dataset.notes.iter().map(|note| format!("note       {note}")))
    {
        print::line(&line)?;
    }
    Ok(())
}
