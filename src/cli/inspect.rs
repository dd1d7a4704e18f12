//! `dynavit inspect`: what a weight file, checkpoint folder or run directory holds.
#![forbid(unsafe_code)]

use super::options::SizeFlags;
use super::print::printable;
use crate::checkpoint::Progress;
use crate::error::{Error, Result};
use crate::model::{Found, MAX_IMAGE_SIZE, Named, Naming, VitConfig};
use crate::weights::Weights;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Columns of a terminal that the text keeps to.
const COLUMNS: usize = 80;

/// Flags of `dynavit inspect`.
#[derive(clap::Args)]
pub struct InspectArgs {
    /// A safetensors file, a checkpoint folder or a run directory
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    #[command(flatten)]
    size: SizeFlags,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Everything found. `file` is null for a run without a checkpoint that can be read.
#[derive(Serialize)]
struct Document {
    path: String,
    checkpoints: Vec<Checkpoint>,
    file: Option<Contents>,
}

/// One checkpoint of a run, by step.
#[derive(Serialize)]
struct Checkpoint {
    name: String,
    best: bool,
    last: bool,
    /// Null when state.json is missing or damaged.
    progress: Option<Progress>,
}

/// What a weight file holds.
#[derive(Serialize)]
struct Contents {
    path: String,
    bytes: u64,
    model: Option<Model>,
    parameters: u64,
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

/// A ViT as far as names and shapes tell. What they do not tell is null.
#[derive(Debug, PartialEq, Serialize)]
struct Model {
    name: Option<String>,
    /// Whose names the tensors have.
    naming: Naming,
    width: usize,
    depth: usize,
    patch: usize,
    channels: usize,
    /// From the model card, else D / 64.
    heads: Option<usize>,
    heads_guessed: bool,
    mlp: Option<usize>,
    /// That of the position table, or what --img-size resamples it to.
    image_size: Option<usize>,
    /// S at K = 100, for that image size.
    tokens: Option<usize>,
    classes: Option<usize>,
    layer_scale: bool,
}

/// Looks and prints.
pub fn run(args: &InspectArgs) -> Result<()> {
    let mut document = look(&args.path)?;
    if let Some(model) = document.file.as_mut().and_then(|file| file.model.as_mut()) {
        model.resize(&args.size)?;
    }
    let text = if args.json {
        serde_json::to_string(&document).expect("numbers and strings always become JSON")
    } else {
        describe(&document)
    };
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // A reader that has seen enough is no error.
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|err| Error::io("stdout", &err)),
    }
}

fn look(path: &Path) -> Result<Document> {
    let shown = path.display().to_string();
    let kind = fs::metadata(path).map_err(|err| Error::io(path, &err))?;
    if !kind.is_dir() {
        return Ok(Document { path: shown, checkpoints: Vec::new(), file: Some(contents(path)?) });
    }
    let weights = path.join("model.safetensors");
    if weights.exists() || path.join("state.json").exists() {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let checkpoint = Checkpoint { name, best: false, last: false, progress: progress(path) };
        return Ok(Document { path: shown, checkpoints: vec![checkpoint], file: Some(contents(&weights)?) });
    }
    let folder = path.join("checkpoints");
    if !folder.is_dir() && !path.join("config.toml").exists() {
        let remedy = "name one of them or a .safetensors file";
        return Err(Error::data(path, "this is neither a run directory nor a checkpoint folder", remedy));
    }
    let checkpoints = checkpoints(path, &folder)?;
    let shown_one = checkpoints.iter().find(|c| c.best).or(checkpoints.iter().find(|c| c.last)).or(checkpoints.last());
    let file = shown_one.map(|c| contents(&folder.join(&c.name).join("model.safetensors"))).transpose()?;
    Ok(Document { path: shown, checkpoints, file })
}

/// The checkpoints of the run `root`, oldest first.
fn checkpoints(root: &Path, folder: &Path) -> Result<Vec<Checkpoint>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let (best, last) = (pointed(&root.join("best")), pointed(&root.join("last")));
    let mut steps = Vec::new();
    for entry in fs::read_dir(folder).map_err(|err| Error::io(folder, &err))? {
        let name = entry.map_err(|err| Error::io(folder, &err))?.file_name().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
            steps.push((step, name));
        }
    }
    steps.sort();
    let checkpoint = |(_, name): (u64, String)| Checkpoint {
        best: best.as_deref() == Some(name.as_str()),
        last: last.as_deref() == Some(name.as_str()),
        progress: progress(&folder.join(&name)),
        name,
    };
    Ok(steps.into_iter().map(checkpoint).collect())
}

