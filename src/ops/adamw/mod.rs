//! AdamW: one update of the flat parameter arena from its gradient.
//!
//! # Computes
//! With `c1 = 1 - beta1^t`, `c2 = 1 - beta2^t` and t the update's number, for every element:
//! `p *= 1 - lr * weight_decay` (decayed elements only), `m += (g - m) * (1 - beta1)`,
//! `v = v * beta2 + (1 - beta2) * g * g`, `p -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)`.
//! This is `torch.optim.AdamW` (single tensor, f32) in its order of operations.
//!
//! # Derivative
//! None: the update stands outside the tape.
//!
//! # Saves
//! Nothing; `exp_avg` (m) and `exp_avg_sq` (v) are state that the caller keeps between updates.
//!
//! # Shapes
//! params, grads, exp_avg, exp_avg_sq: (n,) each, the flat arena.
//!
//! # Cost
//! About 14 FLOPs, one square root and two divisions an element; reads 16 bytes and writes 12 of each.
#![deny(unsafe_code)]

mod cpu;
pub mod cuda;
pub mod reference;

pub use crate::device::cpu::vector::Coefficients;
use crate::tensor::Tensor;
use std::ops::Range;

/// The scalars of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    /// Added to the root, so that an element whose gradient has always been zero stays put.
    pub eps: f64,
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

/// The coefficients of an update: worked out in f64 and rounded to f32 once.
pub fn coefficients(h: &AdamWStep) -> Coefficients {
    let t = h.step as f64;
    Coefficients {
        decay: (1.0 - h.lr * h.weight_decay) as f32,
        weight1: (1.0 - h.beta1) as f32,
        beta2: h.beta2 as f32,
        weight2: (1.0 - h.beta2) as f32,
        rate: (h.lr / (1.0 - libm::pow(h.beta1, t))) as f32,
        root2: (1.0 - libm::pow(h.beta2, t)).sqrt() as f32,
        eps: h.eps as f32,
    }
}

/// Applies one update in place. Elements of `no_decay`, ranges in any order, are spared the decay.
///
/// Panics when the four tensors differ in length, when a range leaves them, or when `step` is 0.
pub fn step(
    params: &mut Tensor,
    grads: &Tensor,
    exp_avg: &mut Tensor,
    exp_avg_sq: &mut Tensor,
    hyper: AdamWStep,
    no_decay: &[Range<usize>],
) {
    step_part(params, grads, exp_avg, exp_avg_sq, hyper, no_decay, 0..params.len());
}

/// [`step`] for the elements of `part` alone; all others stay as they are. Panics also when `part` leaves the tensors.
pub fn step_part(
    params: &mut Tensor,
    grads: &Tensor,
    exp_avg: &mut Tensor,
    exp_avg_sq: &mut Tensor,
    hyper: AdamWStep,
    no_decay: &[Range<usize>],
    part: Range<usize>,
) {
    let n = params.len();
    assert!(
        [grads.len(), exp_avg.len(), exp_avg_sq.len()] == [n; 3],
        "adamw: {n} parameters, {} gradients, moments of {} and {}",
        grads.len(),
        exp_avg.len(),
        exp_avg_sq.len()
    );
    assert!(no_decay.iter().all(|r| r.end <= n), "adamw: a range without decay leaves the {n} parameters");
    assert!(hyper.step > 0, "adamw: updates are counted from 1");
    let spared = within(&merged(no_decay), &part);
    let (c, at) = (coefficients(&hyper), part);
    let (m, v) = (&mut exp_avg.data_mut()[at.clone()], &mut exp_avg_sq.data_mut()[at.clone()]);
    cpu::step(&mut params.data_mut()[at.clone()], &grads.data()[at], m, v, c, &spared);
}

/// What of the ranges lies in `part`, counted from its beginning.
pub fn within(ranges: &[Range<usize>], part: &Range<usize>) -> Vec<Range<usize>> {
    let cut = |r: &Range<usize>| r.start.clamp(part.start, part.end)..r.end.clamp(part.start, part.end);
    let inside = ranges.iter().map(cut).filter(|r| !r.is_empty());
    inside.map(|r| r.start - part.start..r.end - part.start).collect()
}

