//! The one comparator of the tests: a result against its f64 reference, within a budget derived from a naive f32 run.
#![forbid(unsafe_code)]

pub use crate::device::cpu::vector::UNIT_F32;

/// Aggregates of fewer elements say no more than the elements themselves.
const AGGREGATE_FROM: usize = 64;

/// How far a result may lie from its reference: each element, and the root mean square of all.
#[derive(Clone, Debug)]
pub struct Budget {
    pub element: Vec<f64>,
    pub rms: f64,
}

fn rms(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    (values.map(|v| v * v).sum::<f64>() / count).sqrt()
}

impl Budget {
    /// Twice `bound`, the rounding error that a running analysis grants each element of the naive f32 loops; in
    /// aggregate twice the error that those loops really made, plus four roundings of the reference.
    pub fn analysed(bound: &[f64], naive: &[f32], reference: &[f64]) -> Self {
        let element: Vec<f64> = bound.iter().map(|b| 2.0 * b).collect();
        let rms = if bound.len() < AGGREGATE_FROM {
            rms(element.iter().copied())
        } else {
            let errors = naive.iter().zip(reference).map(|(&n, &r)| f64::from(n) - r);
            2.0 * rms(errors) + 4.0 * UNIT_F32 * rms(reference.iter().copied())
        };
        Budget { element, rms }
    }

    /// `roundings` unit roundings of each reference value plus `floor`.
    pub fn roundings(reference: &[f64], roundings: f64, floor: f64) -> Self {
        let element: Vec<f64> = reference.iter().map(|r| roundings * UNIT_F32 * r.abs() + floor).collect();
        let rms = rms(element.iter().copied());
        Budget { element, rms }
    }
}

/// Panics unless `got` agrees with `reference`: same length, finite, each element within its budget, and the root mean
/// square error too. The message names the worst coordinate, both values and the share of the budget used.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], reference: &[f64], budget: &Budget) {
    assert_eq!(got.len(), reference.len(), "{what}: lengths differ");
    assert_eq!(got.len(), budget.element.len(), "{what}: lengths differ");
    let mut worst = (0usize, 0.0f64);
    for (i, (&g, &r)) in got.iter().zip(reference).enumerate() {
        assert!(g.is_finite() && r.is_finite(), "{what}[{i}] is {g}, reference {r}");
        assert!(budget.element[i] >= 0.0, "{what}[{i}]: the budget is {}", budget.element[i]);
        let error = (f64::from(g) - r).abs();
        let share = if error == 0.0 { 0.0 } else { error / budget.element[i] };
        if share > worst.1 {
            worst = (i, share);
        }
    }
    let (i, share) = worst;
    assert!(share <= 1.0, "{what}[{i}] is {:e}, reference {:e}: {share:.2} times its budget", got[i], reference[i]);
    let error = rms(got.iter().zip(reference).map(|(&g, &r)| f64::from(g) - r));
    assert!(error <= budget.rms, "{what}: root mean square error {error:e} exceeds {:e}", budget.rms);
}

/// ||got - reference|| / ||reference||, for whole gradients.
pub fn relative_norm(got: &[f32], reference: &[f64]) -> f64 {
    assert_eq!(got.len(), reference.len(), "lengths differ");
    let difference: f64 = got.iter().zip(reference).map(|(&g, &r)| (f64::from(g) - r).powi(2)).sum();
    let norm: f64 = reference.iter().map(|r| r * r).sum();
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "is NaN")]
    fn nan_fails() {
        assert_close("x", &[f32::NAN], &[0.0], &Budget::roundings(&[0.0], 4.0, 1.0));
    }

    #[test]
    #[should_panic(expected = "the budget is NaN")]
    fn a_nan_budget_fails() {
        assert_close("x", &[1.0], &[2.0], &Budget { element: vec![f64::NAN], rms: 1.0 });
    }

    #[test]
    #[should_panic(expected = "times its budget")]
    fn one_bad_element_among_many_fails() {
        let mut got = vec![1.0; 4096];
        got[77] = 1.00001;
        let reference = vec![1.0; 4096];
        assert_close("x", &got, &reference, &Budget::roundings(&reference, 4.0, 0.0));
    }

    #[test]
    #[should_panic(expected = "lengths differ")]
    fn another_length_fails() {
        assert_close("x", &[1.0], &[1.0, 2.0], &Budget::roundings(&[1.0, 2.0], 4.0, 0.0));
    }
}
