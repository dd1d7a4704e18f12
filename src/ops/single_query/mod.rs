//! Multi-head attention of one query an image over keys and values that are never made, in the place of the linear layer that
//! makes them and `attention::split`. A card makes them all the same.
//!
//! A head's score of token x is q (Wk x + bk) = (q Wk) x + q bk, where q bk is the same for all tokens and drops out of the softmax; and
//! the mixed values are Wv (sum of p x) + bv, since p sums to 1. So each weight meets one row an image and not S.
//!
//! - computes, in f32: for each image and head u = q Wk, p = softmax(u x^T / sqrt(Dh)), m = p x, y = m Wv^T + bv
//! - derivative: dm = dy Wv; dp = dm x^T; ds = p (dp - sum p dp) / sqrt(Dh); du = ds x; dq = du Wk^T; dx = p^T dm + ds^T u;
//!   dWk += q^T du, dWv += dy^T m, dbv += sum of dy; dbk = 0
//! - saves: q, x, u, p, m, W
//! - shapes: q (B,1,D), x (B,S,D) or (tokens,D), W (2D,D) and b (2D) of Wk and then Wv, y (B,1,D); u and m (H,B,D), p (H,S) an image
//! - cost: 4 B D (D + H S) FLOPs forward, twice that backward
#![forbid(unsafe_code)]

pub mod cpu;
pub mod reference;

use super::attention;
use super::matmul::{self, Epilogue};
use crate::device::Device;
use crate::device::cpu::gemm::Operands;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::{Spans, Tensor};

struct SingleQueryBackward {
    /// (B,1,D).
    q: Tensor,
    /// (tokens,D).
    x: Tensor,
    /// (2D,D).
    weight: Tensor,
    kept: cpu::Kept,
    spans: Spans,
    heads: usize,
    dq: Slot,
    dx: Slot,
    dweight: Slot,
    dbias: Slot,
}

/// Attention of q over the tokens of its image in x, which `spans` shares out. `weight` and `bias` are those of keys and then of
/// values; a card's products read their operands as `read` says. An error when shapes do not fit together.
pub fn forward(
    mut tape: Option<&mut Tape>,
    q: &Var,
    x: &Var,
    [weight, bias]: [&Var; 2],
    spans: &Spans,
    heads: usize,
    read: Operands,
) -> Result<Var> {
    let d = *q.shape().last().unwrap_or(&0);
    let layer_fits = weight.shape() == [2 * d, d] && bias.shape() == [2 * d];
    let rows_fit = x.value.len() == spans.rows() * d && x.shape().last() == Some(&d);
    let images_fit = q.shape() == [spans.images(), 1, d] && spans.images() > 0 && !spans.any_empty();
    if d == 0 || heads == 0 || !d.is_multiple_of(heads) || !layer_fits || !rows_fit || !images_fit {
        let reason = format!("q {:?}, x {:?}, W {:?}, {heads} heads", q.shape(), x.shape(), weight.shape());
        return Err(Error::shape("single_query", reason));
    }
    if q.value.device() == Device::Cuda {
        let kv = matmul::forward(tape.as_deref_mut(), x, weight, bias, Epilogue::Bias)?;
        return attention::split_within(tape, q, &kv, spans, heads, read);
    }
    let mut y = Tensor::scratch(q.shape());
    let inputs = [q, x, weight, bias].map(|var| var.value.data());
    let kept = cpu::forward(inputs, spans, heads, y.data_mut());
    emit(tape, "single_query", y, &[q.slot, x.slot], &[weight.slot, bias.slot], || SingleQueryBackward {
        q: q.value.clone(),
        x: x.value.clone(),
        weight: weight.value.clone(),
        kept,
        spans: spans.clone(),
        heads,
        dq: q.slot,
        dx: x.slot,
        dweight: weight.slot,
        dbias: bias.slot,
    })
}

