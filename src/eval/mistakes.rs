//! Where a model goes wrong: the pairs of classes it confuses, and the pictures it is surest about.
#![forbid(unsafe_code)]

use super::{Report, Verdict};
use crate::data::resize::{Crop, resize};
use crate::data::sheet::{Cell, INK, Section, sheet};
use crate::data::{Interpolation, Mode, Sample, TransformConfig, decode::Picture, transform};
use crate::error::Result;
use rayon::prelude::*;

/// Pixels of a picture's side on the sheet, pictures in a row, and rows of them.
const SIDE: usize = 160;
const COLUMNS: usize = 6;
const SUREST: usize = 2 * COLUMNS;
const PAIRS: usize = 6;
const RIGHT: [u8; 3] = [20, 110, 50];
const WRONG: [u8; 3] = [180, 30, 40];

/// A class taken for another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    pub label: usize,
    pub predicted: usize,
    pub images: u64,
    /// Images of the true class.
    pub support: u64,
}

impl Report {
    /// The pairs of different classes that hold most images, at most so many; of equals the first by their numbers.
    pub fn confused(&self, most: usize) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        for (label, row) in self.confusion.iter().enumerate() {
            let support = row.iter().sum();
            let wrong = row.iter().enumerate().filter(|&(predicted, &images)| predicted != label && images > 0);
            pairs.extend(wrong.map(|(predicted, &images)| Pair { label, predicted, images, support }));
        }
        pairs.sort_by_key(|pair| std::cmp::Reverse(pair.images));
        pairs.truncate(most);
        pairs
    }

    /// Places in `verdicts` of the images that were taken for another class, the surest first.
    pub fn mistakes(&self) -> Vec<usize> {
        let mut wrong: Vec<usize> = (0..self.verdicts.len()).filter(|&i| self.verdicts[i].rank > 0).collect();
        wrong.sort_by(|&a, &b| self.verdicts[b].confidence.total_cmp(&self.verdicts[a].confidence));
        wrong
    }
}

/// The surest mistakes, then those of the most confused pairs, as the model saw them: picture, true class, predicted
/// class and confidence. `samples` are those of the report, in their order.
pub fn mistakes_sheet(
    title: &str,
    report: &Report,
    samples: &[Sample],
    config: &TransformConfig,
    classes: &[String],
) -> Result<Picture> {
    let mistakes = report.mistakes();
    let section = |heading: String, places: &[usize]| -> Result<Section> {
        let cells = places.par_iter().map(|&i| cell(&samples[i], &report.verdicts[i], config, classes));
        Ok(Section { heading, cells: cells.collect::<Result<_>>()? })
    };
    let first = match mistakes.len() {
        0 => "no image was taken for another class".to_owned(),
        n => format!("the surest of {n} mistakes: true class (green), predicted class (red), confidence"),
    };
    let mut sections = vec![section(first, &mistakes[..mistakes.len().min(SUREST)])?];
    for pair in report.confused(PAIRS) {
        let of = |&&i: &&usize| {
            let verdict = &report.verdicts[i];
            (verdict.label, verdict.predicted) == (pair.label, pair.predicted)
        };
        let places: Vec<usize> = mistakes.iter().filter(of).take(COLUMNS).copied().collect();
        let (label, predicted) = (&classes[pair.label], &classes[pair.predicted]);
        let heading = format!("{label} taken for {predicted}: {} of {}", pair.images, pair.support);
        sections.push(section(heading, &places)?);
    }
    Ok(sheet(title, &sections, SIDE, COLUMNS))
}

fn cell(sample: &Sample, verdict: &Verdict, config: &TransformConfig, classes: &[String]) -> Result<Cell> {
    let side = config.image_size;
    let pixels = transform::apply(&sample.source.picture()?, sample.id, config, Mode::Eval);
    let seen = Picture { width: side, height: side, pixels };
    let caption = vec![
        (classes[verdict.label].clone(), RIGHT),
        (classes[verdict.predicted].clone(), WRONG),
        (format!("{:.1} %", 100.0 * verdict.confidence), INK),
    ];
    Ok(Cell { pixels: resize(&seen, Crop::whole(&seen), SIDE, SIDE, Interpolation::Bilinear), caption })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(3);
        for (label, logits) in [
            (0, [2.0, 0.0, 0.0]),
            (0, [0.0, 9.0, 0.0]),
            (0, [0.0, 1.0, 0.0]),
            (1, [0.0, 1.0, 1.0]),
            (2, [3.0, 0.0, 0.0]),
        ] {
            report.add(&logits, label);
        }
        report
    }

    #[test]
    fn pairs_come_by_images_and_mistakes_by_confidence() {
        let report = report();
        let pairs = report.confused(5);
        assert_eq!(pairs[0], Pair { label: 0, predicted: 1, images: 2, support: 3 });
        assert_eq!((pairs.len(), pairs[1].label, report.confused(1).len()), (2, 2, 1));
        assert_eq!(report.mistakes(), [1, 4, 2]);
    }

    #[test]
    fn the_sheet_holds_a_picture_for_every_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let sample = |id: u64| {
            let path = folder.path().join(format!("{id}.png"));
            image::RgbImage::from_pixel(3, 2, image::Rgb([id as u8 + 1, 0, 9])).save(&path).unwrap();
            Sample { id, source: crate::data::Source::File(path), label: 0 }
        };
        let samples: Vec<Sample> = (0..5).map(sample).collect();
        let classes = ["cat", "a class of a long name", "dog"].map(String::from);
        let made = mistakes_sheet("t", &report(), &samples, &TransformConfig::paper(16), &classes).unwrap();
        let count = |n: u8| made.pixels.as_chunks::<3>().0.iter().filter(|&&p| p == [n, 0, 9]).count();
        // Among the surest, and in its pair.
        assert_eq!([1, 2, 3, 4, 5].map(count), [0, 2 * SIDE * SIDE, 2 * SIDE * SIDE, 0, 2 * SIDE * SIDE]);
        assert!(mistakes_sheet("t", &Report::new(3), &[], &TransformConfig::paper(16), &classes).is_ok());
    }
}
