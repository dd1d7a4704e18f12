//! GELU by its definition.
#![forbid(unsafe_code)]

use crate::ops::real::Real;

fn distribution<R: Real>(x: R) -> R {
    R::of(0.5) * (R::of(1.0) + (x * R::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

/// y = x Phi(x).
pub fn forward<R: Real>(x: &[R]) -> Vec<R> {
    x.iter().map(|&x| x * distribution(x)).collect()
}

/// dx = dy (Phi(x) + x phi(x)), phi the standard normal density.
pub fn backward<R: Real>(x: &[R], dy: &[R]) -> Vec<R> {
    let height = R::of(1.0 / (2.0 * std::f64::consts::PI).sqrt());
    let slope = |x: R| distribution(x) + x * height * (R::of(-0.5) * x * x).exp();
    x.iter().zip(dy).map(|(&x, &dy)| dy * slope(x)).collect()
}
