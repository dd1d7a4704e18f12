//! The life of a run directory: saving, tearing, passing over, pruning, restoring, resolving.
#![forbid(unsafe_code)]

use super::state::{MODEL, OPTIM, STATE};
use super::*;
use crate::data::{EvalResize, Interpolation, Norm};
use crate::error::Error;
use crate::flops::Looked;
use crate::model::Vit;
use crate::optim::{AdamW, AdamWConfig, LossScale};
use crate::prune::{Round, SaliencyDomain, Scorer};
use crate::rng::{Purpose, Stream};
use crate::tape::ParamArena;
use std::collections::BTreeMap;
use std::fs;

fn vit() -> Vit {
    let config = VitConfig {
        name: "test".into(),
        image_size: 4,
        patch: 2,
        channels: 1,
        width: 3,
        heads: 1,
        mlp: 6,
        depth: 1,
        classes: 2,
        layer_scale: false,
    };
    let specs = [("cls_token", vec![1, 1, 3]), ("head.weight", vec![2, 3]), ("head.bias", vec![2])];
    let params = ParamArena::new(&specs.map(|(name, shape)| (name.to_string(), shape)));
    Vit { config, options: VitOptions::default(), params, drop_path: None, recompute: false }
}

fn optim() -> AdamW {
    AdamW::new(11, AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }, Vec::new())
}

/// A model and optimiser in the middle of a training, the same for the same step.
pub(super) fn trained(step: u64) -> (Vit, AdamW, Progress) {
    let (mut vit, mut optim) = (vit(), optim());
    let mut stream = Stream::new(step, Purpose::Fixture, 0, 0);
    let tensors = [vit.params.flat_mut(), &mut optim.exp_avg, &mut optim.exp_avg_sq];
    for tensor in tensors {
        tensor.data_mut().iter_mut().for_each(|x| *x = stream.normal() as f32);
    }
    // Negative zero and a subnormal have to survive as well.
    vit.params.flat_mut().data_mut()[0] = -0.0;
    optim.exp_avg.data_mut()[0] = 1e-41;
    optim.step = step + 1;
    let progress = Progress {
        loss_scale: Some(LossScale::default()),
        epoch: 2,
        batch: 7,
        step,
        loss_sum: 0.1 + 0.2,
        loss_count: 96,
        epoch_seconds: 1.0 / 3.0,
        epoch_looked: Looked { images: 3, tokens: 412, macs: 7 },
        looked: Looked { images: 30, tokens: 4_120, macs: 1 << 60 },
        best_accuracy: Some(2.0 / 3.0),
        best_epoch: Some(1),
        epochs: 12,
    };
    (vit, optim, progress)
}

pub(super) fn card() -> ModelCard {
    ModelCard {
        model: vit().config,
        options: VitOptions::default(),
        classes: vec!["cat".into(), "dog".into()],
        transform: TransformConfig {
            image_size: 4,
            norm: Norm::Half,
            interpolation: Interpolation::Bicubic,
            eval_resize: EvalResize::Crop,
            crop_pct: 0.9,
            crop_scale: [0.08, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.5,
            augment: Default::default(),
            corrupt: None,
        },
        prune: PruneConfig {
            keep: "70".parse().unwrap(),
            round: Round::Floor,
            scorer: Scorer::Sobel,
            domain: SaliencyDomain::Raw,
            entropy_bins: 64,
            seed: 9,
        },
    }
}

pub(super) fn new_run() -> (tempfile::TempDir, RunDir) {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(&dir.path().join("runs/one"), "epochs = 3\n", "{}").unwrap();
    (dir, run)
}

pub(super) fn save(run: &RunDir, step: u64, is_best: bool) -> PathBuf {
    let (vit, optim, progress) = trained(step);
    run.save(&vit, &optim, &progress, &card(), is_best, 3).unwrap().checkpoint
}

/// Every name in the run directory, hidden ones too, without the folders' contents below the checkpoints.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// That restoring `checkpoint` gives what `trained(step)` is, to the last bit.
#[track_caller]
fn assert_restores(run: &RunDir, checkpoint: &Path, step: u64) {
    let (mut vit, mut optim) = (vit(), optim());
    let progress = run.restore(checkpoint, &mut vit, &mut optim).unwrap();
    let want = trained(step);
    assert_eq!(progress, want.2);
    assert_eq!(optim.step, want.1.step);
    assert_eq!(bits(vit.params.flat().data()), bits(want.0.params.flat().data()));
    assert_eq!(bits(optim.exp_avg.data()), bits(want.1.exp_avg.data()));
    assert_eq!(bits(optim.exp_avg_sq.data()), bits(want.1.exp_avg_sq.data()));
}

/// The one line of an error that has exit code 3.
#[track_caller]
pub(super) fn data_error<T: std::fmt::Debug>(result: crate::error::Result<T>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error:?}");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn a_new_run_has_its_files_and_opens_again() {
    let (_dir, run) = new_run();
    assert_eq!(names(run.root()), [".lock", "config.toml", "env.json", "manifest.json"]);
    let again = RunDir::open(run.root()).unwrap();
    assert_eq!(again.config().unwrap(), "epochs = 3\n");
    assert!(again.latest().unwrap().0.is_none());
    assert!(data_error(RunDir::open(run.root().parent().unwrap())).contains("config.toml"));
}

