//! What attention's gradients are, and how far a kernel may be from them: first-order bounds, element by element.
#![forbid(unsafe_code)]

use dynavit::ops::attention::reference::{self, Sizes};

/// Half a unit in the last place of f32 at 1.
const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// A gradient, and what a value of it may be off by.
pub struct Gradient {
    pub expected: Vec<f64>,
    pub bound: Vec<f64>,
}

/// What rounding to a type does to a value: at most `relative` of it, and below the normal numbers `tiny`.
#[derive(Clone, Copy)]
pub struct Rounding {
    pub relative: f64,
    pub tiny: f64,
}

/// The gradients to q, k and v, for kernels that take P from lse and delta from `y` as the card has it, that round P, dS
/// and the results so, and sum in f32. Sums of n terms are off by 2 n units of their magnitudes: a card's matrix units
/// truncate where f32 rounds. Terms of second order are the 1.05.
pub fn gradients(q: &[f64], k: &[f64], v: &[f64], y: &[f64], dy: &[f64], z: Sizes, r: Rounding) -> [Gradient; 3] {
    let (dq, dk, dv) = reference::backward(q, k, v, dy, z);
    let (mut eq, mut ek, mut ev) = (vec![0.0; dq.len()], vec![0.0; dk.len()], vec![0.0; dv.len()]);
    let (w, d) = (z.head_width, z.width());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let magnitude = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
    let scale = 1.0 / (w as f64).sqrt();
    let (sum_w, sum_queries, sum_keys) =
        (2.0 * w as f64 * UNIT, 2.0 * z.queries as f64 * UNIT, 2.0 * z.keys as f64 * UNIT);
    for (image, head, i) in
        (0..z.b).flat_map(|b| (0..z.heads).flat_map(move |h| (0..z.queries).map(move |i| (b, h, i))))
    {
        let row = (image * z.queries + i) * d + head * w;
        let key = |j: usize| (image * z.keys + j) * d + head * w;
        let of = |x: &'_ [f64], at: usize| x[at..at + w].to_vec();
        let (qi, dyi) = (of(q, row), of(dy, row));
        let scores: Vec<f64> = (0..z.keys).map(|j| scale * dot(&qi, &k[key(j)..][..w])).collect();
        let sizes: Vec<f64> = (0..z.keys).map(|j| scale * magnitude(&qi, &k[key(j)..][..w])).collect();
        let (largest, widest) = (max(&scores), max(&sizes));
        let total: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|x| (x - largest).exp() / total).collect();
        let dp: Vec<f64> = (0..z.keys).map(|j| dot(&dyi, &v[key(j)..][..w])).collect();
        let delta = dot(&p, &dp);
        let y_row = of(y, row);
        let delta_error = (dot(&y_row, &dyi) - delta).abs() + sum_w * magnitude(&y_row, &dyi);
        for j in 0..z.keys {
            let (kj, vj) = (of(k, key(j)), of(v, key(j)));
            // The score's sum, that of the score which lse hangs on most, and a few roundings of numbers below 16 on the
            // way to the power and to lse.
            let p_error = (sum_w + 4.0 * UNIT) * (sizes[j] + widest) + (64.0 + sum_keys / UNIT) * UNIT;
            let ds = p[j] * (dp[j] - delta);
            let ds_error =
                p[j] * (sum_w * magnitude(&dyi, &vj) + delta_error) + ds.abs() * (r.relative + p_error) + r.tiny;
            for l in 0..w {
                eq[row + l] += scale * (ds_error + sum_keys * ds.abs()) * kj[l].abs();
                ek[key(j) + l] += scale * (ds_error + sum_queries * ds.abs()) * qi[l].abs();
                ev[key(j) + l] += (p[j] * (r.relative + p_error + sum_queries) + r.tiny) * dyi[l].abs();
            }
        }
    }
    [(dq, eq), (dk, ek), (dv, ev)].map(|(expected, error)| {
        let bound = expected.iter().zip(&error).map(|(x, e)| 1.05 * e + r.relative * x.abs() + r.tiny).collect();
        Gradient { expected, bound }
    })
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}
