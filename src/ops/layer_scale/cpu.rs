//! The scale of channels on the CPU.
#![forbid(unsafe_code)]

use rayon::prelude::*;

/// Channels that a task sums over all rows.
const CHANNELS: usize = 64;

/// y = gamma * x, row by row; x and y (rows, D), gamma (D).
pub fn forward(x: &[f32], gamma: &[f32], y: &mut [f32]) {
    let d = gamma.len();
    y.par_chunks_exact_mut(d).zip(x.par_chunks_exact(d)).for_each(|(y, x)| {
        for (y, (x, gamma)) in y.iter_mut().zip(x.iter().zip(gamma)) {
            *y = gamma * x;
        }
    });
}

/// Adds the sum over the rows of dy * x to dgamma (D). The rows are summed in order and in f64, whatever the threads.
pub fn backward_gamma(x: &[f32], dy: &[f32], dgamma: &mut [f32]) {
    let d = dgamma.len();
    dgamma.par_chunks_mut(CHANNELS).enumerate().for_each(|(chunk, dgamma)| {
        let mut sums = [0.0f64; CHANNELS];
        let first = chunk * CHANNELS;
        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
            let (x, dy) = (&x[first..first + dgamma.len()], &dy[first..first + dgamma.len()]);
            for (sum, (x, dy)) in sums.iter_mut().zip(x.iter().zip(dy)) {
                *sum += f64::from(*x) * f64::from(*dy);
            }
        }
        for (dgamma, sum) in dgamma.iter_mut().zip(sums) {
            *dgamma = (f64::from(*dgamma) + sum) as f32;
        }
    });
}
