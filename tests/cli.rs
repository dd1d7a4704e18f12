//! The built command, end to end: what it refuses, what it prints, and that a killed run loses nothing.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::dynavit;
use dynavit::device::cpu::gemm::Operands;
use dynavit::model::{Vit, VitConfig, VitOptions};
use dynavit::weights::{Entry, write};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const BIN: &str = env!("CARGO_BIN_EXE_dynavit");

/// Runs, demands the exit code, and returns stdout and stderr.
#[track_caller]
fn run(folder: &Path, args: &[&str], code: i32) -> (String, String) {
    let output = dynavit(folder, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

/// Runs what must fail with one line on stderr that holds all of `words`, and nothing on stdout.
#[track_caller]
fn refused(folder: &Path, args: &[&str], code: i32, words: &[&str]) {
    let (out, err) = run(folder, args, code);
    assert_eq!(out, "", "{args:?}");
    let aside = |line: &&str| line.starts_with("warning: ") || line.starts_with("notice: ");
    let lines: Vec<&str> = err.lines().filter(|line| !aside(line)).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{args:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{args:?}: no {word:?} in {err}");
    }
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for keep in ["0", "101", "-1", "abc", "nan"] {
        refused(folder.path(), &["train", "voc", keep], 2, &[keep, "KEEP"]);
        refused(folder.path(), &["eval", "voc", keep, "--checkpoint", "x"], 2, &[keep, "KEEP"]);
    }
    let train = |more: &[&'static str]| [&["train", "voc", "70", "--data", "x"], more].concat();
    for (flags, words) in [
        (train(&["--lr", "0"]), ["--lr", "above 0"]),
        (train(&["--epochs", "0"]), ["--epochs", "at least 1"]),
        (train(&["--batch-size", "0"]), ["--batch-size", "at least 1"]),
        (train(&["--crop-scale", "0.9,0.1"]), ["--crop-scale", "A <= B"]),
        (train(&["--crop-scale", "1"]), ["--crop-scale", "two numbers"]),
        (train(&["--ratio", "0,1"]), ["--crop-ratio", "A <= B"]),
        (train(&["--aa", "original"]), ["--aa", "rand-m9-mstd0.5-inc1"]),
        (train(&["--aa", "rand-tweights"]), ["--aa", "mstd"]),
        (train(&["--aa", "rand-m9", "--color-jitter", "0.4"]), ["--color-jitter", "--aa"]),
        (train(&["--remode", "black"]), ["--remode", "pixel"]),
        (train(&["--reprob", "1.5"]), ["--reprob", "from 0 to 1"]),
        (train(&["--mixup", "-1"]), ["--mixup", "0 or more"]),
        (train(&["--cutmix", "1", "--batch-size", "1"]), ["--cutmix", "--batch-size"]),
        (train(&["--scorer", "best"]), ["--scorer", "sobel"]),
        (train(&["--model", "resnet50"]), ["resnet50", "vit_base_patch16_224"]),
        (train(&["--device", "cpu", "--precision", "f16"]), ["--precision", "f32"]),
        (train(&["--threads", "0"]), ["--threads", "at least 1"]),
        (vec!["train", "cifar", "70"], ["cifar", "sample"]),
        (vec!["train", "voc"], ["KEEP", "required"]),
        (vec!["train", "folder", "70"], ["--data", "give"]),
        (vec!["predict", "--weights", "x"], ["IMAGE", "required"]),
        (vec!["frobnicate"], ["frobnicate", "unrecognized"]),
    ] {
        refused(folder.path(), &flags, 2, &words);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a refused command left something behind");
}

#[test]
fn missing_files_are_named_with_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    refused(
        folder.path(),
        &["train", "voc", "70", "--data", "nowhere", "--model", "vit_micro_patch16_224"],
        3,
        &["nowhere"],
    );
    refused(folder.path(), &["train", "voc", "70", "--config", "none.toml"], 3, &["none.toml"]);
    refused(folder.path(), &["train", "--resume", "gone"], 3, &["gone"]);
    refused(folder.path(), &["train", "--resume", "auto"], 3, &["runs"]);
    refused(folder.path(), &["eval", "voc", "70", "--checkpoint", "gone"], 3, &["gone"]);
    refused(folder.path(), &["predict", "a.png", "--weights", "gone"], 3, &["gone"]);
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn help_fits_a_terminal_and_lists_what_works() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["--help"][..],
        &["train", "--help"],
        &["sweep", "--help"],
        &["report", "--help"],
        &["eval", "--help"],
        &["predict", "--help"],
        &["flops", "--help"],
        &["inspect", "--help"],
        &["data", "--help"],
        &["data", "sample", "--help"],
        &["data", "download", "--help"],
        &["data", "verify", "--help"],
        &["data", "stats", "--help"],
        &["data", "pack", "--help"],
        &["data", "bench", "--help"],
        &["weights", "download", "--help"],
        &["completions", "--help"],
    ] {
        let (out, _) = run(folder.path(), args, 0);
        for line in out.lines() {
            assert!(line.chars().count() <= 80, "{args:?}: {line}");
        }
    }
    let (train, _) = run(folder.path(), &["train", "--help"], 0);
    for flag in ["ptx-vm", "--lr", "--decay-epochs", "--decay-rate", "--data-dir", "--scale", "--resume", "Examples:"] {
        assert!(train.contains(flag), "{flag}");
    }
    let (script, _) = run(folder.path(), &["completions", "bash"], 0);
    assert!(script.contains("--saliency-domain"));
}

#[test]
fn config_files_are_checked_and_overridden_by_environment_and_flags() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "lrr = 1\nlr = 1e-3\nscorrer = 'l2'\n").unwrap();
    refused(folder.path(), &["train", "voc", "70", "--config", "c.toml"], 2, &["c.toml", "lrr, scorrer", "lr,"]);
    std::fs::write(&config, "lr = 'high'\n").unwrap();
    refused(folder.path(), &["train", "voc", "70", "--config", "c.toml"], 2, &["c.toml", "lr"]);
    std::fs::write(&config, "dataset = 'voc'\nkeep = 70\nlr = -1.0\n").unwrap();
    refused(folder.path(), &["train", "--config", "c.toml"], 2, &["--lr"]);
    let mut command = dynavit(folder.path(), &["train", "--config", "c.toml"]);
    let output = command.env("DYNAVIT_LR", "1e-4").env("DYNAVIT_DATA", "envdata").output().unwrap();
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("envdata"),
        "lr of the environment is fine, its data is not there"
    );
    let mut command = dynavit(folder.path(), &["train", "--config", "c.toml", "--lr", "1e-4", "--data", "flagdata"]);
    let output = command.env("DYNAVIT_LR", "-2").env("DYNAVIT_DATA", "envdata").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("flagdata"));
}

