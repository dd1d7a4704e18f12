//! Training where disks fail, files vanish and processes meet: what is sound stays, and what is wrong is told.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::ends;
use dynavit::data::{Dataset, Source, open_folder};
use dynavit::error::Error;
use dynavit::train::{DatasetName, DeviceName, Event, Precision, Run, Stop, TrainConfig, train};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const TRAIN: &str = "train folder 10 --data photos --model vit_micro_patch16_224 --batch-size 8 --lr 1e-3 --threads 1";

/// Two classes of 16 images of 60 x 40 pixels each: 24 train, 4 validate, 4 test.
fn photos() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (c, class) in ["egg", "bus"].into_iter().enumerate() {
        fs::create_dir_all(folder.path().join("photos").join(class)).unwrap();
        for i in 0..16u32 {
            let pixel = |x: u32, y: u32| image::Rgb([(x * (i + 1)) as u8, (y * (c as u32 + 3)) as u8, (i * 16) as u8]);
            let image = image::RgbImage::from_fn(60, 40, pixel);
            image.save(folder.path().join(format!("photos/{class}/{i:02}.png"))).unwrap();
        }
    }
    folder
}

/// A run of `epochs` epochs of three steps, begun in this process.
fn begin(folder: &Path, epochs: u32) -> Run {
    let config = TrainConfig {
        data: Some(folder.join("photos")),
        model: "vit_micro_patch16_224".into(),
        epochs,
        batch_size: 8,
        lr: 1e-3,
        save_steps: Some(1),
        device: DeviceName::Cpu,
        precision: Precision::F32,
        ..TrainConfig::paper(DatasetName::Folder, "10".parse().unwrap())
    };
    let dataset = open_folder(&folder.join("photos")).unwrap();
    Run::start(config, dataset, std::iter::once(folder.join("run")), 1).unwrap()
}

fn first_file(samples: &[dynavit::data::Sample]) -> PathBuf {
    match &samples[0].source {
        Source::File(path) => path.clone(),
        _ => panic!("the samples are files"),
    }
}

fn model(run: &Path) -> Vec<u8> {
    fs::read(run.join("last/model.safetensors")).unwrap()
}

#[test]
fn an_image_that_cannot_be_validated_costs_no_training() {
    let folder = photos();
    let mut run = begin(folder.path(), 1);
    let Dataset { val, .. } = run.dataset.clone();
    let (broken, whole) = (first_file(&val), fs::read(first_file(&val)).unwrap());
    let failed = train(&mut run, &Stop::default(), &mut |event| {
        if matches!(event, Event::Epoch { .. }) {
            fs::write(&broken, "no image").unwrap();
        }
    });
    assert!(matches!(failed, Err(Error::Data { .. })), "{failed:?}");
    assert_eq!(run.saved, Some(3));
    assert!(run.dir.root().join("last/model.safetensors").is_file());
    drop(run);
    fs::write(&broken, whole).unwrap();
    let (_, err) = ends(folder.path(), "train --resume run", 0);
    assert!(err.contains("resuming at step 3 (epoch 1 of 1, 3 batches into it)"), "{err}");
}

#[test]
fn a_save_inside_an_epoch_that_fails_is_told_and_tried_again() {
    let folder = photos();
    let mut run = begin(folder.path(), 1);
    let checkpoints = run.dir.root().join("checkpoints");
    // As if it had been shorter and finished before.
    run.dir.put_outcome("{}").unwrap();
    let mut troubles = Vec::new();
    train(&mut run, &Stop::default(), &mut |event| match event {
        Event::Step { step: 1, .. } => fs::write(&checkpoints, "in the way").unwrap(),
        Event::Step { step: 2, .. } => fs::remove_file(&checkpoints).unwrap(),
        Event::Trouble { what } => troubles.push(what.to_string()),
        _ => {}
    })
    .unwrap();
    assert!(troubles.len() == 1 && troubles[0].contains("step 1 is not saved"), "{troubles:?}");
    assert_eq!(run.saved, Some(3));
    assert!(checkpoints.join("step-2/state.json").is_file());
    assert!(!run.dir.root().join("outcome.json").exists(), "the run came to something else");
}

