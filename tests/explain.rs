//! LIME, superpixels and rollout against lime, scikit-image and PyTorch; visualize, coverage and explain as commands.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;
mod support;

use command::run;
use dynavit::explain::agreement::rank_correlation;
use dynavit::explain::lime::{Masks, fit};
use dynavit::explain::perturb::{Hide, hidden, perturbed};
use dynavit::explain::rollout::rollout;
use dynavit::explain::segments::{Segments, quickshift, slic};
use dynavit::model::VitOptions;
use dynavit::prune::Kept;
use dynavit::rng::Purpose;
use dynavit::tensor::Tensor;
use serde_json::Value;
use std::path::Path;
use support::{Fixture, generated, hex, json, noise, tiny_images, tiny_vit};

/// Image `number` of the fixtures, (h, w, 3).
fn picture(number: u32, height: usize, width: usize) -> Vec<u8> {
    let byte = noise(Purpose::FixtureExplain, number, height * width * 3);
    let value = |(i, byte): (usize, u8)| {
        let (y, x, c) = (i / 3 / width, i / 3 % width, i % 3);
        ((67 * (y / 29) + 101 * (x / 37) + 89 * c + 31 * number as usize) % 240) as u8 + byte / 16
    };
    byte.into_iter().enumerate().map(value).collect()
}

fn number(value: &Value, key: &str) -> usize {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}")) as usize
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn fits_are_limes() {
    for case in json("explain.json")["fits"].as_array().unwrap() {
        let (samples, segments) = (number(case, "samples"), number(case, "segments"));
        let masks = Masks::draw(case["seed"].as_u64().unwrap(), samples, segments);
        let tensor = number(case, "tensor") as u32;
        let slope = generated(tensor + 100, segments, 0.05);
        let outputs: Vec<f64> = masks
            .rows()
            .zip(generated(tensor, samples, 0.1))
            .map(|(row, noise)| {
                let sum: f64 = row.iter().zip(&slope).filter(|(shown, _)| **shown).map(|(_, s)| f64::from(*s)).sum();
                0.5 + sum / (segments as f64).sqrt() + f64::from(noise)
            })
            .collect();
        let found = fit(&masks, &outputs, 0.25, number(case, "features")).unwrap();
        let order: Vec<usize> = numbers(&case["order"]).into_iter().map(|v| v as usize).collect();
        assert_eq!(found.weights.iter().map(|w| w.0).collect::<Vec<_>>(), order, "segments of {samples} images");
        for ((_, weight), want) in found.weights.iter().zip(numbers(&case["weights"])) {
            assert!((weight - want).abs() < 1e-9, "{weight} {want}");
        }
        for (value, key) in [(found.intercept, "intercept"), (found.score, "score"), (found.prediction, "prediction")] {
            let want = case[key].as_f64().unwrap();
            assert!((value - want).abs() < 1e-9, "{key}: {value} {want}");
        }
    }
}

#[test]
fn superpixels_are_scikit_images() {
    let (fixture, about) = (Fixture::open("explain.safetensors"), json("explain.json"));
    for case in about["slic"].as_array().unwrap() {
        let (image, height, width) = (number(case, "image"), number(case, "height"), number(case, "width"));
        let rgb = picture(image as u32, height, width);
        let found = slic(&rgb, height, width, number(case, "count"), case["compactness"].as_f64().unwrap());
        let key = format!("slic.{image}");
        if fixture.names().contains(&key) {
            let differ = found.labels.iter().zip(fixture.bytes(&key)).filter(|(a, b)| **a != u32::from(*b)).count();
            assert_eq!(differ, 0, "{key}: pixels in another segment");
        }
        assert_eq!(found.count, number(case, "segments"), "{key}");
        let bytes: Vec<u8> = found.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        assert_eq!(hex(&bytes), case["sha256"].as_str().unwrap(), "{key}");
    }
    for case in about["quickshift"].as_array().unwrap() {
        let (image, height, width) = (number(case, "image"), number(case, "height"), number(case, "width"));
        let found = quickshift(&picture(image as u32, height, width), height, width, 4.0, 200.0, 0.2);
        let want = fixture.bytes(&format!("quickshift.{image}"));
        let differ = found.labels.iter().zip(want).filter(|(a, b)| **a != u32::from(*b)).count();
        assert_eq!(differ, 0, "quickshift.{image}: pixels in another segment");
    }
}

