//! Cross-entropy on the CPU: one thread, since logits are few; sums over the batch in f64.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;

/// Mean loss; `dlogits` comes in holding the logits and leaves holding (p - target) / B.
pub fn forward_backward(dlogits: &mut [f32], labels: &[usize], classes: usize, smoothing: f32) -> f32 {
    let b = labels.len() as f32;
    let mut total = 0.0f64;
    for (row, &label) in dlogits.chunks_exact_mut(classes).zip(labels) {
        let max = vector::max(row);
        let hit = row[label] - max;
        let mean = row.iter().map(|z| z - max).sum::<f32>() / classes as f32;
        let sum = vector::exp_scaled_sum(row, 1.0, max);
        let log = sum.ln();
        total += f64::from((1.0 - smoothing) * (log - hit) + smoothing * (log - mean));
        for (i, p) in row.iter_mut().enumerate() {
            let hard = if i == label { 1.0 - smoothing } else { 0.0 };
            *p = (*p / sum - (hard + smoothing / classes as f32)) / b;
        }
    }
    (total / labels.len() as f64) as f32
}
