//! Predictions for image files, with the patches that were looked at.
#![forbid(unsafe_code)]

use super::{Look, Seen, softmax};
use crate::data::{Batch, TransformConfig, load_image};
use crate::error::{Error, Result};
use crate::model::Vit;
use crate::prune::{PruneConfig, Scorer};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// One of the likeliest classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Top {
    pub index: usize,
    /// Absent when the weights name no classes.
    pub class: Option<String>,
    pub prob: f32,
}

/// What the model says of one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub path: String,
    /// Raster indices of the kept patches, ascending.
    pub kept: Vec<u32>,
    /// (classes,)
    pub logits: Vec<f32>,
    /// Likeliest first; equal logits in class order.
    pub top: Vec<Top>,
    /// S of this image, where images keep different numbers of patches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_len: Option<usize>,
}

/// What keys the random scorer of an image that belongs to no data set: the first 32 bits of its file's SHA-256, so that
/// luck keeps the same patches wherever the file lies and whatever is asked for beside it.
pub fn image_key(path: &Path) -> Result<u64> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, &error))?;
    let [a, b, c, d, ..] = Sha256::digest(&bytes)[..] else { unreachable!("a SHA-256 has 32 bytes") };
    Ok(u64::from(u32::from_be_bytes([a, b, c, d])))
}

/// Predictions for a batch of files, with the reason in the place of one that cannot be read.
pub fn predict(
    vit: &Vit,
    prune: &PruneConfig,
    transform: &TransformConfig,
    classes: &[String],
    paths: &[PathBuf],
    top: usize,
) -> Result<Vec<Result<Prediction>>> {
    let load = |path: &PathBuf| {
        let key = if prune.scorer == Scorer::Random { image_key(path)? } else { 0 };
        load_image(path, transform).map(|(image, rgb)| (image, rgb, key))
    };
    let loaded: Vec<Result<_>> = paths.par_iter().map(load).collect();
    let (mut images, mut rgb, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (image, bytes, key) in loaded.iter().flatten() {
        images.extend_from_slice(image);
        rgb.extend_from_slice(bytes);
        ids.push(*key);
    }
    if ids.is_empty() {
        return Ok(loaded.into_iter().filter_map(Result::err).map(Err).collect());
    }
    let batch = Batch { images, rgb, labels: vec![0; ids.len()], ids, mixed: None, norm: Some(transform.norm) };
    let Seen { images, kept, .. } = Look::at(vit, prune, batch, 0)?;
    let logits = vit.logits(images, &kept)?;
    let mut rows = logits.data().chunks_exact(vit.config.classes).enumerate();
    paths
        .iter()
        .zip(loaded)
        .map(|(path, loaded)| {
            if let Err(error) = loaded {
                return Ok(Err(error));
            }
            let (image, row) = rows.next().expect("each image that was read has a row of logits");
            if row.iter().any(|z| !z.is_finite()) {
                return Err(Error::NonFinite {
                    what: format!("a logit of {}", path.display()),
                    remedy: "check the weights and --norm".into(),
                });
            }
            Ok(Ok(Prediction {
                path: path.display().to_string(),
                kept: kept.of(image).to_vec(),
                logits: row.to_vec(),
                top: likeliest(row, classes, top),
                seq_len: prune.keep.mass().map(|_| 1 + kept.of(image).len()),
            }))
        })
        .collect()
}

fn likeliest(logits: &[f32], classes: &[String], top: usize) -> Vec<Top> {
    let prob = softmax(logits);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(top);
    order.into_iter().map(|index| Top { index, class: classes.get(index).cloned(), prob: prob[index] as f32 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_ties_in_class_order() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        let top = likeliest(&[0.0, 2.0, -1.0, 2.0], &names, 3);
        assert_eq!(top.iter().map(|t| t.index).collect::<Vec<_>>(), [1, 3, 0]);
        assert_eq!(top[0].class.as_deref(), Some("b"));
        assert!(top[0].prob > 0.4 && top.iter().map(|t| t.prob).sum::<f32>() < 1.0);
        assert_eq!(likeliest(&[1.0], &[], 5)[0].class, None);
    }
}
