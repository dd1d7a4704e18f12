//! The images that LIME asks about, and what the model answers, in batches.
#![forbid(unsafe_code)]

use super::canvas::Colour;
use super::lime::Masks;
use super::segments::Segments;
use crate::data::{Norm, transform};
use crate::error::Result;
use crate::eval::softmax;
use crate::model::Vit;
use crate::prune::{Kept, Pixels, PruneConfig, select};
use crate::tensor::Tensor;
use serde::Serialize;

/// Which patches the model sees of a perturbed image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// Scored anew: what the model would really do
    #[default]
    Recomputed,
    /// Those of the original image, whatever is hidden
    Frozen,
}

/// What a hidden segment shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Hide {
    /// Its mean colour
    #[default]
    Mean,
    Black,
    Grey,
    White,
}

/// A model that is asked about one image.
pub struct Asked<'a> {
    pub vit: &'a Vit,
    pub prune: &'a PruneConfig,
    pub norm: Norm,
    /// Keys the random scorer.
    pub id: u64,
    /// The original on the model's square, (h, w, 3).
    pub rgb: &'a [u8],
}

/// rgb (h, w, 3) with every segment hidden. Means are cut to whole numbers, as lime's are.
pub fn hidden(rgb: &[u8], segments: &Segments, hide: Hide) -> Vec<u8> {
    let pixels = rgb.as_chunks::<3>().0;
    let colours: Vec<Colour> = match hide {
        Hide::Black => vec![[0; 3]; segments.count],
        Hide::Grey => vec![[128; 3]; segments.count],
        Hide::White => vec![[255; 3]; segments.count],
        Hide::Mean => {
            let mut sums = vec![[0u64; 3]; segments.count];
            for (pixel, &label) in pixels.iter().zip(&segments.labels) {
                sums[label as usize].iter_mut().zip(pixel).for_each(|(sum, &v)| *sum += u64::from(v));
            }
            let mean = |(sum, n): ([u64; 3], usize)| sum.map(|sum| (sum / n.max(1) as u64) as u8);
            sums.into_iter().zip(segments.sizes()).map(mean).collect()
        }
    };
    segments.labels.iter().flat_map(|&label| colours[label as usize]).collect()
}

/// rgb (h, w, 3) where `shown` says so by segment, `hidden` elsewhere.
pub fn perturbed(rgb: &[u8], hidden: &[u8], segments: &Segments, shown: &[bool]) -> Vec<u8> {
    let pixels = rgb.as_chunks::<3>().0.iter().zip(hidden.as_chunks::<3>().0);
    pixels.zip(&segments.labels).flat_map(|((a, b), &label)| if shown[label as usize] { *a } else { *b }).collect()
}