/// Random weights of the smallest model without a card, and two images of different sizes.
fn weights_and_images(folder: &Path, classes: usize) {
    let config = VitConfig::named("vit_micro_patch16_224", classes).unwrap();
    let vit = Vit::init(config, VitOptions::default(), 7);
    let entries: Vec<Entry> = vit
        .params
        .ids()
        .map(|id| Entry { name: vit.params.name(id), shape: vit.params.shape(id), values: vit.params.values(id) })
        .collect();
    write(&folder.join("w.safetensors"), &entries, &BTreeMap::new()).unwrap();
    for (name, width, height) in [("a.png", 40, 31), ("b.png", 300, 224)] {
        let image =
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]));
        image.save(folder.join(name)).unwrap();
    }
}

#[test]
fn predict_prints_the_documented_json() {
    let folder = tempfile::tempdir().unwrap();
    weights_and_images(folder.path(), 3);
    let base = ["predict", "a.png", "b.png", "--weights", "w.safetensors"];
    let (guessed, _) = run(folder.path(), &[&base[..], &["--json", "--top", "2"]].concat(), 0);
    let base = [&base[..], &["--model", "vit_micro_patch16_224"]].concat();
    let (out, err) = run(folder.path(), &[&base[..], &["--json", "--top", "2"]].concat(), 0);
    assert_eq!((err.as_str(), &out), ("", &guessed), "the tensors' shapes tell the model too");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert!(out.starts_with(
        r#"{"model":"vit_micro_patch16_224","keep":70.0,"scorer":"l2","seq_len":138,"images":[{"path":"a.png","kept":["#
    ));
    assert_eq!(document.as_object().unwrap().len(), 5);
    for image in document["images"].as_array().unwrap() {
        let kept: Vec<u64> = image["kept"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
        assert!(kept.len() == 137 && kept.windows(2).all(|w| w[0] < w[1]) && kept[136] < 196);
        let logits: Vec<f32> = image["logits"].as_array().unwrap().iter().map(|z| z.as_f64().unwrap() as f32).collect();
        let top = image["top"].as_array().unwrap();
        assert_eq!((logits.len(), top.len(), image.as_object().unwrap().len()), (3, 2, 4));
        let first = top[0]["index"].as_u64().unwrap() as usize;
        assert!(logits.iter().all(|&z| z <= logits[first]) && top[0]["class"].is_null());
        assert!(top[0]["prob"].as_f64().unwrap() >= top[1]["prob"].as_f64().unwrap());
    }
    // A line an image says the same, whatever the batches; a folder is its images in order.
    let (lines, _) = run(folder.path(), &[&base[..], &["--jsonl", "--top", "2", "--batch-size", "1"]].concat(), 0);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, *document["images"].as_array().unwrap());
    assert_eq!(lines.len(), 2);
    let (human, _) =
        run(folder.path(), &["predict", ".", "--weights", "w.safetensors", "--model", "vit_micro_patch16_224"], 0);
    assert_eq!(human.lines().count(), 2);
    for (scorer, keep, seq_len) in
        [("random", "100", 197), ("entropy", "0.1", 2), ("sobel", "50", 99), ("center", "30", 59)]
    {
        let (out, _) = run(folder.path(), &[&base[..], &["--json", "--scorer", scorer, "--keep", keep]].concat(), 0);
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["seq_len"], seq_len);
    }
    std::fs::write(folder.path().join("torn.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    let torn = ["predict", "torn.png", "--weights", "w.safetensors", "--model", "vit_micro_patch16_224"];
    refused(folder.path(), &torn, 3, &["torn.png"]);
}

/// A sample of few images that all tests of training share the drawing of, in a fresh folder.
fn small_sample() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["data", "sample", "--output", "drawn", "--images", "60", "--seed", "5"], 0);
    folder
}

