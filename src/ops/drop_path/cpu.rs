//! The scaled residual sum on the CPU, an image at a time.
#![forbid(unsafe_code)]

use rayon::prelude::*;

/// y = x + s_b branch.
pub fn forward(x: &[f32], branch: &[f32], scales: &[f32], y: &mut [f32]) {
    let image = (x.len() / scales.len()).max(1);
    let parts = y.par_chunks_mut(image).zip(x.par_chunks(image)).zip(branch.par_chunks(image)).zip(scales);
    parts.for_each(|(((y, x), branch), &s)| {
        for ((y, &x), &branch) in y.iter_mut().zip(x).zip(branch) {
            *y = x + s * branch;
        }
    });
}

/// dbranch = s_b dy.
pub fn backward(dy: &[f32], scales: &[f32], dbranch: &mut [f32]) {
    let image = (dy.len() / scales.len()).max(1);
    let parts = dbranch.par_chunks_mut(image).zip(dy.par_chunks(image)).zip(scales);
    parts.for_each(|((dbranch, dy), &s)| dbranch.iter_mut().zip(dy).for_each(|(d, &dy)| *d = s * dy));
}
