//! The Euclidean norm of the flat gradient.
//!
//! # Computes
//! `sqrt(sum of g^2)` over all elements, as `torch.nn.utils.get_total_norm` does over all parameters.
//!
//! # Derivative
//! None: the norm stands outside the tape.
//!
//! # Saves
//! Nothing.
//!
//! # Shapes
//! grads: (n,), the flat arena; the result is a scalar, 0 for n = 0.
//!
//! # Cost
//! 2 FLOPs and 4 bytes read an element. Sums run in f64 over fixed chunks, and the chunks are added in order:
//! the result does not depend on the number of threads, and no f32 gradient overflows it.
#![forbid(unsafe_code)]

mod cpu;
pub mod reference;

use crate::tensor::Tensor;

/// The norm of `grads`; NaN or infinite when an element is.
pub fn norm(grads: &Tensor) -> f64 {
    cpu::norm(grads.data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    fn normals(n: usize) -> Vec<f32> {
        let mut stream = Stream::new(n as u64, Purpose::Fixture, 0, 0);
        (0..n).map(|_| stream.normal() as f32).collect()
    }

    #[test]
    fn matches_the_reference_for_awkward_lengths() {
        for n in [0, 1, 7, 8, 31, 33, 197, cpu::CHUNK, 2 * cpu::CHUNK + 5] {
            let values = normals(n);
            let wide: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
            let want = reference::norm(&wide);
            let got = norm(&Tensor::from_vec(values, &[n]));
            // Squares of f32 are exact in f64; either sum of n positive terms rounds at most n times.
            let bound = want * (n as f64 + 1.0) * f64::EPSILON;
            assert!((got - want).abs() <= bound, "n {n}: {got} for {want}");
        }
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        let grads = Tensor::from_vec(normals(5 * cpu::CHUNK + 3), &[5 * cpu::CHUNK + 3]);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| norm(&grads)).to_bits()
        };
        assert_eq!(run(1), run(4));
    }

    #[test]
    fn large_elements_do_not_overflow_and_nan_shows() {
        let grads = Tensor::from_vec(vec![3e38, -3e38], &[2]);
        approx::assert_relative_eq!(norm(&grads), f64::from(3e38f32) * 2f64.sqrt(), max_relative = 1e-15);
        assert!(norm(&Tensor::from_vec(vec![1.0, f32::NAN], &[2])).is_nan());
    }
}
