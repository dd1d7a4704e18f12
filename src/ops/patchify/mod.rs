//! Cuts the kept patches out of images, flattened in the order of a convolution's weight.
//!
//! - computes: y[b, i, (c, py, px)] = the pixel of channel c at (py, px) in patch kept[b, i]
//! - derivative: none; pixels are constants
//! - saves: nothing
//! - shapes: images (B,C,h,w), kept (B,k) raster indices, y (B,k,C*P*P)
//! - cost: no FLOPs, 8 bytes an element of y; patches that are not kept are never read
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::Var;
use crate::tensor::Tensor;
use reference::Cut;

/// Patches `kept` (B,k) of side `patch` of the images (B,C,h,w). An error when sides do not divide or an index is
/// beyond the grid.
pub fn forward(images: &Tensor, kept: &[u32], k: usize, patch: usize) -> Result<Var> {
    let &[b, c, h, w] = images.shape() else {
        return Err(Error::shape("patchify", format!("images {:?} are not (B,C,h,w)", images.shape())));
    };
    if patch == 0 || h % patch != 0 || w % patch != 0 {
        return Err(Error::shape("patchify", format!("images of {h} x {w} do not divide into patches of {patch}")));
    }
    let n = (h / patch) * (w / patch);
    if kept.len() != b * k || kept.iter().any(|&i| i as usize >= n) {
        return Err(Error::shape("patchify", format!("{} indices for {b} images of {n} patches, k = {k}", kept.len())));
    }
    let shape = [b, k, c * patch * patch];
    let cut = Cut { channels: c, height: h, width: w, patch };
    let y = match images.device() {
        Device::Cpu => {
            let mut y = Tensor::scratch(&shape);
            cpu::forward(images.data(), kept, k, cut, y.data_mut());
            y
        }
        Device::Cuda => {
            let gpu = images.gpu();
            let (y, kept) = (Tensor::on_card(gpu, &shape, gpu.compute())?, Tensor::indices(gpu, kept)?);
            cuda::forward(gpu, images.floats(), kept.words(), k, cut, y.values())?;
            y
        }
    };
    Ok(Var::constant(y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::values;

    #[test]
    fn matches_its_reference() {
        for (b, c, h, w, p, kept) in [
            (1, 1, 1, 1, 1, vec![0]),
            (2, 3, 8, 12, 4, vec![0, 5, 2, 3]),
            (2, 3, 64, 64, 16, (0..16).chain(0..16).collect()),
        ] {
            let k = kept.len() / b;
            let images = Tensor::from_vec(values(b * c * h * w, 3, 1.0), &[b, c, h, w]);
            let y = forward(&images, &kept, k, p).unwrap();
            let cut = Cut { channels: c, height: h, width: w, patch: p };
            assert_eq!(y.value.data(), reference::forward(images.data(), &kept, k, cut));
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let images = Tensor::zeros(&[1, 3, 8, 8]);
        assert!(forward(&images, &[4], 1, 4).is_err());
        assert!(forward(&images, &[0], 1, 3).is_err());
        assert!(forward(&images, &[0, 1], 1, 4).is_err());
    }
}