#[test]
fn a_folder_in_use_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "x").unwrap();
    assert!(data_error(RunDir::create(dir.path(), "", "")).contains("not empty"));
    assert_eq!(names(dir.path()), ["mine"]);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    RunDir::create(&empty, "", "").unwrap();
    assert!(data_error(RunDir::create(&dir.path().join("mine/run"), "", "")).contains("mine"));
    assert_eq!(fs::read(dir.path().join("mine")).unwrap(), b"x");
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_refused_with_nothing_left_behind() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    // A superuser may write all the same, and then there is nothing to see.
    if fs::write(closed.join("probe"), "").is_err() {
        assert!(data_error(RunDir::create(&closed.join("a/b"), "", "")).contains("may read and write"));
        assert_eq!(names(&closed), [""; 0]);
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_checkpoint_restores_bit_for_bit() {
    let (_dir, run) = new_run();
    let place = save(&run, 40, true);
    assert_eq!(place, run.root().join("checkpoints/step-40"));
    assert_eq!(names(&place), [MODEL, OPTIM, STATE]);
    assert_restores(&run, &place, 40);
    for link in ["best", "last"] {
        assert_restores(&run, &run.root().join(link), 40);
        #[cfg(unix)]
        assert_eq!(fs::read_link(run.root().join(link)).unwrap(), Path::new("checkpoints/step-40"));
    }
    assert_eq!(run.latest().unwrap(), (Some(place), vec![]));
}

#[test]
fn a_run_can_be_moved() {
    let (dir, run) = new_run();
    save(&run, 1, true);
    let moved = dir.path().join("moved");
    fs::rename(run.root(), &moved).unwrap();
    assert_eq!(resolve(&moved).unwrap().0, moved.join("checkpoints/step-1").join(MODEL));
}

#[test]
fn every_kind_of_torn_checkpoint_is_passed_over_and_named() {
    type Tear = fn(&Path);
    let tears: [(&str, Tear); 8] = [
        ("model.safetensors: is missing", |c| fs::remove_file(c.join(MODEL)).unwrap()),
        ("optim.safetensors: is missing", |c| fs::remove_file(c.join(OPTIM)).unwrap()),
        ("state.json: is missing", |c| fs::remove_file(c.join(STATE)).unwrap()),
        ("bytes instead of", |c| {
            let text = fs::read(c.join(MODEL)).unwrap();
            fs::write(c.join(MODEL), &text[..text.len() - 1]).unwrap();
        }),
        ("optim.safetensors: is damaged (its SHA-256", |c| {
            let mut text = fs::read(c.join(OPTIM)).unwrap();
            *text.last_mut().unwrap() ^= 1;
            fs::write(c.join(OPTIM), text).unwrap();
        }),
        ("state.json: is damaged", |c| fs::write(c.join(STATE), "{\"version\":1,").unwrap()),
        ("state.json: is damaged", |c| fs::write(c.join(STATE), "").unwrap()),
        ("state.json: is damaged", |c| {
            let text = fs::read_to_string(c.join(STATE)).unwrap();
            fs::write(c.join(STATE), text.replace(OPTIM, "other.safetensors")).unwrap();
        }),
    ];
    for (reason, tear) in tears {
        let (_dir, run) = new_run();
        let good = save(&run, 10, false);
        let torn = save(&run, 20, true);
        tear(&torn);
        let (found, passed) = run.latest().unwrap();
        let found = found.unwrap();
        assert_eq!(found, good);
        assert!(passed.len() == 1 && passed[0].contains("step-20") && passed[0].contains(reason), "{passed:?}");
        assert_restores(&run, &found, 10);
        let (mut vit, mut optim) = (vit(), optim());
        let line = data_error(run.restore(&torn, &mut vit, &mut optim));
        assert!(line.contains(reason) && line.contains("another checkpoint"), "{line}");
        assert!(vit.params.flat().data().iter().all(|&x| x == 0.0) && optim.step == 0);
        assert!(data_error(resolve(&torn)).contains(reason));
        assert!(data_error(resolve(run.root())).contains(reason), "best is the torn one");
    }
}

#[test]
fn when_no_checkpoint_is_whole_that_is_an_error() {
    let (_dir, run) = new_run();
    fs::remove_file(save(&run, 10, false).join(STATE)).unwrap();
    assert!(data_error(run.latest()).contains("step-10"));
}

#[test]
fn a_checkpoint_under_a_false_name_is_passed_over() {
    let (_dir, run) = new_run();
    let place = save(&run, 10, false);
    fs::rename(&place, place.with_file_name("step-99")).unwrap();
    assert!(data_error(run.latest()).contains("holds step 10"));
}

#[test]
fn old_checkpoints_go_but_the_best_stays() {
    let (_dir, run) = new_run();
    let kept = |run: &RunDir| names(&run.root().join(CHECKPOINTS));
    for step in [1, 2, 3, 4, 5, 10] {
        save(&run, step, step == 2);
    }
    assert_eq!(kept(&run), ["step-10", "step-2", "step-4", "step-5"]);
    save(&run, 11, true);
    assert_eq!(kept(&run), ["step-10", "step-11", "step-5"]);
    let (vit, optim, progress) = trained(12);
    run.save(&vit, &optim, &progress, &card(), false, 0).unwrap();
    assert_eq!(kept(&run), ["step-11", "step-12"], "the new one and the best, even when none is to be kept");
}

#[test]
fn later_steps_survive_a_resume_at_an_earlier_one() {
    let (_dir, run) = new_run();
    for step in [10, 20, 30] {
        save(&run, step, false);
    }
    fs::remove_file(run.root().join("checkpoints/step-30").join(MODEL)).unwrap();
    let place = save(&run, 21, false);
    assert_eq!(run.latest().unwrap().0.unwrap(), place);
    save(&run, 22, false);
    assert_eq!(names(&run.root().join(CHECKPOINTS)), ["step-20", "step-21", "step-22", "step-30"]);
    assert_restores(&run, &save(&run, 30, false), 30);
}

#[test]
fn saving_a_step_again_replaces_it() {
    let (_dir, run) = new_run();
    let place = save(&run, 5, true);
    fs::write(place.join(MODEL), "torn").unwrap();
    let (vit, optim, mut progress) = trained(5);
    progress.epoch = 3;
    assert_eq!(run.save(&vit, &optim, &progress, &card(), false, 3).unwrap().checkpoint, place);
    let back = run.restore(&place, &mut self::vit(), &mut self::optim()).unwrap();
    assert_eq!(back, progress);
    assert_eq!(names(&run.root().join(CHECKPOINTS)), ["step-5"]);
}

#[test]
fn what_a_killed_save_left_is_cleared_or_brought_back() {
    let (_dir, run) = new_run();
    let folder = run.root().join(CHECKPOINTS);
    let place = save(&run, 5, true);
    // Killed between setting the old one aside and renaming its successor.
    fs::rename(&place, folder.join(".step-5.old-1")).unwrap();
    fs::create_dir(folder.join(".step-5.tmp-1")).unwrap();
    fs::write(folder.join(".step-5.tmp-1").join(MODEL), "half").unwrap();
    assert_eq!(run.latest().unwrap().0.unwrap(), place);
    assert_restores(&run, &place, 5);
    // Killed while building, and while removing the one set aside.
    fs::create_dir(folder.join(".step-6.tmp-77")).unwrap();
    fs::create_dir(folder.join(".step-5.old-77")).unwrap();
    fs::write(folder.join(".step-7.tmp-9"), "no folder").unwrap();
    assert_eq!(run.latest().unwrap(), (Some(place), vec![]));
    save(&run, 6, false);
    assert_eq!(names(&folder), ["step-5", "step-6"]);
}

#[test]
fn a_failed_save_leaves_the_earlier_checkpoints() {
    let (_dir, run) = new_run();
    let place = save(&run, 5, true);
    let (vit, optim, mut progress) = trained(6);
    progress.loss_sum = f64::NAN;
    let error = run.save(&vit, &optim, &progress, &card(), true, 1).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    for spoilt in 0..3 {
        let (mut vit, mut optim, progress) = trained(6);
        [vit.params.flat_mut(), &mut optim.exp_avg, &mut optim.exp_avg_sq][spoilt].data_mut()[4] = f32::INFINITY;
        let error = run.save(&vit, &optim, &progress, &card(), true, 1).unwrap_err();
        assert_eq!(error.exit_code(), 4, "nobody could go on with them: {error}");
    }
    // A run without its config cannot seal a checkpoint, which shows when the tensor files are written already.
    let (vit, optim, progress) = trained(6);
    fs::rename(run.root().join(CONFIG), run.root().join("aside")).unwrap();
    data_error(run.save(&vit, &optim, &progress, &card(), true, 1));
    fs::rename(run.root().join("aside"), run.root().join(CONFIG)).unwrap();
    assert_eq!(names(&run.root().join(CHECKPOINTS)), ["step-5"]);
    assert_restores(&run, &place, 5);
}

#[test]
fn another_config_or_another_model_is_refused() {
    let (_dir, run) = new_run();
    let place = save(&run, 5, true);
    let (mut small, mut moments) = (vit(), AdamW::new(3, optim().config, Vec::new()));
    small.params = ParamArena::new(&[("cls_token".to_string(), vec![3])]);
    let line = data_error(run.restore(&place, &mut small, &mut moments));
    assert!(line.contains("cls_token") && line.contains("[1, 1, 3]"), "{line}");
    assert!(matches!(run.restore(&place, &mut vit(), &mut moments), Err(Error::Shape { .. })));
    let unfit = run.save(&vit(), &moments, &Progress::default(), &card(), false, 3);
    assert!(matches!(unfit, Err(Error::Shape { .. })));
    fs::write(run.root().join(CONFIG), "epochs = 4\n").unwrap();
    assert!(data_error(run.restore(&place, &mut vit(), &mut optim())).contains("config.toml"));
}

#[test]
fn resolve_takes_every_form() {
    let (dir, run) = new_run();
    assert!(data_error(resolve(run.root())).contains("without a checkpoint"));
    let (vit, optim, progress) = trained(1);
    let begun = Progress { best_epoch: None, ..progress };
    let first = run.save(&vit, &optim, &begun, &card(), false, 3).unwrap().checkpoint;
    assert_eq!(resolve(run.root()).unwrap(), (first.join(MODEL), Some(card())), "last stands in for best");
    let best = save(&run, 2, true);
    save(&run, 3, false);
    for path in [run.root().to_path_buf(), best.clone(), best.join(MODEL)] {
        assert_eq!(resolve(&path).unwrap(), (best.join(MODEL), Some(card())), "{path:?}");
    }
    let (file, _) = resolve(&run.root().join("best")).unwrap();
    assert_eq!(file.canonicalize().unwrap(), best.join(MODEL).canonicalize().unwrap());
    fs::remove_file(run.root().join("best")).unwrap();
    fs::write(run.root().join("best"), "checkpoints/step-2").unwrap();
    assert_eq!(resolve(&run.root().join("best")).unwrap().0, best.join(MODEL));
    assert_eq!(resolve(run.root()).unwrap().0, best.join(MODEL));

    let plain = dir.path().join("timm.safetensors");
    let write = |metadata: &BTreeMap<String, String>| {
        let entry = crate::weights::Entry { name: "head.bias", shape: &[2], values: &[1.0, 2.0] };
        crate::weights::write(&plain, &[entry], metadata).unwrap();
    };
    write(&BTreeMap::new());
    assert_eq!(resolve(&plain).unwrap(), (plain.clone(), None));
    write(&BTreeMap::from([(CARD.to_string(), "{}".to_string())]));
    assert!(data_error(resolve(&plain)).contains("not a model card"));

    assert!(data_error(resolve(&dir.path().join("nowhere"))).contains("does not exist"));
    assert!(data_error(resolve(dir.path())).contains("neither"));
}

#[test]
fn the_newest_run_is_the_one_saved_last() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("runs");
    assert!(RunDir::newest_first(&output, "").unwrap().is_empty());
    let run = |name: &str| RunDir::create(&output.join(name), "", "{}").unwrap();
    let (a, b, other) = (run("voc-a"), run("voc-b"), run("folder-c"));
    run("voc-z");
    assert!(RunDir::newest_first(&output, "voc-").unwrap().is_empty(), "no run has a checkpoint");
    for (run, seconds) in [(&b, 1), (&a, 2), (&other, 3)] {
        // A link in its portable form, whose time a test can set.
        let last = fs::File::create(run.root().join("last")).unwrap();
        last.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    }
    let roots = |prefix: &str| -> Vec<PathBuf> {
        RunDir::newest_first(&output, prefix).unwrap().iter().map(|run| run.root().to_path_buf()).collect()
    };
    assert_eq!(roots("voc-"), [a.root(), b.root()]);
    assert_eq!(roots("")[0], other.root());
}
