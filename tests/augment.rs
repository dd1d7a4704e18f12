//! Augmentation as timm's, torchvision's and Pillow's (fixtures/augment.json), their draws given.
#![forbid(unsafe_code)]

mod support;

use dynavit::data::augment::rand_augment::Op;
use dynavit::data::augment::{enhance, erase, mix};
use dynavit::data::{Batch, Interpolation};
use dynavit::ops::cross_entropy;
use dynavit::tape::Var;
use dynavit::tensor::Tensor;
use serde_json::Value;
use support::{augment_picture as picture, generated, hex, json};

/// The rows of a part, as words.
fn rows(facts: &Value, part: &str, least: usize) -> Vec<Vec<String>> {
    let rows = facts[part].as_array().unwrap();
    assert!(rows.len() >= least, "only {} rows of {part}", rows.len());
    rows.iter().map(|row| row.as_str().unwrap().split(' ').map(String::from).collect()).collect()
}

fn float(word: &str) -> f64 {
    word.parse().unwrap()
}

/// timm's name of an operation, and whether its levels are the increasing ones.
fn op(name: &str) -> (Op, bool) {
    let (stem, increasing) = name.strip_suffix("Increasing").map_or((name, false), |stem| (stem, true));
    let stem = stem.strip_suffix("Rel").unwrap_or(stem);
    (Op::ALL.into_iter().find(|op| format!("{op:?}") == stem).unwrap_or_else(|| panic!("{name}")), increasing)
}

#[test]
fn every_operation_is_timms_to_the_bit() {
    let facts = json("augment.json");
    let fill: [u8; 3] = serde_json::from_value(facts["fill"].clone()).unwrap();
    let mut wrong = Vec::new();
    for row in rows(&facts, "ops", 200) {
        let [image, name, magnitude, negated, filter, argument, digest] = row.try_into().unwrap();
        let (op, increasing) = op(&name);
        let got = op.argument(float(&magnitude), increasing, negated == "1");
        assert_eq!(got.to_bits(), float(&argument).to_bits(), "{name} {magnitude} {negated}: {got}");
        if image == "-" {
            continue;
        }
        let mut picture = picture(&image);
        let filter = if filter == "bicubic" { Interpolation::Bicubic } else { Interpolation::Bilinear };
        op.apply(&mut picture, got, filter, fill);
        if hex(&picture.pixels)[..16] != digest {
            wrong.push(format!("{name} {argument} {filter:?} of {image}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn jitter_is_torchvisions_to_the_bit() {
    for row in rows(&json("augment.json"), "jitter", 8) {
        let [image, brightness, contrast, saturation, order, digest] = row.try_into().unwrap();
        let factors = [brightness, contrast, saturation].map(|word| float(&word));
        let mut picture = picture(&image);
        for i in order.bytes().map(|digit| usize::from(digit - b'0')) {
            [enhance::brightness, enhance::contrast, enhance::color][i](&mut picture, factors[i]);
        }
        assert_eq!(&hex(&picture.pixels)[..16], digest, "{factors:?} {order} of {image}");
    }
}

#[test]
fn erased_boxes_have_timms_sizes() {
    for row in rows(&json("augment.json"), "erase", 36) {
        let [height, width, count, share, log_aspect, h, w] = row.try_into().unwrap();
        let whole = |word: &str| word.parse::<usize>().unwrap();
        let got =
            erase::box_size(whole(&height), whole(&width), whole(&count) as u32, float(&share), float(&log_aspect));
        let want = (h != "-").then(|| (whole(&h), whole(&w)));
        assert_eq!(got, want, "{height} x {width}, {count}: {share} {log_aspect}");
    }
}

#[test]
fn mixed_batches_targets_and_losses_are_timms() {
    let facts = json("augment.json");
    let cases = facts["mix"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let whole = |key: &str| case[key].as_u64().unwrap() as usize;
        let real = |key: &str| case[key].as_f64().unwrap();
        let (number, b, height, width) = (whole("number"), whole("batch"), 16, 20);
        let pixels = b * 3 * height * width;
        let mut batch = Batch {
            images: generated(2000 + number as u32, pixels, 2.0),
            rgb: vec![0; pixels],
            labels: (0..b).map(|i| (3 * i + number) % 7).collect(),
            ids: (0..b as u64).collect(),
            norm: None,
            mixed: None,
        };
        let blend = if case["cutmix"].as_bool().unwrap() {
            let centre: [usize; 2] = serde_json::from_value(case["centre"].clone()).unwrap();
            mix::Blend::Cutmix(mix::cutmix_box(height, width, real("lam"), centre[0], centre[1]))
        } else {
            mix::Blend::Mixup(real("lam"))
        };
        blend.apply(&mut batch, height, width);
        let bytes: Vec<u8> = batch.images.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(&hex(&bytes)[..16], case["images"].as_str().unwrap(), "{case}");
        let mixed = batch.mixed.unwrap();
        assert_eq!(mixed.weight, real("weight") as f32, "{case}");

        let labels = cross_entropy::Labels { own: &batch.labels, mixed: Some(&mixed) };
        let logits: Vec<f64> = generated(2100 + number as u32, b * 7, 3.0).into_iter().map(f64::from).collect();
        // The weight is f32 here and f64 there.
        let near = |got: f64, want: f64| assert!((got - want).abs() < 3e-7, "{got} for {want}: {case}");
        near(cross_entropy::reference::forward(&logits, labels, 7, f64::from(real("smoothing") as f32)), real("loss"));
        let dlogits = cross_entropy::reference::backward(&logits, labels, 7, f64::from(real("smoothing") as f32));
        let want: Vec<f64> = serde_json::from_value(case["dlogits"].clone()).unwrap();
        let ends = dlogits[..7].iter().chain(&dlogits[dlogits.len() - 7..]);
        ends.zip(&want).for_each(|(got, want)| near(*got, *want));

        let logits = Tensor::from_vec(generated(2100 + number as u32, b * 7, 3.0), &[b, 7]);
        let loss = cross_entropy::forward(None, &Var::constant(logits), labels, real("smoothing") as f32).unwrap();
        // A few f32 roundings of numbers below 8.
        assert!((f64::from(loss.value.data()[0]) - real("loss")).abs() < 4e-6, "{case}");
    }
}
