//! Cross-entropy with label smoothing by its definition.
#![forbid(unsafe_code)]

use crate::ops::real::Real;
use crate::ops::softmax::reference::{self as softmax, row_max};

/// Mean over the rows of -(1 - s) ln p[label] - s mean ln p, with p the softmax of `classes` logits.
pub fn forward<R: Real>(logits: &[R], labels: &[usize], classes: usize, smoothing: R) -> R {
    let c = R::of(classes as f64);
    let mut total = R::zero();
    for (row, &label) in logits.chunks(classes).zip(labels) {
        let max = row_max(row);
        let (mut sum, mut mean) = (R::zero(), R::zero());
        for &z in row {
            sum += (z - max).exp();
            mean += z - max;
        }
        let log = sum.ln();
        total += (R::of(1.0) - smoothing) * (log - (row[label] - max)) + smoothing * (log - mean / c);
    }
    total / R::of(labels.len() as f64)
}

/// dlogits = (p - target) / B, the target smoothed.
pub fn backward<R: Real>(logits: &[R], labels: &[usize], classes: usize, smoothing: R) -> Vec<R> {
    let b = R::of(labels.len() as f64);
    let mut dlogits = softmax::forward(logits, classes);
    for (row, &label) in dlogits.chunks_mut(classes).zip(labels) {
        for (i, p) in row.iter_mut().enumerate() {
            let hard = if i == label { R::of(1.0) - smoothing } else { R::zero() };
            *p = (*p - (hard + smoothing / R::of(classes as f64))) / b;
        }
    }
    dlogits
}
