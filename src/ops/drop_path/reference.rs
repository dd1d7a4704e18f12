//! The scaled residual sum by its definition.
#![forbid(unsafe_code)]

use crate::ops::real::Real;

/// y = x + s_b branch, images side by side.
pub fn forward<R: Real>(x: &[R], branch: &[R], scales: &[f32]) -> Vec<R> {
    let image = x.len() / scales.len();
    (0..x.len()).map(|i| x[i] + R::of(f64::from(scales[i / image])) * branch[i]).collect()
}

/// dbranch = s_b dy.
pub fn backward<R: Real>(dy: &[R], scales: &[f32]) -> Vec<R> {
    let image = dy.len() / scales.len();
    (0..dy.len()).map(|i| R::of(f64::from(scales[i / image])) * dy[i]).collect()
}
