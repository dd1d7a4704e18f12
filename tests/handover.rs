//! What goes from one run to the next: preprocessing, heads, images that were seen before. What is not as it was is told.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::done;
use dynavit::weights::Weights;
use serde_json::Value;
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

fn head(run: &Path) -> Vec<f32> {
    let weights = Weights::open(&run.join("last/model.safetensors")).unwrap();
    // vit_micro's width, for two classes.
    let mut head = vec![0.0; 2 * 128];
    weights.read_f32("head.weight", &mut head).unwrap();
    head
}

#[test]
fn a_run_goes_on_with_the_preprocessing_of_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (class, first) in [("bus", 0), ("egg", 50)] {
        photos(&folder.join("photos"), class, first);
    }
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
    assert_eq!(err, "");
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
    assert_eq!(done(folder, &train).1.matches("twice").count(), 0);
    let at = |path: &str| folder.join("photos").join(path);
    fs::copy(at("train/bus/03.png"), at("val/bus/copy.png")).unwrap();
    fs::copy(at("train/bus/04.png"), at("train/egg/copy.png")).unwrap();
    let (_, err) = done(folder, &train);
    let leak = "1 of 33 validation images are training images too, by their content, as val/bus/copy.png";
    let both = "1 images are there under another class too, as train/egg/copy.png";
    assert!(err.contains(leak) && err.contains(both), "{err}");
    let (out, err) = done(folder, "data verify folder --data photos --json");
    let verified: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&verified["images"], verified["doubles"].as_array().unwrap().len()),
        (&serde_json::json!([33, 33, 0]), 2)
    );
    assert!(err.contains(leak) && err.contains(both), "{err}");
}
