//! Softmax along the last dimension; inside `attention` it is fused.
//!
//! - computes: y = e^(x - max x) / sum e^(x - max x), row by row
//! - derivative: dx = y (dy - sum y dy)
//! - saves: y
//! - shapes: (..., D), D at least 1
//! - cost: about 15 FLOPs and 8 bytes an element forward, 12 bytes backward
#![forbid(unsafe_code)]

pub mod cpu;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;

struct SoftmaxBackward {
    y: Tensor,
    dx: Slot,
}

/// softmax(x) along the last dimension. An error when that dimension is empty.
pub fn forward(tape: Option<&mut Tape>, x: &Var) -> Result<Var> {
    let d = *x.shape().last().unwrap_or(&0);
    if d == 0 {
        return Err(Error::shape("softmax", format!("no element along the last dimension of {:?}", x.shape())));
    }
    let mut y = Tensor::scratch(x.shape());
    match x.value.device() {
        Device::Cpu => cpu::forward(x.value.data(), y.data_mut(), d),
        Device::Cuda => return Err(Error::shape("softmax", "on a card it is part of attention and of cross_entropy")),
    }
    let kept = y.clone();
    emit(tape, "softmax", y, &[x.slot], &[], || SoftmaxBackward { y: kept, dx: x.slot })
}

impl Backward for SoftmaxBackward {
    fn op(&self) -> &'static str {
        "softmax"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let mut dy = dy.into_unique()?;
        let d = self.y.shape()[self.y.shape().len() - 1];
        match self.y.device() {
            Device::Cpu => cpu::backward(self.y.data(), dy.data_mut(), d),
            Device::Cuda => unreachable!("the forward refuses a card"),
        }
        grads.add(self.dx, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{AWKWARD, Definition, check, values};

    struct Softmax(usize);

    impl Definition for Softmax {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let y = reference::forward(&inputs[0], self.0);
            let dx = reference::backward(&y, dy, self.0);
            (y, vec![dx])
        }
    }

    #[test]
    fn matches_its_reference() {
        for d in AWKWARD {
            for rows in [1, 5, 40] {
                let x = values(rows * d, (rows * d) as u32, 6.0);
                check(&format!("softmax {rows} x {d}"), &[(vec![rows, d], x)], &Softmax(d), |t, v| forward(t, &v[0]));
            }
        }
    }

    #[test]
    fn survives_large_logits() {
        let x = Var::constant(Tensor::from_vec(vec![1e4, 1e4 - 1.0, -1e4], &[1, 3]));
        let y = forward(None, &x).unwrap();
        assert!((y.value.data()[0] - 0.731_058_6).abs() < 1e-6, "{:?}", y.value.data());
    }
}
