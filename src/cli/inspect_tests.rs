//! Looks into files and folders made here.
#![forbid(unsafe_code)]

use super::*;
use crate::weights::{Entry, write};
use tempfile::TempDir;

fn micro() -> VitConfig {
    VitConfig::named("vit_micro_patch16_224", 5).unwrap()
}

fn save(path: &Path, config: &VitConfig, head: bool, metadata: &BTreeMap<String, String>) {
    let parameters: Vec<_> =
        config.parameters().into_iter().filter(|(name, _)| head || !name.starts_with("head")).collect();
    let zeros = vec![0.0; parameters.iter().map(|(_, shape)| shape.iter().product()).max().unwrap()];
    let entries: Vec<Entry> = parameters
        .iter()
        .map(|(name, shape)| Entry { name, shape, values: &zeros[..shape.iter().product()] })
        .collect();
    write(path, &entries, metadata).unwrap();
}

fn step(root: &Path, step: u64) {
    let folder = root.join(format!("checkpoints/step-{step}"));
    fs::create_dir_all(&folder).unwrap();
    save(&folder.join("model.safetensors"), &micro(), true, &BTreeMap::new());
    let progress = Progress { epoch: 1, batch: 3, step, best_accuracy: Some(0.8125), ..Progress::default() };
    let state = serde_json::json!({ "version": 1, "progress": progress });
    fs::write(folder.join("state.json"), state.to_string()).unwrap();
}

#[track_caller]
fn assert_fits(text: &str) {
    let long = text.lines().skip(1).find(|line| line.chars().count() > COLUMNS && !line.starts_with("file"));
    assert_eq!(long, None);
}

#[test]
fn a_timm_file_is_recognised_by_its_shapes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    save(&path, &micro(), true, &BTreeMap::new());
    let document = look(&path).unwrap();
    let file = document.file.as_ref().unwrap();
    let parameters: usize = micro().parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert_eq!(file.parameters, parameters as u64);
    assert_eq!(
        file.model,
        Some(Model {
            name: Some("vit_micro_patch16_224".into()),
            naming: Naming::Timm,
            width: 128,
            depth: 4,
            patch: 16,
            channels: 3,
            heads: Some(2),
            heads_guessed: true,
            mlp: Some(512),
            image_size: Some(224),
            tokens: Some(197),
            classes: Some(5),
            layer_scale: false,
        })
    );
    let text = describe(&document);
    assert!(text.contains("H 2 (guessed)") && text.contains("patch_embed.proj.weight"), "{text}");
    assert!(text.contains("128 x 3 x 16 x 16") && text.contains("F32"), "{text}");
    assert_fits(&text);
}

#[test]
fn the_card_tells_the_heads_and_a_missing_head_is_said() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    let config = VitConfig { heads: 4, name: "mine".into(), ..micro() };
    let card = serde_json::json!({ "model": config, "classes": vec!["a"; 60] }).to_string();
    let metadata =
        BTreeMap::from([("dynavit".into(), card), ("note".into(), "bell\u{7}\nand escape\u{1b}[31m".into())]);
    save(&path, &config, false, &metadata);
    let document = look(&path).unwrap();
    let model = document.file.as_ref().unwrap().model.as_ref().unwrap();
    assert_eq!((model.name.as_deref(), model.heads, model.heads_guessed), (Some("mine"), Some(4), false));
    assert_eq!(model.classes, None);
    let text = describe(&document);
    assert!(text.contains("there is no head") && !text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
    assert_fits(&text);
}

#[test]
fn a_file_of_something_else_is_listed_too() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    write(&path, &[Entry { name: "blocks.18446744073709551615.x", shape: &[], values: &[1.0] }], &BTreeMap::new())
        .unwrap();
    let text = describe(&look(&path).unwrap());
    assert!(text.contains("no ViT under names") && text.contains("scalar"), "{text}");
}

#[test]
fn a_run_lists_its_checkpoints_and_shows_the_best() {
    let run = TempDir::new().unwrap();
    fs::write(run.path().join("config.toml"), "").unwrap();
    assert!(describe(&look(run.path()).unwrap()).contains("no checkpoint yet"));
    for number in [900, 1000, 20] {
        step(run.path(), number);
    }
    fs::remove_file(run.path().join("checkpoints/step-20/state.json")).unwrap();
    fs::create_dir(run.path().join("checkpoints/.step-7.tmp")).unwrap();
    fs::write(run.path().join("best"), "checkpoints/step-900\n").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("checkpoints/step-1000", run.path().join("last")).unwrap();
    #[cfg(not(unix))]
    fs::write(run.path().join("last"), "checkpoints/step-1000").unwrap();

    let document = look(run.path()).unwrap();
    let listed: Vec<_> = document.checkpoints.iter().map(|c| (c.name.as_str(), c.best, c.last)).collect();
    assert_eq!(listed, [("step-20", false, false), ("step-900", true, false), ("step-1000", false, true)]);
    assert!(document.checkpoints[0].progress.is_none());
    assert_eq!(document.checkpoints[2].progress.as_ref().unwrap().step, 1000);
    assert!(document.file.as_ref().unwrap().path.contains("step-900"));
    let text = describe(&document);
    assert!(text.contains("81.25 %") && text.contains("missing or damaged"), "{text}");
    assert_fits(&text);

    let one = look(&run.path().join("checkpoints/step-1000")).unwrap();
    assert_eq!(one.checkpoints[0].progress.as_ref().unwrap().step, 1000);
    assert!(one.file.is_some());
}

#[test]
fn what_is_neither_is_refused() {
    let folder = TempDir::new().unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("none")] {
        assert_eq!(look(&path).err().unwrap().exit_code(), 3);
    }
    step(folder.path(), 1);
    fs::remove_file(folder.path().join("checkpoints/step-1/model.safetensors")).unwrap();
    let error = look(&folder.path().join("checkpoints/step-1")).err().unwrap();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn digits_are_grouped() {
    assert_eq!([0, 999, 1000, 22_050_664].map(grouped), ["0", "999", "1,000", "22,050,664"]);
}
