//! Which data set a command works on, and which weights: found on disk, or drawn when there is none.
#![forbid(unsafe_code)]

use super::doubts::small;
use super::options::{Engine, ImageFlags, PruneFlags, SizeFlags, set, word};
use super::print;
use crate::checkpoint::{ModelCard, resolve};
use crate::data::{Dataset, LabelPolicy, Norm, SplitPolicy, TransformConfig};
use crate::data::{open_cifar100, open_folder, open_tiny_imagenet, open_voc, sample};
use crate::error::{Error, Result};
use crate::model::{Found, LoadReport, Named, VitConfig, VitOptions};
use crate::prune::Keep;
use crate::train::{DatasetName, Stop, TrainConfig};
use crate::weights::Weights;
use clap::ValueEnum;
#[cfg(test)]
use clap::{Args, FromArgMatches};
use std::path::{Path, PathBuf};

/// Where VOC is looked for when nobody says.
pub const VOC_ROOT: &str = "data/VOCdevkit";
/// Where folders of CIFAR-100 and Tiny-ImageNet are looked for when nobody says.
pub const DATA_ROOT: &str = "data";
/// Where the built-in sample is drawn when nobody says.
pub const SAMPLE_ROOT: &str = "data/sample";
/// Images of the built-in sample.
pub const SAMPLE_IMAGES: usize = 1200;
/// Seed of the built-in sample.
pub const SAMPLE_SEED: u64 = 42;

/// The data set that `name` and `data` mean: VOC that is neither given nor in its usual place becomes the built-in sample.
pub fn or_sample(name: DatasetName, data: Option<&Path>) -> DatasetName {
    if name == DatasetName::Voc && data.is_none() && !Path::new(VOC_ROOT).exists() { DatasetName::Sample } else { name }
}

/// The folder of the data set.
pub fn root(name: DatasetName, data: Option<&Path>) -> Result<PathBuf> {
    match (data, name) {
        (Some(data), _) => Ok(data.to_path_buf()),
        (None, DatasetName::Voc) => Ok(VOC_ROOT.into()),
        (None, DatasetName::Cifar100 | DatasetName::TinyImagenet) => Ok(DATA_ROOT.into()),
        (None, DatasetName::Sample) => Ok(SAMPLE_ROOT.into()),
        (None, DatasetName::Folder) => {
            Err(Error::usage("--data", "a class-per-folder data set has no usual place", "give --data DIR"))
        }
    }
}

/// Reads the data set; the sample is drawn first when it is not there.
pub fn open(name: DatasetName, root: &Path, labels: LabelPolicy, split: SplitPolicy, stop: &Stop) -> Result<Dataset> {
    match name {
        DatasetName::Voc => open_voc(root, labels, split),
        DatasetName::Cifar100 => open_cifar100(root, split),
        DatasetName::TinyImagenet => open_tiny_imagenet(root, split),
        DatasetName::Folder => open_folder(root),
        DatasetName::Sample => open_voc(&drawn(root, SAMPLE_IMAGES, SAMPLE_SEED, stop)?, labels, split),
    }
}

/// The sample under `root`, drawn if it is not there; an interrupt leaves none of it behind.
pub fn drawn(root: &Path, images: usize, seed: u64, stop: &Stop) -> Result<PathBuf> {
    sample::ensure_unless(root, images, seed, &|| stop.requested())
}

/// A weight file and what is known of it.
pub struct Source {
    pub weights: Weights,
    pub card: ModelCard,
    /// Whether the card came with the file; if not, it holds the paper's settings.
    pub own_card: bool,
}

/// Opens `--weights` for single images: what the flags say takes the place of what the card says.
pub fn open_for_images(
    path: &Path,
    model: Option<&str>,
    (keep, seed): (Option<Keep>, Option<u64>),
    (prune, size, image): (&PruneFlags, &SizeFlags, &ImageFlags),
    engine: &Engine,
) -> Result<(Weights, ModelCard)> {
    let Source { weights, mut card, own_card } = open_weights("--weights", path, model)?;
    set(&mut card.prune.keep, keep);
    if engine.gpu.is_some() {
        card.prune.keep.check_on_card()?;
    }
    if let Some(text) = small(card.prune.keep, card.model.patches(), card.prune.round) {
        print::complain("warning", &text);
    }
    set(&mut card.prune.seed, seed);
    let own = card.clone();
    prune.apply(&mut card);
    size.apply(&mut card)?;
    image.apply(&mut card);
    card.transform.check()?;
    if own_card {
        tell_changes(&own, &card);
    } else if let Some(text) = norm_warning(&weights, card.transform.norm) {
        print::complain("warning", &text);
    }
    Ok((weights, card))
}

