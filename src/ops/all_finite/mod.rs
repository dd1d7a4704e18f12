//! Whether every element of a tensor is a number.
//!
//! # Computes
//! True when no element is NaN or infinite. On the CPU it looks at gradients that were gathered over batches; those of one batch are
//! looked at as they are made (`tape::Grads`).
//!
//! # Derivative
//! None: the check stands outside the tape.
//!
//! # Saves
//! Nothing.
//!
//! # Shapes
//! x: any shape; true for an empty tensor.
//!
//! # Cost
//! No FLOPs; 4 bytes read an element.
#![forbid(unsafe_code)]

mod cpu;
pub mod reference;

use crate::tensor::Tensor;

/// True when every element of `x` is finite.
pub fn check(x: &Tensor) -> bool {
    cpu::check(x.data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::vector::FINITE_CHUNK;

    #[test]
    fn one_bad_element_anywhere_is_found() {
        for n in [1, 7, 33, FINITE_CHUNK, 2 * FINITE_CHUNK + 5] {
            let good = vec![f32::MAX; n];
            assert!(check(&Tensor::from_vec(good.clone(), &[n])), "n {n}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for i in [0, n / 2, n - 1] {
                    let mut values = good.clone();
                    values[i] = bad;
                    let wide: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
                    assert!(!reference::check(&wide));
                    assert!(!check(&Tensor::from_vec(values, &[n])), "{bad} at {i} of {n}");
                }
            }
        }
    }

    #[test]
    fn an_empty_tensor_is_finite() {
        assert!(check(&Tensor::zeros(&[0, 3])));
    }
}
