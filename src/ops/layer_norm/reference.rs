//! Layer norm along rows by its definition: two passes, biased variance.
#![forbid(unsafe_code)]

use crate::ops::real::Real;

/// Mean and reciprocal deviation of a row.
fn statistics<R: Real>(row: &[R], eps: R) -> (R, R) {
    let d = R::of(row.len() as f64);
    let mut mean = R::zero();
    for &v in row {
        mean += v;
    }
    mean = mean / d;
    let mut variance = R::zero();
    for &v in row {
        variance += (v - mean) * (v - mean);
    }
    (mean, R::of(1.0) / (variance / d + eps).sqrt())
}

/// y = (x - mean) / sqrt(variance + eps) * weight + bias, row by row.
pub fn forward<R: Real>(x: &[R], weight: &[R], bias: &[R], eps: f64) -> Vec<R> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(weight.len()) {
        let (mean, rstd) = statistics(row, R::of(eps));
        y.extend(row.iter().zip(weight).zip(bias).map(|((&x, &w), &b)| (x - mean) * rstd * w + b));
    }
    y
}

/// (dx, dweight, dbias).
pub fn backward<R: Real>(x: &[R], weight: &[R], dy: &[R], eps: f64) -> (Vec<R>, Vec<R>, Vec<R>) {
    let width = weight.len();
    let d = R::of(width as f64);
    let mut dx = Vec::with_capacity(x.len());
    let (mut dweight, mut dbias) = (vec![R::zero(); width], vec![R::zero(); width]);
    for (x, dy) in x.chunks(width).zip(dy.chunks(width)) {
        let (mean, rstd) = statistics(x, R::of(eps));
        let (mut sum, mut sum_normal) = (R::zero(), R::zero());
        for i in 0..width {
            let normal = (x[i] - mean) * rstd;
            dweight[i] += dy[i] * normal;
            dbias[i] += dy[i];
            sum += dy[i] * weight[i];
            sum_normal += dy[i] * weight[i] * normal;
        }
        for i in 0..width {
            let normal = (x[i] - mean) * rstd;
            dx.push(rstd * (dy[i] * weight[i] - sum / d - normal * sum_normal / d));
        }
    }
    (dx, dweight, dbias)
}
