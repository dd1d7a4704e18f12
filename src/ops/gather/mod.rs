//! Gathers rows of each image: the kept tokens after a dense embedding, or [CLS] alone.
//!
//! - computes: y[b, i] = x[b, kept[b, i]]
//! - derivative: dx[b, kept[b, i]] += dy[b, i], zero elsewhere
//! - saves: kept, on a card both there and here
//! - shapes: x (B,N,D), kept (B,k) with entries below N, y (B,k,D). On the CPU images may differ in N or k: their rows
//!   then lie one after the other, (rows,D)
//! - cost: no FLOPs, 8 bytes an element of y
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::{Spans, Tensor};
use std::sync::Arc;

struct GatherBackward {
    kept: Arc<[u32]>,
    /// `kept` where y is, when that is a card.
    there: Option<Tensor>,
    shape: Vec<usize>,
    spans: [Spans; 2],
    dx: Slot,
}

/// Rows `kept` (B,k) of x (B,N,D). An error when an index is not below N or the batch sizes differ.
pub fn forward(tape: Option<&mut Tape>, x: &Var, kept: &Arc<[u32]>, k: usize) -> Result<Var> {
    let &[b, n, _] = x.shape() else {
        return Err(Error::shape("gather", format!("x {:?} is not (B,N,D)", x.shape())));
    };
    forward_within(tape, x, kept, [&Spans::even(b, n), &Spans::even(b, k)])
}

/// Rows `kept` of each image of x (rows,D), each counted from its image's first; `from` shares out x, `to` the result. An
/// error when an index is beyond its image or the sizes differ.
pub fn forward_within(tape: Option<&mut Tape>, x: &Var, kept: &Arc<[u32]>, [from, to]: [&Spans; 2]) -> Result<Var> {
    let d = x.shape().last().map_or(0, |&d| d);
    let (b, n) = (from.images(), from.rows());
    let fits = b > 0 && d > 0 && x.value.len() == n * d && to.images() == b && to.rows() == kept.len();
    let within = || to.split(kept, 1).into_iter().zip(from.lengths());
    if !fits || to.any_empty() || within().any(|(kept, n)| kept.iter().any(|&row| row as usize >= n)) {
        let reason = format!("{} indices for {b} images of {n} rows, x {:?}", kept.len(), x.shape());
        return Err(Error::shape("gather", reason));
    }
    let mut y = x.value.like(&to.shape(d))?;
    let mut there = None;
    match x.value.device() {
        Device::Cpu => cpu::forward(x.value.data(), kept, y.data_mut(), from, to, d),
        Device::Cuda => {
            let indices = there.insert(Tensor::indices(x.value.gpu(), kept)?);
            let sizes = sizes(from, to, d)?;
            cuda::forward(x.value.gpu(), x.value.values(), indices.words(), y.values(), sizes)?;
        }
    }
    let spans = [from.clone(), to.clone()];
    emit(tape, "gather", y, &[x.slot], &[], || GatherBackward {
        kept: kept.clone(),
        there,
        shape: x.shape().to_vec(),
        spans,
        dx: x.slot,
    })
}

/// (B, N, k, D) of images of one length, which is what the kernels of a card take.
fn sizes(from: &Spans, to: &Spans, d: usize) -> Result<[usize; 4]> {
    match (from.common(), to.common()) {
        (Some(n), Some(k)) => Ok([from.images(), n, k, d]),
        _ => Err(Error::shape("gather", "a card's kernels take images of one length")),
    }
}

impl Backward for GatherBackward {
    fn op(&self) -> &'static str {
        "gather"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let ([from, to], d) = (&self.spans, self.shape[self.shape.len() - 1]);
        let mut dx = dy.like(&self.shape)?;
        match &self.there {
            None => {
                dx.data_mut().fill(0.0);
                cpu::backward(dy.data(), &self.kept, dx.data_mut(), from, to, d);
            }
            Some(indices) => {
                cuda::backward(dy.gpu(), dy.values(), indices.words(), dx.values(), sizes(from, to, d)?)?;
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

    struct GatherWithin(Arc<[u32]>, [Spans; 2], usize);

    impl Definition for GatherWithin {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let GatherWithin(kept, [from, to], d) = self;
            let images = from.split(&inputs[0], *d).into_iter().zip(to.split(kept, 1)).zip(to.split(dy, *d));
            let (mut y, mut dx) = (Vec::new(), Vec::new());
            for ((x, kept), dy) in images {
                let (n, k) = (x.len() / d, kept.len());
                y.extend(reference::forward(x, kept, n, k, *d));
                dx.extend(reference::backward(dy, kept, n, k, *d));
            }
            (y, vec![dx])
        }
    }

    #[test]
    fn images_of_different_lengths_match_the_reference_one_by_one() {
        let rows = |from: &[usize], to: &[usize]| -> Arc<[u32]> {
            from.iter().zip(to).flat_map(|(n, k)| (0..*k).map(move |i| (i * n / k) as u32)).collect()
        };
        for (from, to, d) in [
            (&[3, 1, 2][..], &[1, 1, 1][..], 4),
            (&[4, 4], &[4, 2], 3),
            (&[2, 7, 31], &[2, 3, 1], 5),
            (&[138, 197, 2], &[1, 1, 1], 33),
        ] {
            let (kept, spans) = (rows(from, to), [from, to].map(|lengths| Spans::of(lengths.iter().copied())));
            let [x, y] = &spans;
            let inputs = [(x.shape(d), values(x.rows() * d, 1, 1.0))];
            let definition = GatherWithin(kept.clone(), spans.clone(), d);
            check(&format!("gather {from:?}"), &inputs, &definition, |t, v| forward_within(t, &v[0], &kept, [x, y]));
        }
    }

    #[test]
    fn refuses_an_index_beyond_its_image() {
        let x = Var::constant(Tensor::zeros(&[5, 2]));
        let (from, to) = (Spans::of([2, 3]), Spans::even(2, 1));
        assert!(forward_within(None, &x, &Arc::from([1, 2]), [&from, &to]).is_ok());
        assert!(forward_within(None, &x, &Arc::from([2, 0]), [&from, &to]).is_err());
        assert!(forward_within(None, &x, &Arc::from([0, 0]), [&Spans::of([5]), &to]).is_err());
    }

    #[test]
    fn refuses_an_index_beyond_the_rows() {
        let x = Var::constant(Tensor::zeros(&[1, 4, 2]));
        assert!(forward(None, &x, &Arc::from([4]), 1).is_err());
    }
}
