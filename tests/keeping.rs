//! A share of the saliency and a keep that changes over epochs, through the command.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::{done, run};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn small_sample() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), "data sample --output drawn --images 60 --seed 5");
    folder
}

/// A short run named `name` on 12 images a batch: four batches an epoch.
fn train(keep: &str, name: &str, more: &str) -> String {
    format!(
        "train voc {keep} --data drawn --model vit_micro_patch16_224 --lr 1e-3 --batch-size 12 --workers 2 \
         --run-name {name} {more}"
    )
}

fn in_runs(folder: &Path, name: &str) -> PathBuf {
    folder.join("runs").join(name)
}

/// A column of metrics.csv.
fn column(run: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let place = lines.next().unwrap().iter().position(|&title| title == name).unwrap();
    lines.map(|fields| fields[place].to_string()).collect()
}

fn model(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("last/model.safetensors")).unwrap()
}

/// Takes away every checkpoint after the `step`th update, as a run that was killed then would have none.
fn tear(run: &Path, step: u32) {
    for entry in std::fs::read_dir(run.join("checkpoints")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().strip_prefix("step-").unwrap().parse().unwrap();
        if number > step {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_is_no_mass_or_schedule_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for (line, words) in [
        ("train voc mass:0 --data x", ["mass:0", "above 0"]),
        ("train voc mass:1.1 --data x", ["mass:1.1", "at most 1"]),
        ("train voc mass:abc --data x", ["mass:abc", "between 0 and 1"]),
        ("train voc mass:nan --data x", ["mass:nan", "between 0 and 1"]),
        ("eval voc mass:nan --checkpoint x", ["mass:nan", "between 0 and 1"]),
        ("predict x.png --weights x --keep mass:2", ["--keep", "at most 1"]),
        ("bench infer --keep mass:-1", ["--keep", "above 0"]),
        ("bench infer --keep mass:0.9 --device ptx-vm", ["mass:0.9", "--device cpu"]),
        ("flops --keep 70,mass:0.9", ["--keep", "--seq-len"]),
        ("train voc mass:0.9 --data x --device ptx-vm", ["mass:0.9", "--device cpu"]),
        ("train voc 70 --data x --val-keep mass:0.9 --device ptx-vm", ["mass:0.9", "--device cpu"]),
        ("train voc 70 --data x --keep-schedule mass:1", ["--keep-schedule", "two percentages"]),
        ("train voc 70 --data x --keep-schedule 100:70", ["--keep-schedule", "100:70"]),
        ("train voc 70 --data x --keep-schedule-epochs 3", ["--keep-schedule", "required"]),
        (
            "train voc 70 --data x --keep-schedule 100 --keep-schedule-epochs 1",
            ["--keep-schedule-epochs", "at least 2"],
        ),
        ("train voc 70 --data x --val-keep mass:0", ["--val-keep", "above 0"]),
    ] {
        let (code, out, err) = run(folder.path(), line);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{line}: {err}");
        for word in words {
            assert!(err.contains(word), "{line}: no {word:?} in {err}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a refused command left something behind");
}

#[test]
fn a_mass_trains_resumes_bit_for_bit_and_travels_in_the_checkpoint() {
    let folder = small_sample();
    let folder = folder.path();
    let flags = "--epochs 2 --save-steps 1 --keep-checkpoints 100 --drop-path 0.1";
    let (out, err) = done(folder, &train("mass:0.9", "whole", flags));
    assert!(out.contains("mean S") && err.contains("as each image needs (mass:0.9)"), "{out}{err}");
    let whole = in_runs(folder, "whole");
    assert_eq!(column(&whole, "keep"), ["mass:0.9", "mass:0.9"]);
    let lengths: Vec<f64> = column(&whole, "mean_seq_len").iter().map(|cell| cell.parse().unwrap()).collect();
    assert!(lengths.iter().all(|s| (60.0..196.0).contains(s)), "{lengths:?}");
    done(folder, &train("mass:0.9", "torn", flags));
    let torn = in_runs(folder, "torn");
    tear(&torn, 2);
    done(folder, &format!("train --resume {} --threads 1", torn.display()));
    assert!(model(&torn) == model(&whole), "the resumed run ended elsewhere");
    for name in ["mean_seq_len", "macs_executed", "train_loss", "val_loss"] {
        assert_eq!(column(&torn, name), column(&whole, name), "{name}");
    }

    let (out, _) = done(folder, "eval voc --data drawn --checkpoint runs/whole --json");
    let report = json(&out);
    assert_eq!((&report["keep"], report["seq_len"].is_null()), (&Value::from("mass:0.9"), true));
    assert!(report["mean_seq_len"].as_f64().unwrap() < 196.0 && report["macs_executed"].as_f64().unwrap() > 1e6);
    let (text, _) = done(folder, "eval voc mass:0.5 --data drawn --checkpoint runs/whole");
    assert!(text.contains("mass:0.5, mean S = "), "{text}");

    let images = "drawn/JPEGImages";
    let images = if folder.join(images).is_dir() { images.to_string() } else { jpegs(&folder.join("drawn")) };
    let (out, _) = done(folder, &format!("predict {images} --weights runs/whole --json"));
    let found = json(&out);
    assert!(found["seq_len"].is_null() && found["keep"] == "mass:0.9", "{out}");
    let together = found["images"].as_array().unwrap();
    let lengths: Vec<u64> = together.iter().map(|image| image["seq_len"].as_u64().unwrap()).collect();
    assert!(lengths.iter().any(|&s| s != lengths[0]), "{lengths:?}");
    for image in &together[..3] {
        assert_eq!(image["seq_len"].as_u64().unwrap() as usize, 1 + image["kept"].as_array().unwrap().len());
        let (one, _) =
            done(folder, &format!("predict {} --weights runs/whole --json", image["path"].as_str().unwrap()));
        assert_eq!(json(&one)["images"][0]["logits"], image["logits"], "a prediction depends on its batch");
    }
    let (out, _) = done(folder, &format!("predict {images} --weights runs/whole --keep 70 --json"));
    let fixed = json(&out);
    assert!(fixed["seq_len"] == 138 && fixed["keep"] == 70.0 && fixed["images"][0].get("seq_len").is_none());

    let bench = "bench infer --model vit_micro_patch16_224 --steps 1 --batch-size 4 --keep mass:0.9 --json";
    let [noise, photos] = [String::new(), format!("--data {images}")]
        .map(|data| json(&done(folder, &format!("{bench} {data}")).0)["mean_seq_len"].as_f64().unwrap());
    assert!(noise > 170.0 && photos < noise, "{noise} on noise, {photos} on images");
}

/// The folder below `root` that holds its JPEG files.
fn jpegs(root: &Path) -> String {
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jpg") {
                return folder.display().to_string();
            }
        }
    }
    panic!("no JPEG file under {}", root.display())
}

#[test]
fn a_schedule_anneals_resumes_bit_for_bit_and_is_evaluated_with_the_runs_keep() {
    let folder = small_sample();
    let folder = folder.path();
    let flags = "--epochs 3 --keep-schedule 30 --save-steps 1 --keep-checkpoints 100";
    let (_, err) = done(folder, &train("10", "whole", flags));
    assert!(err.contains("20 of 197 tokens (K = 10 %), beginning with 59 of 197 tokens (K = 30 %)"), "{err}");
    assert!(err.contains("K = 20 %, mean S 40.0"), "{err}");
    let whole = in_runs(folder, "whole");
    assert_eq!(column(&whole, "keep"), ["30", "20", "10"]);
    assert_eq!(column(&whole, "mean_seq_len"), ["59", "40", "20"]);
    let config = std::fs::read_to_string(whole.join("config.toml")).unwrap();
    assert!(config.contains("keep-schedule = \"linear:30\""), "{config}");
    done(folder, &train("10", "torn", flags));
    let torn = in_runs(folder, "torn");
    // In the middle of the second epoch.
    tear(&torn, 6);
    done(folder, &format!("train --resume {}", torn.display()));
    assert!(model(&torn) == model(&whole), "the resumed run ended elsewhere");
    assert_eq!(column(&torn, "keep"), ["30", "20", "10"]);
    let (out, _) = done(folder, "eval voc --data drawn --checkpoint runs/whole/last --json");
    assert_eq!((json(&out)["keep"].as_f64(), json(&out)["seq_len"].as_u64()), (Some(10.0), Some(20)));
    assert_eq!(json(&out)["loss"].to_string(), column(&whole, "val_loss")[2]);

    // Evaluated with another keep, which the checkpoint remembers; the training is the same.
    let (out, _) = done(folder, &train("10", "other", &format!("{flags} --val-keep 50 --json")));
    assert_eq!((json(&out)["keep"].as_f64(), json(&out)["mean_seq_len"].as_f64()), (Some(10.0), Some(119.0 / 3.0)));
    let (kept, tested) = (json(&out)["val_keep"].as_f64(), json(&out)["test_mean_seq_len"].as_f64());
    assert_eq!((kept, tested), (Some(50.0), Some(99.0)), "{out}");
    let other = in_runs(folder, "other");
    assert_eq!(column(&other, "train_loss"), column(&whole, "train_loss"));
    assert_ne!(column(&other, "val_loss"), column(&whole, "val_loss"));
    let (out, _) = done(folder, "eval voc --data drawn --checkpoint runs/other/last --json");
    assert_eq!(json(&out)["keep"].as_f64(), Some(50.0));
    assert_eq!(json(&out)["loss"].to_string(), column(&other, "val_loss")[2]);

    let (code, _, err) = run(folder, "train --resume runs/whole --keep-schedule 40");
    assert!(code == Some(2) && err.contains("contradicts"), "{err}");
}
