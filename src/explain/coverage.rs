//! How much of the annotated objects the kept patches show, over a data set: no model, no training.
//!
//! The coverage of an image is the area of the union of its boxes that lies in kept patches over the area of that
//! union, on the model's square. A scorer that knows nothing of the image covers k/N on average; the enrichment is the
//! mean coverage over k/N.
#![forbid(unsafe_code)]

use super::boxes::{self, Rect};
use crate::data::{Mode, Sample, TransformConfig, annotation, transform};
use crate::error::{Error, Result};
use crate::prune::{Grid, Keep, Pixels, PruneConfig, Scorer, select};
use crate::stats::{half_width, mean_and_error};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Scorers that know nothing of the image; every table has them.
pub const CONTROLS: [Scorer; 2] = [Scorer::Random, Scorer::Center];
/// Images between two words to the caller.
const CHUNK: usize = 64;

/// What is measured.
pub struct Plan<'a> {
    pub classes: &'a [String],
    pub scorers: &'a [Scorer],
    pub keeps: &'a [Keep],
    /// Everything but scorer and keep ratio.
    pub prune: &'a PruneConfig,
    pub transform: &'a TransformConfig,
    pub grid: Grid,
}

/// Mean coverage of some images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    pub images: usize,
    pub coverage: f64,
    /// Of the mean; 0 for a single image.
    pub standard_error: f64,
    /// Coverage over k/N.
    pub enrichment: f64,
}

/// How far a scorer lies above a control on the same images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub control: Scorer,
    /// Mean of the images' differences.
    pub mean: f64,
    /// Ends of its 95 % interval, Student's over images.
    pub low: f64,
    pub high: f64,
}

/// One scorer at one keep ratio on the images of one class, or on all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub scorer: Scorer,
    pub keep: f64,
    /// k/N, which keeping patches by luck covers.
    pub chance: f64,
    /// None for all classes together.
    pub class: Option<String>,
    #[serde(flatten)]
    pub mean: Mean,
    pub minus: Vec<Difference>,
}

/// The result of [`measure`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// Images counted.
    pub images: usize,
    /// Images whose boxes lie outside the model's square, which are left out.
    pub outside: usize,
    /// Mean share of the square that boxes take.
    pub object_share: f64,
    /// By scorer, then keep ratio, then class, all classes first.
    pub rows: Vec<Row>,
}

/// Coverage of one image under each scorer and keep ratio, scorers outermost.
struct Image {
    label: usize,
    object_share: f64,
    coverage: Vec<f64>,
}

/// Looks at each image once. `watch` hears how many are done and may give up by an error.
///
/// Errors: an image that cannot be read, or one without an annotation beside it.
pub fn measure(plan: &Plan, samples: &[Sample], watch: &mut dyn FnMut(usize) -> Result<()>) -> Result<Coverage> {
    let mut images = Vec::with_capacity(samples.len());
    for chunk in samples.chunks(CHUNK) {
        images.extend(chunk.par_iter().map(|sample| image(plan, sample)).collect::<Result<Vec<_>>>()?);
        watch(images.len())?;
    }
    let found: Vec<Image> = images.into_iter().flatten().collect();
    let n = plan.grid.patches();
    let mut rows = Vec::new();
    for (s, &scorer) in plan.scorers.iter().enumerate() {
        for (k, keep) in plan.keeps.iter().enumerate() {
            let chance = keep.count(n, plan.prune.round) as f64 / n as f64;
            let place = |s: usize| s * plan.keeps.len() + k;
            for class in std::iter::once(None).chain((0..plan.classes.len()).map(Some)) {
                let of: Vec<&Image> = found.iter().filter(|i| class.is_none_or(|class| i.label == class)).collect();
                let values: Vec<f64> = of.iter().map(|image| image.coverage[place(s)]).collect();
                if values.is_empty() {
                    continue;
                }
                // One image has no spread to judge a difference by.
                let controls = CONTROLS.iter().filter(|&&control| control != scorer && values.len() > 1);
                let minus = controls.filter_map(|&control| {
                    let c = plan.scorers.iter().position(|&other| other == control)?;
                    let pairs = of.iter().map(|image| image.coverage[place(s)] - image.coverage[place(c)]);
                    Some(difference(control, pairs.collect()))
                });
                let (coverage, standard_error) = mean_and_error(&values);
                let enrichment = coverage / chance;
                let mean = Mean { images: values.len(), coverage, standard_error, enrichment };
                let class = class.map(|class| plan.classes[class].clone());
                rows.push(Row { scorer, keep: keep.percent(), chance, class, mean, minus: minus.collect() });
            }
        }
    }
    let shares: Vec<f64> = found.iter().map(|image| image.object_share).collect();
    let object_share = mean_and_error(&shares).0;
    Ok(Coverage { images: found.len(), outside: samples.len() - found.len(), object_share, rows })
}

