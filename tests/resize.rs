//! Resizes bit for bit as Pillow's (fixtures/resize.json).
#![forbid(unsafe_code)]

mod support;

use dynavit::data::Interpolation;
use dynavit::data::decode::Picture;
use dynavit::data::resize::{Crop, resize};
use dynavit::rng::Purpose;
use support::{Fixture, hex, json, noise};

#[test]
fn every_case_is_pillows_to_the_bit() {
    let (fixture, facts) = (Fixture::open("resize.safetensors"), json("resize.json"));
    let cases = facts["cases"].as_array().unwrap();
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let name = case["name"].as_str().unwrap();
        let (width, height) = (number("width"), number("height"));
        let pixels = noise(Purpose::FixtureResize, number("image") as u32, width * height * 3);
        let picture = Picture { width, height, pixels };
        let crop = match case["crop"].as_array() {
            None => Crop::whole(&picture),
            Some(sides) => {
                let side = |i: usize| sides[i].as_u64().unwrap() as usize;
                Crop { left: side(0), top: side(1), width: side(2), height: side(3) }
            }
        };
        let filter = match case["filter"].as_str().unwrap() {
            "bilinear" => Interpolation::Bilinear,
            "bicubic" => Interpolation::Bicubic,
            other => panic!("unknown filter {other}"),
        };
        let got = resize(&picture, crop, number("out_width"), number("out_height"), filter);
        if case["stored"].as_bool().unwrap() {
            assert_eq!(got, fixture.bytes(name), "{name}: {case}");
        }
        assert_eq!(hex(&got), case["sha256"].as_str().unwrap(), "{name}: {case}");
    }
}
