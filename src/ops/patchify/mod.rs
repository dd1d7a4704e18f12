//! Cuts the kept patches out of images, flattened in the order of a convolution's weight.
//!
//! - computes: y[b, i, (c, py, px)] = the pixel of channel c at (py, px) in patch kept[b, i]
//! - derivative: none; pixels are constants
//! - saves: nothing
//! - shapes: images (B,C,h,w), or on a card (B,h,w,3) bytes; kept (B,k) raster indices, y (B,k,C*P*P).
//!   On the CPU images may keep different numbers: kept and y then lie image after image, y (rows,C*P*P)
//! - cost: no FLOPs, 8 bytes an element of y; patches that are not kept are never read
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::device::cuda::{Buffer, Gpu, Slice, Store, Upload};
use crate::error::{Error, Result};
use crate::tape::Var;
use crate::tensor::{Spans, Tensor};
use reference::Cut;
use std::sync::Arc;

/// Images on a card as bytes, with what the model is fed for each byte. The card's second stream brings them.
#[derive(Debug)]
pub struct ByteImages {
    uploads: [Upload; 2],
    rgb: Buffer,
    levels: Buffer,
    /// (B, h, w).
    shape: [usize; 3],
}

impl ByteImages {
    /// Begins to bring `rgb` (B,h,w,3) to a card; `levels` (3,256) is what each byte of each channel stands for.
    pub fn begin(gpu: &Arc<Gpu>, rgb: &[u8], levels: &[f32], shape: [usize; 3]) -> Result<Self> {
        let bytes = 3 * shape.iter().product::<usize>();
        if rgb.len() != bytes || levels.len() != 3 * 256 {
            let reason = format!("{} bytes and {} levels for images {shape:?}", rgb.len(), levels.len());
            return Err(Error::shape("patchify", reason));
        }
        let values = Buffer::aside(gpu, bytes.div_ceil(4), Store::F32)?;
        let table = Buffer::aside(gpu, levels.len(), Store::F32)?;
        let uploads = [
            Upload::begin(gpu, values.bytes().window(0, bytes), rgb)?,
            Upload::begin(gpu, table.bytes(), bytemuck::cast_slice(levels))?,
        ];
        Ok(ByteImages { uploads, rgb: values, levels: table, shape })
    }

    /// The bytes, (B,h,w,3), for what the second stream is told from now on.
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
        let cut = checked(self.shape(), kept, &Spans::even(b, k), patch)?;
        let gpu = self.rgb.gpu();
        let y = Tensor::on_card(gpu, &[b, k, channels * patch * patch], gpu.compute())?;
        let kept = Tensor::indices(gpu, kept)?;
        self.uploads.iter().try_for_each(|upload| upload.before(gpu.stream()))?;
        cuda::from_bytes(gpu, self.rgb(), self.levels.floats(), kept.words(), k, cut, y.values())?;
        Ok(Var::constant(y))
    }
}

/// The cut of images (B,C,h,w) into patches. An error when sides do not divide or an index is beyond the grid.
fn checked([b, c, h, w]: [usize; 4], kept: &[u32], spans: &Spans, patch: usize) -> Result<Cut> {
    if patch == 0 || h % patch != 0 || w % patch != 0 {
        return Err(Error::shape("patchify", format!("images of {h} x {w} do not divide into patches of {patch}")));
    }
    let n = (h / patch) * (w / patch);
    if spans.images() != b || kept.len() != spans.rows() || kept.iter().any(|&i| i as usize >= n) {
        let (found, rows) = (kept.len(), spans.rows());
        return Err(Error::shape("patchify", format!("{found} indices for {b} images of {n} patches, {rows} kept")));
    }
    Ok(Cut { channels: c, height: h, width: w, patch })
}

/// Patches `kept` (B,k) of side `patch` of the images (B,C,h,w). An error when sides do not divide or an index is
/// beyond the grid.
pub fn forward(images: &Tensor, kept: &[u32], k: usize, patch: usize) -> Result<Var> {
    let b = images.shape().first().map_or(0, |&b| b);
    forward_within(images, kept, &Spans::even(b, k), patch)
}

/// `forward` with as many patches of each image as `spans` says.
pub fn forward_within(images: &Tensor, kept: &[u32], spans: &Spans, patch: usize) -> Result<Var> {
    let &[b, c, h, w] = images.shape() else {
        return Err(Error::shape("patchify", format!("images {:?} are not (B,C,h,w)", images.shape())));
    };
    let cut = checked([b, c, h, w], kept, spans, patch)?;
    let shape = spans.shape(c * patch * patch);
    let y = match images.device() {
        Device::Cpu => {
            let mut y = Tensor::scratch(&shape);
            cpu::forward(images.data(), kept, spans, cut, y.data_mut());
            y
        }
        Device::Cuda => {
            let Some(k) = spans.common() else {
                return Err(Error::shape("patchify", "a card's kernels take images of one length"));
            };
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
    fn images_that_keep_different_numbers_are_cut_one_by_one() {
        let (lengths, kept) = ([2, 1, 4], [1, 5, 3, 0, 2, 3, 4]);
        let (spans, images) = (Spans::of(lengths), Tensor::from_vec(values(3 * 3 * 96, 3, 1.0), &[3, 3, 8, 12]));
        let y = forward_within(&images, &kept, &spans, 4).unwrap();
        assert_eq!(y.shape(), [7, 48]);
        let cut = Cut { channels: 3, height: 8, width: 12, patch: 4 };
        let alone = |b: usize| {
            let kept = &kept[spans.range(b)];
            reference::forward(&images.data()[b * 288..][..288], kept, kept.len(), cut)
        };
        assert_eq!(y.value.data(), [alone(0), alone(1), alone(2)].concat());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let images = Tensor::zeros(&[1, 3, 8, 8]);
        assert!(forward_within(&images, &[0, 1], &Spans::of([1, 1]), 4).is_err());
        assert!(forward(&images, &[4], 1, 4).is_err());
        assert!(forward(&images, &[0], 1, 3).is_err());
        assert!(forward(&images, &[0, 1], 1, 4).is_err());
    }
}
