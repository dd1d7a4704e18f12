//! Kept patches of every scorer against the reference (fixtures/kept.safetensors).
#![forbid(unsafe_code)]

mod support;

use dynavit::prune::{Grid, Kept, Pixels, PruneConfig, Round, SaliencyDomain, Scorer, select};
use dynavit::rng::Purpose;
use support::{Fixture, hex, json, noise};

/// The images of kept.json by its formula: (side, 3) bytes in (h, w, c) order.
fn image(number: u32, side: usize, kind: &str) -> Vec<u8> {
    let bytes = noise(Purpose::FixtureKept, number, side * side * 3);
    let at = |(i, byte): (usize, &u8)| {
        let (y, x, c) = (i / 3 / side, i / 3 % side, i % 3);
        let m = ((y / 16) * (side / 16) + x / 16) as i64 + 29 * i64::from(number);
        let contrast = (i64::from(*byte) - 128) * ((m * 37 + c as i64 * 11) % 17);
        let structured = (128 + contrast.div_euclid(16) + (m * 53) % 97 - 48).clamp(0, 255) as u8;
        let flat = 100 + 40 * c as u8;
        match kind {
            "structured" => structured,
            "flat" => flat,
            "half" if x < side / 2 => flat,
            "half" => structured,
            other => panic!("unknown kind {other}"),
        }
    };
    bytes.iter().enumerate().map(at).collect()
}

/// As torchvision's ToTensor and Normalize with ImageNet's statistics: (C, h, w).
fn normalise(rgb: &[u8], side: usize) -> Vec<f32> {
    let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
    let pixel = |c: usize, i: usize| (f32::from(rgb[i * 3 + c]) / 255.0 - mean[c]) / std[c];
    (0..3).flat_map(|c| (0..side * side).map(move |i| pixel(c, i))).collect()
}

fn kept(config: &PruneConfig, side: usize, rgb: &[u8], id: u64) -> Kept {
    let grid = Grid { height: side, width: side, patch: 16 };
    let normalized = normalise(rgb, side);
    select(config, &grid, &Pixels { normalized: &normalized, rgb, ids: &[id], epoch: 0 }).unwrap()
}

fn config(keep: &str, scorer: Scorer) -> PruneConfig {
    PruneConfig {
        keep: keep.parse().unwrap(),
        round: Round::Floor,
        scorer,
        domain: SaliencyDomain::Normalized,
        entropy_bins: 256,
        seed: 42,
    }
}

#[test]
fn every_scorer_keeps_what_the_reference_keeps() {
    let (fixture, facts) = (Fixture::open("kept.safetensors"), json("kept.json"));
    let mut compared = 0;
    for entry in facts["images"].as_array().unwrap() {
        let (name, side) = (entry["name"].as_str().unwrap(), entry["side"].as_u64().unwrap() as usize);
        let rgb = image(entry["image"].as_u64().unwrap() as u32, side, entry["kind"].as_str().unwrap());
        assert_eq!(hex(&rgb), entry["sha256"].as_str().unwrap(), "{name} was drawn wrong");
        for scorer in facts["scorers"].as_array().unwrap() {
            for keep in facts["keeps"].as_array().unwrap() {
                let (scorer, keep) = (scorer.as_str().unwrap(), keep.as_str().unwrap());
                let mut config = config(keep, Scorer::L2);
                match scorer {
                    "l2" => {}
                    "l2_raw" => config.domain = SaliencyDomain::Raw,
                    "sobel" => config.scorer = Scorer::Sobel,
                    "center" => config.scorer = Scorer::Center,
                    _ => {
                        config.scorer = Scorer::Entropy;
                        config.entropy_bins = scorer.strip_prefix("entropy").unwrap().parse().unwrap();
                    }
                }
                let expected = fixture.u32(&format!("{name}.{scorer}.k{keep}"));
                assert_eq!(kept(&config, side, &rgb, 0).indices, expected, "{name}, {scorer}, K={keep}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 6 * 7 * 6);
}

#[test]
fn the_random_scorer_is_the_documented_stream() {
    let (fixture, facts) = (Fixture::open("kept.safetensors"), json("kept.json"));
    for (side, n) in [(64, 16), (224, 196)] {
        for id in 0..3u64 {
            for keep in facts["keeps"].as_array().unwrap() {
                let keep = keep.as_str().unwrap();
                let rgb = vec![0; side * side * 3];
                let got = kept(&config(keep, Scorer::Random), side, &rgb, id).indices;
                assert_eq!(got, fixture.u32(&format!("random.n{n}.id{id}.k{keep}")), "n {n}, sample {id}, K={keep}");
            }
        }
    }
}

#[test]
fn every_mass_keeps_what_the_reference_keeps() {
    let (kept_facts, mass_facts) = (json("kept.json"), json("mass.json"));
    let images = kept_facts["images"].as_array().unwrap();
    let mut compared = 0;
    for row in mass_facts["rows"].as_array().unwrap() {
        let (scorer, mass) = (row["scorer"].as_str().unwrap(), row["mass"].as_str().unwrap());
        let (side, rgb, id) = match row["image"].as_str() {
            Some(name) => {
                let entry = images.iter().find(|entry| entry["name"] == name).unwrap();
                let side = entry["side"].as_u64().unwrap() as usize;
                let rgb = image(entry["image"].as_u64().unwrap() as u32, side, entry["kind"].as_str().unwrap());
                (side, rgb, 0)
            }
            None => {
                let side = if row["n"] == 16 { 64 } else { 224 };
                (side, vec![0; side * side * 3], row["sample"].as_u64().unwrap())
            }
        };
        let mut config = config(&format!("mass:{mass}"), Scorer::L2);
        match scorer {
            "l2" => {}
            "l2_raw" => config.domain = SaliencyDomain::Raw,
            "sobel" => config.scorer = Scorer::Sobel,
            "center" => config.scorer = Scorer::Center,
            "random" => config.scorer = Scorer::Random,
            _ => {
                config.scorer = Scorer::Entropy;
                config.entropy_bins = scorer.strip_prefix("entropy").unwrap().parse().unwrap();
            }
        }
        let expected: Vec<u32> = serde_json::from_value(row["kept"].clone()).unwrap();
        assert_eq!(kept(&config, side, &rgb, id).indices, expected, "{row}");
        compared += 1;
    }
    assert_eq!(compared, (6 * 7 + 6) * 4);
}
