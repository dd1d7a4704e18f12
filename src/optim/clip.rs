//! Gradients made shorter: clipping by the norm of all of them together.
#![forbid(unsafe_code)]

use crate::device::Device;
use crate::device::cpu::vector;
use crate::error::Result;
use crate::ops::grad_norm;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements of one piece of work.
const CHUNK: usize = 1 << 15;

/// What a gradient of this norm is multiplied by, as torch.nn.utils.clip_grad_norm_: max / (norm + 1e-6), at most 1.
fn coefficient(norm: f64, max: f64) -> f64 {
    (max / (norm + 1e-6)).min(1.0)
}

/// Clips the flat gradient to an L2 norm of `max` over all parameters: torch.nn.utils.clip_grad_norm_.
///
/// The gradient comes multiplied by `scale`. On the CPU it is shortened in place. On a card, which has no kernel for the
/// norm, the host takes a copy and sums it; the gradient stays, and the scale that is returned shortens it in the update.
pub fn clip_grad_norm(grads: &mut Tensor, max: f64, scale: f32) -> Result<f32> {
    let coefficient = |grads: &Tensor| coefficient(grad_norm::norm(grads) / f64::from(scale), max);
    match grads.device() {
        Device::Cuda => Ok((f64::from(scale) / coefficient(&grads.to_host()?)) as f32),
        Device::Cpu => {
            let factor = coefficient(grads) as f32;
            if factor < 1.0 {
                grads.data_mut().par_chunks_mut(CHUNK).for_each(|part| vector::scale(part, factor));
            }
            Ok(scale)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    #[test]
    fn clips_as_torch_does() {
        let fixture: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/recipe.json")).unwrap();
        for case in fixture["clipping"].as_array().unwrap() {
            let number = |key: &str| case[key].as_f64().unwrap();
            let mut stream = Stream::new(7, Purpose::Fixture, number("tensor") as u32, 0);
            let want: Vec<f64> = serde_json::from_value(case["clipped"].clone()).unwrap();
            let amplitude = number("amplitude") as f32;
            let values = want.iter().map(|_| (stream.uniform24() * 2.0 - 1.0) * amplitude).collect();
            let mut grads = Tensor::from_vec(values, &[want.len()]);
            approx::assert_relative_eq!(grad_norm::norm(&grads), number("norm"), max_relative = 1e-12);
            assert_eq!(clip_grad_norm(&mut grads, number("max_norm"), 1.0).unwrap(), 1.0);
            for (&got, want) in grads.data().iter().zip(want) {
                // The coefficient and the product round once each.
                assert!((f64::from(got) - want).abs() <= want.abs() * f64::from(f32::EPSILON), "{got} for {want}");
            }
        }
    }

    #[test]
    fn a_norm_without_end_clips_nothing_to_nan() {
        assert_eq!(coefficient(f64::NAN, 1.0), 1.0);
        assert_eq!(coefficient(0.0, 1.0), 1.0);
        assert_eq!(coefficient(f64::INFINITY, 1.0), 0.0);
    }
}
