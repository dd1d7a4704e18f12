//! The finiteness check as a plain loop: the definition.
#![forbid(unsafe_code)]

/// True when no element is NaN or infinite.
pub fn check(x: &[f64]) -> bool {
    for value in x {
        if value.is_nan() || value.is_infinite() {
            return false;
        }
    }
    true
}