#[test]
fn perturbed_images_are_limes() {
    let rgb = picture(0, 64, 64);
    let segments: Segments = slic(&rgb, 64, 64, 20, 10.0);
    let about = &json("explain.json")["perturbed"];
    let masks = Masks::draw(about["seed"].as_u64().unwrap(), 6, segments.count);
    let hidden = hidden(&rgb, &segments, Hide::Mean);
    for (row, want) in masks.rows().zip(about["sha256"].as_array().unwrap()) {
        assert_eq!(hex(&perturbed(&rgb, &hidden, &segments, row)), want.as_str().unwrap());
    }
}

#[test]
fn rollout_is_pytorchs() {
    let mut vit = tiny_vit(VitOptions::default());
    // Larger queries and keys have something to tell apart.
    for id in vit.params.ids() {
        if vit.params.name(id).ends_with("qkv.weight") {
            vit.params.values_mut(id)[..2 * 128 * 128].iter_mut().for_each(|v| *v *= 4.0);
        }
    }
    let values = tiny_images();
    let fixture = Fixture::open("explain.safetensors");
    let (want, kept) = (fixture.f64("rollout"), Fixture::open("tiny_vit.safetensors").u32("kept"));
    for ((image, kept), want) in values.chunks(3 * 64 * 64).zip(kept.chunks(11)).zip(want.chunks(12)) {
        let image = Tensor::from_vec(image.to_vec(), &[1, 3, 64, 64]);
        let found = rollout(&vit, &image, &Kept::even(kept.to_vec(), 1, 11)).unwrap();
        for (value, want) in std::iter::once(&found.cls).chain(&found.patches).zip(want) {
            assert!((value - want).abs() < 1e-6, "{value} {want}");
        }
    }
}

#[test]
fn rank_correlations_are_scipys() {
    for case in json("explain.json")["ranks"].as_array().unwrap() {
        let tensors = numbers(&case["tensors"]);
        let values =
            |t: f64| generated(t as u32, number(case, "n"), 1.0).into_iter().map(f64::from).collect::<Vec<_>>();
        let (mut a, mut b) = (values(tensors[0]), values(tensors[1]));
        a.iter().zip(&mut b).for_each(|(a, b)| *b += a);
        if number(case, "levels") > 0 {
            [&mut a, &mut b].into_iter().flatten().for_each(|v| *v = (*v * number(case, "levels") as f64).floor());
        }
        let want = case["correlation"].as_f64().unwrap();
        assert!((rank_correlation(&a, &b).unwrap() - want).abs() < 1e-12, "{want}");
    }
}

/// What a command that succeeds prints.
#[track_caller]
fn printed(folder: &Path, line: &str) -> String {
    let (code, out, err) = run(folder, line);
    assert_eq!(code, Some(0), "{line}: {err}");
    out
}

/// Demands the exit code and one line of error that holds `word`.
#[track_caller]
fn refused(folder: &Path, line: &str, code: i32, word: &str) {
    let (found, out, err) = run(folder, line);
    let last = err.lines().last().unwrap_or("");
    assert!(found == Some(code) && out.is_empty() && last.starts_with("error: "), "{line}: {found:?} {out} {err}");
    assert!(last.contains(word), "{line}: no {word:?} in {last}");
}

