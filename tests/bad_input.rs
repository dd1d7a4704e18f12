//! Bad input to the command: each case ends in one line with its reason, the documented exit code and nothing written.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::run;
use dynavit::model::{Vit, VitConfig, VitOptions};
use dynavit::weights::{Entry, write};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MODEL: &str = "vit_micro_patch16_224";
const CLASSES: [&str; 5] = ["bicycle", "car", "cat", "dog", "person"];

/// Demands the exit code, a last line that is the error and holds `words`, no other line but warnings and notices,
/// nothing on stdout, and no run left behind.
#[track_caller]
fn refused(folder: &Path, line: &str, code: i32, words: &[&str]) {
    let (found, out, err) = run(folder, line);
    assert_eq!((found, out.as_str()), (Some(code), ""), "{line}: {err}");
    let lines: Vec<&str> = err.lines().filter(|l| !l.starts_with("warning: ") && !l.starts_with("notice: ")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: ") && lines[0].contains("; "), "{line}: {err}");
    for word in words {
        assert!(lines[0].contains(word), "{line}: no {word:?} in {err}");
    }
    assert!(!folder.join("runs").exists(), "{line} left a run behind");
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let image =
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 9) as u8, (y * 7) as u8, (x * y) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::load_from_memory(&png(24, 20)).unwrap().write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// A JPEG whose frame header claims 60,000 x 60,000 pixels.
fn huge() -> Vec<u8> {
    let mut bytes = jpeg();
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    bytes
}

fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

const OBJECT: &str = "<object><name>cat</name></object>";

/// Twenty images of five classes in VOC layout under `voc`.
fn voc(folder: &Path) {
    let names: Vec<String> = (0..20).map(|i| format!("i{i:02}")).collect();
    for (i, name) in names.iter().enumerate() {
        let class = CLASSES[i % 5];
        let xml = format!("<annotation><object><name>{class}</name></object></annotation>");
        put(folder, &format!("voc/VOC2012/Annotations/{name}.xml"), xml);
        put(folder, &format!("voc/VOC2012/JPEGImages/{name}.jpg"), jpeg());
    }
    put(folder, "voc/VOC2012/ImageSets/Main/trainval.txt", names.join("\n"));
}

#[test]
fn values_out_of_range_name_their_flag() {
    let folder = tempfile::tempdir().unwrap();
    for keep in ["0", "101", "-1", "abc", "70.0000001", "''"] {
        for line in ["train voc K --data x", "eval voc K --checkpoint x", "predict x --weights x --keep K"] {
            refused(folder.path(), &line.replace('K', keep), 2, &["keep ratio"]);
        }
        refused(folder.path(), &format!("flops --keep {keep}"), 2, &["--keep"]);
    }
    for (flag, value) in [
        ("--lr", "-1"),
        ("--lr", "inf"),
        ("--batch-size", "-3"),
        ("--epochs", "0"),
        ("--save-every", "-1"),
        ("--threads", "1000000"),
        ("--workers", "1000000"),
        ("--run-name", "../up"),
        ("--run-name", "''"),
    ] {
        refused(folder.path(), &format!("train voc 70 --data x {flag} {value}"), 2, &[flag]);
    }
    // The settings of a file are held to the same rules.
    for (line, word) in [("threads = 0", "--threads"), ("device = 'cuda'", "--device"), ("precision = 'f16'", "f32")] {
        put(folder.path(), "c.toml", line);
        refused(folder.path(), "train voc 70 --data x --config c.toml", 2, &[word]);
    }
}

#[test]
fn broken_voc_folders_are_named() {
    let train = format!("train voc 70 --data voc --model {MODEL}");
    let bomb = format!("<!DOCTYPE a [<!ENTITY b 'bb'>]><annotation>&b;{OBJECT}</annotation>");
    let climbing = |name: &str| format!("<annotation><filename>{name}</filename>{OBJECT}</annotation>").into_bytes();
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), &train, 3, &["voc", "no such folder"]);
    voc(folder.path());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("Annotations/i03.xml", bomb.into_bytes(), "DTD"),
        ("Annotations/i03.xml", b"<annotation></annotation>".to_vec(), "no object"),
        ("Annotations/i03.xml", climbing("../../x.jpg"), "plain file name"),
        ("Annotations/i03.xml", climbing("/etc/x.jpg"), "plain file name"),
        ("Annotations/i03.xml", climbing("..\\x.jpg"), "plain file name"),
        ("Annotations/i03.xml", b"<annotation><object>".to_vec(), "XML"),
        ("Annotations/i03.xml", b"<annotation>\xFF</annotation>".to_vec(), "UTF-8"),
        ("ImageSets/Main/trainval.txt", Vec::new(), "empty"),
        ("ImageSets/Main/trainval.txt", b"absent\n".to_vec(), "no such annotation"),
        ("JPEGImages/i03.jpg", Vec::new(), "empty"),
        ("JPEGImages/i03.jpg", b"some text".to_vec(), "neither JPEG nor PNG"),
        ("JPEGImages/i03.jpg", jpeg()[..300].to_vec(), "ends early"),
        ("JPEGImages/i03.jpg", png(40, 40)[..60].to_vec(), "i03.jpg"),
        ("JPEGImages/i03.jpg", huge(), "60000 x 60000"),
    ];
    for (name, bytes, word) in cases {
        let path = folder.path().join("voc/VOC2012").join(name);
        let sound = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        refused(folder.path(), &train, 3, &[word]);
        std::fs::write(&path, sound).unwrap();
    }
    std::fs::remove_file(folder.path().join("voc/VOC2012/JPEGImages/i03.jpg")).unwrap();
    refused(folder.path(), &train, 3, &["i03.jpg", "no such image"]);
    std::fs::remove_dir_all(folder.path().join("voc/VOC2012/Annotations")).unwrap();
    refused(folder.path(), &train, 3, &["no annotations"]);
}

