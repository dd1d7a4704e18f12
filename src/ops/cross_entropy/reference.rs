//! Cross-entropy with label smoothing by its definition.
#![forbid(unsafe_code)]

use super::Labels;
use crate::ops::real::Real;
use crate::ops::softmax::reference::{self as softmax, row_max};

/// Mean over the rows of -(1 - s) sum_j w_j ln p[label_j] - s mean ln p, with p the softmax of `classes` logits and w
/// the weights of the row's labels.
pub fn forward<R: Real>(logits: &[R], labels: Labels, classes: usize, smoothing: R) -> R {
    let c = R::of(classes as f64);
    let mut total = R::zero();
    for (r, row) in logits.chunks(classes).enumerate() {
        let max = row_max(row);
        let (mut sum, mut mean) = (R::zero(), R::zero());
        for &z in row {
            sum += (z - max).exp();
            mean += z - max;
        }
        let log = sum.ln();
        for (label, weight) in labels.row(r) {
            total += (R::of(1.0) - smoothing) * R::of(f64::from(weight)) * (log - (row[label] - max));
        }
        total += smoothing * (log - mean / c);
    }
    total / R::of(labels.own.len() as f64)
}

/// dlogits = (p - target) / B, the target mixed and smoothed.
pub fn backward<R: Real>(logits: &[R], labels: Labels, classes: usize, smoothing: R) -> Vec<R> {
    let b = R::of(labels.own.len() as f64);
    let mut dlogits = softmax::forward(logits, classes);
    for (r, row) in dlogits.chunks_mut(classes).enumerate() {
        let mut target = vec![smoothing / R::of(classes as f64); classes];
        for (label, weight) in labels.row(r) {
            target[label] += (R::of(1.0) - smoothing) * R::of(f64::from(weight));
        }
        for (p, t) in row.iter_mut().zip(target) {
            *p = (*p - t) / b;
        }
    }
    dlogits
}