/// None when no box lies on the square.
fn image(plan: &Plan, sample: &Sample) -> Result<Option<Image>> {
    let path = sample.source.place();
    let picture = sample.source.picture()?;
    let annotation = annotation::beside(&path).ok_or_else(|| {
        Error::data(&path, "has no annotation of its name beside it", "measure a data set in VOC's layout")
    })?;
    let boxes = boxes::read(&annotation, picture.width, picture.height, plan.transform)?;
    let rects: Vec<Rect> =
        boxes.into_iter().filter(|object| plan.classes.contains(&object.class)).map(|object| object.rect).collect();
    let area = boxes::area_by_patch(&rects, &plan.grid);
    let total: f64 = area.iter().sum();
    if total <= 0.0 {
        return Ok(None);
    }
    let rgb = transform::apply(&picture, sample.id, plan.transform, Mode::Eval);
    let normalized = transform::normalise(&rgb, plan.transform.norm);
    let pixels = Pixels { normalized: &normalized, rgb: &rgb, ids: &[sample.id], epoch: 0 };
    let mut coverage = Vec::with_capacity(plan.scorers.len() * plan.keeps.len());
    for &scorer in plan.scorers {
        for &keep in plan.keeps {
            let kept = select(&PruneConfig { keep, scorer, ..plan.prune.clone() }, &plan.grid, &pixels)?;
            let covered: f64 = kept.indices.iter().map(|&i| area[i as usize]).sum();
            coverage.push(covered / total);
        }
    }
    let object_share = total / (plan.grid.height * plan.grid.width) as f64;
    Ok(Some(Image { label: sample.label, object_share, coverage }))
}

/// The mean of an image's differences to a control, with its interval.
pub fn difference(control: Scorer, pairs: Vec<f64>) -> Difference {
    let (mean, error) = mean_and_error(&pairs);
    let half = half_width(pairs.len(), error);
    Difference { control, mean, low: mean - half, high: mean + half }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;
    use crate::prune::{Round, SaliencyDomain};

    /// Two images of 64 x 32 pixels: noise in the left half, where the box is, and flat on the right.
    fn tree() -> (tempfile::TempDir, Vec<Sample>) {
        let folder = tempfile::tempdir().unwrap();
        let mut samples = Vec::new();
        for part in ["Annotations", "JPEGImages"] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
        }
        for id in 0..2u64 {
            let noisy = |x: u32, y: u32| if x < 32 { ((x * 7919 + y * 104_729) % 251) as u8 } else { 128 };
            let image = image::RgbImage::from_fn(64, 32, |x, y| image::Rgb([noisy(x, y); 3]));
            let path = folder.path().join(format!("JPEGImages/{id}.png"));
            image.save(&path).unwrap();
            let text = "<a><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>32</xmax><ymax>32</ymax>\
                        </bndbox></object><object><name>sofa</name></object></a>";
            let text = text.replace("<object><name>sofa</name></object>", "");
            std::fs::write(folder.path().join(format!("Annotations/{id}.xml")), text).unwrap();
            samples.push(Sample { id, source: Source::File(path), label: id as usize });
        }
        (folder, samples)
    }

    #[test]
    fn a_scorer_that_sees_the_object_covers_it() {
        let (folder, samples) = tree();
        let classes = ["cat".to_string(), "dog".into()];
        let keep: Keep = "50".parse().unwrap();
        let prune = PruneConfig {
            keep,
            round: Round::Floor,
            scorer: Scorer::L2,
            domain: SaliencyDomain::Normalized,
            entropy_bins: 256,
            seed: 0,
        };
        let plan = Plan {
            classes: &classes,
            scorers: &[Scorer::Entropy, Scorer::Random, Scorer::Center],
            keeps: &[keep, Keep::ALL],
            prune: &prune,
            transform: &TransformConfig::paper(64),
            grid: Grid { height: 64, width: 64, patch: 16 },
        };
        let found = measure(&plan, &samples, &mut |_| Ok(())).unwrap();
        assert_eq!((found.images, found.outside, found.rows.len()), (2, 0, 3 * 2 * 3));
        approx::assert_relative_eq!(found.object_share, 0.5);
        let entropy = &found.rows[0];
        assert_eq!((entropy.scorer, entropy.class.as_ref(), entropy.mean.images), (Scorer::Entropy, None, 2));
        approx::assert_relative_eq!(entropy.mean.coverage, 1.0);
        approx::assert_relative_eq!(entropy.mean.enrichment, 2.0);
        // The square's middle shows as much of the left half as of the right one.
        let center = found.rows.iter().find(|row| row.scorer == Scorer::Center).unwrap();
        approx::assert_relative_eq!(center.mean.coverage, 0.5);
        approx::assert_relative_eq!(entropy.minus[1].mean, 0.5);
        assert_eq!(entropy.minus.iter().map(|d| d.control).collect::<Vec<_>>(), CONTROLS);
        assert!(found.rows.iter().filter(|row| row.keep == 100.0).all(|row| row.mean.coverage == 1.0));
        std::fs::remove_file(folder.path().join("Annotations/1.xml")).unwrap();
        let error = measure(&plan, &samples, &mut |_| Ok(())).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains("no annotation"), "{error}");
    }
}