/// The folder name that `best` or `last` points at: a symbolic link, or a file that holds the path.
fn pointed(link: &Path) -> Option<String> {
    let target = fs::read_link(link).or_else(|_| fs::read_to_string(link).map(|text| text.trim().into())).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn progress(checkpoint: &Path) -> Option<Progress> {
    let text = fs::read_to_string(checkpoint.join("state.json")).ok()?;
    let state: serde_json::Value = serde_json::from_str(&text).ok()?;
    serde_json::from_value(state.get("progress")?.clone()).ok()
}

fn contents(path: &Path) -> Result<Contents> {
    let weights = Weights::open(path)?;
    let bytes = fs::metadata(path).map_err(|err| Error::io(path, &err))?.len();
    let tensors: Vec<Tensor> = weights
        .names()
        .into_iter()
        .filter_map(|name| {
            let info = weights.info(name)?;
            Some(Tensor { name: name.into(), dtype: info.dtype.to_string(), shape: info.shape.clone() })
        })
        .collect();
    let parameters = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
    let model = model(&weights);
    let metadata = weights.metadata().clone();
    Ok(Contents { path: path.display().to_string(), bytes, model, parameters, tensors, metadata })
}

/// What names and shapes say of the model; None when this is no ViT under names that we know.
fn model(weights: &Weights) -> Option<Model> {
    let named = Named::new(weights);
    let found = Found::new(&named)?;
    // Only the card's `model` matters here, so a card of another version still tells it.
    let card = weights.metadata().get("dynavit").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let card = card.and_then(|card| serde_json::from_value::<VitConfig>(card.get("model")?.clone()).ok());
    let heads = card.as_ref().map(|card| card.heads);
    let name = found.name().map(String::from);
    Some(Model {
        name: card.map(|card| card.name).or(name),
        naming: named.naming(),
        width: found.width,
        depth: found.depth,
        patch: found.patch,
        channels: found.channels,
        heads: heads.or(found.heads()),
        heads_guessed: heads.is_none(),
        mlp: found.mlp,
        image_size: found.image_size,
        tokens: found.image_size.and_then(|side| Some(side.checked_div(found.patch)?.pow(2) + 1)),
        classes: found.classes,
        layer_scale: found.layer_scale,
    })
}

impl Model {
    /// Takes on the image size that was asked for.
    fn resize(&mut self, size: &SizeFlags) -> Result<()> {
        let Some(side) = size.img_size else { return Ok(()) };
        if self.patch == 0 || !(1..=MAX_IMAGE_SIZE).contains(&side) || !side.is_multiple_of(self.patch) {
            let reason = format!("patches of side {} do not tile {side} pixels", self.patch);
            let remedy = format!("give a multiple of the patch up to {MAX_IMAGE_SIZE}");
            return Err(Error::usage("--img-size", reason, remedy));
        }
        (self.image_size, self.tokens) = (Some(side), Some((side / self.patch).pow(2) + 1));
        Ok(())
    }
}

/// Text for people, at most `COLUMNS` wide but for long paths.
fn describe(document: &Document) -> String {
    let mut text = format!("{}\n", printable(&document.path));
    if !document.checkpoints.is_empty() {
        text += &format!("\n{:<16} {:>6} {:>6} {:>8}  {}\n", "checkpoint", "epoch", "batch", "step", "best accuracy");
    }
    for Checkpoint { name, best, last, progress } in &document.checkpoints {
        text += &format!("{name:<16} ");
        match progress {
            None => text += "state.json is missing or damaged",
            Some(at) => {
                let accuracy = at.best_accuracy.map_or("-".into(), |accuracy| format!("{:.2} %", accuracy * 100.0));
                text += &format!("{:>6} {:>6} {:>8}  {accuracy:<13}", at.epoch, at.batch, at.step);
            }
        }
        let marks: Vec<&str> = [(*best, "best"), (*last, "last")].iter().filter(|m| m.0).map(|m| m.1).collect();
        text = format!("{}  {}", text, marks.join(", ")).trim_end().to_string() + "\n";
    }
    match &document.file {
        Some(file) => text += &describe_file(file, &document.path),
        None => text += "\nThis run has no checkpoint yet.\n",
    }
    text
}

fn describe_file(file: &Contents, above: &str) -> String {
    let mut text = String::from("\n");
    if file.path != above {
        text += &format!("{:<11} {}\n", "file", printable(&file.path));
    }
    text += &format!("{:<11} {} bytes\n", "size", grouped(file.bytes));
    text += &format!(
        "{:<11} {}\n",
        "model",
        file.model.as_ref().map_or("no ViT under names of timm or Hugging Face".into(), describe_model)
    );
    text += &format!("{:<11} {} in {} tensors\n", "parameters", grouped(file.parameters), file.tensors.len());
    for (key, value) in &file.metadata {
        text += &cut(&format!("{:<11} {key} = {value}", "metadata"));
    }
    let dtype = file.tensors.iter().map(|tensor| tensor.dtype.len()).max().unwrap_or(0);
    let name = file.tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0).min(48);
    text += "\n";
    for tensor in &file.tensors {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let shape = if shape.is_empty() { "scalar".into() } else { shape.join(" x ") };
        text += &cut(&format!("{:<name$}  {:<dtype$}  {shape}", tensor.name, tensor.dtype));
    }
    text
}

fn describe_model(model: &Model) -> String {
    let or_unknown = |value: Option<usize>| value.map_or("unknown".into(), |value| value.to_string());
    let scaled = if model.layer_scale { ", layer scale" } else { "" };
    let guess = if model.heads_guessed && model.heads.is_some() { " (guessed)" } else { "" };
    format!(
        "{}\n{:<11} {}\n{:<11} D {}, L {}, H {}{guess}, F {}, P {}, C {}{scaled}\n{:<11} image size {}, S {}, classes {}",
        printable(model.name.as_deref().unwrap_or("a ViT that has no name here")),
        "names",
        model.naming,
        "shape",
        model.width,
        model.depth,
        or_unknown(model.heads),
        or_unknown(model.mlp),
        model.patch,
        model.channels,
        "",
        or_unknown(model.image_size),
        or_unknown(model.tokens),
        model.classes.map_or("unknown: there is no head".into(), |classes| classes.to_string()),
    )
}

/// One line of at most `COLUMNS`, with an ellipsis where it was cut.
fn cut(line: &str) -> String {
    let line = printable(line);
    match line.char_indices().nth(COLUMNS) {
        None => line + "\n",
        Some(_) => line.chars().take(COLUMNS - 3).collect::<String>() + "...\n",
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