#[test]
fn broken_class_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let train = format!("train folder 70 --data f --model {MODEL}");
    put(folder.path(), "f/train/a/1.jpg", jpeg());
    refused(folder.path(), &train, 3, &["one class alone"]);
    std::fs::create_dir(folder.path().join("f/train/b")).unwrap();
    refused(folder.path(), &train, 3, &["train/b", "empty class"]);
    put(folder.path(), "f/train/b/1.jpg", jpeg());
    put(folder.path(), "f/val/a/1.png", png(1, 1));
    put(folder.path(), "f/val/b/1.png", &png(9, 9)[..50]);
    refused(folder.path(), &train, 3, &["val/b/1.png"]);
    put(folder.path(), "f/val/b/1.png", png(9, 9));
    put(folder.path(), "file", "");
    refused(folder.path(), &format!("{train} --output file"), 3, &["file"]);
}

/// Random weights of the smallest model, some tensors changed or left out.
fn weights(path: &Path, classes: usize, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>) -> bool, card: &str) {
    let vit = Vit::init(VitConfig::named(MODEL, classes).unwrap(), VitOptions::default(), 7);
    let mut kept = Vec::new();
    for id in vit.params.ids() {
        let (mut shape, mut values) = (vit.params.shape(id).to_vec(), vit.params.values(id).to_vec());
        if change(vit.params.name(id), &mut shape, &mut values) {
            kept.push((vit.params.name(id), shape, values));
        }
    }
    let entries: Vec<Entry> = kept.iter().map(|(name, shape, values)| Entry { name, shape, values }).collect();
    let metadata = [("dynavit".to_string(), card.to_string())];
    let metadata: BTreeMap<_, _> = metadata.into_iter().filter(|(_, card)| !card.is_empty()).collect();
    write(path, &entries, &metadata).unwrap();
}