#[test]
fn a_run_or_a_cell_that_another_process_writes_is_left_alone() {
    let folder = photos();
    let held = begin(folder.path(), 2);
    let (_, err) = ends(folder.path(), "train --resume run", 3);
    assert!(err.contains("run: another process is training in it"), "{err}");
    let name = "folder-k10-l2-s1";
    fs::create_dir(folder.path().join("grid")).unwrap();
    fs::rename(held.dir.root(), folder.path().join("grid").join(name)).unwrap();
    let sweep =
        format!("{} --output grid --keep 10 --seeds 1,2 --epochs 1", TRAIN.replace("train folder 10", "sweep folder"));
    let (out, err) = ends(folder.path(), &sweep, 1);
    assert!(err.contains(&format!("{name}: ")) && err.contains("another process is training in it"), "{err}");
    assert!(out.contains("done") && out.contains("failed"), "{out}");
    assert!(folder.path().join("grid").join(name).join("config.toml").is_file());
}

#[test]
fn a_lost_best_checkpoint_is_told_and_no_other_takes_its_name() {
    let folder = photos();
    let folder = folder.path();
    // From the second epoch on nothing is learnt, so the first stays the best.
    let still = "--schedule multistep --decay-milestones 1 --gamma 1e-30";
    ends(folder, &format!("{TRAIN} {still} --epochs 3 --run-name r"), 0);
    let run = folder.join("runs/r");
    let outcome = || -> Value { serde_json::from_str(&fs::read_to_string(run.join("outcome.json")).unwrap()).unwrap() };
    let whole = outcome();
    assert!(whole["test_accuracy"].is_number() && whole["best_epoch"] == 1, "{whole}");
    let best = fs::read_link(run.join("best")).unwrap();
    fs::remove_file(run.join("best")).unwrap();
    let (out, _) = ends(folder, "eval folder --data photos --checkpoint runs/r --json", 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["accuracy"], whole["best_val_accuracy"]);
    ends(folder, "train --resume runs/r --quiet", 0);
    assert_eq!(fs::read_link(run.join("best")).unwrap(), best);
    assert_eq!(outcome(), whole);
    fs::write(run.join(&best).join("model.safetensors"), "torn").unwrap();
    let (_, err) = ends(folder, "train --resume runs/r --epochs 4 --quiet", 0);
    assert!(err.contains("warning: ") && err.contains("the best with") && err.contains("model.safetensors"), "{err}");
    assert_ne!(outcome()["best_epoch"], 1);
    assert_ne!(fs::read_link(run.join("best")).unwrap(), best);
}

#[test]
fn lost_rows_and_lost_checkpoints_are_told() {
    let folder = photos();
    let folder = folder.path();
    ends(folder, &format!("{TRAIN} --epochs 2 --run-name r"), 0);
    for file in ["metrics.csv", "metrics.jsonl"] {
        fs::remove_file(folder.join("runs/r").join(file)).unwrap();
    }
    let (_, err) = ends(folder, "train --resume runs/r --quiet", 0);
    assert!(err.contains("have lost the rows of epochs 1, 2"), "{err}");
    let before = model(&folder.join("runs/r"));
    fs::rename(folder.join("runs/r/checkpoints"), folder.join("away")).unwrap();
    let (_, err) = ends(folder, "train --resume runs/r", 3);
    assert!(err.contains("checkpoints: is not there") && err.contains("bring the folder back"), "{err}");
    fs::rename(folder.join("away"), folder.join("runs/r/checkpoints")).unwrap();
    assert_eq!(model(&folder.join("runs/r")), before);
}

