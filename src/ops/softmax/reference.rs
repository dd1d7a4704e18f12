//! Softmax along rows by its definition.
#![forbid(unsafe_code)]

use crate::ops::real::Real;

/// The largest value of a row; rows are not empty.
pub fn row_max<R: Real>(row: &[R]) -> R {
    row.iter().fold(row[0], |m, &v| if v > m { v } else { m })
}

/// y = e^(x - max) / sum e^(x - max) for each row of `d`.
pub fn forward<R: Real>(x: &[R], d: usize) -> Vec<R> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(d) {
        let max = row_max(row);
        let mut sum = R::zero();
        for &v in row {
            sum += (v - max).exp();
        }
        y.extend(row.iter().map(|&v| (v - max).exp() / sum));
    }
    y
}

/// dx = y (dy - sum y dy) for each row of `d`.
pub fn backward<R: Real>(y: &[R], dy: &[R], d: usize) -> Vec<R> {
    let mut dx = Vec::with_capacity(y.len());
    for (y, dy) in y.chunks(d).zip(dy.chunks(d)) {
        let mut delta = R::zero();
        for (&y, &dy) in y.iter().zip(dy) {
            delta += y * dy;
        }
        dx.extend(y.iter().zip(dy).map(|(&y, &dy)| y * (dy - delta)));
    }
    dx
}
