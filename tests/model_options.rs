//! The command on models of other sizes and names: --img-size, transformers' files, layer scale, what inspect tells.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::{done, run};
use dynavit::model::{Vit, VitConfig, VitOptions};
use dynavit::weights::{Entry, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const MODEL: &str = "vit_micro_patch16_224";

#[track_caller]
fn refused(folder: &Path, line: &str, code: i32, words: &[&str]) {
    let (found, _, err) = run(folder, line);
    assert_eq!(found, Some(code), "{line}: {err}");
    let last = err.lines().last().unwrap();
    assert!(words.iter().all(|word| last.contains(word)), "{line}: {err}");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Random weights of the smallest model under the names that `rename` gives.
fn weights(path: &Path, layer_scale: bool, rename: impl Fn(&str) -> Vec<String>) {
    let config = VitConfig { layer_scale, ..VitConfig::named(MODEL, 3).unwrap() };
    let vit = Vit::init(config, VitOptions::default(), 7);
    let mut tensors = Vec::new();
    for id in vit.params.ids() {
        let names = rename(vit.params.name(id));
        let mut shape = vit.params.shape(id).to_vec();
        shape[0] /= names.len();
        let parts = vit.params.values(id).chunks(vit.params.values(id).len() / names.len());
        tensors.extend(names.into_iter().zip(parts).map(|(name, values)| (name, shape.clone(), values)));
    }
    let entries: Vec<Entry> = tensors.iter().map(|(name, shape, values)| Entry { name, shape, values }).collect();
    write(path, &entries, &BTreeMap::new()).unwrap();
}

/// transformers' names of timm's `name`, written out.
fn transformers(name: &str) -> Vec<String> {
    let name = name
        .replace("cls_token", "embeddings.cls_token")
        .replace("pos_embed", "embeddings.position_embeddings")
        .replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        .replace("blocks.", "encoder.layer.")
        .replace("attn.proj", "attention.output.dense")
        .replace("mlp.fc1", "intermediate.dense")
        .replace("mlp.fc2", "output.dense")
        .replace("norm1", "layernorm_before")
        .replace("norm2", "layernorm_after");
    let name = if name.starts_with("norm.") { format!("layer{name}") } else { name };
    match name.strip_prefix("head") {
        Some(leaf) => vec![format!("classifier{leaf}")],
        None if name.contains("attn.qkv") => ["query", "key", "value"]
            .map(|part| format!("vit.{}", name.replace("attn.qkv", &format!("attention.attention.{part}"))))
            .to_vec(),
        None => vec![format!("vit.{name}")],
    }
}

fn picture(folder: &Path) {
    let image = image::RgbImage::from_fn(90, 70, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]));
    image.save(folder.join("a.png")).unwrap();
}

#[test]
fn files_of_transformers_predict_as_timms_do_with_the_names_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    picture(folder);
    weights(&folder.join("timm.safetensors"), false, |name| vec![name.into()]);
    std::fs::create_dir(folder.join("hub")).unwrap();
    weights(&folder.join("hub/model.safetensors"), false, transformers);
    let labels = r#"{"id2label": {"0": "tabby", "1": "tulip", "2": "truck"}}"#;
    std::fs::write(folder.join("hub/config.json"), labels).unwrap();
    std::fs::write(folder.join("hub/preprocessor_config.json"), r#"{"image_mean": [0.5, 0.5, 0.5]}"#).unwrap();
    let (timm, _) = done(folder, "predict a.png --weights timm.safetensors --json");
    let (own, err) = done(folder, "predict a.png --weights hub/model.safetensors --json");
    let (timm, own) = (json(&timm), json(&own));
    assert_eq!((&own["model"], &own["images"][0]["logits"]), (&timm["model"], &timm["images"][0]["logits"]));
    assert_eq!(own["model"], MODEL);
    assert!(["tabby", "tulip", "truck"].contains(&own["images"][0]["top"][0]["class"].as_str().unwrap()));
    assert!(timm["images"][0]["top"][0]["class"].is_null() && err.contains("another normalisation"), "{err}");
    refused(
        folder,
        "predict a.png --weights hub/model.safetensors --model vit_tiny_patch16_224",
        3,
        &["vit.", "--model"],
    );
    // The folder as the hub has it will do, and so will timm's words for names and preprocessing.
    let (whole, _) = done(folder, "predict a.png --weights hub --json");
    assert_eq!(json(&whole)["images"], own["images"]);
    let timms = r#"{"label_names": ["oak", "elm", "ash"], "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                    "interpolation": "bicubic", "crop_pct": 0.9}}"#;
    std::fs::write(folder.join("hub/config.json"), timms).unwrap();
    let (named, err) = done(folder, "predict a.png --weights hub --json");
    assert!(["oak", "elm", "ash"].contains(&json(&named)["images"][0]["top"][0]["class"].as_str().unwrap()));
    let flags = "--norm half --interpolation bicubic --eval-resize crop --crop-pct 0.9";
    assert!(err.contains("than --norm imagenet: theirs is ") && err.contains(flags), "{err}");
    let (theirs, err) = done(folder, &format!("predict a.png --weights hub --json {flags}"));
    assert!(err.is_empty() && json(&theirs)["images"][0]["logits"] != own["images"][0]["logits"], "{err}");
    // Names that are nobody's are no names.
    std::fs::write(
        folder.join("hub/config.json"),
        labels.replace("tabby", "LABEL_0").replace("tulip", "LABEL_1").replace("truck", "LABEL_2"),
    )
    .unwrap();
    let (out, _) = done(folder, "predict a.png --weights hub/model.safetensors --json");
    assert!(json(&out)["images"][0]["top"][0]["class"].is_null());

    let look = |line: &str| json(&done(folder, line).0)["file"]["model"].clone();
    let found = look("inspect hub/model.safetensors --img-size 384 --json");
    assert_eq!((&found["naming"], &found["heads"]), (&"huggingface-vit".into(), &2.into()));
    assert_eq!((&found["image_size"], &found["tokens"]), (&384.into(), &577.into()));
    assert_eq!(look("inspect timm.safetensors --json")["naming"], "timm");
    assert!(done(folder, "inspect hub/model.safetensors").0.contains("Hugging Face ViT"));
    refused(folder, "inspect timm.safetensors --img-size 225", 2, &["--img-size", "225"]);
}

