//! The confusion matrix and what follows from it.
#![forbid(unsafe_code)]

use crate::flops::Looked;
use serde::Serialize;

/// What was measured on a split: every image's verdict, and the confusion they add up to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Rows are the true classes, columns the predicted ones.
    pub confusion: Vec<Vec<u64>>,
    /// One an image, in the order of the samples.
    pub verdicts: Vec<Verdict>,
    /// How long the sequences were, and what they cost.
    pub looked: Looked,
    loss_sum: f64,
}

/// What the model said of one image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The true class.
    pub label: usize,
    /// The class of the largest logit; the first of equals.
    pub predicted: usize,
    /// Probability of `predicted`.
    pub confidence: f64,
    /// Classes ahead of the true one, so that it is among the n likeliest when this is below n. Of equal logits the
    /// first is ahead.
    pub rank: usize,
}

/// Precision, recall and F1 of one class; a ratio over nothing is 0, as scikit-learn's `zero_division=0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// Images of the class.
    pub support: u64,
}

/// An average over the classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MacroReport {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Report {
    /// No images yet.
    pub fn new(classes: usize) -> Self {
        Report {
            confusion: vec![vec![0; classes]; classes],
            verdicts: Vec::new(),
            looked: Looked::default(),
            loss_sum: 0.0,
        }
    }

    /// Counts one image: its logits (classes,) and its class. The first of equal logits is the prediction.
    pub fn add(&mut self, logits: &[f32], label: usize) {
        let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        self.confusion[label][best] += 1;
        let max = f64::from(logits[best]);
        let sum: f64 = logits.iter().map(|&z| (f64::from(z) - max).exp()).sum();
        self.loss_sum += sum.ln() + max - f64::from(logits[label]);
        let ahead = |&i: &usize| logits[i] > logits[label] || (logits[i] == logits[label] && i < label);
        let rank = (0..logits.len()).filter(ahead).count();
        self.verdicts.push(Verdict { label, predicted: best, confidence: sum.recip(), rank });
    }

    /// Images counted.
    pub fn images(&self) -> usize {
        self.confusion.iter().flatten().sum::<u64>() as usize
    }

    /// Share of images whose class was found.
    pub fn accuracy(&self) -> f64 {
        ratio((0..self.confusion.len()).map(|i| self.confusion[i][i]).sum(), self.images() as u64)
    }

    /// Mean cross-entropy, without smoothing.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.images().max(1) as f64
    }

    /// Each class's measures, in class order.
    pub fn per_class(&self) -> Vec<ClassReport> {
        (0..self.confusion.len())
            .map(|i| {
                let hits = self.confusion[i][i];
                let support = self.confusion[i].iter().sum();
                let predicted: u64 = self.confusion.iter().map(|row| row[i]).sum();
                ClassReport {
                    precision: ratio(hits, predicted),
                    recall: ratio(hits, support),
                    f1: ratio(2 * hits, predicted + support),
                    support,
                }
            })
            .collect()
    }

    /// Share of images whose class is among the n likeliest.
    pub fn top(&self, n: usize) -> f64 {
        ratio(self.verdicts.iter().filter(|verdict| verdict.rank < n).count() as u64, self.verdicts.len() as u64)
    }

    /// Means over the classes, each counting alike.
    pub fn macro_average(&self) -> MacroReport {
        self.average(|_| 1.0)
    }

    /// Means over the classes, each counting as often as it has images.
    pub fn weighted_average(&self) -> MacroReport {
        self.average(|class| class.support as f64)
    }

    /// The measures over all decisions, whatever their class: of single labels each is the accuracy.
    pub fn micro_average(&self) -> MacroReport {
        let accuracy = self.accuracy();
        MacroReport { precision: accuracy, recall: accuracy, f1: accuracy }
    }

    fn average(&self, weight: fn(&ClassReport) -> f64) -> MacroReport {
        let classes = self.per_class();
        let all = classes.iter().map(weight).sum::<f64>();
        let mean = |of: fn(&ClassReport) -> f64| {
            let sum: f64 = classes.iter().map(|class| of(class) * weight(class)).sum();
            if all == 0.0 { 0.0 } else { sum / all }
        };
        MacroReport { precision: mean(|c| c.precision), recall: mean(|c| c.recall), f1: mean(|c| c.f1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_follow_from_the_confusion_matrix() {
        let mut report = Report::new(3);
        let one_hot = |i: usize| (0..3).map(|j| if i == j { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        // Class 0: two right, one taken for class 1. Class 1: one right. Class 2: one taken for class 0.
        for (label, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1), (2, 0)] {
            report.add(&one_hot(predicted), label);
        }
        assert_eq!(report.confusion, [[2, 1, 0], [0, 1, 0], [1, 0, 0]]);
        assert_eq!((report.images(), report.accuracy()), (5, 0.6));
        assert_eq!(
            report.verdicts.iter().map(|v| (v.predicted, v.rank)).collect::<Vec<_>>()[1..4],
            [(0, 0), (1, 1), (1, 0)]
        );
        let e = std::f64::consts::E;
        approx::assert_relative_eq!(report.verdicts[0].confidence, e / (e + 2.0), epsilon = 1e-12);
        let per_class = report.per_class();
        assert_eq!((per_class[0].precision, per_class[0].recall, per_class[0].support), (2.0 / 3.0, 2.0 / 3.0, 3));
        assert_eq!((per_class[1].precision, per_class[1].recall, per_class[1].f1), (0.5, 1.0, 2.0 / 3.0));
        assert_eq!((per_class[2].precision, per_class[2].recall, per_class[2].f1), (0.0, 0.0, 0.0));
        approx::assert_relative_eq!(report.macro_average().recall, 5.0 / 9.0);
        // -ln softmax is ln(e + 2) - 1 when right and ln(e + 2) when wrong.
        approx::assert_relative_eq!(report.loss(), (std::f64::consts::E + 2.0).ln() - 0.6, epsilon = 1e-12);
    }

    #[test]
    fn large_logits_do_not_overflow_and_ties_go_to_the_first() {
        let mut report = Report::new(2);
        report.add(&[3e4, 3e4], 1);
        assert_eq!(report.confusion, [[0, 0], [1, 0]]);
        assert_eq!(report.verdicts[0], Verdict { label: 1, predicted: 0, confidence: 0.5, rank: 1 });
        approx::assert_relative_eq!(report.loss(), 2f64.ln(), epsilon = 1e-9);
    }
}
