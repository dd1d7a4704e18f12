//! The scaled residual sum on the CPU, an image at a time.
#![forbid(unsafe_code)]

use crate::tensor::Spans;
use rayon::prelude::*;

/// y = x + s_b branch; `spans` shares out the rows among the images.
pub fn forward(x: &[f32], branch: &[f32], scales: &[f32], spans: &Spans, y: &mut [f32]) {
    let width = x.len() / spans.rows();
    let parts = spans.split_mut(y, width).into_par_iter().zip(spans.split(x, width)).zip(spans.split(branch, width));
    parts.zip(scales).for_each(|(((y, x), branch), &s)| {
        for ((y, &x), &branch) in y.iter_mut().zip(x).zip(branch) {
            *y = x + s * branch;
        }
    });
}

/// dbranch = s_b dy.
pub fn backward(dy: &[f32], scales: &[f32], spans: &Spans, dbranch: &mut [f32]) {
    let width = dy.len() / spans.rows();
    let parts = spans.split_mut(dbranch, width).into_par_iter().zip(spans.split(dy, width)).zip(scales);
    parts.for_each(|((dbranch, dy), &s)| dbranch.iter_mut().zip(dy).for_each(|(d, &dy)| *d = s * dy));
}
