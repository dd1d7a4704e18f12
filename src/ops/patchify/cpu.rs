//! Patchify on the CPU: kept patches over threads, copied row by row.
#![forbid(unsafe_code)]

use super::reference::Cut;
use rayon::prelude::*;

/// See `reference::forward`.
pub fn forward(x: &[f32], kept: &[u32], k: usize, cut: Cut, y: &mut [f32]) {
    let Cut { channels: c, height: h, width: w, patch: p } = cut;
    let columns = w / p;
    y.par_chunks_mut(c * p * p).zip(kept).enumerate().with_min_len(16).for_each(|(i, (y, &patch))| {
        let (top, left) = (patch as usize / columns * p, patch as usize % columns * p);
        for (line, y) in y.chunks_exact_mut(p).enumerate() {
            let (channel, py) = (line / p, line % p);
            y.copy_from_slice(&x[((i / k * c + channel) * h + top + py) * w + left..][..p]);
        }
    });
}
