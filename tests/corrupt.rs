//! Corruptions as numpy, scikit-image and Pillow give them (fixtures/corrupt.json), to the bit.
#![forbid(unsafe_code)]

mod support;

use dynavit::data::corrupt::Corruptions;
use dynavit::data::decode::Picture;
use support::{augment_picture, hex, json};

fn wide() -> Picture {
    let value = |i: usize| {
        let (y, x, c) = (i / (64 * 3), i / 3 % 64, i % 3);
        ((x * x + 3 * y * y + 40 * c + x * y) / 29 % 256) as u8
    };
    Picture { width: 64, height: 48, pixels: (0..64 * 48 * 3).map(value).collect() }
}

#[test]
fn every_corruption_is_imagenet_cs_to_the_bit() {
    let facts = json("corrupt.json");
    let (seed, sample) = (facts["seed"].as_u64().unwrap(), facts["sample"].as_u64().unwrap());
    let rows = facts["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5 * 25);
    let mut wrong = Vec::new();
    for row in rows {
        let [name, kind, severity, digest] = row.as_str().unwrap().split(' ').collect::<Vec<_>>().try_into().unwrap();
        let mut corruption = format!("{kind}:{severity}").parse::<Corruptions>().unwrap().0[0];
        corruption.seed = seed;
        let mut picture = if name == "wide" { wide() } else { augment_picture(name) };
        corruption.apply(&mut picture, sample);
        if hex(&picture.pixels)[..16] != *digest {
            wrong.push(format!("{corruption} of {name}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}
