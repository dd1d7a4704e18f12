//! AdamW as plain f64 loops: the definition.
#![forbid(unsafe_code)]

use super::AdamWStep;
use std::ops::Range;

/// One update in place; all slices have one length (n,).
pub fn step(p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64], h: AdamWStep, no_decay: &[Range<usize>]) {
    let c1 = 1.0 - h.beta1.powf(h.step as f64);
    let c2 = 1.0 - h.beta2.powf(h.step as f64);
    for i in 0..p.len() {
        if !no_decay.iter().any(|range| range.contains(&i)) {
            p[i] -= h.lr * h.weight_decay * p[i];
        }
        m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g[i];
        v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g[i] * g[i];
        p[i] -= h.lr * (m[i] / c1) / ((v[i] / c2).sqrt() + h.eps);
    }
}
