//! Sweeps and reports, end to end: killed, changed, failed and interrupted sweeps, and the page that a report is.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::dynavit;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

const BIN: &str = env!("CARGO_BIN_EXE_dynavit");

/// The smallest grid with everything in it: five runs of a second each.
const GRID: &str = "sweep voc --data drawn --model vit_micro_patch16_224 --keep 30,100 --scorer l2,random \
                    --seeds 1,2 --eval-keep 30,100 --corrupt contrast:5,jpeg:1 --epochs 1 --batch-size 12 --save-steps 1 --workers 1";

/// A folder with a sample of few images.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "data sample --output drawn --images 40 --seed 5", 0);
    folder
}

/// Runs, demands the exit code, and returns stdout and stderr.
#[track_caller]
fn run(folder: &Path, line: &str, code: i32) -> (String, String) {
    let (got, out, err) = command::run(folder, line);
    assert_eq!(got, Some(code), "{line}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

/// The files of a folder by name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn a_sweep_killed_at_random_moments_ends_with_the_same_tables() {
    let folder = folder();
    let folder = folder.path();
    let (out, err) = run(folder, &format!("{GRID} --output whole"), 0);
    assert_eq!(out.matches(" done ").count(), 6, "{out}");
    assert!(err.contains("6 to do") && err.contains("left]"), "{err}");

    let mut random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("kill times follow from {random}");
    let mut kills = 0;
    loop {
        let words: Vec<&str> = GRID.split_whitespace().chain(["--output", "killed", "--quiet"]).collect();
        let mut command = std::process::Command::new(BIN);
        command.current_dir(folder).args(words).env("DYNAVIT_LIBCUDA", "nowhere/libcuda.so.1");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Later and later, so that it ends on any machine.
        let end = Instant::now() + Duration::from_millis(u64::from(random >> 16) % 1200 + 400 * kills);
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "after {kills} kills: {status}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    println!("killed {kills} times");
    for name in ["whole", "killed"] {
        run(folder, &format!("report {name} --output {name}-report --no-times"), 0);
    }
    let (whole, killed) = (files(&folder.join("whole-report")), files(&folder.join("killed-report")));
    assert_eq!(whole.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>());
    for (name, text) in &whole {
        assert_eq!(text, &killed[name], "{name}");
    }
    for name in [
        "report.md",
        "table-2-3.csv",
        "table-4.csv",
        "table-5.csv",
        "table-6.csv",
        "mcnemar.csv",
        "eval-keep-val.csv",
        "corruption-val.csv",
        "corruption-cost-test.csv",
    ] {
        assert!(whole.contains_key(name), "{name} of {:?}", whole.keys());
    }
    refusals(folder);
    page(folder);
}

/// What a changed command says of a finished sweep.
fn refusals(folder: &Path) {
    let (out, err) = run(folder, &format!("{GRID} --output whole"), 0);
    assert!(err.contains("0 to do") && out.matches(" done ").count() == 6, "{out}{err}");
    let (out, _) = run(folder, &format!("{GRID} --seeds 9 --output whole --dry-run"), 0);
    assert!(out.contains("9 runs in whole, 6 done") && out.contains("voc-k30-random-s9"), "{out}");
    for (line, words) in [
        (format!("{GRID} --output whole --lr 0.5"), ["--lr", "whole/voc-k"]),
        (GRID.replace("--epochs 1", "--epochs 3 --output whole"), ["--epochs", "trained with 1"]),
        (GRID.replace("--keep 30,100", "--keep 50 --gamma 0.25 --output whole"), ["--gamma", "trained with 0.1"]),
        (format!("{GRID} --output x --vary lr"), ["--vary", "OPTION=A,B"]),
        (format!("{GRID} --output x --vary lr=1e-3,high"), ["--vary", "'high'"]),
        (format!("{GRID} --output x --vary lr=1e-3,-1"), ["--lr", "above 0"]),
        (format!("{GRID} --output x --vary lrr=1"), ["--vary", "lrr is no option"]),
        (format!("{GRID} --output x --vary threads=1,2"), ["--vary", "one engine"]),
        (format!("{GRID} --output x --vary seed=1,2"), ["--vary", "--seeds"]),
        (format!("{GRID} --output x --vary epochs=1,2"), ["--vary", "given as well"]),
        (format!("{GRID} --output x --keep-schedule 100"), ["keep-schedule", "by K"]),
        (format!("{GRID} --output x --val-keep 20"), ["val-keep", "by K"]),
        (format!("{GRID} --output x --eval-keep mass:0.5"), ["mass:0.5", "percentage"]),
        (format!("{GRID} --output x --eval-keep 30,30"), ["--eval-keep", "30 stands there twice"]),
        (GRID.replace("--keep 30", "--keep 300"), ["300", "--keep"]),
        (GRID.to_string(), ["--output", "required"]),
    ] {
        let (out, err) = run(folder, &line, 2);
        assert!(out.is_empty() && words.iter().all(|word| err.contains(word)), "{line}: {err}");
    }
    assert!(!folder.join("x").exists());
    let (_, err) = run(folder, "report drawn --output r", 3);
    assert!(err.contains("drawn") && err.contains("holds none"), "{err}");
}

/// The page of the finished sweep: sound, whole, and on its own.
fn page(folder: &Path) {
    let (coverage, _) = run(folder, "coverage voc --data drawn --scorer l2 --keep 30,70 --json", 0);
    std::fs::write(folder.join("coverage.json"), coverage).unwrap();
    let line = "explain drawn/VOC2012/JPEGImages/2012_000001.jpg drawn/VOC2012/JPEGImages/2012_000002.jpg --weights \
                whole/voc-k100-s1 --samples 60 --compare sobel --compare-keep 50 --json";
    let (lime, _) = run(folder, line, 0);
    std::fs::write(folder.join("lime.json"), lime).unwrap();
    let (_, err) = run(folder, "report whole --output full --with whole/voc-k100-s1/env.json", 3);
    assert!(err.contains("env.json") && err.contains("coverage --json"), "{err}");
    std::fs::write(folder.join("torn.json"), "{\"dataset\": ").unwrap();
    let (_, err) = run(folder, "report whole --output full --with torn.json", 3);
    assert!(err.contains("torn.json") && err.contains("no whole JSON"), "{err}");
    let (out, _) = run(folder, "report whole --output full --with coverage.json,lime.json,coverage.json", 0);
    assert!(out.contains("report.html") && out.contains("K = 30 %, l2 against K = 100 %"), "{out}");
    assert!(out.contains("of the annotated objects' area at K = 70 %"), "{out}");
    assert!(out.contains("corrupted (jpeg 1; contrast 5), where K = 100 % reaches"), "{out}");
    for (name, rows) in [("coverage.csv", 6), ("coverage-2.csv", 6), ("lime.csv", 3)] {
        let table = std::fs::read_to_string(folder.join("full").join(name)).unwrap();
        assert_eq!(table.lines().count(), 1 + rows, "{name}: {table}");
    }
    let text = std::fs::read_to_string(folder.join("full/report.html")).unwrap();
    let body = text.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let tree = roxmltree::Document::parse(body).unwrap();
    let named = |name: &'static str| tree.descendants().filter(move |node| node.tag_name().name() == name);
    assert_eq!(named("svg").count(), 12);
    for svg in named("svg") {
        let child = |name| svg.children().find(|node| node.tag_name().name() == name).and_then(|node| node.text());
        assert!(svg.attribute("role") == Some("img") && child("title").is_some(), "a plot without a title");
        assert!(child("desc").is_some_and(|words| words.contains(" against ")), "a plot without words");
    }
    for name in ["script", "img", "link", "iframe", "object"] {
        assert_eq!(named(name).count(), 0, "{name}");
    }
    for node in tree.descendants() {
        for attribute in node.attributes() {
            let outside = ["http:", "https:", "//", "url("].iter().any(|part| attribute.value().contains(part));
            assert!(!outside && !["href", "src"].contains(&attribute.name()), "{attribute:?}");
        }
    }
    assert!(!text.contains("@import") && !text.contains("url("));
    assert!(named("table").count() >= 8 && named("th").all(|th| th.attribute("scope") == Some("col")));

    let Some(browser) = std::env::var_os("DYNAVIT_CHROMIUM") else {
        // Past the harness, which swallows what a passing test prints.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no browser opened the report's page; DYNAVIT_CHROMIUM names one");
        return;
    };
    for (width, name) in [(1200, "wide.png"), (400, "narrow.png")] {
        let shot = folder.join(name);
        let status = std::process::Command::new(&browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg(format!("--screenshot={}", shot.display()))
            .arg(format!("--window-size={width},2000"))
            .arg(format!("file://{}", folder.join("full/report.html").display()))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let picture = image::open(&shot).unwrap().to_rgb8();
        assert_eq!(picture.width(), width);
        let ground = *picture.get_pixel(1, 1);
        let inked = picture.pixels().filter(|&&pixel| pixel != ground).count();
        assert!(inked > (width * 40) as usize, "{inked} pixels of {name} are inked");
    }
}

#[test]
fn a_cell_that_fails_is_told_and_the_others_go_on() {
    let folder = folder();
    let folder = folder.path();
    let line = "sweep voc --data drawn --model vit_micro_patch16_224 --keep 30 --seeds 1 --vary gamma=1e30,0.5 \
                --epochs 3 --step-size 1 --batch-size 12 --lr 1e-3 --workers 1 --output s --json";
    let (out, err) = run(folder, line, 1);
    assert!(err.contains("failed: voc-k30-l2-gamma-1e30-s1: ") && err.contains("1 of 2 runs failed"), "{err}");
    let lines: serde_json::Value = serde_json::from_str(&out).unwrap();
    let states: Vec<&str> = lines.as_array().unwrap().iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "done"]);
    assert!(lines[0]["error"].as_str().unwrap().contains("finite") && lines[1]["val_accuracy"].as_f64().is_some());
    let (out, _) = run(folder, "report s --output r", 0);
    assert!(out.contains("left out") || out.contains("missing"), "{out}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_sweep_exits_with_130_and_goes_on() {
    let folder = folder();
    let folder = folder.path();
    let line = "sweep voc --data drawn --model vit_micro_patch16_224 --keep 30 --seeds 1 --epochs 4 \
                --batch-size 4 --workers 1 --output s";
    let mut command = std::process::Command::new(BIN);
    command.current_dir(folder).args(line.split_whitespace()).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.env("DYNAVIT_LIBCUDA", "nowhere/libcuda.so.1").spawn().unwrap();
    let patience = Instant::now();
    while !folder.join("s/voc-k30-l2-s1/last").exists() && child.try_wait().unwrap().is_none() {
        assert!(patience.elapsed() < Duration::from_secs(300), "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("the same command goes on"), "{err}");
    let (out, _) = run(folder, &format!("{line} --dry-run"), 0);
    assert!(out.contains("to go on with"), "{out}");
    let output = dynavit(folder, &line.split_whitespace().collect::<Vec<_>>()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
