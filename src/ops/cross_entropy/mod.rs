//! Mean cross-entropy of logits, as torch's `cross_entropy(reduction="mean", label_smoothing=s)`.
//!
//! - computes: loss = mean over rows of -(1 - s) ln p[label] - s mean ln p, p = softmax(logits)
//! - derivative: dlogits = (p - target) / B times dloss, target = (1 - s) at the label plus s / classes
//! - saves: (p - target) / B, computed with the loss
//! - shapes: logits (B,classes), labels (B), loss (1)
//! - cost: about 20 FLOPs and 12 bytes an element
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::device::cpu::vector;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;

struct CrossEntropyBackward {
    /// The gradient for an upstream gradient of 1.
    unit: Tensor,
    dlogits: Slot,
}

/// The mean loss (1,). NaN logits give a NaN loss. An error when a label is not below the number of classes.
pub fn forward(tape: Option<&mut Tape>, logits: &Var, labels: &[usize], smoothing: f32) -> Result<Var> {
    let &[b, classes] = logits.shape() else {
        return Err(Error::shape("cross_entropy", format!("logits {:?} are not (B,classes)", logits.shape())));
    };
    if b == 0 || labels.len() != b || labels.iter().any(|&label| label >= classes) {
        return Err(Error::shape("cross_entropy", format!("labels {labels:?} for logits {:?}", logits.shape())));
    }
    let mut unit = logits.value.like_f32(logits.shape())?;
    let mut loss = logits.value.like_f32(&[1])?;
    match unit.device() {
        Device::Cpu => {
            unit.data_mut().copy_from_slice(logits.value.data());
            loss.data_mut()[0] = cpu::forward_backward(unit.data_mut(), labels, classes, smoothing);
        }
        Device::Cuda => {
            let labels: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
            let (gpu, losses) = (unit.gpu(), unit.like_f32(&[b])?);
            let labels = Tensor::indices(gpu, &labels)?;
            let (losses, loss) = (losses.floats(), loss.floats());
            cuda::forward(gpu, logits.value.values(), labels.words(), smoothing, losses, unit.floats(), loss)?;
        }
    }
    emit(tape, "cross_entropy", loss, &[logits], &[], |_| CrossEntropyBackward { unit, dlogits: logits.slot })
}

impl Backward for CrossEntropyBackward {
    fn op(&self) -> &'static str {
        "cross_entropy"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dlogits = match dy.device() {
            Device::Cpu => {
                let mut dlogits = self.unit;
                vector::scale(dlogits.data_mut(), dy.data()[0]);
                dlogits
            }
            Device::Cuda => {
                let gpu = dy.gpu();
                let dlogits = Tensor::on_card(gpu, self.unit.shape(), gpu.compute())?;
                cuda::backward(gpu, self.unit.floats(), dy.floats(), dlogits.values())?;
                dlogits
            }
        };
        grads.add(self.dlogits, dlogits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, check, values};

    struct CrossEntropy(Vec<usize>, usize, f32);

    impl Definition for CrossEntropy {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let CrossEntropy(labels, classes, smoothing) = self;
            let smoothing = R::of(f64::from(*smoothing));
            let loss = reference::forward(&inputs[0], labels, *classes, smoothing);
            let dlogits = reference::backward(&inputs[0], labels, *classes, smoothing);
            (vec![loss], vec![dlogits.into_iter().map(|g| g * dy[0]).collect()])
        }
    }

    #[test]
    fn matches_its_reference() {
        for (b, classes) in [(1, 1), (1, 2), (3, 5), (7, 31), (33, 100)] {
            for smoothing in [0.0, 0.1] {
                let labels: Vec<usize> = (0..b).map(|i| (i * 7 + 3) % classes).collect();
                let inputs = [(vec![b, classes], values(b * classes, 5, 5.0))];
                let definition = CrossEntropy(labels.clone(), classes, smoothing);
                check("cross entropy", &inputs, &definition, |t, v| forward(t, &v[0], &labels, smoothing));
            }
        }
    }

    #[test]
    fn nan_logits_give_a_nan_loss() {
        let logits = Var::constant(Tensor::from_vec(vec![f32::NAN, 0.0], &[1, 2]));
        assert!(forward(None, &logits, &[1], 0.0).unwrap().value.data()[0].is_nan());
    }

    #[test]
    fn refuses_a_label_beyond_the_classes() {
        assert!(forward(None, &Var::constant(Tensor::zeros(&[1, 2])), &[2], 0.0).is_err());
    }
}
