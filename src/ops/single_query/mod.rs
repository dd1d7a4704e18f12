//! Multi-head attention of one query an image over keys and values that are never made, in the place of two linear layers
//! and an `attention::split`: on the CPU, in f32.
//!
//! A head's score of row n is q (Wk n + bk) = (Wk^T q) n + q bk, where q bk is the same for all rows and drops out of the softmax;
//! and the mixed values are Wv (sum of p n) + bv, since p sums to 1. So each weight meets one row an image and not S.
//!
//! - computes: for each image and head u = q Wk, p = softmax(u n^T / sqrt(Dh)), z = p n, y = z Wv^T + bv
//! - derivative: dz = dy Wv; dp = dz n^T; du = ds n with ds = p (dp - sum p dp) / sqrt(Dh); dq = du Wk^T;
//!   dn = p^T dz + ds^T u; dWk += q^T du, dWv += dy^T z, dbv += sum of dy; dbk = 0
//! - saves: q, n, u, p, z, Wk, Wv
//! - shapes: q (B,1,D), n (B,S,D) or (rows,D), Wk and Wv (D,D), bk and bv (D), y (B,1,D); u and z (B,H,D), p (H,S) an image
//! - cost: 4 B D (D + H S) FLOPs forward, twice that backward
#![forbid(unsafe_code)]

pub mod cpu;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::{Spans, Tensor};

/// The layers that keys and values would come from, (D,D) and (D) each.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    pub key_weight: &'a Var,
    pub key_bias: &'a Var,
    pub value_weight: &'a Var,
    pub value_bias: &'a Var,
}

struct SingleQueryBackward {
    q: Tensor,
    n: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    kept: cpu::Kept,
    rows: Spans,
    heads: usize,
    dq: Slot,
    dn: Slot,
    dkeys: [Slot; 2],
    dvalues: [Slot; 2],
}

/// Attention of q over the rows of its image in n, which `rows` shares out. An error when shapes do not fit together, or on a
/// card.
pub fn forward(tape: Option<&mut Tape>, q: &Var, n: &Var, layers: Layers, rows: &Spans, heads: usize) -> Result<Var> {
    let Layers { key_weight, key_bias, value_weight, value_bias } = layers;
    let d = *q.shape().last().unwrap_or(&0);
    let whole = [key_weight, value_weight].iter().all(|w| w.shape() == [d, d]);
    let layers_fit = whole && [key_bias, value_bias].iter().all(|b| b.shape() == [d]);
    let rows_fit = n.value.len() == rows.rows() * d && n.shape().last() == Some(&d) && !rows.any_empty();
    if d == 0
        || heads == 0
        || !d.is_multiple_of(heads)
        || q.shape() != [rows.images(), 1, d]
        || !rows_fit
        || !layers_fit
    {
        let reason = format!("q {:?}, rows {:?}, Wk {:?}, {heads} heads", q.shape(), n.shape(), key_weight.shape());
        return Err(Error::shape("single_query", reason));
    }
    if q.value.device() != Device::Cpu {
        return Err(Error::shape("single_query", "it runs on the CPU alone"));
    }
    let weights = [key_weight.value.data(), value_weight.value.data()];
    let mut y = Tensor::scratch(q.shape());
    let kept =
        cpu::forward([q.value.data(), n.value.data()], weights, value_bias.value.data(), rows, heads, y.data_mut());
    let params = [key_weight, key_bias, value_weight, value_bias].map(|p| p.slot);
    emit(tape, "single_query", y, &[q.slot, n.slot], &params, || SingleQueryBackward {
        q: q.value.clone(),
        n: n.value.clone(),
        key_weight: key_weight.value.clone(),
        value_weight: value_weight.value.clone(),
        kept,
        rows: rows.clone(),
        heads,
        dq: q.slot,
        dn: n.slot,
        dkeys: [key_weight.slot, key_bias.slot],
        dvalues: [value_weight.slot, value_bias.slot],
    })
}

