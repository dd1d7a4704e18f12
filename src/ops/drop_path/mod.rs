//! The residual sum with a branch that counts differently for each image: timm's `DropPath`, once the scales are drawn.
//!
//! - computes: y = x + s_b branch, with the scale s_b of image b
//! - derivative: dx = dy, dbranch = s_b dy
//! - saves: the scales
//! - shapes: x, branch and y alike, (B, ...), or (rows,D) where images have different numbers of rows; scales (B)
//! - cost: 2 FLOPs and 12 bytes an element; on a card, which scales and adds one after the other, 8 bytes more in f32
#![forbid(unsafe_code)]

pub mod cpu;
pub mod reference;

use crate::device::Device;
use crate::device::cuda::elements;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::{Spans, Tensor};
use std::sync::Arc;

struct DropPathBackward {
    scales: Arc<[f32]>,
    spans: Spans,
    dx: Slot,
    dbranch: Slot,
}

/// x + s branch. An error when the shapes differ, or when there is not one scale an image.
pub fn forward(tape: Option<&mut Tape>, x: &Var, branch: &Var, scales: &Arc<[f32]>) -> Result<Var> {
    let rows = x.shape().first().map_or(0, |&b| b);
    forward_within(tape, x, branch, &Spans::even(rows, 1), scales)
}

/// `forward` on the rows of images that `spans` shares out; on a card each image has as many.
pub fn forward_within(
    tape: Option<&mut Tape>,
    x: &Var,
    branch: &Var,
    spans: &Spans,
    scales: &Arc<[f32]>,
) -> Result<Var> {
    let whole = spans.rows() > 0 && x.value.len().is_multiple_of(spans.rows());
    if x.shape() != branch.shape() || spans.images() != scales.len() || !whole {
        let (x, branch) = (x.shape(), branch.shape());
        return Err(Error::shape("drop_path", format!("{x:?} + {} scales of {branch:?}", scales.len())));
    }
    let y = match x.value.device() {
        Device::Cpu => {
            let mut y = Tensor::scratch(x.shape());
            cpu::forward(x.value.data(), branch.value.data(), scales, spans, y.data_mut());
            y
        }
        Device::Cuda => {
            let mut y = scaled_on_card(&branch.value, scales, spans)?;
            y.add(&x.value)?;
            y
        }
    };
    emit(tape, "drop_path", y, &[x.slot, branch.slot], &[], || DropPathBackward {
        scales: scales.clone(),
        spans: spans.clone(),
        dx: x.slot,
        dbranch: branch.slot,
    })
}

/// s branch, on a card.
fn scaled_on_card(branch: &Tensor, scales: &Arc<[f32]>, spans: &Spans) -> Result<Tensor> {
    if spans.common().is_none() {
        return Err(Error::shape("drop_path", "a card's kernels take images of one length"));
    }
    let y = branch.like(branch.shape())?;
    let factors = Tensor::from_vec(scales.to_vec(), &[scales.len()]).to_card(branch.gpu())?;
    elements::scale(branch.gpu(), branch.values(), factors.floats(), branch.len() / scales.len(), y.values())?;
    Ok(y)
}

impl Backward for DropPathBackward {
    fn op(&self) -> &'static str {
        "drop_path"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dbranch = match dy.device() {
            Device::Cpu => {
                let mut dbranch = Tensor::scratch(dy.shape());
                cpu::backward(dy.data(), &self.scales, &self.spans, dbranch.data_mut());
                dbranch
            }
            Device::Cuda => scaled_on_card(&dy, &self.scales, &self.spans)?,
        };
        grads.add(self.dbranch, dbranch)?;
        grads.add(self.dx, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{AWKWARD, Definition, check, values};

    struct Scaled(Vec<f32>);

    impl Definition for Scaled {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let y = reference::forward(&inputs[0], &inputs[1], &self.0);
            (y, vec![dy.to_vec(), reference::backward(dy, &self.0)])
        }
    }

    #[test]
    fn matches_its_reference() {
        for (i, b) in AWKWARD.into_iter().enumerate() {
            let n = AWKWARD[(3 * i + 1) % AWKWARD.len()];
            // Kept at a quarter, or left out.
            let scales: Vec<f32> = (0..b).map(|i| if i % 4 == 0 { 4.0 } else { 0.0 }).collect();
            let inputs = [(vec![b, n], values(b * n, 1, 2.0)), (vec![b, n], values(b * n, 2, 2.0))];
            let shared: Arc<[f32]> = scales.as_slice().into();
            check("drop_path", &inputs, &Scaled(scales), |tape, v| forward(tape, &v[0], &v[1], &shared));
        }
    }

    struct Rows(Vec<f32>, Spans, usize);

    impl Definition for Rows {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            // A row of an image is an image of its own with the same scale.
            let Rows(scales, spans, d) = self;
            assert_eq!(dy.len(), spans.rows() * d);
            Scaled(spans.image_of_rows().map(|b| scales[b]).collect()).run(inputs, dy)
        }
    }

    #[test]
    fn every_row_of_an_image_has_its_scale() {
        for (lengths, d) in [(&[2, 1, 4][..], 3), (&[33, 7, 1, 64], 31)] {
            let (spans, scales) = (Spans::of(lengths.iter().copied()), [4.0, 0.0, 1.5, 0.5][..lengths.len()].to_vec());
            let n = spans.rows() * d;
            let inputs = [(spans.shape(d), values(n, 1, 2.0)), (spans.shape(d), values(n, 2, 2.0))];
            let shared: Arc<[f32]> = scales.as_slice().into();
            let op = |t: Option<&mut Tape>, v: &[Var]| forward_within(t, &v[0], &v[1], &spans, &shared);
            check("drop_path", &inputs, &Rows(scales, spans.clone(), d), op);
        }
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        let scales: Arc<[f32]> = vec![1.0; 2].into();
        assert!(forward(None, &var(&[2, 3]), &var(&[2, 4]), &scales).is_err());
        assert!(forward(None, &var(&[3, 3]), &var(&[3, 3]), &scales).is_err());
        assert!(forward(None, &var(&[]), &var(&[]), &scales).is_err());
    }
}
