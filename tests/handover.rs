//! What goes from one run to the next: preprocessing, heads, images that were seen before. What is not as it was is told.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::done;
use dynavit::weights::{Entry, Weights, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SMALL: &str = "--model vit_micro_patch16_224 --epochs 1 --batch-size 8 --quiet --threads 1";

/// 16 images of 60 x 40 pixels in `place/class`, all unlike those of another `first`.
fn photos(place: &Path, class: &str, first: u32) {
    fs::create_dir_all(place.join(class)).unwrap();
    for i in first..first + 16 {
        let image = image::RgbImage::from_fn(60, 40, |x, y| image::Rgb([(x * (i + 1)) as u8, (y * 3) as u8, i as u8]));
        image.save(place.join(class).join(format!("{i:02}.png"))).unwrap();
    }
}

/// A fresh folder with two classes in `photos`.
fn two_classes() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, first) in [("bus", 0), ("egg", 50)] {
        photos(&folder.path().join("photos"), class, first);
    }
    folder
}

fn head(run: &Path) -> Vec<f32> {
    let weights = Weights::open(&run.join("last/model.safetensors")).unwrap();
    // vit_micro's width, for two classes.
    let mut head = vec![0.0; 2 * 128];
    weights.read_f32("head.weight", &mut head).unwrap();
    head
}

#[test]
fn a_run_goes_on_with_the_preprocessing_of_its_weights() {
    let folder = two_classes();
    let folder = folder.path();
    let flags = "--norm half --interpolation bicubic --eval-resize crop --crop-pct 0.9 --img-size 64";
    done(folder, &format!("train folder 50 --data photos --run-name first {SMALL} {flags}"));
    let next = "train folder 50 --data photos --weights runs/first --epochs 1 --batch-size 8 --quiet --threads 1";
    let (_, err) = done(folder, &format!("{next} --run-name second"));
    let settings = |run: &str| -> toml::Table {
        fs::read_to_string(folder.join("runs").join(run).join("config.toml")).unwrap().parse().unwrap()
    };
    let (first, second) = (settings("first"), settings("second"));
    for key in ["norm", "interpolation", "eval-resize", "crop-pct", "img-size", "model"] {
        assert_eq!(first[key], second[key], "{key}");
    }
    assert!(err.starts_with("notice: images are prepared as those of ") && err.lines().count() == 1, "{err}");
    assert!(err.ends_with(": --norm half --interpolation bicubic --eval-resize crop --crop-pct 0.9\n"), "{err}");
    // What is asked for goes first, and is told.
    let (_, err) = done(folder, &format!("{next} --norm imagenet --crop-pct 0.8 --run-name third"));
    assert!(err.contains("was trained with --norm half --crop-pct 0.9, and this run is not"), "{err}");
    assert_eq!(settings("third")["norm"].as_str(), Some("imagenet"));
    // So it is by commands that judge the run, wherever the setting comes from.
    for line in ["predict photos/bus/00.png --weights runs/first --json", "eval folder --checkpoint runs/first --json"]
    {
        assert_eq!(done(folder, line).1, "");
        let changed = "note: not as the checkpoint says: scorer sobel, not l2, norm imagenet, not half\n";
        assert_eq!(done(folder, &format!("{line} --scorer sobel --norm imagenet")).1, changed);
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = command::dynavit(folder, &words);
        let output = command.env("DYNAVIT_SCORER", "sobel").env("DYNAVIT_NORM", "imagenet").output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), changed);
    }
}

#[test]
fn a_head_for_other_classes_is_begun_anew_and_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (place, class, first) in [("old", "bus", 0), ("old", "egg", 50), ("new", "cow", 100), ("new", "owl", 150)] {
        photos(&folder.join(place), class, first);
    }
    let small = SMALL.replace("--quiet", "");
    done(folder, &format!("train folder 50 --data old --run-name old {SMALL}"));
    let train = format!("train folder 50 --weights runs/old {small} --lr 1e-30 --weight-decay 0");
    let (_, err) = done(folder, &format!("{train} --data new --run-name new --seed 7"));
    assert!(
        err.contains("the head starts from random weights: the file's is for bus, egg, and the data have cow, owl"),
        "{err}"
    );
    let (_, err) = done(folder, &format!("{train} --data old --run-name same"));
    assert!(!err.contains("the head starts"), "{err}");
    let runs = folder.join("runs");
    assert_eq!(head(&runs.join("old")), head(&runs.join("same")));
    let far =
        head(&runs.join("old")).iter().zip(head(&runs.join("new"))).filter(|(a, b)| (**a - b).abs() > 1e-3).count();
    assert!(far > head(&runs.join("old")).len() / 2, "{far}");
}

