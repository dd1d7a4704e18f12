//! Patchify on the CPU: kept patches over threads, copied row by row.
#![forbid(unsafe_code)]

use super::reference::Cut;
use crate::tensor::Spans;
use rayon::prelude::*;

/// See `reference::forward`; `spans` shares out kept and y among the images.
pub fn forward(x: &[f32], kept: &[u32], spans: &Spans, cut: Cut, y: &mut [f32]) {
    let Cut { channels: c, height: h, width: w, patch: p } = cut;
    let columns = w / p;
    let places: Vec<(usize, u32)> = spans.image_of_rows().zip(kept.iter().copied()).collect();
    y.par_chunks_mut(c * p * p).zip(places).with_min_len(16).for_each(|(y, (image, patch))| {
        let (top, left) = (patch as usize / columns * p, patch as usize % columns * p);
        for (line, y) in y.chunks_exact_mut(p).enumerate() {
            let (channel, py) = (line / p, line % p);
            y.copy_from_slice(&x[((image * c + channel) * h + top + py) * w + left..][..p]);
        }
    });
}
