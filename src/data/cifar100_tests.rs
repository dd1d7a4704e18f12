//! Tests of the CIFAR-100 reader on files of their own, in both layouts.
#![forbid(unsafe_code)]

use super::super::pickle::tests::{array, dict, integers, texts};
use super::*;
use std::fs;

fn class_names() -> Vec<String> {
    (0..CLASSES).map(|c| format!("class {c}")).collect()
}

/// Coarse and fine labels of record `i`: the classes go round.
fn pair(i: usize) -> [u8; 2] {
    let fine = i % CLASSES;
    [(fine / 5) as u8, fine as u8]
}

fn pixels(i: usize, salt: u8) -> Vec<u8> {
    (0..PIXELS).map(|p| (p as u8).wrapping_mul(31).wrapping_add(i as u8) ^ salt).collect()
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

/// `train` and `test` records in the layout for C programs.
fn binary_set(folder: &Path, train: usize, test: usize) {
    for (name, count, salt) in [("train.bin", train, 0), ("test.bin", test, 7)] {
        let records: Vec<u8> = (0..count).flat_map(|i| [pair(i).to_vec(), pixels(i, salt)].concat()).collect();
        write(folder, name, records);
    }
    write(folder, "fine_label_names.txt", class_names().join("\n") + "\n\n");
}

/// The same records in the layout for Python.
fn python_set(folder: &Path, train: usize, test: usize) {
    for (name, count, salt) in [("train", train, 0), ("test", test, 7)] {
        let all: Vec<u8> = (0..count).flat_map(|i| pixels(i, salt)).collect();
        let column = |place: usize| integers(&(0..count).map(|i| pair(i)[place]).collect::<Vec<_>>());
        let entries = [
            ("batch_label", texts(&["x".into()])),
            ("fine_labels", column(1)),
            ("coarse_labels", column(0)),
            ("data", array(count as u32, PIXELS as u16, &all)),
        ];
        write(folder, name, dict(&entries));
    }
    write(folder, "meta", dict(&[("fine_label_names", texts(&class_names()))]));
}

#[track_caller]
fn refused(root: &Path, words: &[&str]) {
    let error = open_cifar100(root, SplitPolicy::Stratified).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    for word in words {
        assert!(error.to_string().contains(word), "{error} does not say {word}");
    }
}

#[test]
fn both_layouts_hold_the_same_images() {
    let root = tempfile::tempdir().unwrap();
    binary_set(&root.path().join("cifar-100-binary"), 1000, 200);
    let binary = open_cifar100(root.path(), SplitPolicy::Stratified).unwrap();
    assert_eq!([binary.train.len(), binary.val.len(), binary.test.len()], [900, 100, 200]);
    assert_eq!(binary.classes, class_names());
    python_set(&root.path().join("cifar-100-python"), 1000, 200);
    let python = open_cifar100(&root.path().join("cifar-100-python"), SplitPolicy::Stratified).unwrap();
    for (a, b) in [(&binary.train, &python.train), (&binary.val, &python.val), (&binary.test, &python.test)] {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert_eq!((a.id, a.label), (b.id, b.label));
            assert_eq!(a.source.picture().unwrap(), b.source.picture().unwrap());
        }
    }
    let both = open_cifar100(root.path(), SplitPolicy::Lists).unwrap();
    assert_eq!([both.train.len(), both.val.len(), both.test.len()], [1000, 200, 0]);
    assert!(both.notes[0].contains("is taken, though"), "{:?}", both.notes);
}

#[test]
fn each_class_validates_in_proportion() {
    let root = tempfile::tempdir().unwrap();
    binary_set(root.path(), 2000, 100);
    let data = open_cifar100(root.path(), SplitPolicy::Stratified).unwrap();
    for c in 0..CLASSES {
        let count = |samples: &[Sample]| samples.iter().filter(|s| s.label == c).count();
        assert_eq!([count(&data.train), count(&data.val), count(&data.test)], [18, 2, 1]);
    }
    // Record 105 has fine class 5; its pixels are planes.
    let sample = data.train.iter().chain(&data.val).find(|s| s.source.place().ends_with("train.bin#105")).unwrap();
    assert_eq!(sample.label, 5);
    let (picture, planes) = (sample.source.picture().unwrap(), pixels(105, 0));
    assert_eq!(picture.pixels[3..6], [planes[1], planes[1025], planes[2049]]);
    let manifest = data.manifest_json().unwrap();
    assert!(manifest.contains("\"train.bin#105\"") && manifest.contains("\"test.bin#99\""));
    data.check_images().unwrap();
}

