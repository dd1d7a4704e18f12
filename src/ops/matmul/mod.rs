//! The linear layer with fused epilogues, as torch's `linear` followed by nothing, GELU, or a residual sum.
//!
//! - computes: y = x W^T + b; or gelu(x W^T + b); or x W^T + b + r
//! - derivative: with g = dy (for GELU dy gelu'(pre)): dx = g W, dW += g^T x, db += sum of g's rows, dr = dy
//! - saves: x, W; with GELU also the pre-activation
//! - shapes: x (..., n_in), W (n_out, n_in), b (n_out), r and y (..., n_out)
//! - cost: 2 rows n_in n_out FLOPs forward, twice that backward; 4 (rows n_in + n_in n_out + rows n_out) bytes forward
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use super::gelu;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;
use cpu::Finish;
use cuda::Fused;

/// What follows the product and the bias.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// Nothing.
    Bias,
    /// GELU; the pre-activation is kept for the way back.
    BiasGelu,
    /// A residual of the output's shape is added.
    BiasResidual(&'a Var),
}

struct MatmulBackward {
    x: Tensor,
    weight: Tensor,
    /// The value before GELU, when there was one.
    pre: Option<Tensor>,
    dx: Slot,
    dweight: Slot,
    dbias: Slot,
    dresidual: Slot,
}

/// The linear layer. `weight` may be of any rank whose first dimension is n_out; the rest is n_in.
pub fn forward(tape: Option<&mut Tape>, x: &Var, weight: &Var, bias: &Var, epilogue: Epilogue) -> Result<Var> {
    let k = *x.shape().last().unwrap_or(&0);
    let n = *weight.shape().first().unwrap_or(&0);
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(n);
    if k == 0 || n == 0 || weight.value.len() != n * k || bias.shape() != [n] {
        let (w, b) = (weight.shape(), bias.shape());
        return Err(Error::shape("matmul", format!("x {:?} with weight {w:?}, bias {b:?}", x.shape())));
    }
    let residual = match epilogue {
        Epilogue::BiasResidual(r) if r.shape() != shape => {
            return Err(Error::shape("matmul", format!("residual {:?} for an output of {shape:?}", r.shape())));
        }
        Epilogue::BiasResidual(r) => Some(r),
        Epilogue::Bias | Epilogue::BiasGelu => None,
    };
    let mut y = x.value.like(&shape)?;
    // The way back from GELU needs its input: with a tape both are written, and without one GELU works in place.
    let mut pre =
        (tape.is_some() && matches!(epilogue, Epilogue::BiasGelu)).then(|| x.value.like(&shape)).transpose()?;
    match x.value.device() {
        Device::Cpu => {
            let panels = weight.panels(tape.is_some(), || cpu::panels(weight.value.data(), n, k));
            let (first, finish) = match (epilogue, &mut pre) {
                (Epilogue::BiasGelu, Some(pre)) => (pre.data_mut(), Finish::GeluBeside(y.data_mut())),
                (Epilogue::BiasGelu, None) => (y.data_mut(), Finish::Gelu),
                (Epilogue::BiasResidual(r), _) => (y.data_mut(), Finish::Residual(r.value.data())),
                (Epilogue::Bias, _) => (y.data_mut(), Finish::Nothing),
            };
            cpu::forward(x.value.data(), &panels, bias.value.data(), finish, first, k);
        }
        Device::Cuda => {
            let kept = match (epilogue, &pre) {
                // The kernel keeps the pre-activation whether or not anybody wants it.
                (Epilogue::BiasGelu, None) => Some(y.like(&shape)?),
                _ => pre.clone(),
            };
            let fused = match (epilogue, &kept) {
                (Epilogue::BiasResidual(r), _) => Fused::BiasResidual { residual: r.value.values() },
                (Epilogue::BiasGelu, Some(pre)) => Fused::BiasGelu { pre: pre.values() },
                _ => Fused::Bias,
            };
            let (weight, bias) = (weight.compute().values(), bias.value.floats());
            cuda::forward(x.value.gpu(), x.value.values(), weight, bias, fused, y.values())?;
        }
    }
    let inputs: Vec<&Var> = std::iter::once(x).chain(residual).collect();
    emit(tape, "matmul", y, &inputs, &[weight, bias], |_| MatmulBackward {
        x: x.value.clone(),
        weight: weight.compute().clone(),
        pre,
        dx: x.slot,
        dweight: weight.slot,
        dbias: bias.slot,
        dresidual: residual.map_or(Slot::None, |r| r.slot),
    })
}

