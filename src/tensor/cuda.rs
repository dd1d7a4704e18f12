//! Tensors between host and card.
#![forbid(unsafe_code)]

use super::Tensor;
use crate::device::Device;
use crate::device::cuda::{Buffer, Gpu, Slice, Store, Upload, elements};
use crate::error::Result;
use std::sync::Arc;

impl Tensor {
    /// The values as f32 on `gpu`; a tensor that is there already is itself.
    pub fn to_card(&self, gpu: &Arc<Gpu>) -> Result<Self> {
        match self.device() {
            Device::Cuda => Ok(self.clone()),
            Device::Cpu => {
                let copy = Tensor::on_card(gpu, self.shape(), Store::F32)?;
                gpu.stream().upload(copy.floats(), self.data())?;
                Ok(copy)
            }
        }
    }

    /// `values` as f32 on `gpu`, which its second stream brings: for the first once it has waited for the upload.
    pub fn sent(gpu: &Arc<Gpu>, values: &[f32], shape: &[usize]) -> Result<(Self, Upload)> {
        let buffer = Buffer::aside(gpu, shape.iter().product(), Store::F32)?;
        let upload = Upload::begin(gpu, buffer.bytes(), bytemuck::cast_slice(values))?;
        Ok((Tensor::of_card(buffer, shape), upload))
    }

    /// The values on the device of `other`.
    pub fn beside(&self, other: &Tensor) -> Result<Self> {
        match other.device() {
            Device::Cpu => self.to_host(),
            Device::Cuda => self.to_card(other.gpu()),
        }
    }

    /// The values as f32 on the CPU, once the card has come to them; a tensor that is there already is itself.
    pub fn to_host(&self) -> Result<Self> {
        if self.device() == Device::Cpu {
            return Ok(self.clone());
        }
        let wide = if self.values().store() == Store::F32 { self.clone() } else { self.widened()? };
        Ok(Tensor::from_vec(self.gpu().stream().download(wide.floats())?, self.shape()))
    }

    /// The values in f32, on the card.
    fn widened(&self) -> Result<Self> {
        let wide = self.like_f32(self.shape())?;
        elements::convert(self.gpu(), wide.values(), self.values())?;
        Ok(wide)
    }

    /// Sets f32 on the same card to the values, or adds them.
    pub fn put(&self, to: Slice<f32>, add: bool) -> Result<()> {
        let wide = if self.values().store() == Store::F32 { self.clone() } else { self.widened()? };
        if add {
            elements::add(self.gpu(), to.into(), wide.values())
        } else {
            self.gpu().stream().copy(to, wide.floats())
        }
    }

    /// The values rounded to what the card computes in: itself where that is f32.
    pub fn narrowed(&self) -> Result<Self> {
        let gpu = self.gpu();
        if gpu.compute() == self.values().store() {
            return Ok(self.clone());
        }
        let narrow = Tensor::on_card(gpu, self.shape(), gpu.compute())?;
        elements::convert(gpu, narrow.values(), self.values())?;
        Ok(narrow)
    }

    /// Indices on a card, as (len,).
    pub fn indices(gpu: &Arc<Gpu>, indices: &[u32]) -> Result<Self> {
        let tensor = Tensor::on_card(gpu, &[indices.len()], Store::F32)?;
        gpu.stream().upload(tensor.words(), indices)?;
        Ok(tensor)
    }

    /// Zeros of f32 on a card.
    pub fn zeros_on_card(gpu: &Arc<Gpu>, shape: &[usize]) -> Result<Self> {
        let tensor = Tensor::on_card(gpu, shape, Store::F32)?;
        gpu.stream().clear::<f32>(tensor.floats())?;
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::Target;

    #[test]
    fn values_go_to_the_card_and_back() {
        for store in [Store::F32, Store::F16] {
            let gpu = Arc::new(Gpu::open(Target::PtxVm).unwrap().computing_in(store).unwrap());
            for n in [1, 4, 7, 1025] {
                let values: Vec<f32> = (0..n).map(|i| i as f32 * 0.25 - 3.0).collect();
                let host = Tensor::from_vec(values.clone(), &[n]);
                let card = host.to_card(&gpu).unwrap().narrowed().unwrap();
                assert_eq!(card.values().store(), store);
                assert_eq!(card.to_host().unwrap().data(), values);
                let mut sum = card.clone().into_unique().unwrap();
                sum.add(&card).unwrap();
                let twice: Vec<f32> = values.iter().map(|v| 2.0 * v).collect();
                assert_eq!(sum.to_host().unwrap().data(), twice);
                assert_eq!(card.to_host().unwrap().data(), values);
            }
        }
    }
}