#[test]
fn an_image_size_is_kept_in_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    picture(folder);
    weights(&folder.join("w.safetensors"), true, |name| vec![name.into()]);
    done(folder, "data sample --output drawn --images 40 --seed 5");
    let recipe = "train voc 50 --data drawn --weights w.safetensors --img-size 64 --epochs 1 --batch-size 8 --quiet --run-name r";
    for (size, word) in [("60", "multiple"), ("0", "--img-size"), ("8192", "4096")] {
        refused(folder, &recipe.replace("--img-size 64", &format!("--img-size {size}")), 2, &["--img-size", word]);
    }
    let (_, err) = done(folder, &format!("{recipe} --save-steps 1").replace("--quiet ", ""));
    assert!(
        err.contains("position table of 14 x 14 patches is resampled to 4 x 4") && err.contains("9 of 17 tokens"),
        "{err}"
    );
    // Neither model nor size nor scales have to be told again.
    let (out, _) = done(folder, "eval voc 50 --checkpoint runs/r --json");
    assert_eq!(json(&out)["seq_len"], 9);
    let (out, _) = done(folder, "predict a.png --weights runs/r --json");
    assert_eq!(json(&out)["seq_len"], 9);
    let (out, err) = done(folder, "predict a.png --weights runs/r --img-size 96 --json");
    assert_eq!(json(&out)["seq_len"], 19);
    assert!(err.contains("4 x 4 patches is resampled to 6 x 6"), "{err}");
    let model = json(&done(folder, "inspect runs/r --json").0)["file"]["model"].clone();
    assert_eq!((&model["image_size"], &model["layer_scale"]), (&64.into(), &true.into()));
    // A run goes on with its own scales, which only its checkpoint remembers, and refuses another size.
    std::fs::remove_file(folder.join("w.safetensors")).unwrap();
    refused(folder, "train --resume runs/r --img-size 96", 2, &["--img-size", "contradicts"]);
    done(folder, "train --resume runs/r --epochs 2 --quiet");
    // And a run that starts from it takes its size and model over.
    let (_, err) = done(folder, "train voc 50 --data drawn --weights runs/r --epochs 1 --batch-size 8 --run-name s");
    assert!(err.contains("9 of 17 tokens"), "{err}");
}

#[test]
fn a_card_takes_layer_scale_as_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    picture(folder);
    weights(&folder.join("w.safetensors"), true, |name| vec![name.into()]);
    let predict = "predict a.png --weights w.safetensors --precision f32 --json --device";
    let [cpu, card] = ["cpu", "ptx-vm"].map(|device| json(&done(folder, &format!("{predict} {device}")).0));
    let logits = |document: &serde_json::Value| -> Vec<f64> {
        serde_json::from_value(document["images"][0]["logits"].clone()).unwrap()
    };
    let (cpu, card) = (logits(&cpu), logits(&card));
    // Both sum in f32, in their own order: a few hundred roundings of values near 1.
    assert!(!cpu.is_empty() && cpu.iter().zip(&card).all(|(a, b)| (a - b).abs() < 500.0 * 6e-8), "{cpu:?} {card:?}");
}

#[test]
fn benches_and_counts_follow_the_image_size() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (out, _) =
        done(folder, &format!("bench infer --model {MODEL} --img-size 64 --keep 50 --batch-size 1 --steps 1"));
    assert!(out.contains("S = 9"), "{out}");
    let rows = |line: &str| json(&done(folder, line).0)["rows"].clone();
    let small = rows("flops --model deit_small_patch16_224 --keep 70 --json");
    let large = rows("flops --model deit_small_patch16_224 --img-size 384 --keep 70 --json");
    assert_eq!((&small[0]["seq_len"], &large[0]["seq_len"]), (&138.into(), &404.into()));
    assert!(large[0]["macs"].as_u64().unwrap() > 2 * small[0]["macs"].as_u64().unwrap());
    assert_eq!(rows("flops --model vit_small_patch14_dinov2 --keep 100 --json")[0]["seq_len"], 1370);
    refused(folder, "flops --model deit_tiny_distilled_patch16_224", 2, &["distillation token"]);
}