/// The same elements as ascending, disjoint, non-empty ranges.
pub fn merged(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};
    use proptest::prelude::*;

    /// Unit roundoff of f32: half the distance from 1 to its successor.
    const U: f64 = f32::EPSILON as f64 / 2.0;

    fn hyper(step: u64) -> AdamWStep {
        AdamWStep { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step }
    }

    fn normals(n: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, Purpose::Fixture, 0, 0);
        (0..n).map(|_| stream.normal() as f32).collect()
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_vec(values.to_vec(), &[values.len()])
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&x| f64::from(x)).collect()
    }

    /// A first-order rounding analysis runs beside the reference: the bound of each element grows with every rounding
    /// that the f32 arithmetic makes, and one per cent is added for products of roundings.
    #[test]
    fn matches_the_reference_within_its_rounding_errors() {
        let n = 1000;
        let spared = [700..800, 100..130, 120..200];
        let mut params = tensor(&normals(n, 1));
        let (mut m, mut v) = (Tensor::zeros(&[n]), Tensor::zeros(&[n]));
        let (mut rp, mut rm, mut rv) = (wide(params.data()), vec![0.0; n], vec![0.0; n]);
        let (mut bound_p, mut bound_m, mut bound_v) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        for t in 1..=8 {
            let h = hyper(t);
            let grads = tensor(&normals(n, 100 + t));
            let before = (rp.clone(), rm.clone());
            step(&mut params, &grads, &mut m, &mut v, h, &spared);
            reference::step(&mut rp, &wide(grads.data()), &mut rm, &mut rv, h, &spared);
            let rate = h.lr / (1.0 - h.beta1.powi(t as i32));
            let root2 = (1.0 - h.beta2.powi(t as i32)).sqrt();
            for i in 0..n {
                let g = f64::from(grads.data()[i]);
                // Coefficient, difference, product; then the sum.
                bound_m[i] = h.beta1 * bound_m[i] + U * (3.0 * (1.0 - h.beta1) * (g - before.1[i]).abs() + rm[i].abs());
                // Coefficient and product on either side (g is used twice); then the sum. All terms are positive.
                bound_v[i] = h.beta2 * bound_v[i] + U * 4.0 * rv[i];
                let denom = rv[i].sqrt() / root2 + h.eps;
                // The root halves a relative error; root, coefficient, division, sum and the rounding of eps follow.
                let relative = 0.5 * bound_v[i] / rv[i] + 5.0 * U;
                let update = rate * rm[i].abs() / denom;
                let update_bound = rate * bound_m[i] / denom + update * (relative + 3.0 * U);
                bound_p[i] += U * (2.0 * before.0[i].abs() + rp[i].abs()) + update_bound;
                for (what, got, want, bound) in [
                    ("p", params.data()[i], rp[i], bound_p[i]),
                    ("m", m.data()[i], rm[i], bound_m[i]),
                    ("v", v.data()[i], rv[i], bound_v[i]),
                ] {
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 1.01 * bound, "step {t}, {what}[{i}]: {got} for {want}, bound {bound:e}");
                }
            }
        }
    }

    #[test]
    fn first_step_moves_by_the_rate_against_the_sign() {
        let mut params = tensor(&[1.0, 1.0]);
        let (mut m, mut v) = (Tensor::zeros(&[2]), Tensor::zeros(&[2]));
        let h = AdamWStep { weight_decay: 0.0, ..hyper(1) };
        step(&mut params, &tensor(&[3.0, -0.5]), &mut m, &mut v, h, &[]);
        approx::assert_relative_eq!(params.data()[0], 0.99, max_relative = 1e-6);
        approx::assert_relative_eq!(params.data()[1], 1.01, max_relative = 1e-6);
    }

    #[test]
    fn a_zero_gradient_leaves_a_spared_parameter_alone_and_no_nan() {
        let mut params = tensor(&[1.5, -2.0]);
        let (mut m, mut v) = (Tensor::zeros(&[2]), Tensor::zeros(&[2]));
        step(&mut params, &Tensor::zeros(&[2]), &mut m, &mut v, hyper(1), std::slice::from_ref(&(0..1)));
        assert_eq!(params.data(), [1.5, -2.0 * (1.0f32 - 1e-2 * 0.1)]);
        assert_eq!((m.data(), v.data()), ([0.0; 2].as_slice(), [0.0; 2].as_slice()));
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        let n = 3 * cpu::CHUNK + 17;
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut params = tensor(&normals(n, 5));
            let (mut m, mut v) = (Tensor::zeros(&[n]), Tensor::zeros(&[n]));
            // The second range crosses the border between two chunks.
            let spared = [2..5, cpu::CHUNK - 3..cpu::CHUNK + 5];
            pool.install(|| step(&mut params, &tensor(&normals(n, 6)), &mut m, &mut v, hyper(1), &spared));
            params.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(3));
    }

    proptest! {
        #[test]
        fn exactly_the_elements_outside_the_ranges_decay(
            n in 1usize..200,
            cuts in proptest::collection::vec((0usize..200, 0usize..40), 0..6),
        ) {
            let spared: Vec<_> = cuts.iter().map(|&(s, l)| s.min(n)..(s + l).min(n)).collect();
            let mut params = tensor(&vec![1.0; n]);
            let (mut m, mut v) = (Tensor::zeros(&[n]), Tensor::zeros(&[n]));
            step(&mut params, &Tensor::zeros(&[n]), &mut m, &mut v, hyper(1), &spared);
            for (i, &p) in params.data().iter().enumerate() {
                prop_assert_eq!(p == 1.0, spared.iter().any(|r| r.contains(&i)), "element {}", i);
            }
        }
    }
}
