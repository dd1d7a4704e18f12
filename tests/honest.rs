//! What the command says of its data, its settings and its failures is the case.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::{done, dynavit, run};
use serde_json::Value;
use std::path::Path;

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
    for more in ["", "--split test"] {
        let (report, err) = eval(more);
        assert_eq!((&report["trained_on"], err.as_str()), (&Value::from(0), ""), "{more}");
    }
    // Images of elsewhere are split as those of a run are, which is told, and may all be taken.
    let (report, err) = eval("--data others");
    assert_eq!((&report["trained_on"], &report["images"]), (&0.into(), &4.into()));
    assert!(err.contains("note: 4 of 32 images are evaluated; --split all takes every one"), "{err}");
    let (report, err) = eval("--data others --split all");
    assert_eq!((&report["images"], &report["split"], err.contains("evaluated")), (&32.into(), &"all".into(), false));
    // So may those of a folder held out, of which there is nothing to train on and not every class.
    std::fs::create_dir_all(folder.join("held/test")).unwrap();
    std::fs::rename(folder.join("others/egg"), folder.join("held/test/egg")).unwrap();
    let (held, err) = eval("--data held --split test");
    assert_eq!((&held["images"], &held["confusion"][1]), (&16.into(), &report["confusion"][1]));
    assert!(err.contains("note: test has no image of bus"), "{err}");
    let (code, _, err) = run(folder, "eval folder --checkpoint runs/r --data held");
    assert!(code == Some(2) && err.contains("no image in val, and 16 in test"), "{err}");
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
    let (report, err) =
        json(folder, "eval folder --data photos --checkpoint w.safetensors --json --threads 1 --split all");
    assert!(report["trained_on"].is_null() && !err.contains("warning"), "{err}");
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

/// A trained run `runs/r` on `photos`.
fn run_on_photos(folder: &Path, more: &str) {
    photos(folder, "photos", 0);
    done(folder, &format!("train folder 50 --data photos --run-name r {SMALL} {more}"));
}

#[test]
fn predict_passes_over_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_on_photos(folder, "");
    for name in ["0.png", "05x.jpg"] {
        std::fs::write(folder.join("photos/egg").join(name), "text").unwrap();
    }
    let line = "predict photos/egg --weights runs/r --threads 1 --batch-size 4";
    let (code, out, err) = run(folder, &format!("{line} --json"));
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, document["images"].as_array().unwrap().len()), (Some(3), 16));
    assert_eq!(document["failed"][1]["path"], "photos/egg/05x.jpg");
    let lines: Vec<&str> = err.lines().collect();
    assert!(lines[0].starts_with("bad: photos/egg/0.png: ") && lines[1].starts_with("bad: photos/egg/05x.jpg: "));
    assert!(lines.len() == 3 && lines[2].starts_with("error: photos/egg/0.png: 2 of 18 images"), "{err}");
    let (code, out, _) = run(folder, line);
    assert_eq!((code, out.lines().count()), (Some(3), 16));
    let (code, out, _) = run(folder, &format!("{line} --jsonl"));
    let answers: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, answers.len()), (Some(3), 18));
    assert_eq!(answers.iter().filter(|answer| answer.get("reason").is_some()).count(), 2);
    assert_eq!(answers[0], document["failed"][0]);
    // The others are what they are without the bad ones.
    let (alone, err) = json(folder, "predict photos/egg/07.png --weights runs/r --threads 1 --json");
    assert!(err.is_empty() && alone.get("failed").is_none());
    assert_eq!(document["images"][7]["kept"], alone["images"][0]["kept"]);
    // One bad image alone is the command's error, and in JSON there is a document all the same.
    for bad in ["photos/egg/0.png", "gone.png"] {
        let (code, out, err) = run(folder, &format!("predict {bad} --weights runs/r"));
        assert!(code == Some(3) && out.is_empty() && err.starts_with(&format!("error: {bad}: ")), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        for form in ["--json", "--jsonl"] {
            let (code, out, _) = run(folder, &format!("predict {bad} --weights runs/r {form}"));
            let answer: Value = serde_json::from_str(&out).unwrap();
            let failed = if form == "--json" { &answer["failed"][0] } else { &answer };
            assert!(code == Some(3) && failed["path"] == bad && failed["reason"].is_string(), "{answer}");
        }
    }
    // What is not there, and what holds no image, costs the others nothing.
    std::fs::create_dir(folder.join("empty")).unwrap();
    std::fs::write(folder.join("photos/notes.txt"), "text").unwrap();
    for command in ["predict", "visualize --output v", "explain --output e --samples 20"] {
        let weights = if command.starts_with('v') { "" } else { "--weights runs/r" };
        let (code, out, err) =
            run(folder, &format!("{command} gone.png empty photos/egg/07.png photos/egg/0.png {weights} --json"));
        let answer: Value = serde_json::from_str(&out).unwrap();
        let told: Vec<&str> =
            answer["failed"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
        assert_eq!((code, told), (Some(3), vec!["gone.png", "empty", "photos/egg/0.png"]), "{err}");
        assert_eq!(answer["images"].as_array().unwrap().len(), 1);
        assert!(err.ends_with("3 of 4 images cannot be read, this one first; mend them, or leave them out\n"), "{err}");
    }
    // A document says why where nothing could be looked at.
    for command in ["visualize --output v", "explain --output e --weights runs/r"] {
        let (code, out, _) = run(folder, &format!("{command} gone.png --json"));
        let answer: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, answer["failed"][0]["path"].as_str()), (Some(3), Some("gone.png")));
    }
    let (_, _, err) = run(folder, "predict photos --weights runs/r");
    assert!(err.contains("note: photos: files left out, not being .jpg, .jpeg or .png: 1"), "{err}");
}

