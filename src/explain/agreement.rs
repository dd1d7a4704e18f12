//! How far two rankings or two areas agree.
#![forbid(unsafe_code)]

/// Spearman's rank correlation, equal values sharing their mean rank as in `scipy.stats.spearmanr`. None when one side
/// has no order, or there are fewer than two values. Panics when the lengths differ.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "rankings of different things");
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

/// Ranks from 0 on, equal values sharing their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    for equal in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let first = order.iter().position(|i| i == &equal[0]).unwrap_or(0);
        equal.iter().for_each(|&i| ranks[i] = first as f64 + (equal.len() as f64 - 1.0) / 2.0);
    }
    ranks
}

/// Intersection over union of two sets of pixels; 1 when both are empty.
pub fn overlap(a: &[bool], b: &[bool]) -> f64 {
    let count = |both: fn(bool, bool) -> bool| a.iter().zip(b).filter(|&(&a, &b)| both(a, b)).count();
    match count(|a, b| a || b) {
        0 => 1.0,
        union => count(|a, b| a && b) as f64 / union as f64,
    }
}

/// The mean over all pairs, as far as they have a value; None when no pair has one.
pub fn mean_over_pairs<T>(items: &[T], value: impl Fn(&T, &T) -> Option<f64>) -> Option<f64> {
    let pairs = (0..items.len()).flat_map(|j| (0..j).map(move |i| (i, j)));
    let values: Vec<f64> = pairs.filter_map(|(i, j)| value(&items[i], &items[j])).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_see_order_alone() {
        assert_eq!(rank_correlation(&[1.0, 2.0, 9.0], &[-5.0, 0.0, 0.5]), Some(1.0));
        assert_eq!(rank_correlation(&[1.0, 2.0, 9.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
        // Ranks 0.5, 0.5, 2 and 0, 1, 2.
        approx::assert_relative_eq!(rank_correlation(&[1.0, 1.0, 3.0], &[1.0, 2.0, 3.0]).unwrap(), 3f64.sqrt() / 2.0);
    }

    #[test]
    fn overlaps_and_pairs() {
        assert_eq!(overlap(&[true, true, false], &[false, true, true]), 1.0 / 3.0);
        assert_eq!(overlap(&[false], &[false]), 1.0);
        assert_eq!(mean_over_pairs(&[1.0, 2.0, 4.0], |a: &f64, b| Some(b - a)), Some(2.0));
        assert_eq!(mean_over_pairs(&[1.0], |a: &f64, b| Some(b - a)), None);
    }
}
