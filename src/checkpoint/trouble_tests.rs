//! A run directory that others write, that lost parts, or whose run failed: nothing sound is given up, nothing false told.
#![forbid(unsafe_code)]

use super::state::{MODEL, STATE};
use super::tests::{card, data_error, names, new_run, save, trained};
use super::*;
use std::fs;

/// Saves the end of an epoch of validation accuracy `accuracy` as the row and the checkpoint of step 10 `epoch`.
fn end(run: &RunDir, epoch: u32, accuracy: f64, best: (u32, f64), keep: usize) -> Progress {
    let step = 10 * u64::from(epoch);
    let (vit, optim, progress) = trained(step);
    let (best_epoch, best_accuracy) = (Some(best.0), Some(best.1));
    let progress = Progress { epoch, batch: 0, best_epoch, best_accuracy, ..progress };
    let row = EpochMetrics {
        epoch,
        step,
        lr: 1e-3,
        train_loss: 1.0,
        val_loss: 1.0,
        val_accuracy: accuracy,
        images_per_second: 1.0,
        keep: None,
        mean_seq_len: None,
        macs_executed: None,
    };
    run.append_metrics(&row).unwrap();
    run.save(&vit, &optim, &progress, &card(), best.0 == epoch, keep).unwrap();
    progress
}

/// A run of four epochs whose second was the best.
fn four_epochs() -> (tempfile::TempDir, RunDir, Progress) {
    let (dir, run) = new_run();
    end(&run, 1, 0.3, (1, 0.3), 9);
    end(&run, 2, 0.6, (2, 0.6), 9);
    end(&run, 3, 0.5, (2, 0.6), 9);
    let progress = end(&run, 4, 0.4, (2, 0.6), 9);
    (dir, run, progress)
}

fn checkpoint(run: &RunDir, step: u64) -> PathBuf {
    run.root().join(format!("checkpoints/step-{step}"))
}

fn best_link(run: &RunDir) -> PathBuf {
    durable::follow(run.root(), "best").unwrap().unwrap()
}

#[test]
fn one_process_at_a_time_writes_a_run() {
    let (_dir, run) = new_run();
    let mut other = RunDir::open(run.root()).unwrap();
    assert!(data_error(other.claim()).contains("another process is training in it"));
    assert!(data_error(RunDir::clear_unbegun(run.root())).contains("another process"));
    assert_eq!(names(run.root()), [".lock", "config.toml", "env.json", "manifest.json"]);
    drop(run);
    other.claim().unwrap();
    other.claim().unwrap();
    let root = other.root().to_path_buf();
    drop(other);
    assert!(RunDir::clear_unbegun(&root).unwrap());
    // What is left of it does not keep a run from beginning there.
    RunDir::create(&root, "", "{}").unwrap();
}

#[test]
fn only_a_run_without_a_checkpoint_is_taken_away_and_only_by_who_made_it() {
    let (_dir, run) = new_run();
    assert!(!RunDir::open(run.root()).unwrap().discard_unsaved(), "another process made it");
    fs::write(run.root().join("mine"), "x").unwrap();
    assert!(!run.discard_unsaved());
    assert_eq!(names(run.root()), ["mine"], "nothing that others put there goes");
    let (_dir, run) = new_run();
    assert!(run.discard_unsaved());
    assert!(!run.root().exists());

    let (_dir, run) = new_run();
    save(&run, 1, true);
    assert!(!run.discard_unsaved());
    // The folder of the checkpoints cannot be looked into, but there are links.
    fs::rename(run.root().join(CHECKPOINTS), run.root().join("away")).unwrap();
    assert!(!run.discard_unsaved());
    fs::remove_file(run.root().join("best")).unwrap();
    fs::remove_file(run.root().join("last")).unwrap();
    fs::write(run.root().join(CHECKPOINTS), "no folder").unwrap();
    assert!(!run.discard_unsaved());
    assert!(run.config().is_ok());
}

#[test]
fn a_run_whose_checkpoints_are_away_is_not_begun_again() {
    let (_dir, run) = new_run();
    save(&run, 1, true);
    fs::rename(run.root().join(CHECKPOINTS), run.root().join("away")).unwrap();
    assert!(data_error(run.latest()).contains("is not there, and checkpoints were saved in it"));
    fs::rename(run.root().join("away"), run.root().join(CHECKPOINTS)).unwrap();
    assert!(run.latest().unwrap().0.is_some());
    // As `cp -rL` leaves it.
    fs::remove_file(run.root().join("last")).unwrap();
    fs::create_dir(run.root().join("last")).unwrap();
    assert!(data_error(run.latest()).contains("last: is a folder"));
}

#[test]
fn a_best_link_that_is_lost_or_leads_nowhere_is_set_again() {
    let (_dir, run, progress) = four_epochs();
    let newest = checkpoint(&run, 40);
    let stands = (Some(Best { epoch: 2, accuracy: 0.6, name: "step-20".into() }), vec![]);
    assert_eq!(run.mend_best(&progress, &newest).unwrap(), stands);
    fs::remove_file(run.root().join("best")).unwrap();
    assert_eq!(resolve(run.root()).unwrap().0, checkpoint(&run, 20).join(MODEL), "states tell it too");
    fs::remove_file(run.root().join("last")).unwrap();
    assert_eq!(resolve(run.root()).unwrap().0, checkpoint(&run, 20).join(MODEL));
    assert_eq!(run.mend_best(&progress, &newest).unwrap(), stands);
    assert_eq!(best_link(&run), checkpoint(&run, 20));
    durable::point(run.root(), "best", "step-999").unwrap();
    assert_eq!(resolve(run.root()).unwrap().0, checkpoint(&run, 20).join(MODEL));
    assert_eq!(run.mend_best(&progress, &newest).unwrap(), stands);
    assert_eq!(best_link(&run), checkpoint(&run, 20));
}

#[test]
fn the_best_checkpoint_outlives_its_link() {
    let (_dir, run, _) = four_epochs();
    fs::remove_file(run.root().join("best")).unwrap();
    end(&run, 5, 0.1, (2, 0.6), 1);
    assert_eq!(names(&run.root().join(CHECKPOINTS)), ["step-20", "step-50"]);
}

#[test]
fn where_the_best_is_lost_the_best_of_the_others_is_told() {
    let (_dir, run, progress) = four_epochs();
    let newest = checkpoint(&run, 40);
    fs::write(checkpoint(&run, 20).join(MODEL), "torn").unwrap();
    let (found, faults) = run.mend_best(&progress, &newest).unwrap();
    assert_eq!(found, Some(Best { epoch: 3, accuracy: 0.5, name: "step-30".into() }));
    assert!(faults.len() == 1 && faults[0].contains("step-20"), "{faults:?}");
    assert_eq!(best_link(&run), checkpoint(&run, 30));
    fs::remove_dir_all(checkpoint(&run, 20)).unwrap();
    fs::remove_file(checkpoint(&run, 30).join(STATE)).unwrap();
    assert_eq!(run.mend_best(&progress, &newest).unwrap().0.unwrap().epoch, 4);
    fs::remove_file(run.root().join("best")).unwrap();
    assert!(data_error(resolve(run.root())).contains("best epoch is gone"), "the last is not the best");
    // Without rows nothing is known of the others.
    fs::remove_file(run.root().join("metrics.csv")).unwrap();
    assert_eq!(run.mend_best(&progress, &newest).unwrap().0, None);
}
