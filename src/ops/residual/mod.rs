//! The residual sum on its own; in the model it is an epilogue of `matmul`.
//!
//! - computes: y = a + b
//! - derivative: da = dy, db = dy
//! - saves: nothing
//! - shapes: a, b and y alike
//! - cost: 1 FLOP and 12 bytes an element
#![forbid(unsafe_code)]

pub mod cpu;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;

struct ResidualBackward {
    da: Slot,
    db: Slot,
}

/// a + b, elementwise. An error when the shapes differ.
pub fn forward(tape: Option<&mut Tape>, a: &Var, b: &Var) -> Result<Var> {
    if a.shape() != b.shape() {
        return Err(Error::shape("residual", format!("{:?} + {:?}", a.shape(), b.shape())));
    }
    let y = match a.value.device() {
        Device::Cpu => {
            let mut y = Tensor::scratch(a.shape());
            cpu::forward(a.value.data(), b.value.data(), y.data_mut());
            y
        }
        Device::Cuda => {
            let mut y = a.value.clone().into_unique()?;
            y.add(&b.value)?;
            y
        }
    };
    emit(tape, "residual", y, &[a.slot, b.slot], &[], || ResidualBackward { da: a.slot, db: b.slot })
}

impl Backward for ResidualBackward {
    fn op(&self) -> &'static str {
        "residual"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(self.da, dy.clone())?;
        grads.add(self.db, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{AWKWARD, Definition, check, values};

    struct Residual;

    impl Definition for Residual {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            (reference::forward(&inputs[0], &inputs[1]), vec![dy.to_vec(), dy.to_vec()])
        }
    }

    #[test]
    fn matches_its_reference() {
        for n in AWKWARD {
            let inputs = [(vec![n], values(n, 1, 2.0)), (vec![n], values(n, 2, 2.0))];
            check("residual", &inputs, &Residual, |tape, v| forward(tape, &v[0], &v[1]));
        }
    }

    #[test]
    fn refuses_unequal_shapes() {
        let (a, b) = (Var::constant(Tensor::zeros(&[2])), Var::constant(Tensor::zeros(&[3])));
        assert!(forward(None, &a, &b).is_err());
    }
}
