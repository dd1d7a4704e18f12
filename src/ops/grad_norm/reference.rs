//! The gradient's norm as a plain f64 loop: the definition.
#![forbid(unsafe_code)]

/// sqrt(sum of g^2) of (n,) elements.
pub fn norm(g: &[f64]) -> f64 {
    let mut sum = 0.0;
    for x in g {
        sum += x * x;
    }
    sum.sqrt()
}
