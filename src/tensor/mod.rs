//! Shaped values on a device: reference-counted buffers with a shape and an offset.
//!
//! A tensor is contiguous and row-major, of f32 on the CPU and of f32, f16 or bf16 on a card. Cloning shares the buffer;
//! writing needs the only reference.
#![forbid(unsafe_code)]

pub mod compare;
mod cuda;
pub mod spans;

pub use spans::Spans;

use crate::device::Device;
use crate::device::cpu::{Buffer, vector};
use crate::device::cuda::{self as card, Gpu, Slice, Store, Values, elements};
use crate::error::Result;
use rayon::prelude::*;
use std::sync::Arc;

/// Elements that a task of an elementwise sum works on.
const CHUNK: usize = 1 << 15;

#[derive(Clone, Debug)]
enum Storage {
    Cpu(Arc<Buffer>),
    Cuda(Arc<card::Buffer>),
}

/// A contiguous row-major tensor: shape, and a window into a shared buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
    offset: usize,
    len: usize,
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::own(Buffer::zeros(shape.iter().product()), shape)
    }

    /// A tensor whose contents are whatever the recycled buffer held: every element must be set before it is read.
    pub fn scratch(shape: &[usize]) -> Self {
        Self::own(Buffer::scratch(shape.iter().product()), shape)
    }

    /// Takes `values` without a copy. Panics when the length is not the product of the shape.
    pub fn from_vec(values: Vec<f32>, shape: &[usize]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values do not fill shape {shape:?}");
        Self::own(Buffer::from_vec(values), shape)
    }

    fn own(buffer: Buffer, shape: &[usize]) -> Self {
        let len = buffer.len();
        Tensor { shape: shape.to_vec(), storage: Storage::Cpu(Arc::new(buffer)), offset: 0, len }
    }

    /// A window of `shape` that begins `offset` elements into this tensor and shares its buffer.
    pub fn window(&self, offset: usize, shape: &[usize]) -> Self {
        let len = shape.iter().product::<usize>();
        assert!(offset + len <= self.len, "window {offset}+{len} leaves a tensor of {}", self.len);
        Tensor { shape: shape.to_vec(), storage: self.storage.clone(), offset: self.offset + offset, len }
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert_eq!(self.len, shape.iter().product::<usize>(), "{:?} does not reshape to {shape:?}", self.shape);
        self.window(0, shape)
    }

    /// A tensor on a card whose contents are whatever its memory held.
    pub fn on_card(gpu: &Arc<Gpu>, shape: &[usize], store: Store) -> Result<Self> {
        Ok(Self::of_card(card::Buffer::new(gpu, shape.iter().product(), store)?, shape))
    }

    /// Memory of a card as a tensor. Panics when the length is not the product of the shape.
    pub fn of_card(buffer: card::Buffer, shape: &[usize]) -> Self {
        let len = buffer.len();
        assert_eq!(len, shape.iter().product::<usize>(), "a buffer does not fill shape {shape:?}");
        Tensor { shape: shape.to_vec(), storage: Storage::Cuda(Arc::new(buffer)), offset: 0, len }
    }

    /// Scratch of another shape, on the same device and of the same type.
    pub fn like(&self, shape: &[usize]) -> Result<Self> {
        match &self.storage {
            Storage::Cpu(_) => Ok(Self::scratch(shape)),
            Storage::Cuda(buffer) => Self::on_card(buffer.gpu(), shape, buffer.store()),
        }
    }

    /// Scratch of f32 on the same device: statistics, and what the host reads.
    pub fn like_f32(&self, shape: &[usize]) -> Result<Self> {
        match &self.storage {
            Storage::Cpu(_) => Ok(Self::scratch(shape)),
            Storage::Cuda(buffer) => Self::on_card(buffer.gpu(), shape, Store::F32),
        }
    }

    /// The engine that holds the elements.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Cuda(_) => Device::Cuda,
        }
    }

    fn buffer(&self) -> &Arc<card::Buffer> {
        match &self.storage {
            Storage::Cuda(buffer) => buffer,
            Storage::Cpu(_) => panic!("a tensor of the CPU where the card's were expected"),
        }
    }

    /// The card. Panics for a tensor of the CPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.buffer().gpu()
    }

    /// The elements as a kernel takes them. Panics for a tensor of the CPU.
    pub fn values(&self) -> Values<'_> {
        self.buffer().values(self.offset, self.len)
    }

    /// The elements of a tensor of f32 on a card. Panics for any other.
    pub fn floats(&self) -> Slice<'_, f32> {
        self.buffer().floats().window(self.offset, self.len)
    }

    /// The elements of an index on a card. Panics for any other tensor.
    pub fn words(&self) -> Slice<'_, u32> {
        self.buffer().words().window(self.offset, self.len)
    }

    /// The bits of a tensor of f16 or bf16. Panics for any other.
    pub fn halves(&self) -> Slice<'_, u16> {
        self.buffer().halves().window(self.offset, self.len)
    }

    /// The shape, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, row-major. Panics for a tensor of a card.
    pub fn data(&self) -> &[f32] {
        match &self.storage {
            Storage::Cpu(buffer) => &buffer.as_slice()[self.offset..self.offset + self.len],
            Storage::Cuda(_) => panic!("a tensor of the card where the CPU's were expected"),
        }
    }

    /// The elements for writing. Panics when the buffer is shared, since only its sole owner may write, or on a card.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let Storage::Cpu(buffer) = &mut self.storage else {
            panic!("a tensor of the card where the CPU's were expected")
        };
        let buffer = Arc::get_mut(buffer).expect("a shared tensor cannot be written");
        &mut buffer.as_mut_slice()[self.offset..self.offset + self.len]
    }

    /// self += other, elementwise. Panics when the lengths or devices differ.
    pub fn add(&mut self, other: &Tensor) -> Result<()> {
        assert_eq!(self.len, other.len, "a sum of {:?} and {:?}", self.shape, other.shape);
        match self.device() {
            Device::Cpu => {
                let chunks = self.data_mut().par_chunks_mut(CHUNK).zip(other.data().par_chunks(CHUNK));
                chunks.for_each(|(x, y)| vector::add(x, y));
                Ok(())
            }
            Device::Cuda => elements::add(self.gpu(), self.values(), other.values()),
        }
    }

    /// Gives memory that waits for reuse back to the system, as between phases of different shapes.
    pub fn release_memory() {
        Buffer::release_pool();
    }

    /// The same values in a buffer of their own: itself when nobody shares it, a copy otherwise.
    pub fn into_unique(mut self) -> Result<Self> {
        if self.is_unique() {
            return Ok(self);
        }
        let mut copy = self.like(&self.shape)?;
        match self.device() {
            Device::Cpu => copy.data_mut().copy_from_slice(self.data()),
            Device::Cuda => elements::copy(self.gpu(), copy.values(), self.values())?,
        }
        Ok(copy)
    }

    /// True when no other tensor shares the buffer, so that it may be written.
    pub fn is_unique(&mut self) -> bool {
        match &mut self.storage {
            Storage::Cpu(buffer) => Arc::get_mut(buffer).is_some(),
            Storage::Cuda(buffer) => Arc::get_mut(buffer).is_some(),
        }
    }
}
