//! Mean cross-entropy of logits, as torch's `cross_entropy(reduction="mean", label_smoothing=s)`.
//!
//! - computes: loss = mean over rows of -(1 - s) ln p[label] - s mean ln p, p = softmax(logits); of a mixed batch
//!   w ln p[label] + (1 - w) ln p[other] stands for ln p[label], as in timm's `SoftTargetCrossEntropy` of `mixup_target`
//! - derivative: dlogits = (p - target) / B times dloss, target = (1 - s) at the label plus s / classes; of a mixed batch
//!   w (1 - s) at the label and (1 - w) (1 - s) at the other
//! - saves: (p - target) / B, computed with the loss
//! - shapes: logits (B,classes), labels (B), others (B), w a number, loss (1)
//! - cost: about 20 FLOPs and 12 bytes an element; on a card the logits of a mixed batch go to the host and back
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::device::cpu::vector;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;

/// What the rows of logits should say: a class each, or two with weights.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// (B,)
    pub own: &'a [usize],
    /// Present for a mixed batch.
    pub mixed: Option<&'a Mixed>,
}

/// The second labels of a mixed batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// (B,), the classes of the images that were mixed in.
    pub others: Vec<usize>,
    /// Weight of an image's own label, from 0 to 1; the rest is the other's.
    pub weight: f32,
}

impl Labels<'_> {
    /// The classes of a row with their weights, which add up to 1.
    fn row(&self, row: usize) -> [(usize, f32); 2] {
        match self.mixed {
            Some(mixed) => [(self.own[row], mixed.weight), (mixed.others[row], 1.0 - mixed.weight)],
            None => [(self.own[row], 1.0), (self.own[row], 0.0)],
        }
    }

    /// Whether there are labels for `b` rows, each below `classes`, and a weight from 0 to 1.
    fn fit(&self, b: usize, classes: usize) -> bool {
        let sound = |labels: &[usize]| labels.len() == b && labels.iter().all(|&label| label < classes);
        sound(self.own) && self.mixed.is_none_or(|mixed| sound(&mixed.others) && (0.0..=1.0).contains(&mixed.weight))
    }
}

impl<'a, T: AsRef<[usize]> + ?Sized> From<&'a T> for Labels<'a> {
    fn from(own: &'a T) -> Self {
        Labels { own: own.as_ref(), mixed: None }
    }
}

struct CrossEntropyBackward {
    /// The gradient for an upstream gradient of 1.
    unit: Tensor,
    dlogits: Slot,
}

