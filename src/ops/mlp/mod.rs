//! The block's two linear layers with GELU between them, as timm's `Mlp`, and the residual sum behind.
//!
//! One op, since the way back through the second layer's input and through GELU is one product with an epilogue.
//!
//! - computes: y = gelu(x W1^T + b1) W2^T + b2, + r where there is a residual
//! - derivative: with pre = x W1^T + b1 and g = (dy W2) gelu'(pre): dx = g W1, dW1 += g^T x, db1 += sum of g's rows,
//!   dW2 += dy^T gelu(pre), db2 += sum of dy's rows, dr = dy
//! - saves: x and gelu(pre), on the CPU as packed rows, pre, W1, W2
//! - shapes: x (..., n_in), W1 (F, n_in), b1 (F), W2 (n_out, F), b2 (n_out), r and y (..., n_out)
//! - cost: 2 rows F (n_in + n_out) FLOPs forward, twice that backward
#![forbid(unsafe_code)]

pub mod reference;

use super::matmul::{
    Left, Upstream, Weight, gelu_gradient, input_gradient, product, product_gelu, put_weight_gradient,
};
use crate::error::Result;
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;

/// The parameters of the two layers.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    pub weight1: &'a Var,
    pub bias1: &'a Var,
    pub weight2: &'a Var,
    pub bias2: &'a Var,
}

struct MlpBackward {
    x: Left,
    pre: Tensor,
    hidden: Left,
    weights: [Weight; 2],
    dweights: [Slot; 2],
    dbiases: [Slot; 2],
    dresidual: Slot,
}

/// The two layers on x. An error when the shapes do not fit.
pub fn forward(tape: Option<&mut Tape>, x: &Left, layers: Layers, residual: Option<&Var>) -> Result<Var> {
    let Layers { weight1, bias1, weight2, bias2 } = layers;
    let training = tape.is_some();
    let (hidden, pre) = product_gelu(x, weight1, bias1, training)?;
    let y = product(&hidden, weight2, bias2, residual.map(|r| &r.value), training)?;
    let dresidual = residual.map_or(Slot::None, |r| r.slot);
    let params = [weight1, bias1, weight2, bias2].map(|p| p.slot);
    emit(tape, "mlp", y, &[x.slot(), dresidual], &params, || MlpBackward {
        x: x.clone(),
        pre: pre.expect("a product that trains keeps the input of its GELU"),
        hidden,
        weights: [Weight::of(weight1), Weight::of(weight2)],
        dweights: [weight1.slot, weight2.slot],
        dbiases: [bias1.slot, bias2.slot],
        dresidual,
    })
}

impl Backward for MlpBackward {
    fn op(&self) -> &'static str {
        "mlp"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let MlpBackward { x, pre, hidden, weights: [weight1, weight2], dweights, dbiases, dresidual } = *self;
        let g = Upstream::of(&dy, weight2.operands(), dbiases[1], grads)?;
        put_weight_gradient(&g, &hidden, &weight2, dweights[1], grads)?;
        drop(hidden);
        let middle = gelu_gradient(&g, &weight2, &pre, dbiases[0], grads)?;
        // Whoever gets dy next may add to it in place.
        drop((g, pre));
        input_gradient(&middle, &weight1, &x, grads)?;
        put_weight_gradient(&middle, &x, &weight1, dweights[0], grads)?;
        grads.add(dresidual, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::gemm::{Mat, Operands, Rows};
    use crate::ops::real::Real;
    use crate::ops::testing::{AWKWARD, Definition, Input, check, values};

    struct Mlp {
        n: usize,
        residual: bool,
    }

    impl Definition for Mlp {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let [x, w1, b1, w2, b2] = [0, 1, 2, 3, 4].map(|i| inputs[i].as_slice());
            let mut y = reference::forward(x, [w1, w2], [b1, b2]);
            let mut gradients = reference::backward(x, [w1, w2], b1, dy, self.n);
            if self.residual {
                y = y.iter().zip(&inputs[5]).map(|(&y, &r)| y + r).collect();
                gradients.push(dy.to_vec());
            }
            (y, gradients)
        }
    }

    #[test]
    fn matches_its_reference() {
        for (i, m) in AWKWARD.into_iter().enumerate() {
            for residual in [false, true] {
                let [k, f, n] = [1, 2, 3].map(|step| AWKWARD[(i + step) % AWKWARD.len()]);
                let mut inputs: Vec<Input> = vec![
                    (vec![m, k], values(m * k, 1, 1.0)),
                    (vec![f, k], values(f * k, 2, 1.0)),
                    (vec![f], values(f, 3, 1.0)),
                    (vec![n, f], values(n * f, 4, 0.5)),
                    (vec![n], values(n, 5, 1.0)),
                ];
                if residual {
                    inputs.push((vec![m, n], values(m * n, 6, 2.0)));
                }
                let op = |tape: Option<&mut Tape>, v: &[Var]| {
                    let layers = Layers { weight1: &v[1], bias1: &v[2], weight2: &v[3], bias2: &v[4] };
                    let alone = tape.is_none();
                    let y = forward(tape, &Left::Values(v[0].clone()), layers, v.get(5))?;
                    if alone {
                        let rows = Rows::new(Mat::new(v[0].value.data(), m, k), Operands::F32);
                        let packed = forward(None, &Left::rows(rows, &[m, k], Slot::None), layers, v.get(5))?;
                        assert_eq!(packed.value.data(), y.value.data(), "{m} x {k}, {f}, {n}, packed");
                    }
                    Ok(y)
                };
                check(&format!("mlp {m} x {k}, {f}, {n}"), &inputs, &Mlp { n, residual }, op);
            }
        }
    }
}