#[test]
fn broken_binary_files_are_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    refused(&folder.join("absent"), &["no such folder", "cifar-100-binary.tar.gz"]);
    refused(folder, &["holds neither train.bin"]);
    binary_set(folder, 200, 100);
    let sound = fs::read(folder.join("train.bin")).unwrap();
    write(folder, "train.bin", &sound[..sound.len() - 1]);
    refused(folder, &["train.bin: is 614799 bytes long", "records of 3074 bytes", "record 199 has 3073"]);
    let with = |at: usize, value: u8| {
        let mut bytes = sound.clone();
        bytes[at] = value;
        write(folder, "train.bin", bytes);
    };
    with(3 * RECORD + 1, 100);
    refused(folder, &["train.bin: record 3: labels 0 (coarse) and 100 (fine)"]);
    with(3 * RECORD, 20);
    refused(folder, &["record 3: labels 20 (coarse)"]);
    with(103 * RECORD, 7);
    refused(folder, &["record 103: fine class 3 belongs to coarse class 7, in record 3 to 0"]);
    write(folder, "train.bin", b"");
    refused(folder, &["train.bin: the file is empty"]);
    write(folder, "train.bin", &sound[..99 * RECORD]);
    refused(folder, &["empty class: no image of 'class 99'"]);
    write(folder, "train.bin", &sound);
    fs::remove_file(folder.join("test.bin")).unwrap();
    refused(folder, &["test.bin"]);
    write(folder, "test.bin", &sound[..RECORD]);
    for (names, words) in [
        (class_names()[1..].join("\n"), "99 names"),
        (class_names().join("\n").replace("class 7\n", "class 8\n"), "100 names, 99 of them different"),
    ] {
        write(folder, "fine_label_names.txt", names);
        refused(folder, &["fine_label_names.txt: the class list does not match", words]);
    }
}

#[test]
fn broken_pickles_are_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    python_set(folder, 200, 100);
    open_cifar100(folder, SplitPolicy::Stratified).unwrap();
    let sound = fs::read(folder.join("train")).unwrap();
    write(folder, "train", &sound[..sound.len() / 2]);
    refused(folder, &["train: byte ", "opcode BINSTRING (0x54): the file ends inside"]);
    write(folder, "train", b"\x80\x02cposix\nsystem\nU\x04echo\x85R.");
    refused(folder, &["train: byte 2: opcode GLOBAL (0x63): asks for posix.system"]);
    let data = array(2, PIXELS as u16, &[0; 2 * PIXELS]);
    type Entries = Vec<(&'static str, Vec<u8>)>;
    let cases: [(Entries, &str); 5] = [
        (vec![("data", data.clone())], "not labelled"),
        (vec![("fine_labels", integers(&[1, 2]))], "holds no array data"),
        (vec![("fine_labels", integers(&[1])), ("data", data.clone())], "data has 2 images, fine_labels 1 labels"),
        (vec![("fine_labels", integers(&[1, 100])), ("data", data)], "record 1: labels"),
        (vec![("fine_labels", integers(&[1, 2])), ("data", array(2, 3, &[0; 6]))], "wrong record length"),
    ];
    for (entries, words) in cases {
        write(folder, "train", dict(&entries));
        refused(folder, &["train: ", words]);
    }
    write(folder, "train", sound);
    write(folder, "meta", dict(&[("fine_label_names", texts(&class_names()[..99]))]));
    refused(folder, &["meta: the class list does not match: 99 names"]);
    write(folder, "meta", dict(&[]));
    refused(folder, &["meta: holds no list fine_label_names"]);
}