const RECIPE: &str = "train voc 30 --data drawn --model vit_micro_patch16_224 --lr 1e-3 --batch-size 12 \
                      --warmup-epochs 0.5 --save-steps 1 --workers 2 --quiet";

/// The arguments of a short training run.
fn recipe<'a>(epochs: &'a str, name: &'a str) -> Vec<&'a str> {
    RECIPE.split_whitespace().chain(["--epochs", epochs, "--run-name", name]).collect()
}

fn model_hash(run: &Path) -> String {
    let bytes = std::fs::read(run.join("last/model.safetensors")).unwrap();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// metrics.csv without the column of the rate, which no run has twice.
fn metrics(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
    let rate = text.lines().next().unwrap().split(',').position(|title| title == "images_per_second").unwrap();
    let others = |line: &str| -> String {
        let kept = line.split(',').enumerate().filter(|&(i, _)| i != rate).map(|(_, cell)| cell);
        kept.collect::<Vec<_>>().join(",")
    };
    text.lines().map(others).collect()
}

/// Starts a training run and waits until its checkpoint of `step` is there.
fn begin(folder: &Path, args: &[&str], run: &Path, step: u32) -> Child {
    let mut command = std::process::Command::new(BIN);
    command.current_dir(folder).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let patience = Instant::now();
    while !run.join(format!("checkpoints/step-{step}/state.json")).exists() && child.try_wait().unwrap().is_none() {
        assert!(patience.elapsed() < Duration::from_secs(300), "no checkpoint of step {step}");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.try_wait().unwrap().is_none(), "the run was over before it could be stopped");
    child
}

fn in_runs(folder: &Path, name: &str) -> PathBuf {
    folder.join("runs").join(name)
}

#[test]
fn a_killed_run_ends_like_one_never_stopped() {
    let folder = small_sample();
    let folder = folder.path();
    let (out, _) = run(folder, &recipe("2", "whole"), 0);
    assert!(out.contains("best epoch") && out.contains("test accuracy"), "{out}");
    let whole = in_runs(folder, "whole");
    // In the first epoch, and in the second; each is killed once more on the way.
    for (name, steps) in [("early", [1, 3]), ("late", [5, 6])] {
        let killed = in_runs(folder, name);
        let name_it = recipe("2", name);
        let go_on = ["train", "--resume", killed.to_str().unwrap(), "--quiet"];
        for (args, step) in [&name_it[..], &go_on[..]].into_iter().zip(steps) {
            let mut child = begin(folder, args, &killed, step);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        run(folder, &go_on, 0);
        assert_eq!(model_hash(&killed), model_hash(&whole), "{name}");
        assert_eq!(metrics(&killed), metrics(&whole), "{name}");
    }
    refused(
        folder,
        &[&recipe("3", "wild")[..], &["--gamma", "1e30", "--step-size", "1"]].concat(),
        4,
        &["finite", "step", "--lr"],
    );
    let path = whole.to_str().unwrap();
    refused(folder, &["train", "--resume", path, "--lr", "0.5"], 2, &["--lr", "contradicts"]);
    run(folder, &["train", "voc", "30", "--resume", path, "--threads", "1", "--quiet"], 0);

    let (out, _) =
        run(folder, &["eval", "voc", "30", "--data", "drawn", "--checkpoint", path, "--split", "test", "--json"], 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    let confusion: u64 = report["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(confusion, report["images"].as_u64().unwrap());
    assert_eq!(report["per_class"].as_array().unwrap().len(), report["classes"].as_array().unwrap().len());
    let (text, _) = run(folder, &["eval", "voc", "30", "--checkpoint", path], 0);
    assert!(text.contains("macro avg") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn an_augmented_run_ends_alike_when_killed_and_with_other_workers() {
    const AUGMENT: &str = "--aa rand-m9-mstd0.5-inc1 --reprob 0.5 --remode pixel --mixup 0.8 --cutmix 1 --vflip 0.2 \
                           --grayscale-prob 0.1 --label-smoothing 0.1 --scorer sobel";
    let folder = small_sample();
    let folder = folder.path();
    let with = |name| recipe("2", name).into_iter().chain(AUGMENT.split_whitespace()).collect::<Vec<_>>();
    run(folder, &with("whole"), 0);
    let (whole, killed) = (in_runs(folder, "whole"), in_runs(folder, "killed"));
    let mut child = begin(folder, &with("killed"), &killed, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    run(folder, &["train", "--resume", killed.to_str().unwrap(), "--workers", "3", "--aa", "rand-mstd0.5-m9-inc1"], 0);
    assert_eq!(model_hash(&killed), model_hash(&whole));
    assert_eq!(metrics(&killed), metrics(&whole));
    let config = std::fs::read_to_string(whole.join("config.toml")).unwrap();
    assert!(
        config.contains("aa = \"rand-m9-n2-p0.5-mstd0.5-inc1\"") && config.contains("mixup-prob = 1.0"),
        "{config}"
    );
}

#[test]
fn a_run_goes_on_bit_for_bit_on_the_card_and_on_the_other_device() {
    let folder = small_sample();
    let folder = folder.path();
    let card = |epochs, name| [&recipe(epochs, name)[..], &["--device", "ptx-vm"]].concat();
    run(folder, &card("2", "whole"), 0);
    run(folder, &card("1", "parts"), 0);
    let (whole, parts) = (in_runs(folder, "whole"), in_runs(folder, "parts"));
    let path = parts.to_str().unwrap();
    let config = std::fs::read_to_string(parts.join("config.toml")).unwrap();
    assert!(config.contains("device = \"ptx-vm\"") && config.contains("precision = \"f16\""), "{config}");
    // Naming the device that it has already changes nothing.
    run(folder, &["train", "--resume", path, "--epochs", "2", "--device", "ptx-vm", "--quiet"], 0);
    assert_eq!(model_hash(&parts), model_hash(&whole));
    let (_, err) = run(folder, &["train", "--resume", path, "--epochs", "3", "--device", "cpu"], 0);
    let cpu = format!("going on with cpu in {}", Operands::fastest().words());
    assert!(err.contains(&cpu) && err.contains("resuming at step"), "{err}");
    assert_eq!(metrics(&parts).len(), 4);
    // It computed in what it told.
    run(folder, &card("2", "again"), 0);
    let named = if Operands::fastest() == Operands::Bf16 { "bf16" } else { "f32" };
    let again = in_runs(folder, "again");
    let resumed = ["train", "--resume", again.to_str().unwrap(), "--epochs", "3", "--device", "cpu", "--quiet"];
    run(folder, &[&resumed[..], &["--precision", named]].concat(), 0);
    assert_eq!(model_hash(&again), model_hash(&parts));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_exits_with_130() {
    let folder = small_sample();
    let folder = folder.path();
    let interrupted = in_runs(folder, "stopped");
    let child = begin(folder, &recipe("1000", "stopped"), &interrupted, 1);
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("interrupted") && err.contains("dynavit train --resume"), "{err}");
    run(folder, &["train", "--resume", interrupted.to_str().unwrap(), "--epochs", "1", "--quiet"], 0);
}

#[test]
fn doctor_says_what_works_and_what_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = run(folder.path(), &["doctor", "--device", "cpu"], 0);
    assert!(out.contains("device   cpu works"), "{out}");
    let (out, _) = run(folder.path(), &["doctor", "--device", "ptx-vm", "--json"], 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["works"], &report["card"]["capability"]), (&Value::from(true), &Value::from("8.0")));
    assert!(report["modules"].as_array().unwrap().iter().all(|module| module["loads"] == true));
    let mut command = dynavit(folder.path(), &["doctor", "--device", "ptx-vm"]);
    let output = command.env("DYNAVIT_PTX_VM", "sm_75").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("sm75.ptx: loads"));
    let mut command = dynavit(folder.path(), &["doctor", "--device", "cuda"]);
    let output = command.env("DYNAVIT_LIBCUDA", "nowhere/libcuda.so.1").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("cuda does not work: ") && text.contains("use --device cpu"), "{text}");
}

#[test]
fn without_a_driver_a_card_is_refused_and_auto_is_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let bench = ["bench", "infer", "--model", "vit_micro_patch16_224", "--batch-size", "1", "--steps", "1"];
    for (args, code) in [
        (&["train", "voc", "70", "--data", "x", "--device", "cuda"][..], 2),
        (&["predict", "a.png", "--weights", "x", "--device", "cuda"], 2),
        (&["eval", "voc", "70", "--checkpoint", "x", "--device", "cuda"], 2),
        (&[&bench[..], &["--device", "cuda"]].concat(), 2),
        (&bench[..], 0),
    ] {
        let output = dynavit(folder.path(), args).env("DYNAVIT_LIBCUDA", "nowhere/libcuda.so.1").output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        if code == 0 {
            let picked = format!("cpu in {}", Operands::fastest().words());
            assert!(out.contains(&picked) && err.is_empty(), "{out}{err}");
        } else {
            assert!(err.contains("--device cuda: no CUDA driver was found") && err.lines().count() == 1, "{err}");
        }
    }
}