#[test]
fn images_that_are_there_twice_are_told_before_they_are_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (class, first) in [("bus", 0), ("egg", 50)] {
        photos(&folder.join("photos/train"), class, first);
        photos(&folder.join("photos/val"), class, first + 100);
    }
    let train = format!("train folder 50 --data photos {SMALL}");
    let (_, err) = done(folder, &train);
    assert!(!err.contains("training images too") && !err.contains("another class"), "{err}");
    let at = |path: &str| folder.join("photos").join(path);
    fs::copy(at("train/bus/03.png"), at("val/bus/copy.png")).unwrap();
    fs::copy(at("train/bus/04.png"), at("train/egg/copy.png")).unwrap();
    let (_, err) = done(folder, &train);
    let leak = "1 of 33 validation images are training images too, by their content, as val/bus/copy.png";
    let both = "images under another class too: 1, as train/egg/copy.png";
    assert!(err.contains(leak) && err.contains(both), "{err}");
    let (out, err) = done(folder, "data verify folder --data photos --json");
    let verified: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&verified["images"], verified["doubles"].as_array().unwrap().len()),
        (&serde_json::json!([33, 33, 0]), 2)
    );
    assert!(err.contains(leak) && err.contains(both), "{err}");
}

#[test]
fn names_beside_weights_of_another_program_are_other_words_for_the_classes() {
    let folder = two_classes();
    let folder = folder.path();
    done(folder, &format!("train folder 50 --data photos --run-name r {SMALL}"));
    // The same tensors without what is ours beside them.
    let own = Weights::open(&folder.join("runs/r/last/model.safetensors")).unwrap();
    let tensors: Vec<(&str, Vec<usize>, Vec<f32>)> = own
        .names()
        .into_iter()
        .map(|name| {
            let shape = own.info(name).unwrap().shape.clone();
            let mut values = vec![0.0; shape.iter().product()];
            own.read_f32(name, &mut values).unwrap();
            (name, shape, values)
        })
        .collect();
    let entries: Vec<Entry> = tensors.iter().map(|(name, shape, values)| Entry { name, shape, values }).collect();
    fs::create_dir(folder.join("hub")).unwrap();
    write(&folder.join("hub/model.safetensors"), &entries, &BTreeMap::new()).unwrap();
    fs::write(folder.join("hub/config.json"), r#"{"id2label": {"0": "tench", "1": "goldfish"}}"#).unwrap();
    let (out, err) = done(folder, "eval folder 50 --data photos --checkpoint hub --json");
    assert!(err.contains("classes are compared by their numbers"), "{err}");
    let accuracy = |out: &str| serde_json::from_str::<Value>(out).unwrap()["accuracy"].clone();
    assert_eq!(accuracy(&out), accuracy(&done(folder, "eval folder --checkpoint runs/r/last --json").0));
}

#[test]
fn a_run_that_saw_other_pixels_is_told() {
    let folder = two_classes();
    let folder = folder.path();
    let train = format!("train folder 50 --data photos {SMALL}");
    image::open(folder.join("photos/bus/03.png")).unwrap().save(folder.join("photos/bus/03.jpg")).unwrap();
    fs::remove_file(folder.join("photos/bus/03.png")).unwrap();
    for name in ["old", "new"] {
        done(folder, &format!("{train} --run-name {name} --seed 1"));
    }
    // As a run's file was before there was another decoder.
    let file = folder.join("runs/old/env.json");
    let mut env: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert!(env.as_object_mut().unwrap().remove("jpeg").is_some());
    fs::write(&file, env.to_string()).unwrap();
    let resume = |name: &str| done(folder, &format!("train --resume runs/{name} --epochs 2 --quiet")).1;
    assert!(resume("old").contains("warning: the run was begun with another JPEG decoder"));
    assert_eq!(resume("new"), "");
    fs::remove_file(folder.join("runs/new/env.json")).unwrap();
    assert!(resume("new").contains("JPEG decoder"));
}
