//! Assembles the encoder's input: [CLS] and the kept tokens, each with its row of the position table.
//!
//! - computes: y[b, 0] = cls + pos[0]; y[b, 1 + i] = tokens[b, i] + pos[rows[b, i]] (paper, Eqs. 6 to 8)
//! - derivative: dtokens = dy[1..]; dcls += sum dy[0]; dpos[row] += dy of every token that took the row
//! - saves: rows, on a card both there and here
//! - shapes: tokens (B,k,D), cls (1,1,D), pos (1,N+1,D), rows (B,k) in 1..=N, y (B,1+k,D). On the CPU
//!   images may keep different numbers: tokens and y then lie image after image, (rows,D)
//! - cost: 1 FLOP and 12 bytes an element
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::{Spans, Tensor};
use std::sync::Arc;

struct AssembleBackward {
    rows: Arc<[u32]>,
    /// `rows` where y is, when that is a card.
    there: Option<Tensor>,
    spans: Spans,
    dtokens: Slot,
    dcls: Slot,
    dpos: Slot,
}

/// The sequence (B,1+k,D). `rows` (B,k) names the position row of each token: 1 + patch index when gathered,
/// 1, 2, ... when the first k rows are taken. An error when shapes or rows do not fit.
pub fn forward(tape: Option<&mut Tape>, tokens: &Var, cls: &Var, pos: &Var, rows: &Arc<[u32]>) -> Result<Var> {
    let &[b, k, _] = tokens.shape() else {
        return Err(Error::shape("assemble", format!("tokens {:?} are not (B,k,D)", tokens.shape())));
    };
    forward_within(tape, tokens, &Spans::even(b, k), cls, pos, rows)
}

/// `forward` with as many tokens of each image as `spans` says.
pub fn forward_within(
    tape: Option<&mut Tape>,
    tokens: &Var,
    spans: &Spans,
    cls: &Var,
    pos: &Var,
    rows: &Arc<[u32]>,
) -> Result<Var> {
    let d = tokens.shape().last().map_or(0, |&d| d);
    let table = pos.value.len() / d.max(1);
    let fits = cls.value.len() == d && pos.value.len() == table * d && rows.len() == spans.rows();
    let whole = spans.rows() * d > 0 && !spans.any_empty() && tokens.value.len() == spans.rows() * d;
    if !whole || !fits || table == 0 || rows.iter().any(|&row| row as usize >= table) {
        let (cls, pos, rows) = (cls.shape(), pos.shape(), rows.len());
        return Err(Error::shape(
            "assemble",
            format!("tokens {:?}, cls {cls:?}, pos {pos:?}, {rows} rows", tokens.shape()),
        ));
    }
    let mut y = tokens.value.like(&spans.longer(1).shape(d))?;
    let mut there = None;
    match tokens.value.device() {
        Device::Cpu => {
            cpu::forward(tokens.value.data(), cls.value.data(), pos.value.data(), rows, spans, y.data_mut());
        }
        Device::Cuda => {
            let (gpu, k) = (tokens.value.gpu(), even(spans)?);
            let rows = there.insert(Tensor::indices(gpu, rows)?);
            let (cls, pos) = (cls.value.floats(), pos.value.floats());
            cuda::forward(gpu, tokens.value.values(), cls, pos, rows.words(), k, y.values())?;
        }
    }
    emit(tape, "assemble", y, &[tokens.slot], &[cls.slot, pos.slot], || AssembleBackward {
        rows: rows.clone(),
        there,
        spans: spans.clone(),
        dtokens: tokens.slot,
        dcls: cls.slot,
        dpos: pos.slot,
    })
}

/// k of images of one length, which is what the kernels of a card take.
fn even(spans: &Spans) -> Result<usize> {
    spans.common().ok_or_else(|| Error::shape("assemble", "a card's kernels take images of one length"))
}

