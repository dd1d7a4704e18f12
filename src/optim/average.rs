//! The exponential moving average of the weights.
#![forbid(unsafe_code)]

use crate::device::Device;
use crate::device::cuda::{Gpu, elements};
use crate::error::Result;
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::sync::Arc;

/// Elements of one piece of work.
const CHUNK: usize = 1 << 15;

/// An average that follows the parameters: timm's ModelEmaV3 without its warm-up, told the number of each update.
#[derive(Debug)]
pub struct Average {
    pub decay: f64,
    /// The averaged parameters, (len,).
    pub values: Tensor,
}

impl Average {
    /// The average of parameters that no update has changed yet, which is themselves. (len,) on the CPU.
    pub fn new(decay: f64, params: &Tensor) -> Self {
        Average { decay, values: Tensor::from_vec(params.data().to_vec(), params.shape()) }
    }

    /// Moves the average to a card.
    pub(super) fn move_to(&mut self, gpu: &Arc<Gpu>) -> Result<()> {
        self.values = self.values.to_card(gpu)?;
        Ok(())
    }

    /// Follows the parameters after update `step`, counted from 1: the first one is copied, as in timm; every other
    /// moves the average by `(1 - decay) (params - average)`.
    pub(super) fn follow(&mut self, params: &Tensor, step: u64) -> Result<()> {
        let weight = (1.0 - self.decay) as f32;
        if params.device() == Device::Cuda {
            let (gpu, average, params) = (params.gpu(), self.values.floats(), params.floats());
            return match step {
                1 => gpu.stream().copy(average, params),
                _ => elements::follow(gpu, average, params, weight),
            };
        }
        if step == 1 {
            self.values.data_mut().copy_from_slice(params.data());
            return Ok(());
        }
        let chunks = self.values.data_mut().par_chunks_mut(CHUNK).zip(params.data().par_chunks(CHUNK));
        chunks.for_each(|(average, params)| {
            for (a, &p) in average.iter_mut().zip(params) {
                *a += weight * (p - *a);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    #[test]
    fn follows_as_timm_does() {
        let fixture: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/recipe.json")).unwrap();
        for case in fixture["averages"].as_array().unwrap() {
            let params = |t: u64| {
                let mut stream = Stream::new(7, Purpose::Fixture, 4000 + t as u32, 0);
                Tensor::from_vec((0..7).map(|_| stream.uniform24() * 2.0 - 1.0).collect(), &[7])
            };
            let mut average = Average::new(case["decay"].as_f64().unwrap(), &params(0));
            for (t, row) in (1..).zip(case["averages"].as_array().unwrap()) {
                average.follow(&params(t), t).unwrap();
                let want: Vec<f64> = serde_json::from_value(row.clone()).unwrap();
                for (&got, want) in average.values.data().iter().zip(want) {
                    // Both work in f32: difference, product and sum round once each, at every update.
                    let bound = 3.0 * t as f64 * f64::from(f32::EPSILON);
                    assert!((f64::from(got) - want).abs() <= bound, "update {t}: {got} for {want}");
                }
            }
        }
    }
}