#[test]
fn predict_answers_name_by_name_as_they_come() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_on_photos(folder, "");
    let (out, _) = done(folder, "predict photos/egg --weights runs/r --jsonl --device cpu --batch-size 3");
    let apart: Vec<&str> = out.lines().collect();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dynavit"));
    command.current_dir(folder).args("predict - --weights runs/r --jsonl --device cpu".split(' '));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut ask, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    // Each is asked when the one before is answered: a program that waited for more would never answer.
    for (i, answer) in apart.iter().enumerate() {
        writeln!(ask, "photos/egg/{i:02}.png").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), *answer);
        if i == 1 {
            writeln!(ask, "photos/egg/no such.png").unwrap();
            let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
            assert_eq!(answer["path"], "photos/egg/no such.png");
            assert!(answer["reason"].as_str().unwrap().contains("no such.png") && answer.get("logits").is_none());
        }
    }
    // Many at once, with line ends of another system, are answered in their order.
    let many: String = (0..16).map(|i| format!("photos/egg/{i:02}.png\r\n")).collect();
    ask.write_all(many.as_bytes()).unwrap();
    drop(ask);
    let rest: Vec<String> = answers.map(Result::unwrap).collect();
    assert_eq!(rest, apart);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let (code, _, err) = run(folder, "predict - photos --weights runs/r");
    assert!(code == Some(2) && err.contains("alone"), "{err}");
}