impl Backward for AssembleBackward {
    fn op(&self) -> &'static str {
        "assemble"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (spans, d) = (&self.spans, dy.shape()[dy.shape().len() - 1]);
        let mut dtokens = dy.like(&spans.shape(d))?;
        match &self.there {
            None => {
                cpu::backward_dtokens(dy.data(), spans, d, dtokens.data_mut());
                grads.param_add(self.dcls, |sum| cpu::backward_dcls_add(dy.data(), spans, sum));
                grads.param_add(self.dpos, |sum| cpu::backward_dpos_add(dy.data(), &self.rows, spans, d, sum));
            }
            Some(rows) => {
                let [dcls, dpos] = grads.param_slices([self.dcls, self.dpos])?;
                cuda::backward(dy.gpu(), dy.values(), rows.words(), even(spans)?, dtokens.values(), dcls, dpos)?;
            }
        }
        grads.add(self.dtokens, dtokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, check, values};

    struct Assemble(Arc<[u32]>, usize, usize);

    impl Definition for Assemble {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let Assemble(rows, k, d) = self;
            let [tokens, cls, pos] = inputs else { panic!("assemble has three inputs") };
            let (dtokens, dcls, dpos) = reference::backward(dy, rows, *k, *d, pos.len());
            (reference::forward(tokens, cls, pos, rows, *k), vec![dtokens, dcls, dpos])
        }
    }

    #[test]
    fn matches_its_reference() {
        for (b, n, k, d) in [(1, 1, 1, 1), (3, 7, 5, 3), (2, 16, 16, 33), (3, 196, 137, 64)] {
            let rows: Arc<[u32]> = (0..b * k).map(|i| (1 + i % k + (i / k) % (n - k + 1)) as u32).collect();
            let inputs = [
                (vec![b, k, d], values(b * k * d, 1, 1.0)),
                (vec![1, 1, d], values(d, 2, 1.0)),
                (vec![1, n + 1, d], values((n + 1) * d, 3, 1.0)),
            ];
            let definition = Assemble(rows.clone(), k, d);
            check("assemble", &inputs, &definition, |t, v| forward(t, &v[0], &v[1], &v[2], &rows));
        }
    }

    struct Within(Arc<[u32]>, Spans, usize);

    impl Definition for Within {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let Within(rows, spans, d) = self;
            let [tokens, cls, pos] = inputs else { panic!("assemble has three inputs") };
            let add = |sum: &mut Vec<R>, more: &[R]| sum.iter_mut().zip(more).for_each(|(sum, &x)| *sum += x);
            let (mut y, mut dtokens) = (Vec::new(), Vec::new());
            let (mut dcls, mut dpos) = (vec![R::zero(); *d], vec![R::zero(); pos.len()]);
            let longer = spans.longer(1);
            let images = spans.split(tokens, *d).into_iter().zip(spans.split(rows, 1));
            for ((tokens, rows), dy) in images.zip(longer.split(dy, *d)) {
                y.extend(reference::forward(tokens, cls, pos, rows, rows.len()));
                let gradients = reference::backward(dy, rows, rows.len(), *d, pos.len());
                dtokens.extend(gradients.0);
                add(&mut dcls, &gradients.1);
                add(&mut dpos, &gradients.2);
            }
            (y, vec![dtokens, dcls, dpos])
        }
    }

    #[test]
    fn images_of_different_lengths_match_the_reference_one_by_one() {
        for (lengths, n, d) in [(&[2, 1, 3][..], 4, 3), (&[5, 5], 7, 2), (&[31, 1, 7, 196], 196, 33)] {
            let spans = Spans::of(lengths.iter().copied());
            let rows: Arc<[u32]> = lengths.iter().flat_map(|k| (0..*k).map(move |i| (1 + i * n / k) as u32)).collect();
            let inputs = [
                (spans.shape(d), values(spans.rows() * d, 1, 1.0)),
                (vec![1, 1, d], values(d, 2, 1.0)),
                (vec![1, n + 1, d], values((n + 1) * d, 3, 1.0)),
            ];
            let definition = Within(rows.clone(), spans.clone(), d);
            let op = |t: Option<&mut Tape>, v: &[Var]| forward_within(t, &v[0], &spans, &v[1], &v[2], &rows);
            check(&format!("assemble {lengths:?}"), &inputs, &definition, op);
        }
    }

    #[test]
    fn refuses_a_row_beyond_the_table() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        assert!(forward(None, &var(&[1, 1, 2]), &var(&[1, 1, 2]), &var(&[1, 3, 2]), &Arc::from([3])).is_err());
    }
}
