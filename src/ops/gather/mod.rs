//! Gathers rows of each image: the kept tokens after a dense embedding, or [CLS] alone.
//!
//! - computes: y[b, i] = x[b, kept[b, i]]
//! - derivative: dx[b, kept[b, i]] += dy[b, i], zero elsewhere
//! - saves: kept
//! - shapes: x (B,N,D), kept (B,k) with entries below N, y (B,k,D)
//! - cost: no FLOPs, 8 bytes an element of y
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;
use std::sync::Arc;

struct GatherBackward {
    kept: Arc<[u32]>,
    shape: [usize; 3],
    dx: Slot,
}

/// Rows `kept` (B,k) of x (B,N,D). An error when an index is not below N or the batch sizes differ.
pub fn forward(tape: Option<&mut Tape>, x: &Var, kept: &Arc<[u32]>, k: usize) -> Result<Var> {
    let &[b, n, d] = x.shape() else {
        return Err(Error::shape("gather", format!("x {:?} is not (B,N,D)", x.shape())));
    };
    if b * k * d == 0 || kept.len() != b * k || kept.iter().any(|&row| row as usize >= n) {
        return Err(Error::shape("gather", format!("{} indices for {b} images of {n} rows, k = {k}", kept.len())));
    }
    let mut y = x.value.like(&[b, k, d])?;
    match x.value.device() {
        Device::Cpu => cpu::forward(x.value.data(), kept, y.data_mut(), n, k, d),
        Device::Cuda => {
            let indices = Tensor::indices(x.value.gpu(), kept)?;
            cuda::forward(x.value.gpu(), x.value.values(), indices.words(), y.values(), [b, n, k, d])?;
        }
    }
    emit(tape, "gather", y, &[x], &[], |_| GatherBackward { kept: kept.clone(), shape: [b, n, d], dx: x.slot })
}

impl Backward for GatherBackward {
    fn op(&self) -> &'static str {
        "gather"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let [b, n, d] = self.shape;
        let k = self.kept.len() / b;
        let mut dx = dy.like(&self.shape)?;
        match dy.device() {
            Device::Cpu => {
                dx.data_mut().fill(0.0);
                cpu::backward(dy.data(), &self.kept, dx.data_mut(), n, k, d);
            }
            Device::Cuda => {
                let indices = Tensor::indices(dy.gpu(), &self.kept)?;
                cuda::backward(dy.gpu(), dy.values(), indices.words(), dx.values(), [b, n, k, d])?;
            }
        }
        grads.add(self.dx, dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, check, values};

    struct Gather(Arc<[u32]>, [usize; 3]);

    impl Definition for Gather {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let Gather(kept, [n, k, d]) = self;
            let y = reference::forward(&inputs[0], kept, *n, *k, *d);
            (y, vec![reference::backward(dy, kept, *n, *k, *d)])
        }
    }

    #[test]
    fn matches_its_reference() {
        for (b, n, k, d) in [(1, 1, 1, 1), (2, 7, 3, 5), (3, 16, 16, 2), (2, 197, 31, 33)] {
            let kept: Arc<[u32]> = (0..b * k).map(|i| ((i % k) * (n / k) + i / k % (n / k)) as u32).collect();
            let inputs = [(vec![b, n, d], values(b * n * d, 1, 1.0))];
            let definition = Gather(kept.clone(), [n, k, d]);
            check("gather", &inputs, &definition, |tape, v| forward(tape, &v[0], &kept, k));
        }
    }

    #[test]
    fn refuses_an_index_beyond_the_rows() {
        let x = Var::constant(Tensor::zeros(&[1, 4, 2]));
        assert!(forward(None, &x, &Arc::from([4]), 1).is_err());
    }
}