/// The mean loss (1,). NaN logits give a NaN loss. An error when a label is not below the number of classes.
pub fn forward<'a>(
    tape: Option<&mut Tape>,
    logits: &Var,
    labels: impl Into<Labels<'a>>,
    smoothing: f32,
) -> Result<Var> {
    let labels = labels.into();
    let &[b, classes] = logits.shape() else {
        return Err(Error::shape("cross_entropy", format!("logits {:?} are not (B,classes)", logits.shape())));
    };
    if b == 0 || !labels.fit(b, classes) {
        return Err(Error::shape("cross_entropy", format!("labels {labels:?} for logits {:?}", logits.shape())));
    }
    let mut unit = logits.value.like_f32(logits.shape())?;
    let mut loss = logits.value.like_f32(&[1])?;
    match unit.device() {
        Device::Cpu => {
            unit.data_mut().copy_from_slice(logits.value.data());
            loss.data_mut()[0] = cpu::forward_backward(unit.data_mut(), labels, classes, smoothing);
        }
        Device::Cuda if labels.mixed.is_some() => {
            // The kernels know one label a row. Logits are few, and the loss goes to the host in any case.
            let mut host = logits.value.to_host()?.into_unique()?;
            let value = cpu::forward_backward(host.data_mut(), labels, classes, smoothing);
            unit = host.to_card(unit.gpu())?;
            loss = Tensor::from_vec(vec![value], &[1]).to_card(unit.gpu())?;
        }
        Device::Cuda => {
            let labels: Vec<u32> = labels.own.iter().map(|&label| label as u32).collect();
            let (gpu, losses) = (unit.gpu(), unit.like_f32(&[b])?);
            let labels = Tensor::indices(gpu, &labels)?;
            let (losses, loss) = (losses.floats(), loss.floats());
            cuda::forward(gpu, logits.value.values(), labels.words(), smoothing, losses, unit.floats(), loss)?;
        }
    }
    emit(tape, "cross_entropy", loss, &[logits.slot], &[], || CrossEntropyBackward { unit, dlogits: logits.slot })
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

    struct CrossEntropy<'a>(Labels<'a>, usize, f32);

    impl Definition for CrossEntropy<'_> {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let &CrossEntropy(labels, classes, smoothing) = self;
            let smoothing = R::of(f64::from(smoothing));
            let loss = reference::forward(&inputs[0], labels, classes, smoothing);
            let dlogits = reference::backward(&inputs[0], labels, classes, smoothing);
            (vec![loss], vec![dlogits.into_iter().map(|g| g * dy[0]).collect()])
        }
    }

    #[test]
    fn matches_its_reference() {
        for (b, classes) in [(1, 1), (1, 2), (3, 5), (7, 31), (33, 100)] {
            for smoothing in [0.0, 0.1] {
                let own: Vec<usize> = (0..b).map(|i| (i * 7 + 3) % classes).collect();
                let others: Vec<usize> = own.iter().rev().copied().collect();
                let mixed = [0.0, 0.3, 1.0].map(|weight| Mixed { others: others.clone(), weight });
                let inputs = [(vec![b, classes], values(b * classes, 5, 5.0))];
                for mixed in [None].into_iter().chain(mixed.iter().map(Some)) {
                    let labels = Labels { own: &own, mixed };
                    let definition = CrossEntropy(labels, classes, smoothing);
                    check("cross entropy", &inputs, &definition, |t, v| forward(t, &v[0], labels, smoothing));
                }
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
        let logits = Var::constant(Tensor::zeros(&[1, 2]));
        assert!(forward(None, &logits, &[2], 0.0).is_err());
        for (others, weight, sound) in [(vec![1], 0.5, true), (vec![2], 0.5, false), (vec![], 0.5, false)] {
            let mixed = Mixed { others, weight };
            assert_eq!(forward(None, &logits, Labels { own: &[0], mixed: Some(&mixed) }, 0.0).is_ok(), sound);
        }
        let mixed = Mixed { others: vec![1], weight: f32::NAN };
        assert!(forward(None, &logits, Labels { own: &[0], mixed: Some(&mixed) }, 0.0).is_err());
    }

    #[test]
    fn a_pair_of_losses_weighed_is_the_mixed_loss() {
        let logits = Var::constant(Tensor::from_vec(values(15, 3, 4.0), &[3, 5]));
        let (own, mixed) = (vec![0, 4, 2], Mixed { others: vec![2, 4, 0], weight: 0.25 });
        let loss = |labels: Labels| f64::from(forward(None, &logits, labels, 0.1).unwrap().value.data()[0]);
        let want = 0.25 * loss((&own).into()) + 0.75 * loss((&mixed.others).into());
        // A handful of f32 roundings of numbers below 8.
        assert!((loss(Labels { own: &own, mixed: Some(&mixed) }) - want).abs() < 4e-6);
    }

    #[test]
    fn a_card_gives_the_hosts_mixed_loss_and_gradient() {
        use crate::device::cuda::{Gpu, Store, Target};
        let gpu = std::sync::Arc::new(Gpu::open(Target::PtxVm).unwrap().computing_in(Store::F32).unwrap());
        let (own, mixed) = (vec![0, 4, 2], Mixed { others: vec![2, 4, 0], weight: 0.25 });
        let host = Tensor::from_vec(values(15, 3, 4.0), &[3, 5]);
        let run = |logits: Tensor| {
            let loss = forward(None, &Var::constant(logits), Labels { own: &own, mixed: Some(&mixed) }, 0.1).unwrap();
            loss.value.to_host().unwrap().data().to_vec()
        };
        assert_eq!(run(host.to_card(&gpu).unwrap()), run(host));
    }
}