#[test]
fn the_same_images_may_move_and_others_are_named() {
    let folder = photos();
    let folder = folder.path();
    ends(folder, &format!("{TRAIN} --epochs 1 --run-name r"), 0);
    fs::rename(folder.join("photos"), folder.join("moved")).unwrap();
    let (_, err) = ends(folder, "train --resume runs/r --data moved --epochs 2", 0);
    assert!(err.contains("the same images from another folder"), "{err}");
    let dataset = open_folder(&folder.join("moved")).unwrap();
    let changed = first_file(&dataset.train);
    image::RgbImage::new(60, 40).save(&changed).unwrap();
    let (_, err) = ends(folder, "train --resume runs/r --data moved --epochs 3", 3);
    let name = changed.file_name().unwrap().to_string_lossy();
    assert!(err.contains(&*name) && err.contains("(train) has changed"), "{err}");
}

#[test]
fn auto_goes_on_with_the_run_that_is_named_or_fits() {
    let folder = photos();
    let folder = folder.path();
    ends(folder, &format!("{TRAIN} --epochs 1 --run-name mine"), 0);
    ends(folder, &format!("{TRAIN} --epochs 1"), 0);
    let (out, _) = ends(folder, &format!("{TRAIN} --epochs 2 --run-name mine --resume auto"), 0);
    assert!(out.contains("runs/mine"), "{out}");
    let (out, err) = ends(folder, &format!("{TRAIN} --epochs 1 --run-name other --resume auto"), 0);
    assert!(out.contains("runs/other") && err.contains("beginning a new run"), "{out}{err}");
    // The newest that begins alike has another rate.
    let slow = TRAIN.replace("1e-3", "1e-4");
    let (out, err) = ends(folder, &format!("{slow} --epochs 1 --resume auto"), 0);
    assert!(!out.contains("runs/mine") && err.contains("beginning a new run"), "{out}{err}");
    let (_, err) = ends(folder, &format!("{slow} --epochs 2 --resume auto"), 0);
    assert!(err.contains("resuming at step 3"), "{err}");
}

#[test]
fn a_damaged_cell_does_not_stop_a_sweep() {
    let folder = photos();
    let folder = folder.path();
    let sweep = format!("{} --output grid --epochs 1", TRAIN.replace("train folder 10", "sweep folder"));
    ends(folder, &format!("{sweep} --keep 10 --seeds 1"), 0);
    let damaged = folder.join("grid/folder-k10-l2-s1/manifest.json");
    fs::write(&damaged, "{").unwrap();
    let (out, err) = ends(folder, &format!("{sweep} --keep 10 --seeds 1,2"), 1);
    assert!(err.contains("manifest.json") && out.contains("done") && out.contains("failed"), "{out}{err}");
    assert!(folder.join("grid/folder-k10-l2-s2/outcome.json").is_file());
}

#[cfg(unix)]
#[test]
fn a_terminal_that_closes_costs_no_training() {
    let folder = photos();
    let folder = folder.path();
    let ignored = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored.lines().find_map(|line| line.strip_prefix("SigIgn:").map(|mask| mask.trim().to_string()));
    if ignored.is_none_or(|mask| u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask & 1 == 1)) {
        eprintln!("SKIPPED: SIGHUP is ignored here, or nothing tells whether it is");
        return;
    }
    let words: Vec<String> =
        format!("{TRAIN} --epochs 1000 --run-name r --save-steps 1").split(' ').map(String::from).collect();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_dynavit"))
        .current_dir(folder)
        .args(&words)
        .env("DYNAVIT_LIBCUDA", "nowhere/libcuda.so.1")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !folder.join("runs/r/last").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let hangup = ["-HUP".to_string(), child.id().to_string()];
    // A shell sends it and the terminal sends it again.
    for _ in 0..2 {
        assert!(std::process::Command::new("kill").args(&hangup).status().unwrap().success());
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    ends(folder, "train --resume runs/r --epochs 1 --quiet", 0);
}
