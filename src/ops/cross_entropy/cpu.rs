//! Cross-entropy on the CPU: one thread, since logits are few; sums over the batch in f64.
#![forbid(unsafe_code)]

use super::Labels;
use crate::device::cpu::vector;

/// Mean loss; `dlogits` comes in holding the logits and leaves holding (p - target) / B.
pub fn forward_backward(dlogits: &mut [f32], labels: Labels, classes: usize, smoothing: f32) -> f32 {
    let b = labels.own.len() as f32;
    let mut total = 0.0f64;
    for (r, row) in dlogits.chunks_exact_mut(classes).enumerate() {
        let targets = labels.row(r);
        let max = vector::max(row);
        let hit: f32 = targets.iter().map(|&(label, weight)| weight * (row[label] - max)).sum();
        let mean = row.iter().map(|z| z - max).sum::<f32>() / classes as f32;
        let sum = vector::exp_scaled_sum(row, 1.0, max);
        let log = sum.ln();
        total += f64::from((1.0 - smoothing) * (log - hit) + smoothing * (log - mean));
        for (i, p) in row.iter_mut().enumerate() {
            let hard: f32 = targets.iter().filter(|&&(label, _)| label == i).map(|&(_, weight)| weight).sum();
            *p = (*p / sum - ((1.0 - smoothing) * hard + smoothing / classes as f32)) / b;
        }
    }
    (total / labels.own.len() as f64) as f32
}
