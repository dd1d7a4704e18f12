//! Measuring a model: accuracy, loss, per-class report, calibration, mistakes, and the predictions for single images.
#![forbid(unsafe_code)]

mod calibration;
mod files;
mod look;
mod mistakes;
mod predict;
mod report;

pub use calibration::{BINS, Bin, Calibration};
pub use files::{Subject, field, files};
pub use look::{Look, Seen};
pub use mistakes::{Pair, mistakes_sheet};
pub use predict::{Prediction, Top, image_key, predict};
pub use report::{ClassReport, MacroReport, Report, Verdict};

use crate::data::{Loader, Mode, Sample, TransformConfig};
use crate::error::{Error, Result};
use crate::flops::Looked;
use crate::model::Vit;
use crate::prune::PruneConfig;

/// How the images of a split are turned into batches.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    pub transform: &'a TransformConfig,
    pub batch_size: usize,
    /// Threads that decode.
    pub workers: usize,
}

/// Loss, accuracy and confusion of `vit` on `samples`, without augmentation.
///
/// `watch` is told after each batch how many images are done, and ends the evaluation by returning an error.
pub fn evaluate(
    vit: &Vit,
    prune: &PruneConfig,
    samples: &[Sample],
    feed: Feed,
    watch: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Report> {
    let mut report = Report::new(vit.config.classes);
    let Feed { transform, batch_size, workers } = feed;
    let mut loader =
        Loader::new(samples.to_vec(), transform.clone(), Look::wanted(vit), Mode::Eval, batch_size, 0, workers);
    let mut ahead = || loader.next().map(|batch| Look::begin(vit, prune, batch?, 0));
    let mut next = ahead();
    while let Some(look) = next {
        let Seen { batch, images, kept } = look?.finish(vit, prune, 0)?;
        let logits = vit.classify(images, &kept)?;
        // A card computes while this is freed.
        drop((batch.images, batch.rgb));
        next = ahead();
        let logits = logits.to_host()?;
        report.looked.add(Looked::at(&vit.config, &vit.options, &kept));
        for (row, &label) in logits.data().chunks_exact(vit.config.classes).zip(&batch.labels) {
            if row.iter().any(|z| !z.is_finite()) {
                return Err(Error::NonFinite {
                    what: "a logit".into(),
                    remedy: "the weights are unusable; take an earlier checkpoint".into(),
                });
            }
            report.add(row, label);
        }
        watch(report.images())?;
    }
    Ok(report)
}

/// Softmax of a row of logits, in f64.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|&z| f64::from(z - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}