#[test]
fn flags_that_change_nothing_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder, "photos", 0);
    let train = format!("train folder 50 --data photos {SMALL} --dry-run");
    let (_, err) = done(folder, &train);
    assert!(!err.contains("changes nothing"), "{err}");
    let (_, err) =
        done(folder, &format!("{train} --schedule cosine --gamma 0.5 --remode pixel --mixup 0.2 --mixup-prob 0.5"));
    let told: Vec<&str> = err.lines().filter(|line| line.contains("changes nothing")).collect();
    assert_eq!(told.len(), 2, "{err}");
    assert!(told[0].starts_with("warning: --gamma ") && told[1].starts_with("warning: --remode "), "{err}");
    // In a sweep, only what is idle in every run of it.
    let sweep =
        format!("sweep folder --data photos {SMALL} --output s --dry-run --entropy-bins 32 --seeds 1 --keep 50");
    let (_, err) = done(folder, &format!("{sweep} --scorer l2,entropy --warmup-lr 1e-6"));
    assert!(!err.contains("--entropy-bins") && err.matches("--warmup-lr changes nothing").count() == 1, "{err}");
    let (_, err) = done(folder, &format!("{sweep} --scorer l2,sobel"));
    assert_eq!(err.matches("--entropy-bins changes nothing").count(), 1, "{err}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_predict_prints_what_is_done() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_on_photos(folder, "");
    std::fs::write(folder.join("bad.png"), "text").unwrap();
    let mut words = vec!["predict", "--weights", "runs/r", "--json", "--batch-size", "2", "--device", "cpu"];
    words.extend(["photos/egg/00.png", "bad.png"]);
    words.extend(["photos/egg"; 2000]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynavit"));
    command.current_dir(folder).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The complaint of the bad file says that the first batch is done.
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("bad: ") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0, "nothing was complained about");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    let document: Value = serde_json::from_str(&out).unwrap();
    let done = document["images"].as_array().unwrap().len();
    assert!((1..32_001).contains(&done) && rest.contains("of 32002 images were looked at"), "{done}: {rest}");
}

#[test]
fn luck_in_predict_depends_on_the_runs_seed_and_the_image_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_on_photos(folder, "--scorer random --seed 7");
    std::fs::copy(folder.join("photos/egg/03.png"), folder.join("same.png")).unwrap();
    let kept = |words: &str| {
        let (document, _) = json(folder, &format!("predict {words} --weights runs/r --threads 1 --json"));
        document["images"].as_array().unwrap().iter().map(|image| image["kept"].clone()).collect::<Vec<_>>()
    };
    let all = kept("photos/egg");
    assert_eq!(kept("same.png photos/bus/00.png")[0], all[3]);
    assert_eq!(kept("photos/egg --seed 7"), all);
    assert!(all[0] != all[1] && kept("photos/egg --seed 8") != all);
    let line = "visualize same.png --output x.png --scorer random --keep 50 --seed 7 --img-size 64 --json \
                --model vit_micro_patch16_224";
    let (shown, _) = json(folder, line);
    assert_eq!(shown["images"][0]["scorers"][0]["selections"][0]["kept"], all[3]);
}

#[test]
fn eval_says_why_it_takes_the_default_splits() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_on_photos(folder, "");
    // Nothing is there to evaluate on: the notice comes first.
    let (_, _, err) = run(folder, "eval cifar100 --data absent --checkpoint runs/r");
    assert!(err.contains("r was trained on folder, not cifar100, so the splits are the default ones"), "{err}");
    std::fs::copy(folder.join("runs/r/best/model.safetensors"), folder.join("w.safetensors")).unwrap();
    let (_, _, err) = run(folder, "eval cifar100 --data absent --checkpoint w.safetensors");
    assert!(err.contains("the checkpoint lies in no run, so the splits are the default ones"), "{err}");
}

