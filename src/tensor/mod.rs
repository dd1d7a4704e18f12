//! Shaped values on a device: reference-counted buffers of f32 with a shape and an offset.
//!
//! A tensor is contiguous and row-major. Cloning shares the buffer; writing needs the only reference.
#![forbid(unsafe_code)]

pub mod compare;

use crate::device::Device;
use crate::device::cpu::{Buffer, vector};
use rayon::prelude::*;
use std::sync::Arc;

/// Elements that a task of an elementwise sum works on.
const CHUNK: usize = 1 << 15;

/// A contiguous row-major f32 tensor: shape, and a window into a shared buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Arc<Buffer>,
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
        Tensor { shape: shape.to_vec(), storage: Arc::new(buffer), offset: 0, len }
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

    /// The engine that holds the elements.
    pub fn device(&self) -> Device {
        Device::Cpu
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

    /// The elements, row-major.
    pub fn data(&self) -> &[f32] {
        &self.storage.as_slice()[self.offset..self.offset + self.len]
    }

    /// The elements for writing. Panics when the buffer is shared: only its sole owner may write.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let buffer = Arc::get_mut(&mut self.storage).expect("a shared tensor cannot be written");
        &mut buffer.as_mut_slice()[self.offset..self.offset + self.len]
    }

    /// self += other, elementwise. Panics when the lengths differ.
    pub fn add(&mut self, other: &Tensor) {
        assert_eq!(self.len, other.len, "a sum of {:?} and {:?}", self.shape, other.shape);
        match self.device() {
            Device::Cpu => {
                let chunks = self.data_mut().par_chunks_mut(CHUNK).zip(other.data().par_chunks(CHUNK));
                chunks.for_each(|(x, y)| vector::add(x, y));
            }
        }
    }

    /// Gives memory that waits for reuse back to the system, as between phases of different shapes.
    pub fn release_memory() {
        Buffer::release_pool();
    }

    /// The same values in a buffer of their own: itself when nobody shares it, a copy otherwise.
    pub fn into_unique(mut self) -> Self {
        if self.is_unique() {
            return self;
        }
        let mut copy = Tensor::scratch(&self.shape);
        copy.data_mut().copy_from_slice(self.data());
        copy
    }

    /// True when no other tensor shares the buffer, so that `data_mut` may be called.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.storage).is_some()
    }
}
