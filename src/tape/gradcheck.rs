//! Finite differences in f64: the judge of every reference backward.
#![forbid(unsafe_code)]

/// Panics unless `gradient` is the derivative of `loss` at `x`, element by element, by four-point central differences.
///
/// With step h the truncation error is h^4/30 of the fifth derivative and the rounding error about eps/h of the loss;
/// at h = 1e-3 both stay near 1e-12, so 1e-8 of the gradient's scale catches any wrong term.
#[track_caller]
pub fn check(what: &str, x: &[f64], gradient: &[f64], mut loss: impl FnMut(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}: a gradient of another length");
    let scale = gradient.iter().fold(1.0f64, |m, g| m.max(g.abs()));
    let step = 1e-3;
    let mut point = x.to_vec();
    for (i, &expected) in gradient.iter().enumerate() {
        let mut at = |offset: f64| {
            point[i] = x[i] + offset;
            let value = loss(&point);
            point[i] = x[i];
            value
        };
        let near = at(step) - at(-step);
        let far = at(2.0 * step) - at(-2.0 * step);
        let numeric = (8.0 * near - far) / (12.0 * step);
        let error = (numeric - expected).abs();
        assert!(error <= 1e-8 * scale, "{what}[{i}]: analytic {expected:e}, numeric {numeric:e}");
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_right_gradient_passes() {
        let x = [0.3, -1.2];
        check("sin", &x, &[0.3f64.cos() * -1.2, 0.3f64.sin()], |x| x[0].sin() * x[1]);
    }

    #[test]
    #[should_panic(expected = "cube[0]")]
    fn a_wrong_gradient_fails() {
        check("cube", &[2.0], &[12.001], |x| x[0].powi(3));
    }
}
