//! The training options beyond the paper's recipe, through the command: what they refuse, and that they do what they say.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::{dynavit, run as line};
use dynavit::data::{Batch, Norm, noise};
use dynavit::device::cuda::{Gpu, Store, Target};
use dynavit::model::{DropPath, Vit, VitConfig, VitOptions};
use dynavit::optim::Freeze;
use dynavit::optim::{AdamW, NoDecay, layers, no_decay_ranges, rates};
use dynavit::prune::Kept;
use dynavit::tensor::Tensor;
use dynavit::tensor::compare::relative_norm;
use dynavit::train::{DatasetName, Learner, TrainConfig};
use dynavit::weights::Weights;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// A run that loses everything after its second update and is resumed; its folder, and what resuming said.
#[track_caller]
fn torn(folder: &Path, train: &str, name: &str) -> (PathBuf, String) {
    run(folder, train);
    let torn = in_runs(folder, name);
    for entry in std::fs::read_dir(torn.join("checkpoints")).unwrap() {
        let entry = entry.unwrap();
        let step: u32 = entry.file_name().to_str().unwrap().strip_prefix("step-").unwrap().parse().unwrap();
        if step > 2 {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    let (_, err) = run(folder, &format!("train --resume {}", torn.display()));
    (torn, err)
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
        ("--model-ema --model-ema-decay 1", ["--model-ema-decay", "below 1"]),
        ("--layer-decay 0", ["--layer-decay", "up to 1"]),
        ("--layer-decay 1.5", ["--layer-decay", "up to 1"]),
        ("--drop-path 1", ["--drop-path", "below 1"]),
        ("--drop-path 0.1 --freeze backbone", ["--drop-path", "--freeze none"]),
        ("--patience 0", ["--patience", "at least 1"]),
        ("--seeds 1,2,1", ["--seeds", "twice"]),
        ("--seeds 1,2 --seed 3", ["--seed", "--seeds"]),
        ("--seeds 1,2 --resume x", ["--resume", "auto"]),
        ("--config x --resume auto", ["--config", "--resume"]),
        ("--seeds 1,x", ["--seeds", "x"]),
        ("--freeze head", ["--freeze", "backbone"]),
        ("--clip-grad 0", ["--clip-grad", "above 0"]),
        ("--clip-grad inf", ["--clip-grad", "above 0"]),
        ("--grad-accum 0", ["--grad-accum", "from 1"]),
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

/// A ViT of two blocks on images of 64 pixels.
fn small_vit() -> Vit {
    let config = VitConfig { image_size: 64, depth: 2, ..VitConfig::named("vit_micro_patch16_224", 5).unwrap() };
    Vit::init(config, VitOptions::default(), 3)
}

/// Images `from..to` of a batch.
fn part(batch: &Batch, from: usize, to: usize) -> Batch {
    let size = batch.rgb.len() / batch.labels.len();
    Batch {
        images: batch.images[from * size..to * size].to_vec(),
        rgb: batch.rgb[from * size..to * size].to_vec(),
        labels: batch.labels[from..to].to_vec(),
        ids: batch.ids[from..to].to_vec(),
        mixed: None,
        norm: batch.norm,
    }
}

#[test]
fn parts_of_a_batch_add_up_to_its_gradient() {
    let recipe = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
    let batch = noise(7, 64, Norm::Half, 5, 1);
    let mut vit = small_vit();
    let len = vit.params.flat().len();
    let mut optim = AdamW::new(len, recipe.adamw(), Vec::new());
    let mut gradient = |from, to, share| {
        let mut grads = Tensor::zeros(&[len]);
        let mut learner = Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut None };
        let (loss, _) = learner.gradients(&recipe.prune(), part(&batch, from, to), 0, 0.1, share).unwrap();
        (f64::from(loss), grads)
    };
    let (loss, whole) = gradient(0, 7, 1.0);
    let (first_loss, mut sum) = gradient(0, 4, 4.0 / 7.0);
    let (second_loss, second) = gradient(4, 7, 3.0 / 7.0);
    sum.add(&second).unwrap();
    assert!((loss - (4.0 * first_loss + 3.0 * second_loss) / 7.0).abs() < 1e-6);
    let wide: Vec<f64> = whole.data().iter().map(|&g| f64::from(g)).collect();
    let error = relative_norm(sum.data(), &wide);
    // Sums of seven images in another order: each of a handful of roundings is 6e-8.
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn gathered_batches_train_like_a_large_one_and_resume_bit_for_bit() {
    let folder = small_sample();
    let folder = folder.path();
    let plain = "--epochs 2 --warmup-epochs 0.5 --schedule cosine --clip-grad 1";
    run(folder, &train("large", plain));
    let small = format!("{plain} --batch-size 4 --grad-accum 3 --save-steps 1");
    let gathered = |name: &str, more: &str| train(name, &format!("{small} {more}")).replace("--batch-size 12", "");
    run(folder, &gathered("gathered", ""));
    let (large, gathered_run) = (in_runs(folder, "large"), in_runs(folder, "gathered"));
    assert_eq!(column(&gathered_run, "lr"), column(&large, "lr"));
    assert_eq!(column(&gathered_run, "step"), column(&large, "step"));
    for (a, b) in column(&gathered_run, "train_loss").into_iter().zip(column(&large, "train_loss")) {
        assert!((a / b - 1.0).abs() < 1e-3, "training loss {a} and {b}");
    }
    let (torn, err) = torn(folder, &gathered("torn", "--keep-checkpoints 100"), "torn");
    assert!(err.contains("resuming at step 2 (epoch 1 of 2, 6 batches into it)"), "{err}");
    assert_eq!(model(&torn), model(&gathered_run));
    assert_eq!(column(&torn, "train_loss"), column(&gathered_run, "train_loss"));
}

#[test]
fn averaged_weights_validate_travel_and_resume_bit_for_bit() {
    let folder = small_sample();
    let folder = folder.path();
    let flags = "--model-ema --model-ema-decay 0.9 --epochs 2 --save-steps 1 --keep-checkpoints 100";
    run(folder, &train("whole", flags));
    let whole = in_runs(folder, "whole");
    let (torn, _) = torn(folder, &train("torn", flags), "torn");
    assert_eq!(model(&torn), model(&whole));
    assert_eq!(column(&torn, "val_loss"), column(&whole, "val_loss"));
    // What eval loads is what validated.
    let (out, _) =
        run(folder, &format!("eval voc 10 --data drawn --checkpoint {}/last --split val --json", whole.display()));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let loss = column(&whole, "val_loss")[1];
    assert!((report["loss"].as_f64().unwrap() / loss - 1.0).abs() < 1e-6, "{} and {loss}", report["loss"]);
    // The training itself is that of a run without an average.
    run(folder, &train("plain", "--epochs 2"));
    let plain = in_runs(folder, "plain");
    assert_eq!(column(&whole, "train_loss"), column(&plain, "train_loss"));
    assert_ne!(column(&whole, "val_loss"), column(&plain, "val_loss"));
    let last = |run: &Path, file: &str| Weights::open(&run.join("last").join(file)).unwrap();
    let (raw, trained) = (last(&whole, "optim.safetensors"), last(&plain, "model.safetensors"));
    let values = |weights: &Weights, name: &str| {
        let mut values = vec![0.0; weights.info(name).unwrap().shape.iter().product()];
        weights.read_f32(name, &mut values).unwrap();
        values
    };
    assert_eq!(values(&raw, "param.norm.weight"), values(&trained, "norm.weight"));
}

#[test]
fn a_frozen_backbone_keeps_its_bits_and_costs_the_head_nothing() {
    let folder = small_sample();
    let folder = folder.path();
    run(folder, &train("frozen", "--epochs 1 --freeze backbone --clip-grad 1"));
    let weights = Weights::open(&in_runs(folder, "frozen").join("last/model.safetensors")).unwrap();
    let fresh = Vit::init(VitConfig::named("vit_micro_patch16_224", 5).unwrap(), VitOptions::default(), 42);
    for id in fresh.params.ids() {
        let mut values = vec![0.0; fresh.params.values(id).len()];
        weights.read_f32(fresh.params.name(id), &mut values).unwrap();
        let same = values == fresh.params.values(id);
        assert_eq!(same, !fresh.params.name(id).starts_with("head."), "{}", fresh.params.name(id));
    }

    let recipe = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
    let gradient = |freeze: Freeze| {
        let mut vit = small_vit();
        vit.params.freeze(|name| freeze.holds(name));
        let len = vit.params.flat().len();
        let (mut optim, mut grads) = (AdamW::new(len, recipe.adamw(), Vec::new()), Tensor::zeros(&[len]));
        let mut learner = Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut None };
        let (loss, _) = learner.gradients(&recipe.prune(), noise(4, 64, Norm::Half, 5, 1), 0, 0.0, 1.0).unwrap();
        (loss, grads.data().to_vec())
    };
    let ((loss, frozen), (full_loss, full)) = (gradient(Freeze::Backbone), gradient(Freeze::None));
    let head = frozen.len() - 5 * 128 - 5;
    assert_eq!((loss, &frozen[head..]), (full_loss, &full[head..]));
    assert!(frozen[..head].iter().all(|&g| g == 0.0));
}

#[test]
fn layers_learn_at_their_share_of_the_rate_on_the_card_as_on_the_cpu() {
    let recipe = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
    let groups = [NoDecay::Bias, NoDecay::Pos];
    let optim = |vit: &Vit| {
        let mut optim = AdamW::new(vit.params.flat().len(), recipe.adamw(), no_decay_ranges(&vit.params, &groups));
        optim.rates = rates(&layers(&vit.config.parameters(), 0.5, Freeze::None, &groups));
        optim
    };
    let grads: Vec<f32> = (0..small_vit().params.flat().len()).map(|i| (i % 7) as f32 - 3.0).collect();
    let grads = Tensor::from_vec(grads.clone(), &[grads.len()]);
    let before = small_vit().params.flat().data().to_vec();
    let mut host = small_vit();
    optim(&host).update(host.params.flat_mut(), &grads, 1e-2);
    // The first update moves by the rate, whatever the gradient's size: stem, two blocks, head.
    let at = |name: &str| host.params.range(host.params.find(name).unwrap()).start + 1;
    for (name, share) in
        [("cls_token", 0.125), ("blocks.0.mlp.fc1.weight", 0.25), ("norm.weight", 0.5), ("head.weight", 1.0)]
    {
        let i = at(name);
        let i = if grads.data()[i] == 0.0 { i + 1 } else { i };
        let moved = f64::from((host.params.flat().data()[i] - before[i]).abs());
        assert!((moved / (1e-2 * share) - 1.0).abs() < 0.06, "{name} moved by {moved}");
    }
    for store in [Store::F32, Store::F16] {
        let gpu = Arc::new(Gpu::open(Target::PtxVm).unwrap().computing_in(store).unwrap());
        let mut card = small_vit();
        let mut optim = optim(&card);
        card.params.move_to(&gpu).unwrap();
        optim.move_to(&gpu).unwrap();
        assert!(optim.update_on_card(&mut card.params, &grads.to_card(&gpu).unwrap(), 1.0, 1e-2).unwrap());
        let after = card.params.flat().to_host().unwrap();
        for (i, (a, b)) in after.data().iter().zip(host.params.flat().data()).enumerate() {
            assert!((a - b).abs() <= 4.0 * f32::EPSILON * b.abs().max(1e-2), "element {i}: {a} and {b} in {store:?}");
        }
    }
}

#[test]
fn patience_ends_a_run_and_survives_a_resume() {
    let folder = small_sample();
    let folder = folder.path();
    // A rate of nothing learns nothing, so no epoch is better than the first.
    let still = "--epochs 9 --patience 2 --lr 1e-30 --flip 0 --tensorboard --json";
    let (out, _) = run(folder, &train("still", still).replace("--lr 1e-3 ", ""));
    let outcome: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&outcome["epochs"], &outcome["best_epoch"]), (&3.into(), &1.into()));
    let still = in_runs(folder, "still");
    assert_eq!(column(&still, "epoch"), [1.0, 2.0, 3.0]);
    let events = || {
        let names = std::fs::read_dir(&still).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("events.out.tfevents.")).count()
    };
    assert_eq!(events(), 1);
    let (_, err) = run(folder, &format!("train --resume {}", still.display()));
    assert!(err.contains("stopped after 3 of 9 epochs: out of patience"), "{err}");
    assert_eq!((column(&still, "epoch").len(), events()), (3, 1));
    run(folder, &format!("train --resume {} --patience 3 --quiet", still.display()));
    assert_eq!((column(&still, "epoch").len(), events()), (4, 2));
}