fn png(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A drawn data set of 60 images, with the path of one of them.
fn sample(folder: &Path) -> String {
    printed(folder, "data sample --output drawn --images 60");
    let mut images: Vec<_> =
        std::fs::read_dir(folder.join("drawn/VOC2012/JPEGImages")).unwrap().map(|e| e.unwrap().file_name()).collect();
    images.sort();
    format!("drawn/VOC2012/JPEGImages/{}", images[0].to_str().unwrap())
}

#[test]
fn visualize_and_coverage_work_on_the_sample() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let image = sample(root);
    assert_eq!(printed(root, &format!("visualize {image} --output a.png")), "a.png\n");
    let (width, height) = png(&root.join("a.png"));
    assert!(width > 2 * 448 && height > 448, "{width} x {height}");
    let line = format!("visualize {image} --output out --scorer all --keep 30,50,70 --heat --json");
    let out: Value = serde_json::from_str(&printed(root, &line)).unwrap();
    let shown = &out["images"][0];
    assert_eq!(shown["scorers"].as_array().unwrap().len(), 5);
    assert!(!shown["boxes"].as_array().unwrap().is_empty(), "the sample is a VOC tree");
    let sobel = &shown["scorers"][1];
    assert_eq!((sobel["scorer"].as_str(), sobel["scores"].as_array().unwrap().len()), (Some("sobel"), 196));
    let counts: Vec<usize> =
        sobel["selections"].as_array().unwrap().iter().map(|s| s["kept"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [58, 98, 137]);
    png(&root.join(shown["output"].as_str().unwrap()));
    let line = format!("visualize {image} --output mass.png --scorer sobel --keep 50,mass:0.9,mass:1 --json");
    let document: serde_json::Value = serde_json::from_str(&printed(root, &line)).unwrap();
    let chosen = document["images"][0]["scorers"][0]["selections"].as_array().unwrap();
    let lengths: Vec<usize> = chosen.iter().map(|chosen| chosen["kept"].as_array().unwrap().len()).collect();
    assert_eq!((&chosen[0]["keep"], &chosen[1]["keep"]), (&50.0.into(), &"mass:0.9".into()));
    assert!(lengths[0] == 98 && lengths[1] < lengths[2] && lengths[2] <= 196, "{lengths:?}");
    refused(root, "coverage sample --data sample --keep mass:0.9", 2, "percentages");
    refused(root, &format!("visualize {image} {image} --output a.png"), 2, "--output");
    refused(root, &format!("visualize {image} gone.jpg --output a.png"), 2, "--output");
    refused(root, &format!("visualize {image} --output a.png --scorer l3"), 2, "l3");
    refused(root, &format!("visualize {image} --output a.png --keep 0"), 2, "above 0");
    refused(root, "visualize nothing.jpg --output a.png", 3, "nothing.jpg");
    std::fs::write(root.join("bad.xml"), "<a/>").unwrap();
    refused(root, &format!("visualize {image} --output a.png --boxes bad.xml"), 3, "bad.xml");

    let text = printed(root, "coverage voc --data drawn --scorer all --keep 50,100 --csv c.csv --per-class");
    assert!(
        text.contains("60 images") && text.lines().all(|line| line.starts_with("note") || line.len() <= 80),
        "{text}"
    );
    let csv = std::fs::read_to_string(root.join("c.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 5 * 2 * 6);
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    let out: Value =
        serde_json::from_str(&printed(root, "coverage voc --data drawn --keep 50 --split val --json")).unwrap();
    let rows = out["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3 * 6, "l2 and both controls, all classes and each");
    assert!(rows.iter().all(|row| (0.0..=1.0).contains(&row["coverage"].as_f64().unwrap())));
    assert_eq!((out["split"].as_str(), out["label_policy"].as_str()), (Some("val"), Some("exclusive")));
    refused(root, "coverage cifar100", 2, "VOC");
    refused(root, "coverage voc --data nowhere", 3, "nowhere");
}

#[test]
fn explain_tells_the_same_again_and_whatever_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let image = sample(root);
    printed(root, "train voc 50 --data drawn --model vit_micro_patch16_224 --epochs 1 --quiet --run-name r");
    let line = format!("explain {image} --weights runs/r --samples 30 --seeds 2 --json");
    let first = printed(root, &format!("{line} --batch-size 7 --output x.png"));
    let second = printed(root, &format!("{line} --batch-size 30 --threads 1"));
    let (mut a, b): (Value, Value) = (serde_json::from_str(&first).unwrap(), serde_json::from_str(&second).unwrap());
    a["images"][0]["output"] = Value::Null;
    assert_eq!(a, b);
    let told = &b["images"][0];
    assert_eq!(told["fits"].as_array().unwrap().len(), 2);
    assert_eq!(told["fits"][0]["weights"].as_array().unwrap().len(), 196);
    assert_eq!(told["kept"].as_array().unwrap().len(), 98);
    assert!(told["stability"]["rank_correlation"].is_f64() && told["rollout"]["cls"].as_f64().unwrap() > 0.0, "{told}");
    let (width, height) = png(&root.join("x.png"));
    assert!(width > 5 * 448 && height > 448);
    for method in ["slic", "quickshift"] {
        let line = format!("explain {image} --weights runs/r --samples 10 --selection frozen --segments {method}");
        let text = printed(root, &line);
        assert!(text.contains(method) && text.contains("fidelity"), "{text}");
    }
    let weights = "--weights runs/r --samples 10";
    refused(root, &format!("explain {image} {weights} --class zebra"), 2, "zebra");
    refused(root, &format!("explain {image} {weights} --samples 1"), 2, "--samples");
    refused(root, &format!("explain {image} --weights none"), 3, "none");
    refused(root, &format!("explain {image} {weights} --output x.jpg"), 2, "--output");
}
