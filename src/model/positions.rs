//! Position tables for another number of patches.
#![forbid(unsafe_code)]

/// Coefficient of the cubic filter that `interpolate` uses when it antialiases, and Pillow always.
const A: f64 = -0.5;
/// How far the cubic filter reaches.
const REACH: f64 = 2.0;

/// The table (1 + to*to, D) that timm's `resample_abs_pos_embed` makes of `table` (1 + from*from, D): bicubic with
/// antialiasing over the square of patches, the row of [CLS] as it is. Sums are f64 and rounded once.
pub fn resample(table: &[f32], from: usize, to: usize) -> Vec<f32> {
    let d = table.len() / (1 + from * from);
    let (cls, grid) = table.split_at(d);
    let taps = taps(from, to);
    // Along x, then along y: (from, from, D) to (from, to, D) to (to, to, D).
    let mut across = vec![0.0f64; from * to * d];
    for (row, out) in grid.chunks_exact(from * d).zip(across.chunks_exact_mut(to * d)) {
        for ((first, weights), out) in taps.iter().zip(out.chunks_exact_mut(d)) {
            for (weight, values) in weights.iter().zip(row[first * d..].chunks_exact(d)) {
                out.iter_mut().zip(values).for_each(|(sum, &v)| *sum += weight * f64::from(v));
            }
        }
    }
    let mut result = cls.to_vec();
    for (first, weights) in &taps {
        let mut row = vec![0.0f64; to * d];
        for (weight, values) in weights.iter().zip(across[first * to * d..].chunks_exact(to * d)) {
            row.iter_mut().zip(values).for_each(|(sum, v)| *sum += weight * v);
        }
        result.extend(row.into_iter().map(|v| v as f32));
    }
    result
}

/// For each of `to` places: the first of `from` that it takes from, and the weights of that and those that follow.
/// As `torch.nn.functional.interpolate(mode="bicubic", antialias=True)` with corners not aligned.
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    // Shrinking widens the filter, so that every source has its share.
    let stretch = scale.max(1.0);
    let reach = REACH * stretch;
    (0..to)
        .map(|i| {
            let centre = scale * (i as f64 + 0.5);
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).min(from);
            let weight = |j: usize| cubic((j as f64 - centre + 0.5) / stretch);
            let mut weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            (first, weights)
        })
        .collect()
}

/// Keys' cubic convolution.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < REACH {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_constant_table_stays_constant_and_the_first_row_is_kept(from in 1usize..40, to in 1usize..40) {
            let mut table = vec![2.5f32; (1 + from * from) * 3];
            table[..3].copy_from_slice(&[1.0, -2.0, 3.0]);
            let new = resample(&table, from, to);
            prop_assert_eq!(new.len(), (1 + to * to) * 3);
            prop_assert_eq!(&new[..3], &table[..3]);
            prop_assert!(new[3..].iter().all(|&v| (v - 2.5).abs() < 1e-6));
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let table: Vec<f32> = (0..(1 + 25) * 2).map(|i| (i as f32).sin()).collect();
        assert_eq!(resample(&table, 5, 5), table);
    }
}
