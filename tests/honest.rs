//! What the command says of its data, its settings and its failures is the case.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::{dynavit, run};
use serde_json::Value;
use std::path::Path;

/// Runs a command line that must succeed; returns stdout and stderr.
#[track_caller]
fn done(folder: &Path, line: &str) -> (String, String) {
    let (code, out, err) = run(folder, line);
    assert_eq!(code, Some(0), "{line}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

/// The document that a command line prints, and stderr.
#[track_caller]
fn json(folder: &Path, line: &str) -> (Value, String) {
    let (out, err) = done(folder, line);
    (serde_json::from_str(&out).unwrap(), err)
}

/// A picture like no other of another number.
fn picture(path: &Path, number: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |x: u32, y: u32| image::Rgb([(x * (number + 1)) as u8, (y * (number % 7 + 3)) as u8, number as u8]);
    image::RgbImage::from_fn(40, 30, pixel).save(path).unwrap();
}

/// Sixteen pictures of each of two classes in `name`, numbered from `first` on.
fn photos(folder: &Path, name: &str, first: u32) {
    for i in 0..16 {
        picture(&folder.join(format!("{name}/bus/{i:02}.png")), first + i);
        picture(&folder.join(format!("{name}/egg/{i:02}.png")), first + 16 + i);
    }
}

const SMALL: &str = "--model vit_micro_patch16_224 --img-size 64 --epochs 1 --batch-size 8 --quiet --threads 1";

#[test]
fn eval_tells_how_many_images_the_run_was_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder, "photos", 0);
    photos(folder, "others", 100);
    done(folder, &format!("train folder 50 --data photos --run-name r {SMALL}"));
    let eval = |more: &str| json(folder, &format!("eval folder --checkpoint runs/r --json --threads 1 {more}"));
    for more in ["", "--split test", "--data others"] {
        let (report, err) = eval(more);
        assert_eq!((&report["trained_on"], err.as_str()), (&Value::from(0), ""), "{more}");
    }
    let (report, err) = eval("--split train");
    assert_eq!((&report["trained_on"], err.as_str()), (&report["images"], ""));
    // More images in the folders are other splits.
    for i in 0..24 {
        picture(&folder.join(format!("photos/bus/0{i:02}.png")), 200 + i);
    }
    let (report, err) = eval("--report out");
    let count = report["trained_on"].as_u64().unwrap();
    assert!(count > 0 && count <= report["images"].as_u64().unwrap(), "{report}");
    assert!(err.contains("warning: ") && err.contains(&format!("r was trained on {count} of these")), "{err}");
    let written = std::fs::read_to_string(folder.join("out/report.json")).unwrap();
    assert!(written.contains(&format!("\"trained_on\": {count}")), "{written}");
    let (text, _) = done(folder, "eval folder --checkpoint runs/r --threads 1");
    assert!(text.contains(&format!("\n{count} of them are images that the run was trained on\n")), "{text}");
    std::fs::copy(folder.join("runs/r/best/model.safetensors"), folder.join("w.safetensors")).unwrap();
    let (report, err) = json(folder, "eval folder --data photos --checkpoint w.safetensors --json --threads 1");
    assert_eq!((&report["trained_on"], err.as_str()), (&Value::Null, ""));
    std::fs::write(folder.join("runs/r/manifest.json"), "torn").unwrap();
    let (report, err) = eval("");
    assert!(report["trained_on"].is_null() && err.contains("manifest.json cannot be read"), "{err}");
}

#[test]
fn the_variable_of_trains_split_is_not_that_of_evals_policy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    done(folder, "data sample --output drawn --images 60 --seed 5");
    done(folder, &format!("train voc 50 --data drawn --run-name r {SMALL}"));
    let eval = |variable: &str| {
        let words = ["eval", "voc", "--checkpoint", "runs/r", "--json", "--threads", "1"];
        let output = dynavit(folder, &words).env(variable, "lists").output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (plain, _) = done(folder, "eval voc --checkpoint runs/r --json --threads 1");
    assert_eq!(eval("DYNAVIT_SPLIT"), (plain.clone(), String::new()));
    let (lists, err) = eval("DYNAVIT_SPLIT_POLICY");
    assert!(lists != plain && err.contains("was trained on"), "{err}");
}

#[test]
fn drawn_images_are_called_a_sample_and_hashed_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    done(folder, "data sample --output drawn --images 60 --seed 5");
    let (plan, _) = done(folder, &format!("train voc 50 --data drawn --dry-run {SMALL}"));
    assert!(plan.contains("data       sample, 5 classes") && plan.contains("drawn by the program"), "{plan}");
    let (table, _) = done(folder, "coverage voc --data drawn --scorer center --keep 50 --threads 1");
    assert!(table.starts_with("sample, split all") && !table.contains("voc2012"), "{table}");
    done(folder, &format!("train voc 50 --data drawn --run-name r {SMALL}"));
    let (report, _) = json(folder, "eval voc --checkpoint runs/r --json --threads 1");
    assert_eq!(report["dataset"], "sample");
    // The same files without the mark of the program are a VOC2012, and have the same hash.
    std::fs::create_dir(folder.join("plain")).unwrap();
    std::fs::rename(folder.join("drawn/VOC2012"), folder.join("plain/VOC2012")).unwrap();
    let (plain, _) = done(folder, "data verify voc --data plain --threads 1");
    std::fs::rename(folder.join("plain/VOC2012"), folder.join("drawn/VOC2012")).unwrap();
    let (drawn, _) = done(folder, "data verify voc --data drawn --threads 1");
    assert_eq!(plain.replace("voc2012: ", "sample: "), drawn);
    // A run that has the older name in its manifest goes on.
    let manifest = folder.join("runs/r/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("\"name\": \"sample\""));
    std::fs::write(&manifest, text.replace("\"name\": \"sample\"", "\"name\": \"voc2012\"")).unwrap();
    done(folder, "train --resume runs/r --epochs 2 --quiet --threads 1");
}

#[test]
fn a_dry_run_tells_that_it_fell_back_to_the_sample() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Another sample than the built-in one: the notice comes before it is refused, and nothing need be drawn.
    done(folder, "data sample --output data/sample --images 5");
    let (code, _, err) = run(folder, "train voc 70 --dry-run");
    assert!(code == Some(3) && err.starts_with("notice: no VOC found") && err.contains("drawn images"), "{err}");
}

#[test]
fn compute_is_compared_by_one_convention() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder, "photos", 0);
    let plan = |keep: &str, more: &str| format!("train folder {keep} --data photos --dry-run {SMALL} {more}");
    let (whole, _) = json(folder, &plan("100", "--json"));
    assert_eq!(whole["macs_executed"], whole["macs_executed_unpruned"]);
    let (half, _) = json(folder, &plan("50", "--json"));
    assert_eq!(half["macs_executed_unpruned"], whole["macs_executed"]);
    let (text, _) = done(folder, &plan("100", ""));
    let line = text.lines().find(|line| line.starts_with("compute")).unwrap();
    let giga = format!("{:.3}", whole["macs_executed"].as_f64().unwrap() / 1e9);
    assert_eq!(line, format!("compute    {giga} GMACs an image forward, as executed; unpruned {giga}"));
}
