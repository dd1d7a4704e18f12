//! `data verify|stats|pack|bench` and the downloads through the command, on a few images of their own.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::run;
use std::path::Path;

/// What a command that succeeds prints.
#[track_caller]
fn printed(folder: &Path, line: &str) -> String {
    let (code, out, err) = run(folder, line);
    assert_eq!(code, Some(0), "{line}: {err}");
    out
}

/// Demands the exit code and one line of error that holds `words`.
#[track_caller]
fn refused(folder: &Path, line: &str, code: i32, words: &[&str]) {
    let (found, out, err) = run(folder, line);
    let last = err.lines().last().unwrap_or("");
    assert!(found == Some(code) && out.is_empty() && last.starts_with("error: "), "{line}: {found:?} {out} {err}");
    for word in words {
        assert!(last.contains(word), "{line}: no {word:?} in {last}");
    }
}

/// Two classes of 16 images of 60 x 40 pixels each.
fn photos(folder: &Path) {
    for (c, class) in ["egg", "bus"].into_iter().enumerate() {
        std::fs::create_dir_all(folder.join("photos").join(class)).unwrap();
        for i in 0..16u32 {
            let pixel = |x: u32, y: u32| image::Rgb([(x * (i + 1)) as u8, (y * (c as u32 + 3)) as u8, (i * 16) as u8]);
            let image = image::RgbImage::from_fn(60, 40, pixel);
            image.save(folder.join(format!("photos/{class}/{i:02}.png"))).unwrap();
        }
    }
}

#[test]
fn a_packed_run_is_the_plain_run() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path());
    let train =
        "train folder 10 --data photos --model vit_micro_patch16_224 --epochs 1 --batch-size 8 --quiet --lr 1e-3";
    let losses = |name: &str| {
        let text = std::fs::read_to_string(folder.path().join("runs").join(name).join("metrics.csv")).unwrap();
        let row: Vec<String> = text.lines().nth(1).unwrap().split(',').map(String::from).collect();
        row[..6].to_vec()
    };
    printed(folder.path(), &format!("{train} --run-name plain"));
    printed(folder.path(), &format!("{train} --run-name first --cache packed"));
    printed(folder.path(), &format!("{train} --run-name second --cache packed"));
    assert_eq!(losses("plain"), losses("first"));
    assert_eq!(losses("plain"), losses("second"));
    let packs: Vec<_> = std::fs::read_dir(folder.path().join("packed")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(packs.len(), 1);
    let bytes = std::fs::read(&packs[0]).unwrap();
    std::fs::write(&packs[0], &bytes[..bytes.len() / 2]).unwrap();
    refused(
        folder.path(),
        &format!("{train} --run-name torn --cache packed"),
        3,
        &[".pack", "half", "pack the images again"],
    );
    assert!(!folder.path().join("runs/torn").exists());
    let path = printed(folder.path(), "data pack folder --data photos --cache packed");
    assert_eq!(std::fs::read(folder.path().join(path.trim())).unwrap(), bytes);
    let shrunk = printed(folder.path(), "data pack folder --data photos --cache packed --cache-side 20");
    assert!(shrunk.contains("folder-20-"), "{shrunk}");
    refused(folder.path(), &format!("{train} --cache-side 20"), 2, &["--cache"]);
}

#[test]
fn verify_names_what_is_bad() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path());
    let good = printed(folder.path(), "data verify folder --data photos");
    assert!(good.contains("2 classes, 24 training, 4 validation and 4 test images, all sound; SHA-256 "), "{good}");
    let path = folder.path().join("photos/egg/03.png");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    std::fs::write(&path, bytes).unwrap();
    refused(folder.path(), "data verify folder --data photos", 3, &["1 of 32 images are bad", "egg/03.png", "PNG"]);
}

#[test]
fn stats_count_and_draw() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path());
    let text = printed(folder.path(), "data stats folder --data photos --sheet sheet.png --columns 3 --json");
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["images"], 32);
    assert_eq!(stats["per_class"], serde_json::json!([[12, 2, 2], [12, 2, 2]]));
    assert_eq!(stats["width"], serde_json::json!([60, 60, 60]));
    let blue = (0..16).map(|i| f64::from(i * 16)).sum::<f64>() / 16.0 / 255.0;
    assert!((stats["mean"][2].as_f64().unwrap() - blue).abs() < 1e-9);
    let sheet = image::open(folder.path().join("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (3 * 66 + 2, 2 * 66 + 2));
    let table = printed(folder.path(), "data stats folder --data photos");
    assert!(table.contains("egg") && table.contains("60 x 40"), "{table}");
    refused(folder.path(), "data stats folder --data photos --sheet no/such/sheet.png", 3, &["sheet.png"]);
}

#[test]
fn bench_measures_the_loader() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path());
    let line =
        "data bench folder --data photos --cache packed --images 16 --batch-size 8 --turns 1 --image-size 32 --json";
    let figures: serde_json::Value = serde_json::from_str(&printed(folder.path(), line)).unwrap();
    assert_eq!(figures["packed"], true);
    assert!(figures["images_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert!((0.0..=1.0).contains(&figures["decode_share"].as_f64().unwrap()));
}

#[test]
fn without_a_network_downloads_name_address_and_folder() {
    let folder = tempfile::tempdir().unwrap();
    // Port 1 of this machine answers nobody.
    refused(
        folder.path(),
        "data download cifar100 --output got --url http://127.0.0.1:1/cifar-100-binary.tar.gz",
        3,
        &["got/cifar-100-binary.tar.gz", "http://127.0.0.1:1/", "by other means into got"],
    );
    refused(folder.path(), "weights download resnet50", 2, &["\"resnet50\" is no model"]);
}