impl Asked<'_> {
    /// The normalised values (B,C,h,w) of a batch of squares.
    fn values(&self, rgb: &[u8]) -> Tensor {
        let side = self.vit.config.image_size;
        let images = rgb.chunks_exact(side * side * 3);
        let batch = images.len();
        Tensor::from_vec(
            images.flat_map(|image| transform::normalise(image, self.norm)).collect(),
            &[batch, 3, side, side],
        )
    }

    /// The patches that are kept of each square of a batch.
    fn select(&self, values: &Tensor, rgb: &[u8]) -> Result<Kept> {
        let ids = vec![self.id; values.shape()[0]];
        let pixels = Pixels { normalized: values.data(), rgb, ids: &ids, epoch: 0 };
        select(self.prune, &self.vit.config.grid(), &pixels)
    }

    /// The original as the model is fed it: values (1,C,h,w) and its kept patches.
    pub fn original(&self) -> Result<(Tensor, Kept)> {
        let values = self.values(self.rgb);
        let kept = self.select(&values, self.rgb)?;
        Ok((values, kept))
    }

    /// The probability of `class` for each row of `masks`. `watch` hears how many are done and may give up by an
    /// error.
    pub fn answers(
        &self,
        segments: &Segments,
        masks: &Masks,
        (hide, selection): (Hide, Selection),
        class: usize,
        batch_size: usize,
        watch: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let hidden = hidden(self.rgb, segments, hide);
        let original = self.original()?.1;
        let rows: Vec<&[bool]> = masks.rows().collect();
        let mut answers = Vec::with_capacity(rows.len());
        for rows in rows.chunks(batch_size.max(1)) {
            let rgb: Vec<u8> = rows.iter().flat_map(|row| perturbed(self.rgb, &hidden, segments, row)).collect();
            let values = self.values(&rgb);
            let kept = match selection {
                Selection::Recomputed => self.select(&values, &rgb)?,
                Selection::Frozen => {
                    Kept::even(original.indices.repeat(rows.len()), rows.len(), original.indices.len())
                }
            };
            let logits = self.vit.logits(&values, &kept)?;
            answers.extend(logits.data().chunks_exact(self.vit.config.classes).map(|row| softmax(row)[class]));
            watch(answers.len())?;
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{VitConfig, VitOptions};
    use crate::prune::{Grid, Round, SaliencyDomain, Scorer};

    fn halves() -> Segments {
        Segments { count: 2, labels: vec![0, 0, 1, 1] }
    }

    #[test]
    fn hidden_segments_show_their_mean_cut_to_whole_numbers() {
        let rgb = [1, 2, 3, 2, 2, 4, 9, 9, 9, 0, 0, 0];
        let all = hidden(&rgb, &halves(), Hide::Mean);
        assert_eq!(all, [1, 2, 3, 1, 2, 3, 4, 4, 4, 4, 4, 4]);
        assert_eq!(perturbed(&rgb, &all, &halves(), &[true, false]), [1, 2, 3, 2, 2, 4, 4, 4, 4, 4, 4, 4]);
        assert_eq!(hidden(&rgb, &halves(), Hide::Grey), [128; 12]);
    }

    #[test]
    fn answers_depend_neither_on_batches_nor_on_what_a_frozen_selection_drops() {
        let side = 32;
        let config = VitConfig {
            name: "tiny".into(),
            image_size: side,
            patch: 16,
            channels: 3,
            width: 64,
            heads: 1,
            mlp: 64,
            depth: 1,
            classes: 3,
            layer_scale: false,
        };
        let vit = Vit::init(config, VitOptions::default(), 5);
        // Patch 0 is far brighter than the rest, so it alone is kept.
        let rgb: Vec<u8> = (0..side * side)
            .flat_map(|i| {
                if i % side < 16 && i / side < 16 {
                    [250, (i % 7) as u8 * 20, 240]
                } else {
                    [100, (i % 40) as u8 + 90, 110]
                }
            })
            .collect();
        let prune = PruneConfig {
            keep: "25".parse().unwrap(),
            round: Round::Floor,
            scorer: Scorer::L2,
            domain: SaliencyDomain::Raw,
            entropy_bins: 256,
            seed: 0,
        };
        let asked = Asked { vit: &vit, prune: &prune, norm: Norm::Imagenet, id: 0, rgb: &rgb };
        let segments = Segments::grid(&Grid { height: side, width: side, patch: 16 });
        let masks = Masks::draw(0, 20, 4);
        assert_eq!(asked.original().unwrap().1.indices, [0]);
        let ask = |hide, selection, batch| {
            asked.answers(&segments, &masks, (hide, selection), 1, batch, &mut |_| Ok(())).unwrap()
        };
        let frozen = ask(Hide::Black, Selection::Frozen, 20);
        assert_eq!(frozen, ask(Hide::Black, Selection::Frozen, 3));
        for (row, answer) in masks.rows().zip(&frozen) {
            assert_eq!(*answer == frozen[0], row[0], "only the kept patch can matter");
        }
        // Scored anew, another patch takes the place of the one that was hidden.
        let recomputed = ask(Hide::Black, Selection::Recomputed, 20);
        let moved = masks.rows().zip(recomputed.iter().zip(&frozen));
        assert!(moved.filter(|(row, _)| !row[0] && row[1..].contains(&true)).all(|(_, (a, b))| a != b));
    }
}