impl Backward for SingleQueryBackward {
    fn op(&self) -> &'static str {
        "single_query"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let SingleQueryBackward { q, n, key_weight, value_weight, kept, rows, heads, dq, dn, dkeys, dvalues } = *self;
        let weights = [key_weight.data(), value_weight.data()];
        let (mut q_gradient, mut n_gradient) = (Tensor::scratch(q.shape()), Tensor::scratch(n.shape()));
        let gradients = [q_gradient.data_mut(), n_gradient.data_mut()];
        let b = rows.images();
        let du = cpu::backward(n.data(), weights, &kept, &rows, heads, dy.data(), gradients);
        grads.param_put(dkeys[0], |sum, write| cpu::weight_gradient(q.data(), &du, b, heads, sum, write));
        // A bias of keys changes no weight of attention.
        grads.param_add(dkeys[1], |_| {});
        grads.param_put(dvalues[0], |sum, write| cpu::weight_gradient(dy.data(), &kept.z, b, heads, sum, write));
        grads.param_add(dvalues[1], |sum| cpu::bias_gradient(dy.data(), sum));
        grads.add(dq, q_gradient)?;
        grads.add(dn, n_gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, check, values};

    struct SingleQuery {
        rows: Vec<usize>,
        heads: usize,
    }

    impl Definition for SingleQuery {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let [q, n, wk, bk, wv, bv] = [0, 1, 2, 3, 4, 5].map(|i| inputs[i].as_slice());
            let y = reference::forward([q, n], [wk, bk], [wv, bv], &self.rows, self.heads);
            (y, reference::backward([q, n], [wk, bk], [wv, bv], &self.rows, self.heads, dy))
        }
    }

    fn check_case(rows: &[usize], heads: usize, head_width: usize) {
        let (d, b, total) = (heads * head_width, rows.len(), rows.iter().sum::<usize>());
        let inputs = [
            (vec![b, 1, d], values(b * d, 1, 1.0)),
            (vec![total, d], values(total * d, 2, 1.0)),
            (vec![d, d], values(d * d, 3, 1.0)),
            (vec![d], values(d, 4, 1.0)),
            (vec![d, d], values(d * d, 5, 1.0)),
            (vec![d], values(d, 6, 1.0)),
        ];
        let spans = Spans::of(rows.iter().copied());
        let op = |tape: Option<&mut Tape>, v: &[Var]| {
            let layers = Layers { key_weight: &v[2], key_bias: &v[3], value_weight: &v[4], value_bias: &v[5] };
            forward(tape, &v[0], &v[1], layers, &spans, heads)
        };
        let definition = SingleQuery { rows: rows.to_vec(), heads };
        check(&format!("single query over {rows:?}, {heads} heads of {head_width}"), &inputs, &definition, op);
    }

    #[test]
    fn matches_keys_and_values_that_are_made() {
        for (rows, heads, head_width) in [
            (&[1][..], 1, 1),
            (&[3, 1], 2, 3),
            (&[5, 2, 7], 3, 4),
            (&[31], 4, 2),
            (&[33, 64, 20], 2, 32),
            (&[197, 197], 3, 16),
        ] {
            check_case(rows, heads, head_width);
        }
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        let run = |q: &[usize], n: &[usize], w: &[usize], b: &[usize], rows: &[usize], heads| {
            let (weight, bias) = (var(w), var(b));
            let layers = Layers { key_weight: &weight, key_bias: &bias, value_weight: &weight, value_bias: &bias };
            forward(None, &var(q), &var(n), layers, &Spans::of(rows.iter().copied()), heads).is_ok()
        };
        assert!(run(&[2, 1, 4], &[5, 4], &[4, 4], &[4], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[4, 4], &[4], &[2, 3], 3));
        assert!(!run(&[2, 1, 4], &[5, 4], &[4, 4], &[4], &[2, 3], 0));
        assert!(!run(&[2, 1, 4], &[5, 4], &[4, 4], &[4], &[5], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[4, 4], &[4], &[5, 0], 2));
        assert!(!run(&[2, 2, 4], &[5, 4], &[4, 4], &[4], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 3], &[4, 4], &[4], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[4, 3], &[4], &[2, 3], 2));
        assert!(!run(&[2, 1, 4], &[5, 4], &[4, 4], &[3], &[2, 3], 2));
    }
}