#[test]
fn seeds_run_one_after_the_other_and_are_summed_up() {
    let folder = small_sample();
    let folder = folder.path();
    let (out, _) = run(folder, &train("many", "--epochs 1 --seeds 7,8 --json"));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let runs = document["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["seed"].as_u64().unwrap()).collect::<Vec<_>>(), [7, 8]);
    let values: Vec<f64> = runs.iter().map(|run| run["best_val_accuracy"].as_f64().unwrap()).collect();
    let spread = &document["best_val_accuracy"];
    assert!((spread["mean"].as_f64().unwrap() - (values[0] + values[1]) / 2.0).abs() < 1e-12);
    let deviation = (values[0] - values[1]).abs() / 2f64.sqrt();
    assert!((spread["deviation"].as_f64().unwrap() - deviation).abs() < 1e-12);
    assert!(document["test_accuracy"]["mean"].is_number());
    run(folder, &train("one", "--epochs 1 --seed 8"));
    assert_eq!(model(&in_runs(folder, "many-s8")), model(&in_runs(folder, "one")));
    assert_ne!(model(&in_runs(folder, "many-s7")), model(&in_runs(folder, "one")));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_all_seeds() {
    let folder = small_sample();
    let folder = folder.path();
    let words = train("stopped", "--epochs 500 --seeds 1,2 --save-steps 1");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_dynavit"))
        .current_dir(folder)
        .args(words.split_whitespace())
        .args(["--device", "cpu"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let saved = in_runs(folder, "stopped-s1").join("checkpoints/step-1/state.json");
    let patience = std::time::Instant::now();
    while !saved.exists() && child.try_wait().unwrap().is_none() {
        assert!(patience.elapsed().as_secs() < 300, "no checkpoint");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(err.contains("seeds: not finished: 1,2; the same command with --resume auto goes on"), "{err}");
    assert!(!in_runs(folder, "stopped-s2").exists());
}

#[test]
fn seeds_that_were_stopped_go_on_each_with_its_own_run() {
    let folder = small_sample();
    let folder = folder.path();
    // As a sweep of two epochs that was stopped in the second seed's first: the third has not begun.
    run(folder, &train("whole", "--epochs 2 --seeds 1,2,3"));
    run(folder, &train("cut-s1", "--epochs 2 --seed 1"));
    run(folder, &train("cut-s2", "--epochs 1 --seed 2"));
    let before =
        std::fs::metadata(in_runs(folder, "cut-s1").join("last/model.safetensors")).unwrap().modified().unwrap();
    let words = train("cut", "--epochs 2 --seeds 1,2,3 --resume auto --json");
    let (out, err) = run(folder, &words);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["runs"].as_array().unwrap().len(), 3);
    assert!(err.contains("beginning a new run"), "{err}");
    for seed in ["s1", "s2", "s3"] {
        assert_eq!(model(&in_runs(folder, &format!("cut-{seed}"))), model(&in_runs(folder, &format!("whole-{seed}"))));
    }
    let after =
        std::fs::metadata(in_runs(folder, "cut-s1").join("last/model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(before, after, "a finished run was written again");
    // Runs without a name are found by settings, those of a file too, which says numbers as people write them.
    let file = "dataset = 'voc'\nkeep = 30\ndata = 'drawn'\nmodel = 'vit_micro_patch16_224'\nepochs = 1\nlr = 0.001\nweight-decay = 0\n";
    std::fs::write(folder.join("c.toml"), file).unwrap();
    let words = "train --config c.toml --seeds 1,2 --quiet --batch-size 12 --output named --resume auto";
    let folders = || std::fs::read_dir(folder.join("named")).unwrap().count();
    run(folder, words);
    assert_eq!(folders(), 2);
    run(folder, words);
    assert_eq!(folders(), 2);
    std::fs::write(folder.join("c.toml"), file.replace("0.001", "0.002")).unwrap();
    run(folder, words);
    assert_eq!(folders(), 4);
    // The rate of a run that a command does not name is not this command's.
    run(folder, &train("", "--epochs 1 --seed 5 --output mixed --schedule cosine").replace("--run-name", ""));
    let all = train("", "--epochs 1 --seeds 5 --output mixed --resume auto --json").replace("--run-name", "");
    let (out, _) = run(folder, &all);
    assert_eq!(std::fs::read_dir(folder.join("mixed")).unwrap().count(), 2, "{out}");
    // More epochs of a file are more for every seed; a named run of other settings is nobody's.
    std::fs::write(folder.join("c.toml"), file.replace("0.001", "0.002").replace("epochs = 1", "epochs = 2")).unwrap();
    let (out, _) = run(folder, &format!("{words} --json"));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let epochs: Vec<_> = document["runs"].as_array().unwrap().iter().map(|run| run["epochs"].as_u64()).collect();
    assert_eq!((epochs, folders()), (vec![Some(2); 2], 4));
    let (code, _, err) = line(folder, &train("cut", "--epochs 2 --seeds 1,2,3 --resume auto --label-smoothing 0.1"));
    assert!(code == Some(2) && err.contains("cut-s1 was begun with another --label-smoothing"), "{err}");
    // What was picked for the runs is what they go on with.
    let (code, _, err) = line(folder, &format!("{words} --precision bf16"));
    assert!(code == Some(2) && err.contains("--device cpu --precision "), "{err}");
}

#[test]
fn a_dry_run_tells_the_plan_and_writes_nothing() {
    let folder = small_sample();
    let folder = folder.path();
    let flags = "--epochs 5 --schedule cosine --warmup-epochs 1 --layer-decay 0.5 --no-decay bias --dry-run";
    let (out, _) = run(folder, &train("x", &format!("{flags} --json")));
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    let number = |key: &str| plan[key].as_u64().unwrap();
    let images = number("train_images");
    assert_eq!(images + number("val_images") + number("test_images"), 60);
    assert_eq!((number("updates_per_epoch"), number("updates")), (images.div_ceil(12), 5 * images.div_ceil(12)));
    assert_eq!((number("tokens"), number("parameters_frozen")), (20, 0));
    let layers = plan["layers"].as_array().unwrap();
    let elements = |key: &str| layers.iter().map(|layer| layer[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(elements("decayed") + elements("not_decayed"), number("parameters_trained"));
    assert_eq!((layers.len(), layers[0]["lr_share"].as_f64()), (6, Some(0.5f64.powi(5))));
    let parts = plan["estimated_memory"].as_object().unwrap();
    assert_eq!(parts.values().map(|part| part.as_u64().unwrap()).sum::<u64>(), number("estimated_memory_bytes"));
    let (text, _) = run(folder, &train("x", flags));
    assert!(text.contains("block 3") && text.contains("estimated") && text.contains("not decayed"), "{text}");
    let (frozen, _) = run(folder, &train("x", "--freeze backbone --dry-run"));
    assert!(frozen.contains("parameters 645 trained") && frozen.contains("frozen"), "{frozen}");
    assert!(!folder.join("runs").exists());
    let (code, _, err) = line(folder, "train sample 70 --dry-run");
    assert!(code == Some(2) && err.contains("dynavit data sample"), "{err}");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn dropped_branches_pass_no_gradient_and_predictions_drop_none() {
    let recipe = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
    let gradient = |rate: Option<f64>| {
        let mut vit = small_vit();
        vit.drop_path = rate.map(|rate| DropPath::new(rate, 9));
        let len = vit.params.flat().len();
        let (mut optim, mut grads) = (AdamW::new(len, recipe.adamw(), Vec::new()), Tensor::zeros(&[len]));
        let mut learner = Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut None };
        let (loss, _) = learner.gradients(&recipe.prune(), noise(4, 64, Norm::Half, 5, 1), 0, 0.0, 1.0).unwrap();
        let kept = Kept::all(1, vit.config.patches());
        let logits =
            vit.logits(&Tensor::from_vec(noise(1, 64, Norm::Half, 5, 1).images, &[1, 3, 64, 64]), &kept).unwrap();
        (loss, grads, vit, logits.data().to_vec())
    };
    let (plain, (none, all)) = (gradient(None), (gradient(Some(0.0)), gradient(Some(1.0 - 1e-12))));
    assert_eq!((plain.0, plain.1.data(), &plain.3), (none.0, none.1.data(), &none.3));
    assert_eq!(plain.3, all.3, "a prediction left out branches");
    assert_ne!(plain.0, all.0);
    for id in all.2.params.ids() {
        let dropped = all.2.params.name(id).starts_with("blocks.1.");
        let zero = all.1.data()[all.2.params.range(id)].iter().all(|&g| g == 0.0);
        assert_eq!(zero, dropped, "{}", all.2.params.name(id));
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_an_error_though_the_loss_is_finite() {
    let recipe = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
    let mut vit = small_vit();
    let len = vit.params.flat().len();
    let (mut optim, mut grads) = (AdamW::new(len, recipe.adamw(), Vec::new()), Tensor::zeros(&[len]));
    let mut learner = Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut None };
    let mut error = |share| {
        learner.gradients(&recipe.prune(), noise(4, 64, Norm::Half, 5, 1), 0, 0.0, share).err().map(|e| e.to_string())
    };
    assert_eq!(error(1.0), None);
    let said = error(f32::MAX).expect("gradients beyond f32 pass");
    assert!(said.contains("a gradient") && said.contains("not finite"), "{said}");
    // What was made or gathered elsewhere is looked at before the update, of which nothing is done.
    let before = learner.vit.params.flat().data().to_vec();
    learner.grads.data_mut().fill(0.5);
    learner.grads.data_mut()[len - 1] = f32::INFINITY;
    let said = learner.update(1e-2).expect_err("an infinite gradient passes").to_string();
    assert!(said.contains("a gradient") && said.contains("not finite"), "{said}");
    assert_eq!((learner.vit.params.flat().data(), learner.optim.step), (&before[..], 0));
    learner.grads.data_mut()[len - 1] = 0.5;
    learner.update(1e-2).unwrap();
    assert_ne!(learner.vit.params.flat().data(), before);
}

#[test]
fn a_run_with_dropped_branches_resumes_bit_for_bit() {
    let folder = small_sample();
    let folder = folder.path();
    let flags = "--drop-path 0.3 --epochs 2 --save-steps 1 --keep-checkpoints 100";
    run(folder, &train("whole", flags));
    let (torn, _) = torn(folder, &train("torn", flags), "torn");
    assert_eq!(model(&torn), model(&in_runs(folder, "whole")));
    run(folder, &train("plain", "--epochs 2"));
    assert_ne!(model(&torn), model(&in_runs(folder, "plain")));
}

#[test]
fn blocks_that_run_again_give_the_same_bits() {
    let gradient = |full_last_block: bool, recompute: bool| {
        let config = VitConfig { image_size: 64, depth: 4, ..VitConfig::named("vit_micro_patch16_224", 5).unwrap() };
        let mut vit = Vit::init(config, VitOptions { full_last_block, ..VitOptions::default() }, 3);
        (vit.drop_path, vit.recompute) = (Some(DropPath::new(0.3, 9)), recompute);
        let len = vit.params.flat().len();
        let recipe = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
        let (mut optim, mut grads) = (AdamW::new(len, recipe.adamw(), Vec::new()), Tensor::zeros(&[len]));
        let mut learner = Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut None };
        let loss = learner.gradients(&recipe.prune(), noise(4, 64, Norm::Half, 5, 1), 0, 0.0, 1.0).unwrap();
        (loss, grads.data().to_vec())
    };
    for full_last_block in [false, true] {
        assert_eq!(gradient(full_last_block, true), gradient(full_last_block, false));
    }
    let folder = small_sample();
    let folder = folder.path();
    run(folder, &train("kept", "--epochs 1 --drop-path 0.3"));
    run(folder, &train("again", "--epochs 1 --drop-path 0.3 --grad-checkpointing"));
    assert_eq!(model(&in_runs(folder, "kept")), model(&in_runs(folder, "again")));
    let memory = |more: &str| -> u64 {
        let (out, _) = run(folder, &train("plan", &format!("--dry-run --json {more}")));
        let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
        plan["estimated_memory"]["activations"].as_u64().unwrap()
    };
    assert!(2 * memory("--grad-checkpointing") < memory(""));
}
