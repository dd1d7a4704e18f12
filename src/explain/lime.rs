//! LIME (Ribeiro et al. 2016) with the definitions of lime 0.2.0.1's image explainer: what is shown, how near an image
//! is to the original, and the weighted ridge regression. It knows no image and no model.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};

/// lime's width of the exponential kernel for images.
pub const KERNEL_WIDTH: f64 = 0.25;
/// Ridge penalties of the fit, and of the first fit that chooses among the segments.
const ALPHA: f64 = 1.0;
const CHOOSING_ALPHA: f64 = 0.01;

/// Which segments each perturbed image shows: (samples, segments), true where the original is seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Masks {
    pub segments: usize,
    pub shown: Vec<bool>,
}

/// The linear model that was fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    pub intercept: f64,
    /// (segment, weight), largest magnitude first, lower segment first among equals.
    pub weights: Vec<(usize, f64)>,
    /// Weighted R2.
    pub score: f64,
    /// What the linear model says of the original.
    pub prediction: f64,
}

impl Masks {
    /// A fair coin for each segment of each image; the first image is the original. Image i of a seed is the same
    /// however many are drawn.
    pub fn draw(seed: u64, samples: usize, segments: usize) -> Self {
        let row = |i: usize| {
            let mut stream = Stream::new(seed, Purpose::Lime, i as u32, 0);
            (0..segments).map(move |_| i == 0 || stream.next_u32() >> 31 == 1)
        };
        Masks { segments, shown: (0..samples).flat_map(row).collect() }
    }

    /// The images' rows.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, bool> {
        self.shown.chunks_exact(self.segments)
    }
}

/// The weight of an image in the fit: sqrt(exp(-d^2 / width^2)) at cosine distance d from the original.
pub fn proximity(row: &[bool], width: f64) -> f64 {
    let shown = row.iter().filter(|&&shown| shown).count() as f64;
    let distance = 1.0 - (shown / row.len() as f64).sqrt();
    libm::exp(-(distance * distance) / (width * width)).sqrt()
}

/// Fits `outputs` (samples,), the probability of one class for each of the images. With `features` below the number of
/// segments, those of highest magnitude in a first fit are taken, as lime's `highest_weights`.
///
/// Errors when an output is not finite.
pub fn fit(masks: &Masks, outputs: &[f64], width: f64, features: usize) -> Result<Fit> {
    if outputs.len() != masks.rows().len() || outputs.is_empty() || features == 0 {
        return Err(Error::shape("lime", format!("{} outputs of {} images", outputs.len(), masks.rows().len())));
    }
    if outputs.iter().any(|y| !y.is_finite()) {
        return Err(Error::NonFinite { what: "a probability".into(), remedy: "check the weights and --norm".into() });
    }
    let near: Vec<f64> = masks.rows().map(|row| proximity(row, width)).collect();
    let all: Vec<usize> = (0..masks.segments).collect();
    let used = if features < masks.segments {
        let (_, weights) = ridge(masks, &all, outputs, &near, CHOOSING_ALPHA)?;
        let mut order = by_magnitude(&all, &weights);
        order.truncate(features);
        order.into_iter().map(|(segment, _)| segment).collect()
    } else {
        all
    };
    let (intercept, weights) = ridge(masks, &used, outputs, &near, ALPHA)?;
    let says = |row: &[bool]| {
        let shown = used.iter().zip(&weights).filter(|&(&segment, _)| row[segment]);
        intercept + shown.map(|(_, weight)| weight).sum::<f64>()
    };
    let mean = weighted_mean(outputs.iter().copied(), &near);
    let (mut missed, mut spread) = (0.0, 0.0);
    for ((row, y), near) in masks.rows().zip(outputs).zip(&near) {
        missed += near * (y - says(row)).powi(2);
        spread += near * (y - mean).powi(2);
    }
    // As scikit-learn's r2_score: nothing to explain is explained only without a miss.
    let score = if spread > 0.0 { 1.0 - missed / spread } else { f64::from(missed == 0.0) };
    let prediction = says(&vec![true; masks.segments]);
    Ok(Fit { intercept, weights: by_magnitude(&used, &weights), score, prediction })
}

fn by_magnitude(segments: &[usize], weights: &[f64]) -> Vec<(usize, f64)> {
    let mut pairs: Vec<(usize, f64)> = segments.iter().copied().zip(weights.iter().copied()).collect();
    pairs.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    pairs
}

fn weighted_mean(values: impl Iterator<Item = f64>, weights: &[f64]) -> f64 {
    values.zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / weights.iter().sum::<f64>()
}

