//! Measuring a model: accuracy, loss, per-class report, calibration, mistakes, and the predictions for single images.
#![forbid(unsafe_code)]

mod calibration;
mod files;
mod mistakes;
mod predict;
mod report;

pub use calibration::{BINS, Bin, Calibration};
pub use files::{Subject, field, files};
pub use mistakes::{Pair, mistakes_sheet};
pub use predict::{Prediction, Top, predict};
pub use report::{ClassReport, MacroReport, Report, Verdict};

use crate::data::{Batch, Loader, Mode, Sample, TransformConfig, transform};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::flops::Looked;
use crate::model::{Images, Vit};
use crate::ops::patchify::ByteImages;
use crate::prune::{Kept, Pixels, PruneConfig, select, select_on_card};
use crate::tensor::Tensor;

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
    let loader = Loader::new(samples.to_vec(), feed.transform.clone(), Mode::Eval, feed.batch_size, 0, feed.workers);
    for batch in loader {
        let mut batch = batch?;
        let (images, kept) = look(vit, prune, &mut batch, 0)?;
        let logits = vit.logits(images, &kept)?;
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

/// What `vit` looks at of a batch, which gives its pixels away, and the patches that it keeps. On a card bytes are enough:
/// they are scored there, and the values are made of those that are kept.
pub fn look(vit: &Vit, prune: &PruneConfig, batch: &mut Batch, epoch: u32) -> Result<(Images, Kept)> {
    let (b, c, p, grid) = (batch.labels.len(), vit.config.channels, vit.config.image_size, vit.config.grid());
    if let (Some(norm), Device::Cuda, 3) = (batch.norm, vit.params.flat().device(), c) {
        let (gpu, levels) = (vit.params.flat().gpu(), transform::levels(norm));
        let images = ByteImages::upload(gpu, &batch.rgb, &levels, [b, p, p])?;
        if let Some(kept) = select_on_card(gpu, prune, &grid, images.rgb(), &levels, &batch.ids, epoch)? {
            return Ok((Images::Bytes(images), kept));
        }
    }
    let pixels = Pixels { normalized: &batch.images, rgb: &batch.rgb, ids: &batch.ids, epoch };
    let kept = select(prune, &grid, &pixels)?;
    Ok((Images::Values(Tensor::from_vec(std::mem::take(&mut batch.images), &[b, c, p, p])), kept))
}

/// Softmax of a row of logits, in f64.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|&z| f64::from(z - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}
