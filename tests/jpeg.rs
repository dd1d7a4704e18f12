//! JPEG files decoded to the bit as Pillow (libjpeg-turbo) decodes them (fixtures/jpeg.json).
#![forbid(unsafe_code)]

mod support;

use dynavit::data::decode::decode;
use std::path::Path;
use support::{Fixture, hex, json};

#[test]
fn every_kind_of_file_is_decoded_as_pillow_does() {
    let (fixture, facts) = (Fixture::open("jpeg.safetensors"), json("jpeg.json"));
    let cases = facts["cases"].as_array().unwrap();
    assert!(cases.len() > 100, "only {} cases", cases.len());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let picture = decode(&fixture.bytes(name), Path::new(name)).unwrap();
        let size = [picture.width, picture.height].map(|side| Some(side as u64));
        assert_eq!(size, [case["width"].as_u64(), case["height"].as_u64()], "{name}");
        assert_eq!(hex(&picture.pixels), case["sha256"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn a_damaged_file_is_an_error_or_a_picture_of_its_size() {
    let (fixture, facts) = (Fixture::open("jpeg.safetensors"), json("jpeg.json"));
    let mut errors = 0;
    for case in facts["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let whole = fixture.bytes(name);
        for turn in 0..24usize {
            let mut bytes = whole.to_vec();
            let at = (turn * 7919 + turn * turn * 31) % bytes.len();
            bytes[at] ^= 1 << (turn % 8);
            match decode(&bytes, Path::new(name)) {
                Ok(picture) => assert_eq!(picture.pixels.len(), picture.width * picture.height * 3, "{name} {at}"),
                Err(error) => {
                    assert!(error.exit_code() == 3 && error.to_string().starts_with(name), "{error}");
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > 100, "{errors}");
}
