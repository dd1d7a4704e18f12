//! JPEG files decoded to the bit as Pillow (libjpeg-turbo) decodes them (fixtures/jpeg.json).
#![forbid(unsafe_code)]

mod support;

use dynavit::data::decode::{decode, read, verify};
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

/// Each bit turned lies in the coded data or in a header; nothing may panic, and what is told is told of the file.
#[test]
fn damage_is_filled_in_and_found_by_verify() {
    let (fixture, facts) = (Fixture::open("jpeg.safetensors"), json("jpeg.json"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.jpg");
    let (mut refused, mut filled) = (0, 0);
    for case in facts["cases"].as_array().unwrap() {
        let whole = fixture.bytes(case["name"].as_str().unwrap());
        for turn in 0..24usize {
            let mut bytes = whole.clone();
            let at = (turn * 7919 + turn * turn * 31) % bytes.len();
            bytes[at] ^= 1 << (turn % 8);
            std::fs::write(&path, &bytes).unwrap();
            let (read, verified) = (read(&path), verify(&path));
            match &read {
                Ok(picture) => assert_eq!(picture.pixels.len(), picture.width * picture.height * 3),
                Err(error) => assert!(error.exit_code() == 3 && error.to_string().contains("damaged.jpg"), "{error}"),
            }
            assert!(read.is_ok() || verified.is_err(), "what cannot be read is not sound");
            refused += usize::from(read.is_err());
            filled += usize::from(read.is_ok() && verified.is_err());
        }
    }
    assert!(refused > 100 && filled > 20, "{refused} {filled}");
}
