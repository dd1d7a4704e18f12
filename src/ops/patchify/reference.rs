//! Patchify by its definition.
#![forbid(unsafe_code)]

/// Sides of a batch of images and of the patches cut from them.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub patch: usize,
}

/// y[b, i, (c, py, px)] = x[b, c, row P + py, column P + px] of patch kept[b, i] in raster order.
pub fn forward(x: &[f32], kept: &[u32], k: usize, cut: Cut) -> Vec<f32> {
    let Cut { channels: c, height: h, width: w, patch: p } = cut;
    let columns = w / p;
    let mut y = Vec::new();
    for (i, &patch) in kept.iter().enumerate() {
        let (top, left) = (patch as usize / columns * p, patch as usize % columns * p);
        for channel in 0..c {
            for py in 0..p {
                for px in 0..p {
                    y.push(x[((i / k * c + channel) * h + top + py) * w + left + px]);
                }
            }
        }
    }
    y
}