/// The bytes of a file with this header.
fn with_header(json: &str, data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn broken_weight_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    voc(folder.path());
    put(folder.path(), "a.png", png(30, 20));
    let everything = |_: &str, _: &mut Vec<usize>, _: &mut Vec<f32>| true;
    weights(&at("sound"), 5, everything, "");
    let sound = std::fs::read(at("sound")).unwrap();
    let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let mut files: Vec<(String, &str)> = Vec::new();
    let mut add = |name: &str, bytes: &[u8], word: &'static str| {
        put(folder.path(), name, bytes);
        files.push((name.to_string(), word));
    };
    for length in [1, 8, 9, header - 1, header, header + 5, sound.len() - 1] {
        add(&format!("cut{length}"), &sound[..length], "cut short");
    }
    add("empty", b"", "empty");
    add("text", b"hello, here is some text", "not a safetensors file");
    add("long", &[&(1u64 << 63).to_le_bytes()[..], &sound[8..]].concat(), "9223372036854775808");
    let tensor = |name: &str, from: u32, to: u32| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
    };
    let pair = |a: String, b: String| format!("{{{a},{b}}}");
    add("overlap", &with_header(&pair(tensor("a", 0, 8), tensor("b", 4, 12)), 12), "overlaps");
    add("hole", &with_header(&pair(tensor("a", 0, 8), tensor("b", 12, 20)), 20), "belong to no tensor");
    add("twice", &with_header(&pair(tensor("a", 0, 8), tensor("a", 8, 16)), 16), "twice");
    add("json", &with_header("{oops", 0), "malformed");
    let fc = "blocks.0.mlp.fc1.weight";
    weights(
        &at("shape"),
        5,
        |name, shape, _| {
            (
                if name == fc {
                    shape.reverse()
                },
                true,
            )
                .1
        },
        "",
    );
    weights(&at("missing"), 5, |name, _, _| name != fc, "");
    weights(
        &at("nan"),
        5,
        |name, _, values| {
            (
                if name == fc {
                    values[3] = f32::NAN
                },
                true,
            )
                .1
        },
        "",
    );
    weights(
        &at("inf"),
        5,
        |name, _, values| {
            (
                if name == fc {
                    values[3] = f32::INFINITY
                },
                true,
            )
                .1
        },
        "",
    );
    files.extend([("shape", fc), ("missing", fc), ("nan", "NaN"), ("inf", "inf")].map(|(a, b)| (a.into(), b)));
    for (name, word) in &files {
        let tail = format!("{name} --model {MODEL}");
        refused(folder.path(), &format!("predict a.png --weights {tail}"), 3, &[name, word]);
        refused(folder.path(), &format!("eval voc 70 --data voc --checkpoint {tail}"), 3, &[name, word]);
        refused(folder.path(), &format!("train voc 70 --data voc --weights {tail}"), 3, &[name, word]);
    }
    // Without a head, or with one of no classes, there is nothing to predict; `train` makes a new one.
    weights(&at("headless"), 5, |name, _, _| !name.starts_with("head."), "");
    weights(
        &at("classless"),
        5,
        |name, shape, values| {
            if name.starts_with("head.") {
                shape[0] = 0;
                values.clear();
            }
            true
        },
        "",
    );
    for name in ["headless", "classless"] {
        refused(folder.path(), &format!("predict a.png --weights {name} --model {MODEL}"), 3, &["head.weight"]);
    }
    let (code, _, err) = run(
        folder.path(),
        &format!("train voc 10 --data voc --weights headless --model {MODEL} --epochs 1 --run-name r --output made"),
    );
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("head starts from random weights: head.weight is missing"), "{err}");

    // A card that no model can be built from.
    let saved = std::fs::read(at("made/r/best/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(saved[..8].try_into().unwrap()) as usize;
    let text: serde_json::Value = serde_json::from_slice(&saved[8..8 + length]).unwrap();
    let card: serde_json::Value = serde_json::from_str(text["__metadata__"]["dynavit"].as_str().unwrap()).unwrap();
    for (key, value) in [
        ("patch", 0u64),
        ("patch", 15),
        ("heads", 3),
        ("heads", 0),
        ("depth", 1 << 40),
        ("width", 1 << 62),
        ("classes", 1 << 62),
        ("image_size", 32),
    ] {
        let mut card = card.clone();
        card["model"][key] = value.into();
        weights(&at("card"), 5, everything, &card.to_string());
        refused(folder.path(), "predict a.png --weights card", 3, &["card", "model card"]);
    }

    // One file of a checkpoint deleted or changed.
    let step = std::fs::read_link(at("made/r/best")).unwrap();
    let checkpoint = at("made/r").join(step);
    for file in ["model.safetensors", "optim.safetensors", "state.json"] {
        let path = checkpoint.join(file);
        let sound = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for line in ["predict a.png --weights made/r", "eval voc 10 --checkpoint made/r", "train --resume made/r"] {
            refused(folder.path(), line, 3, &[file, "missing"]);
        }
        std::fs::write(&path, sound).unwrap();
    }
    let mut flipped = saved.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(checkpoint.join("model.safetensors"), flipped).unwrap();
    for path in ["made/r", "made/r/best", "made/r/best/model.safetensors"] {
        refused(folder.path(), &format!("predict a.png --weights {path}"), 3, &["model.safetensors", "SHA-256"]);
    }
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // Even root may not make folders below this one.
    let folder = tempfile::tempdir().unwrap();
    let place = if cfg!(target_os = "linux") { "/proc/none" } else { "/dev/null/none" };
    refused(folder.path(), &format!("data sample --images 5 --output {place}/s"), 3, &[place]);
    voc(folder.path());
    refused(folder.path(), &format!("train voc 70 --data voc --model {MODEL} --output {place}"), 3, &[place]);
}