#[test]
fn a_bad_value_is_blamed_on_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let blamed = |line: &str, variable: &str, value: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = dynavit(folder.path(), &words).env(variable, value).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let train = "train voc 70 --data x";
    // What the parser refuses, and what is refused later.
    for (value, reason) in [("abc", "invalid value 'abc' for DYNAVIT_LR: "), ("-1", "error: DYNAVIT_LR: ")] {
        let err = blamed(train, "DYNAVIT_LR", value);
        assert!(err.contains(reason) && !err.contains("--lr"), "{err}");
        let err = blamed(&format!("{train} --lr {value}"), "DYNAVIT_LR", "0.1");
        assert!(err.contains("--lr") && !err.contains("DYNAVIT_LR"), "{err}");
    }
    let err = blamed(&format!("{train} --decay-rate=-1"), "DYNAVIT_GAMMA", "0.5");
    assert!(err.contains("--gamma") && !err.contains("DYNAVIT_GAMMA"), "{err}");
    let err = blamed("eval voc --checkpoint x", "DYNAVIT_SCORER", "best");
    assert!(err.contains("for DYNAVIT_SCORER") && err.contains("sobel"), "{err}");
    let err = blamed("eval voc --checkpoint x", "DYNAVIT_KEEP", "110");
    assert!(err.contains("for DYNAVIT_KEEP") && !err.contains("[KEEP]"), "{err}");
    let err = blamed("train voc 120", "DYNAVIT_KEEP", "70");
    assert!(err.contains("[KEEP]") && !err.contains("DYNAVIT_KEEP"), "{err}");
}

#[test]
fn variables_stand_behind_k_and_slips_in_their_names_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder, "photos", 0);
    let plan = |line: &str, variables: &[(&str, &str)]| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = dynavit(folder, &words).envs(variables.iter().copied()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(output.stderr));
        (serde_json::from_str::<Value>(&text(output.stdout)).unwrap()["keep"].clone(), text(output.stderr))
    };
    let line = format!("train folder --data photos {SMALL} --dry-run --json");
    let (keep, err) = plan(&line, &[("DYNAVIT_KEEP", "30")]);
    assert_eq!((keep, err.contains("DYNAVIT")), (30.0.into(), false));
    let (keep, err) = plan(&line.replace("folder", "folder 50"), &[("DYNAVIT_KEEP", "30"), ("DYNAVIT_EPOCH", "3")]);
    assert_eq!(keep, 50.0);
    assert_eq!(err.matches("the variable DYNAVIT_EPOCH is no setting").count(), 1, "{err}");
    std::fs::write(folder.join("c.toml"), "keep = 60\ndataset = 'folder'\n").unwrap();
    let config = format!("train --config c.toml --data photos {SMALL} --dry-run --json");
    assert_eq!([plan(&config, &[]).0, plan(&config, &[("DYNAVIT_KEEP", "30")]).0], [60.0, 30.0]);
}

#[cfg(unix)]
#[test]
fn names_steer_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder, "photos", 0);
    let odd = folder.join("photos/\u{1b}[31m\u{9b}e\ngg");
    std::fs::rename(folder.join("photos/egg"), &odd).unwrap();
    done(folder, &format!("train folder 50 --data photos --run-name r {SMALL}"));
    let clean = |words: &[&str], code: i32| {
        let output = dynavit(folder, words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(
            ![&out, &err].iter().any(|text| text.contains(|c: char| c.is_control() && c != '\n')),
            "{out:?}{err:?}"
        );
        (out, err)
    };
    let (out, _) = clean(&["eval", "folder", "--checkpoint", "runs/r", "--split", "train"], 0);
    assert!(out.lines().any(|line| line.starts_with(" [31m e gg ")), "{out}");
    std::fs::write(odd.join("00x.png"), "text").unwrap();
    let (out, err) = clean(&["predict", odd.to_str().unwrap(), "--weights", "runs/r"], 3);
    assert!(out.lines().count() == 16 && out.lines().all(|line| line.contains("/ [31m e gg/")), "{out}");
    assert!(err.contains("bad: ") && err.contains("[31m e gg/00x.png: "), "{err}");
}

#[test]
fn missing_data_are_told_with_the_command_that_fetches_them() {
    let folder = tempfile::tempdir().unwrap();
    for (name, data) in [("cifar100", ""), ("tiny-imagenet", ""), ("voc", "--data absent")] {
        let (code, _, err) = run(folder.path(), &format!("train {name} 70 --dry-run {data}"));
        assert_eq!(code, Some(3));
        assert!(err.contains(&format!("`dynavit data download {name}`")) && err.contains("--data"), "{err}");
    }
}
