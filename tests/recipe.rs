//! The training options beyond the paper's recipe, through the command: what they refuse, and that they do what they say.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::{dynavit, run as line};
use std::path::{Path, PathBuf};

/// Runs a command line that must succeed; returns stdout and stderr.
#[track_caller]
fn run(folder: &Path, text: &str) -> (String, String) {
    let (code, out, err) = line(folder, text);
    assert_eq!(code, Some(0), "{text}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

/// A sample of few images in a fresh folder.
fn small_sample() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "data sample --output drawn --images 60 --seed 5");
    folder
}

/// A short run named `name` on 12 images a batch: four batches an epoch.
fn train(name: &str, more: &str) -> String {
    format!(
        "train voc 10 --data drawn --model vit_micro_patch16_224 --lr 1e-3 --batch-size 12 --workers 2 --quiet \
         --run-name {name} {more}"
    )
}

fn in_runs(folder: &Path, name: &str) -> PathBuf {
    folder.join("runs").join(name)
}

/// A column of metrics.csv.
fn column(run: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let place = lines.next().unwrap().iter().position(|&title| title == name).unwrap();
    lines.map(|fields| fields[place].parse().unwrap()).collect()
}

fn model(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("last/model.safetensors")).unwrap()
}

#[test]
fn settings_that_make_no_sense_are_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, words) in [
        ("--schedule linear", ["--schedule", "cosine"]),
        ("--min-lr 1e-6", ["--min-lr", "--schedule cosine"]),
        ("--schedule cosine --min-lr 1", ["--min-lr", "from 0 to --lr"]),
        ("--schedule cosine --min-lr nan", ["--min-lr", "from 0 to --lr"]),
        ("--warmup-lr 1", ["--warmup-lr", "from 0 to --lr"]),
        ("--schedule multistep", ["--schedule multistep", "--decay-milestones"]),
        ("--schedule multistep --decay-milestones 3,3", ["--decay-milestones", "ascending"]),
        ("--schedule multistep --decay-milestones 0,3", ["--decay-milestones", "ascending"]),
        ("--decay-milestones 3", ["--decay-milestones", "--schedule multistep"]),
    ] {
        let (code, out, err) = line(folder.path(), &format!("train voc 70 --data x {flags}"));
        assert_eq!((code, out.as_str(), err.lines().count()), (Some(2), "", 1), "{flags}: {err}");
        for word in words {
            assert!(err.contains(word), "{flags}: no {word:?} in {err}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a refused command left something behind");
}

#[test]
fn a_cosine_runs_its_course_and_resumes_bit_for_bit() {
    let folder = small_sample();
    let folder = folder.path();
    let flags = "--schedule cosine --min-lr 1e-5 --epochs 3";
    run(folder, &train("whole", flags));
    let whole = in_runs(folder, "whole");
    // The last updates of three epochs of four: 3, 7 and 11 of 12.
    let cosine = |t: f64| 1e-5 + 0.5 * (1e-3 - 1e-5) * (1.0 + (std::f64::consts::PI * t / 12.0).cos());
    for (rate, t) in column(&whole, "lr").into_iter().zip([3.0, 7.0, 11.0]) {
        assert!((rate / cosine(t) - 1.0).abs() < 1e-12, "{rate} at {t}");
    }
    // A shorter run that is asked for more goes on under the longer curve, and says so.
    run(folder, &train("parts", "--schedule cosine --min-lr 1e-5 --epochs 1"));
    let parts = in_runs(folder, "parts");
    let (_, err) = run(folder, &format!("train --resume {} --epochs 2", parts.display()));
    assert!(err.contains("the cosine spans 2 epochs"), "{err}");
    let mut multistep = dynavit(folder, &train("m", "--sched multistep --epochs 2").split(' ').collect::<Vec<_>>());
    assert!(multistep.env("DYNAVIT_DECAY_MILESTONES", "1").output().unwrap().status.success());
    assert_eq!(column(&in_runs(folder, "m"), "lr"), [1e-3, 1e-3 * 0.1]);
}