impl Backward for MatmulBackward {
    fn op(&self) -> &'static str {
        if self.pre.is_some() { "matmul+gelu" } else { "matmul" }
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (n, k) = (self.weight.shape()[0], self.weight.len() / self.weight.shape()[0]);
        match self.x.device() {
            Device::Cuda => {
                let dy = self.backward_on_card(dy, grads, n, k)?;
                grads.add(self.dresidual, dy)
            }
            Device::Cpu => {
                let dy = match &self.pre {
                    Some(pre) => gelu::gradient(pre, dy)?,
                    None => dy,
                };
                let (x, g) = (self.x.data(), dy.data());
                if grads.wanted(self.dx) {
                    let mut dx = Tensor::scratch(self.x.shape());
                    cpu::backward_dx(g, self.weight.data(), dx.data_mut(), n, k);
                    grads.add(self.dx, dx)?;
                }
                grads.param_put(self.dweight, |sum, write| cpu::backward_dweight(g, x, sum, write, n, k));
                grads.param_add(self.dbias, |sum| cpu::backward_dbias_add(g, sum));
                grads.add(self.dresidual, dy)
            }
        }
    }
}

impl MatmulBackward {
    /// The gradients on a card. Returns the gradient before the epilogue.
    fn backward_on_card(&self, dy: Tensor, grads: &mut Grads, n: usize, k: usize) -> Result<Tensor> {
        let (gpu, m) = (self.x.gpu(), self.x.len() / k);
        let sizes = cuda::Sizes { m, n, k };
        let g = if self.pre.is_some() { dy.like(dy.shape())? } else { dy.clone() };
        let gelu = self.pre.as_ref().map(|pre| cuda::GeluBackward { pre: pre.values(), g: g.values() });
        let workspace = self.x.like_f32(&[cuda::dbias_len(m, n)])?;
        let [(dbias, write)] = grads.param_slices([self.dbias])?;
        cuda::backward_dbias(gpu, dy.values(), gelu, workspace.floats(), dbias, write)?;
        if grads.wanted(self.dx) {
            let dx = self.x.like(self.x.shape())?;
            cuda::backward_dx(gpu, sizes, g.values(), self.weight.values(), None, dx.values())?;
            grads.add(self.dx, dx)?;
        }
        let [(dweight, write)] = grads.param_slices([self.dweight])?;
        let workspace = self.x.like_f32(&[cuda::dweight_len(sizes, write)])?;
        cuda::backward_dweight(gpu, sizes, g.values(), self.x.values(), workspace.floats(), dweight, write)?;
        Ok(g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{AWKWARD, Definition, Input, check, values};

    #[derive(Clone, Copy)]
    enum Kind {
        Bias,
        Gelu,
        Residual,
    }

    struct Linear(Kind, usize, usize);

    impl Definition for Linear {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let Linear(kind, n, k) = *self;
            let pre = reference::forward(&inputs[0], &inputs[1], &inputs[2], k);
            let (y, g) = match kind {
                Kind::Bias => (pre, dy.to_vec()),
                Kind::Gelu => (gelu::reference::forward(&pre), gelu::reference::backward(&pre, dy)),
                Kind::Residual => (pre.iter().zip(&inputs[3]).map(|(&y, &r)| y + r).collect(), dy.to_vec()),
            };
            let (dx, dweight, dbias) = reference::backward(&inputs[0], &inputs[1], &g, n, k);
            let mut gradients = vec![dx, dweight, dbias];
            if let Kind::Residual = kind {
                gradients.push(dy.to_vec());
            }
            (y, gradients)
        }
    }

    fn check_case(m: usize, n: usize, k: usize, kind: Kind) {
        let mut inputs: Vec<Input> = vec![
            (vec![m, k], values(m * k, 1, 1.0)),
            (vec![n, k], values(n * k, 2, 1.0)),
            (vec![n], values(n, 3, 1.0)),
        ];
        if let Kind::Residual = kind {
            inputs.push((vec![m, n], values(m * n, 4, 2.0)));
        }
        let op = |tape: Option<&mut Tape>, v: &[Var]| {
            let epilogue = match kind {
                Kind::Bias => Epilogue::Bias,
                Kind::Gelu => Epilogue::BiasGelu,
                Kind::Residual => Epilogue::BiasResidual(&v[3]),
            };
            forward(tape, &v[0], &v[1], &v[2], epilogue)
        };
        check(&format!("matmul {m} x {n} x {k}"), &inputs, &Linear(kind, n, k), op);
    }

    #[test]
    fn matches_its_reference() {
        for (i, m) in AWKWARD.into_iter().enumerate() {
            for (j, n) in AWKWARD.into_iter().enumerate() {
                let k = AWKWARD[(i + 2 * j) % AWKWARD.len()];
                for kind in [Kind::Bias, Kind::Gelu, Kind::Residual] {
                    check_case(m, n, k, kind);
                }
            }
        }
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        assert!(forward(None, &var(&[2, 3]), &var(&[4, 5]), &var(&[4]), Epilogue::Bias).is_err());
        assert!(forward(None, &var(&[2, 3]), &var(&[4, 3]), &var(&[3]), Epilogue::Bias).is_err());
        let residual = var(&[2, 3]);
        assert!(forward(None, &var(&[2, 3]), &var(&[4, 3]), &var(&[4]), Epilogue::BiasResidual(&residual)).is_err());
    }
}