/// Weighted ridge regression with a free intercept: (intercept, weights of `used`).
fn ridge(masks: &Masks, used: &[usize], outputs: &[f64], near: &[f64], alpha: f64) -> Result<(f64, Vec<f64>)> {
    let d = used.len();
    let value = |row: &[bool], j: usize| f64::from(row[used[j]]);
    let means: Vec<f64> = (0..d).map(|j| weighted_mean(masks.rows().map(|row| value(row, j)), near)).collect();
    let mean = weighted_mean(outputs.iter().copied(), near);
    let (mut gram, mut right) = (vec![0.0; d * d], vec![0.0; d]);
    for ((row, y), near) in masks.rows().zip(outputs).zip(near) {
        let x: Vec<f64> = (0..d).map(|j| value(row, j) - means[j]).collect();
        for i in 0..d {
            right[i] += near * x[i] * (y - mean);
            let scaled = near * x[i];
            gram[i * d..=i * d + i].iter_mut().zip(&x).for_each(|(sum, x)| *sum += scaled * x);
        }
    }
    (0..d).for_each(|i| gram[i * d + i] += alpha);
    let weights = solve(gram, right)?;
    let intercept = mean - weights.iter().zip(&means).map(|(weight, mean)| weight * mean).sum::<f64>();
    Ok((intercept, weights))
}

/// The solution of a symmetric positive definite system whose lower triangle is given, by Cholesky's factors.
fn solve(mut a: Vec<f64>, mut x: Vec<f64>) -> Result<Vec<f64>> {
    let d = x.len();
    for i in 0..d {
        for j in 0..=i {
            let inner: f64 = (0..j).map(|l| a[i * d + l] * a[j * d + l]).sum();
            let rest = a[i * d + j] - inner;
            a[i * d + j] = if i == j { rest.sqrt() } else { rest / a[j * d + j] };
        }
        if !(a[i * d + i].is_finite() && a[i * d + i] > 0.0) {
            return Err(Error::NonFinite { what: "the fit of LIME".into(), remedy: "give more --samples".into() });
        }
    }
    for i in 0..d {
        let inner: f64 = (0..i).map(|l| a[i * d + l] * x[l]).sum();
        x[i] = (x[i] - inner) / a[i * d + i];
    }
    for i in (0..d).rev() {
        let inner: f64 = (i + 1..d).map(|l| a[l * d + i] * x[l]).sum();
        x[i] = (x[i] - inner) / a[i * d + i];
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_do_not_depend_on_how_many_are_drawn() {
        let (few, many) = (Masks::draw(3, 10, 49), Masks::draw(3, 100, 49));
        assert_eq!(few.shown, many.shown[..490]);
        assert!(few.shown[..49].iter().all(|&shown| shown));
        let share = many.shown.iter().filter(|&&shown| shown).count() as f64 / 4900.0;
        // The deviation of the share is 0.007, and the first row adds 0.005.
        assert!((share - 0.505).abs() < 0.05, "{share}");
        assert_ne!(many.shown, Masks::draw(4, 100, 49).shown);
    }

    #[test]
    fn nearness_falls_with_what_is_hidden() {
        assert_eq!(proximity(&[true; 4], KERNEL_WIDTH), 1.0);
        // A quarter is shown: the cosine is 1/2.
        approx::assert_relative_eq!(proximity(&[true, false, false, false], 0.25), (-2.0f64).exp());
        approx::assert_relative_eq!(proximity(&[false; 4], 0.25), (-8.0f64).exp(), max_relative = 1e-12);
    }

    #[test]
    fn a_linear_answer_is_found_again() {
        let masks = Masks::draw(1, 4000, 6);
        let truth = [0.5, -0.25, 0.0, 0.125, 0.0625, 0.0];
        let outputs: Vec<f64> = masks
            .rows()
            .map(|row| 0.1 + row.iter().zip(truth).map(|(&shown, w)| if shown { w } else { 0.0 }).sum::<f64>())
            .collect();
        let found = fit(&masks, &outputs, KERNEL_WIDTH, 6).unwrap();
        assert_eq!(found.weights.iter().take(4).map(|w| w.0).collect::<Vec<_>>(), [0, 1, 3, 4]);
        for (segment, weight) in &found.weights {
            // The penalty of 1 against some hundred weighted images pulls a little towards 0.
            assert!((weight - truth[*segment]).abs() < 0.01, "{segment}: {weight}");
        }
        assert!(found.score > 0.999 && (found.prediction - outputs[0]).abs() < 0.01, "{found:?}");
        let two = fit(&masks, &outputs, KERNEL_WIDTH, 2).unwrap();
        assert_eq!(two.weights.iter().map(|w| w.0).collect::<Vec<_>>(), [0, 1]);
        assert!(fit(&masks, &vec![f64::NAN; 4000], 0.25, 6).is_err());
        assert_eq!(fit(&masks, &vec![0.5; 4000], 0.25, 6).unwrap().score, 1.0);
    }
}