/// Opens `path` (a run, a checkpoint or a file; `flag` named it) for inference. A plain file needs `model` where names
/// and shapes of its tensors do not tell it.
pub fn open_weights(flag: &str, path: &Path, model: Option<&str>) -> Result<Source> {
    let (file, card) = resolve(path)?;
    let weights = Weights::open(&file)?;
    if let Some(card) = card {
        if card.model.channels != 3 {
            let reason = format!("its model takes {} channels, and pictures have 3", card.model.channels);
            return Err(Error::data(file, reason, "name weights of a model for RGB"));
        }
        if let Some(model) = model.filter(|&model| model.split('.').next() != Some(&card.model.name)) {
            let reason = format!("{flag} holds {}, not {model}", card.model.name);
            return Err(Error::usage("--model", reason, "leave --model out"));
        }
        return Ok(Source { weights, card, own_card: true });
    }
    let model = plain_model(&weights, model)?;
    let keep: Keep = "70".parse().expect("70 is a keep ratio");
    let card = ModelCard {
        options: VitOptions::default(),
        classes: class_names(&weights, model.classes),
        transform: TransformConfig::paper(model.image_size),
        prune: TrainConfig::paper(DatasetName::Voc, keep).prune(),
        model,
    };
    Ok(Source { weights, card, own_card: false })
}

/// The model of a file without a card: that of the name, else what names and shapes tell.
fn plain_model(weights: &Weights, name: Option<&str>) -> Result<VitConfig> {
    let file = weights.path();
    let named = Named::new(weights);
    named.refuse_extra_tokens()?;
    let found = Found::new(&named);
    if name.is_none() && found.is_none() {
        let reason = format!("{} does not say which model it holds", file.display());
        let known = VitConfig::names().collect::<Vec<_>>().join(", ");
        return Err(Error::usage("--model", reason, format!("give one of {known}")));
    }
    let head = named.own_name("head.weight");
    let Some(classes) = named.shape("head.weight").map(|shape| shape.first().copied().unwrap_or(0)) else {
        let reason = format!("tensor {head} is missing, so the number of classes is unknown");
        return Err(Error::data(file, reason, "take weights with a head, or train one"));
    };
    if let Some(name) = name {
        let model = VitConfig::named(name, classes)?;
        model.check().map_err(|why| {
            let shape = named.shape("head.weight").unwrap_or_default();
            Error::data(file, format!("tensor {head} {shape:?}: {why}"), "take weights with a sound head")
        })?;
        return Ok(model);
    }
    found.and_then(|found| found.config()).filter(|model| model.channels == 3).ok_or_else(|| {
        let reason = "its tensors do not add up to a ViT for RGB pictures whose heads are 64 wide";
        Error::data(file, reason, "give --model NAME; `dynavit inspect FILE` tells what is there")
    })
}

/// Names of the classes in a config.json beside the weights, when there is one for each: `label_names` as timm writes them, or
/// `id2label` as transformers does.
fn class_names(weights: &Weights, classes: usize) -> Vec<String> {
    let names = || -> Option<Vec<String>> {
        let config = config_beside(weights, "config.json")?;
        if let Some(names) = config.get("label_names").and_then(|names| names.as_array()) {
            let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(String::from)).collect();
            return names.filter(|names| names.len() == classes);
        }
        let labels = config.get("id2label")?.as_object()?;
        let name = |id: usize| labels.get(&id.to_string())?.as_str().map(String::from);
        (labels.len() == classes).then(|| (0..classes).map(name).collect())?
    };
    let placeholders = |names: &[String]| names.iter().enumerate().all(|(id, name)| *name == format!("LABEL_{id}"));
    names().filter(|names| !placeholders(names)).unwrap_or_default()
}

/// What a JSON file in the folder of the weights says, if there is one.
fn config_beside(weights: &Weights, name: &str) -> Option<serde_json::Value> {
    serde_json::from_str(&std::fs::read_to_string(weights.path().with_file_name(name)).ok()?).ok()
}

/// The name of the model that a plain file's tensors are shaped as.
pub fn name_by_shapes(file: &Path) -> Option<&'static str> {
    Found::new(&Named::new(&Weights::open(file).ok()?))?.name()
}

/// Tells what loading the weights has changed.
pub fn tell(report: &LoadReport) {
    if let Some(note) = report.resampled_note() {
        super::print::complain("notice", &note);
    }
    if !report.unexpected.is_empty() {
        let names = report.unexpected.join(", ");
        super::print::complain("notice", &format!("tensors of the file without a place in the model: {names}"));
    }
}

