//! CIFAR-100 and Tiny-ImageNet from end to end through the command, on tiny copies, and on real ones where they are.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::run;
use dynavit::data::{Dataset, SplitPolicy, open_cifar100, open_tiny_imagenet};
use std::path::Path;

const RECIPE: &str = "--model vit_micro_patch16_224 --epochs 1 --quiet --json --run-name r";

/// The JSON document that a command which succeeds prints.
#[track_caller]
fn json(folder: &Path, line: &str) -> serde_json::Value {
    let (code, out, err) = run(folder, line);
    assert_eq!(code, Some(0), "{line}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
}

fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// 200 training and 100 test records in `cifar-100-binary`.
fn cifar(folder: &Path) {
    let record = |i: usize| {
        let pixels = (0..3072).map(|p| (p * (i % 100 + 1)) as u8);
        [(i % 100 / 5) as u8, (i % 100) as u8].into_iter().chain(pixels).collect::<Vec<u8>>()
    };
    let names: String = (0..100).map(|c| format!("class{c}\n")).collect();
    put(folder, "data/cifar-100-binary/train.bin", (0..200).flat_map(record).collect::<Vec<u8>>());
    put(folder, "data/cifar-100-binary/test.bin", (0..100).flat_map(record).collect::<Vec<u8>>());
    put(folder, "data/cifar-100-binary/fine_label_names.txt", names);
}

/// Three classes of ten training and two validation images in `tiny-imagenet-200`; every other one is grey.
fn tiny_imagenet(folder: &Path) {
    let image = |c: u32, i: u32| {
        let grey = image::GrayImage::from_fn(64, 64, |x, y| image::Luma([(x * (c + 1) + y * i) as u8]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        let grey = image::DynamicImage::from(grey);
        let picture = if i.is_multiple_of(2) { grey } else { grey.to_rgb8().into() };
        picture.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    };
    let mut list = String::new();
    for c in 0..3 {
        for i in 0..10 {
            put(folder, &format!("data/tiny-imagenet-200/train/n0{c}/images/n0{c}_{i}.JPEG"), image(c, i));
        }
        for i in 0..2 {
            put(folder, &format!("data/tiny-imagenet-200/val/images/val_{}.JPEG", 2 * c + i), image(c, 10 + i));
            list += &format!("val_{}.JPEG\tn0{c}\t0\t0\t9\t9\n", 2 * c + i);
        }
    }
    put(folder, "data/tiny-imagenet-200/wnids.txt", "n02\nn00\nn01\n");
    put(folder, "data/tiny-imagenet-200/words.txt", "n00\tegg\nn01\tbus\nn02\tcat, true cat\n");
    put(folder, "data/tiny-imagenet-200/val/val_annotations.txt", list);
}

#[test]
fn cifar100_trains_evaluates_and_keeps_its_preset() {
    let folder = tempfile::tempdir().unwrap();
    cifar(folder.path());
    let outcome = json(folder.path(), &format!("train cifar100 10 {RECIPE}"));
    let root = folder.path().join("runs/r");
    let config = std::fs::read_to_string(root.join("config.toml")).unwrap();
    for line in ["dataset = \"cifar100\"", "batch-size = 64", "norm = \"cifar\""] {
        assert!(config.contains(line), "{config} has no {line}");
    }
    let report = json(folder.path(), "eval cifar100 10 --checkpoint runs/r --split test --json");
    assert_eq!((report["images"].as_u64(), &report["accuracy"]), (Some(100), &outcome["test_accuracy"]));
    assert_eq!(report["classes"][99], "class99");
    let report = json(folder.path(), "eval cifar100 10 --checkpoint runs/r --split-policy lists --json");
    assert_eq!((report["images"].as_u64(), &report["accuracy"]), (Some(100), &outcome["test_accuracy"]));
    assert_eq!(json(folder.path(), "inspect runs/r --json")["file"]["model"]["classes"], 100);
}

#[test]
fn tiny_imagenet_trains_and_evaluates() {
    let folder = tempfile::tempdir().unwrap();
    tiny_imagenet(folder.path());
    let outcome = json(folder.path(), &format!("train tiny-imagenet 10 --data data/tiny-imagenet-200 {RECIPE}"));
    let config = std::fs::read_to_string(folder.path().join("runs/r/config.toml")).unwrap();
    for line in ["dataset = \"tiny-imagenet\"", "batch-size = 32", "norm = \"imagenet\""] {
        assert!(config.contains(line), "{config} has no {line}");
    }
    let report = json(folder.path(), "eval tiny-imagenet 10 --checkpoint runs/r --split test --json");
    assert_eq!((report["images"].as_u64(), &report["accuracy"]), (Some(6), &outcome["test_accuracy"]));
    assert_eq!(report["classes"], serde_json::json!(["egg", "bus", "cat"]));
}

#[test]
fn broken_data_sets_are_refused_with_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    cifar(folder.path());
    tiny_imagenet(folder.path());
    let cases: [(&str, &str, &[u8], &str); 6] = [
        ("cifar100", "cifar-100-binary/train.bin", &[0; 3073], "no number of records of 3074 bytes"),
        ("cifar100", "cifar-100-binary/fine_label_names.txt", b"one\ntwo\n", "the class list does not match"),
        (
            "cifar100 --data data/p",
            "p/train",
            b"\x80\x02cos\nsystem\nU\x02ls\x85R.",
            "opcode GLOBAL (0x63): asks for os.system",
        ),
        ("tiny-imagenet", "tiny-imagenet-200/val/val_annotations.txt", b"val_0.JPEG\tn00\n", "is not labelled"),
        ("tiny-imagenet", "tiny-imagenet-200/wnids.txt", b"n00\nn01\n", "is not a class of wnids.txt"),
        ("tiny-imagenet", "tiny-imagenet-200/train/n01/images/n01_3.JPEG", b"\xff\xd8\xff", "n01_3.JPEG"),
    ];
    let names: Vec<u8> = (0..100).flat_map(|c| [&b"U\x03"[..], format!("c{c:02}").as_bytes()].concat()).collect();
    put(folder.path(), "data/p/meta", [&b"\x80\x02}(U\x10fine_label_names]("[..], &names, b"eu."].concat());
    for (dataset, file, bytes, words) in cases {
        let path = folder.path().join("data").join(file);
        let sound = std::fs::read(&path).unwrap_or_default();
        put(folder.path(), &format!("data/{file}"), bytes);
        let (name, flags) = dataset.split_once(' ').unwrap_or((dataset, ""));
        let (code, out, err) = run(folder.path(), &format!("train {name} 10 {flags} {RECIPE}"));
        assert_eq!((code, out.as_str()), (Some(3), ""), "{file}: {err}");
        let last = err.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains(words) && last.contains("; "), "{err}");
        assert!(!folder.path().join("runs").exists());
        std::fs::write(path, sound).unwrap();
    }
}

#[test]
fn real_subsets_are_read() {
    let Some(real) = std::env::var_os("DYNAVIT_REAL_DATA") else {
        println!("skipped: DYNAVIT_REAL_DATA does not name a folder of real images");
        return;
    };
    let real = Path::new(&real);
    let sizes = |set: &Dataset| [set.train.len(), set.val.len(), set.test.len()];
    let cifar = open_cifar100(&real.join("cifar-100-binary"), SplitPolicy::Stratified).unwrap();
    assert_eq!(sizes(&cifar), [5400, 600, 1500]);
    assert_eq!((cifar.classes.len(), cifar.classes[0].as_str()), (100, "apple"));
    let tiny = open_tiny_imagenet(&real.join("tiny-imagenet-200"), SplitPolicy::Lists).unwrap();
    assert_eq!(sizes(&tiny), [720, 600, 0]);
    assert_eq!(tiny.classes.len(), 12);
    for set in [cifar, tiny] {
        set.check_images().unwrap();
        let all = set.train.iter().chain(&set.val).chain(&set.test);
        assert!(all.map(|sample| sample.source.picture().unwrap()).all(|p| p.pixels.len() == p.width * p.height * 3));
    }
}
