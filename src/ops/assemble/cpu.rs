//! The assembly of the sequence on the CPU; images over threads forward, ordered sums backward.
#![forbid(unsafe_code)]

use crate::device::cpu::vector;
use crate::tensor::Spans;
use rayon::prelude::*;

/// See `reference::forward`; `spans` shares out tokens and rows among the images.
pub fn forward(tokens: &[f32], cls: &[f32], pos: &[f32], rows: &[u32], spans: &Spans, y: &mut [f32]) {
    let d = cls.len();
    let images = spans.longer(1).split_mut(y, d).into_par_iter();
    images.zip(spans.split(tokens, d)).zip(spans.split(rows, 1)).for_each(|((y, tokens), rows)| {
        let (first, rest) = y.split_at_mut(d);
        first.copy_from_slice(cls);
        vector::add(first, &pos[..d]);
        rest.copy_from_slice(tokens);
        for (y, &row) in rest.chunks_exact_mut(d).zip(rows) {
            vector::add(y, &pos[row as usize * d..][..d]);
        }
    });
}

/// The tokens' part of dy.
pub fn backward_dtokens(dy: &[f32], spans: &Spans, d: usize, dtokens: &mut [f32]) {
    let images = spans.split_mut(dtokens, d).into_par_iter().zip(spans.longer(1).split(dy, d));
    images.for_each(|(dtokens, dy)| dtokens.copy_from_slice(&dy[d..]));
}

/// dcls += the [CLS] rows of dy, image after image.
pub fn backward_dcls_add(dy: &[f32], spans: &Spans, dcls: &mut [f32]) {
    let d = dcls.len();
    spans.longer(1).split(dy, d).into_iter().for_each(|dy| vector::add(dcls, &dy[..d]));
}

/// dpos[0] += [CLS] rows, dpos[rows] += token rows, image after image: images may share rows, so one thread adds.
pub fn backward_dpos_add(dy: &[f32], rows: &[u32], spans: &Spans, d: usize, dpos: &mut [f32]) {
    for (dy, rows) in spans.longer(1).split(dy, d).into_iter().zip(spans.split(rows, 1)) {
        vector::add(&mut dpos[..d], &dy[..d]);
        for (dy, &row) in dy[d..].chunks_exact(d).zip(rows) {
            vector::add(&mut dpos[row as usize * d..][..d], dy);
        }
    }
}