/// What to say when the file's own metadata, or the config of timm or transformers beside it, asks for another
/// normalisation than `norm`: the flags that do all that it asks for.
pub fn norm_warning(weights: &Weights, norm: Norm) -> Option<String> {
    let metadata = weights.metadata();
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    // The hub keeps the configuration in files beside the weights.
    let timm = || config_beside(weights, "config.json")?.get("pretrained_cfg").cloned();
    let transformers = || config_beside(weights, "preprocessor_config.json");
    let config = metadata.get("pretrained_cfg").and_then(|text| parse(text));
    let config = config.or_else(timm).or_else(transformers);
    let asked = |key: &str| -> Option<Vec<f64>> {
        let value = match (&config, metadata.get(key)) {
            (Some(config), _) => config.get(key).or_else(|| config.get(format!("image_{key}")))?.clone(),
            (None, text) => serde_json::from_str(text?).ok()?,
        };
        value.as_array()?.iter().map(serde_json::Value::as_f64).collect()
    };
    let (mean, std) = (asked("mean"), asked("std"));
    let near = |asked: &Option<Vec<f64>>, used: [f32; 3]| {
        let close = |(asked, used): (&f64, f32)| (asked - f64::from(used)).abs() <= 1e-3;
        asked.as_ref().is_none_or(|asked| asked.len() == 3 && asked.iter().zip(used).all(close))
    };
    let fits = |norm: Norm| near(&mean, norm.mean_std().0) && near(&std, norm.mean_std().1);
    if fits(norm) {
        return None;
    }
    let of = |key: &str| config.as_ref().and_then(|config| config.get(key));
    let how = match Norm::value_variants().iter().find(|&&norm| fits(norm)) {
        None => "no --norm is theirs".into(),
        Some(theirs) => {
            let mut flags = format!("theirs is --norm {}", word(theirs));
            if let Some(filter @ ("bicubic" | "bilinear")) = of("interpolation").and_then(|filter| filter.as_str()) {
                flags += &format!(" --interpolation {filter}");
            }
            if let Some(share) = of("crop_pct").and_then(|share| share.as_f64()) {
                flags += &format!(" --eval-resize crop --crop-pct {share}");
            }
            flags
        }
    };
    let (file, norm) = (weights.path().display(), word(&norm));
    Some(format!("{file} was trained with another normalisation than --norm {norm}: {how}"))
}

/// Tells in what the settings of a checkpoint that are its own to know, `own`, were changed by flags or variables.
pub fn tell_changes(own: &ModelCard, card: &ModelCard) {
    let changes = changes(own, card);
    if !changes.is_empty() {
        print::complain("note", &format!("not as the checkpoint says: {}", changes.join(", ")));
    }
}

/// As `scorer sobel, not l2`: settings that change what a model sees and says. K and the seed are asked for anew as a rule.
fn changes(own: &ModelCard, card: &ModelCard) -> Vec<String> {
    let value = |card: &ModelCard| serde_json::to_value(card).expect("a card is plain values with string keys");
    let (own, card) = (value(own), value(card));
    let settings = [
        ("prune", "scorer", "scorer"),
        ("prune", "domain", "saliency-domain"),
        ("prune", "entropy_bins", "entropy-bins"),
        ("prune", "round", "round"),
        ("options", "pos", "pos"),
        ("transform", "image_size", "img-size"),
        ("transform", "norm", "norm"),
        ("transform", "interpolation", "interpolation"),
        ("transform", "eval_resize", "eval-resize"),
        ("transform", "crop_pct", "crop-pct"),
    ];
    let shown = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let idle = |key: &str| match key {
        "domain" => card["prune"]["scorer"] != "l2",
        "entropy_bins" => card["prune"]["scorer"] != "entropy",
        "crop_pct" => card["transform"]["eval_resize"] != "crop",
        _ => false,
    };
    let changed = settings.iter().filter(|(group, key, _)| own[group][key] != card[group][key] && !idle(key));
    changed
        .map(|(group, key, flag)| format!("{flag} {}, not {}", shown(&card[group][key]), shown(&own[group][key])))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_flags_can_change_is_told() {
        let prune = TrainConfig::paper(DatasetName::Voc, Keep::ALL).prune();
        let model = VitConfig::named("vit_micro_patch16_224", 2).unwrap();
        let transform = TransformConfig::paper(model.image_size);
        let own = ModelCard { model, options: VitOptions::default(), classes: Vec::new(), transform, prune };
        assert_eq!(changes(&own, &own), [""; 0]);
        let words = "dynavit --scorer entropy --entropy-bins 32 --round nearest --pos prefix --img-size 112 \
                     --norm half --interpolation bicubic --eval-resize crop --crop-pct 0.9";
        let command = clap::Command::new("dynavit");
        let command = ImageFlags::augment_args(SizeFlags::augment_args(PruneFlags::augment_args(command)));
        let found = command.get_matches_from(words.split_whitespace());
        let mut card = own.clone();
        PruneFlags::from_arg_matches(&found).unwrap().apply(&mut card);
        SizeFlags::from_arg_matches(&found).unwrap().apply(&mut card).unwrap();
        ImageFlags::from_arg_matches(&found).unwrap().apply(&mut card);
        let told = changes(&own, &card);
        let flags = words.split_whitespace().filter_map(|word| word.strip_prefix("--"));
        assert_eq!(
            flags.collect::<Vec<_>>(),
            told.iter().map(|text| text.split(' ').next().unwrap()).collect::<Vec<_>>()
        );
        assert!(
            told.contains(&"norm half, not imagenet".into()) && told.contains(&"img-size 112, not 224".into()),
            "{told:?}"
        );
    }
}