impl Backward for SingleQueryBackward {
    fn op(&self) -> &'static str {
        "single_query"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (spans, b, d) = (&self.spans, self.spans.images(), self.weight.shape()[1]);
        let (mut dq, mut dx) = (Tensor::scratch(self.q.shape()), Tensor::scratch(self.x.shape()));
        let inputs = [self.x.data(), self.weight.data(), dy.data()];
        let du = cpu::backward(inputs, &self.kept, spans, self.heads, [dq.data_mut(), dx.data_mut()]);
        grads.param_put(self.dweight, |sum, write| {
            let (keys, values) = sum.split_at_mut(d * d);
            cpu::put_weight_gradient(self.q.data(), &du, b, self.heads, keys, write);
            cpu::put_weight_gradient(dy.data(), &self.kept.m, b, self.heads, values, write);
        });
        // The bias of keys, the first half, changes no weight of attention.
        grads.param_add(self.dbias, |sum| cpu::add_bias_gradient(dy.data(), &mut sum[d..]));
        grads.add(self.dq, dq)?;
        grads.add(self.dx, dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, check, values};

    struct SingleQuery {
        lengths: Vec<usize>,
        heads: usize,
    }

    impl Definition for SingleQuery {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let inputs = [0, 1, 2, 3].map(|i| inputs[i].as_slice());
            let y = reference::forward(inputs, &self.lengths, self.heads);
            (y, reference::backward(inputs, &self.lengths, self.heads, dy))
        }
    }

    fn check_case(lengths: &[usize], heads: usize, head_width: usize) {
        let (d, b, total) = (heads * head_width, lengths.len(), lengths.iter().sum::<usize>());
        let inputs = [
            (vec![b, 1, d], values(b * d, 1, 1.0)),
            (vec![total, d], values(total * d, 2, 1.0)),
            (vec![2 * d, d], values(2 * d * d, 3, 1.0)),
            (vec![2 * d], values(2 * d, 4, 1.0)),
        ];
        let spans = Spans::of(lengths.iter().copied());
        let op = |tape: Option<&mut Tape>, v: &[Var]| {
            forward(tape, &v[0], &v[1], [&v[2], &v[3]], &spans, heads, Operands::F32)
        };
        let definition = SingleQuery { lengths: lengths.to_vec(), heads };
        check(&format!("single query over {lengths:?}, {heads} heads of {head_width}"), &inputs, &definition, op);
    }

    #[test]
    fn matches_keys_and_values_that_are_made() {
        for (lengths, heads, head_width) in [
            (&[1][..], 1, 1),
            (&[3, 1], 2, 3),
            (&[5, 2, 7], 3, 4),
            (&[31], 4, 2),
            (&[33, 64, 20], 2, 32),
            (&[197, 197], 3, 16),
        ] {
            check_case(lengths, heads, head_width);
        }
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        let run = |q: &[usize], x: &[usize], w: &[usize], b: &[usize], lengths: &[usize], heads| {
            let (layer, spans) = ([&var(w), &var(b)], Spans::of(lengths.iter().copied()));
            forward(None, &var(q), &var(x), layer, &spans, heads, Operands::F32).is_ok()
        };
        assert!(run(&[2, 1, 4], &[5, 4], &[8, 4], &[8], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[8, 4], &[8], &[2, 3], 3));
        assert!(!run(&[2, 1, 4], &[5, 4], &[8, 4], &[8], &[2, 3], 0));
        assert!(!run(&[2, 1, 4], &[5, 4], &[8, 4], &[8], &[5], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[8, 4], &[8], &[5, 0], 2));
        assert!(!run(&[2, 2, 4], &[5, 4], &[8, 4], &[8], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 3], &[8, 4], &[8], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[4, 4], &[8], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[8, 4], &[4], &[2, 3], 2));
        assert!(!run(&[0, 1, 4], &[0, 4], &[8, 4], &[8], &[], 2));
    }
}
