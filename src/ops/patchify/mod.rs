//! Cuts the kept patches out of images, flattened in the order of a convolution's weight.
//!
//! - computes: y[b, i, (c, py, px)] = the pixel of channel c at (py, px) in patch kept[b, i]
//! - derivative: none; pixels are constants
//! - saves: nothing
//! - shapes: images (B,C,h,w), or on a card (B,h,w,3) bytes; kept (B,k) raster indices, y (B,k,C*P*P)
//! - cost: no FLOPs, 8 bytes an element of y; patches that are not kept are never read
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::device::cuda::{Buffer, Gpu, Slice, Store};
use crate::error::{Error, Result};
use crate::tape::Var;
use crate::tensor::Tensor;
use reference::Cut;
use std::sync::Arc;

/// Images on a card as bytes, with what the model is fed for each byte.
#[derive(Debug)]
pub struct ByteImages {
    rgb: Buffer,
    levels: Buffer,
    /// (B, h, w).
    shape: [usize; 3],
}

impl ByteImages {
    /// Brings `rgb` (B,h,w,3) to a card; `levels` (3,256) is what each byte of each channel stands for.
    pub fn upload(gpu: &Arc<Gpu>, rgb: &[u8], levels: &[f32], shape: [usize; 3]) -> Result<Self> {
        let bytes = 3 * shape.iter().product::<usize>();
        if rgb.len() != bytes || levels.len() != 3 * 256 {
            let reason = format!("{} bytes and {} levels for images {shape:?}", rgb.len(), levels.len());
            return Err(Error::shape("patchify", reason));
        }
        let images = ByteImages {
            rgb: Buffer::new(gpu, bytes.div_ceil(4), Store::F32)?,
            levels: Buffer::new(gpu, levels.len(), Store::F32)?,
            shape,
        };
        gpu.stream().upload(images.rgb(), rgb)?;
        gpu.stream().upload(images.levels.floats(), levels)?;
        Ok(images)
    }

    /// The bytes, (B,h,w,3).
    pub fn rgb(&self) -> Slice<'_, u8> {
        self.rgb.bytes().window(0, 3 * self.shape.iter().product::<usize>())
    }

    /// (B, 3, h, w), as of the values that the bytes stand for.
    pub fn shape(&self) -> [usize; 4] {
        let [b, h, w] = self.shape;
        [b, 3, h, w]
    }

    /// Patches `kept` (B,k) of side `patch`, as `forward` gives them for the values.
    pub fn patches(&self, kept: &[u32], k: usize, patch: usize) -> Result<Var> {
        let [b, channels, ..] = self.shape();
        let cut = checked(self.shape(), kept, k, patch)?;
        let gpu = self.rgb.gpu();
        let y = Tensor::on_card(gpu, &[b, k, channels * patch * patch], gpu.compute())?;
        let kept = Tensor::indices(gpu, kept)?;
        cuda::from_bytes(gpu, self.rgb(), self.levels.floats(), kept.words(), k, cut, y.values())?;
        Ok(Var::constant(y))
    }
}

/// The cut of images (B,C,h,w) into patches. An error when sides do not divide or an index is beyond the grid.
fn checked([b, c, h, w]: [usize; 4], kept: &[u32], k: usize, patch: usize) -> Result<Cut> {
    if patch == 0 || h % patch != 0 || w % patch != 0 {
        return Err(Error::shape("patchify", format!("images of {h} x {w} do not divide into patches of {patch}")));
    }
    let n = (h / patch) * (w / patch);
    if kept.len() != b * k || kept.iter().any(|&i| i as usize >= n) {
        return Err(Error::shape("patchify", format!("{} indices for {b} images of {n} patches, k = {k}", kept.len())));
    }
    Ok(Cut { channels: c, height: h, width: w, patch })
}

/// Patches `kept` (B,k) of side `patch` of the images (B,C,h,w). An error when sides do not divide or an index is
/// beyond the grid.
pub fn forward(images: &Tensor, kept: &[u32], k: usize, patch: usize) -> Result<Var> {
    let &[b, c, h, w] = images.shape() else {
        return Err(Error::shape("patchify", format!("images {:?} are not (B,C,h,w)", images.shape())));
    };
    let cut = checked([b, c, h, w], kept, k, patch)?;
    let shape = [b, k, c * patch * patch];
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
