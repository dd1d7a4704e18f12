//! The linear layer with fused epilogues, as torch's `linear` followed by nothing or a residual sum.
//!
//! - computes: y = x W^T + b; or x W^T + b + r
//! - derivative: dx = dy W, dW += dy^T x, db += sum of dy's rows, dr = dy
//! - saves: x, W
//! - shapes: x (..., n_in), W (n_out, n_in), b (n_out), r and y (..., n_out)
//! - cost: 2 rows n_in n_out FLOPs forward, twice that backward; 4 (rows n_in + n_in n_out + rows n_out) bytes forward
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::device::cpu::gemm::{Operands, Panels, Rows};
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit, without_tape};
use crate::tensor::Tensor;
use cpu::Finish;
use cuda::{Fused, GeluBackward, Sizes};
use std::sync::Arc;

/// What follows the product and the bias.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// Nothing.
    Bias,
    /// A residual of the output's shape is added.
    BiasResidual(&'a Var),
}

struct MatmulBackward {
    x: Tensor,
    weight: Weight,
    dx: Slot,
    dweight: Slot,
    dbias: Slot,
    dresidual: Slot,
}

/// A weight as the way back reads it.
pub(super) struct Weight {
    values: Tensor,
    /// How products of the CPU read their operands.
    operands: Operands,
}

impl Weight {
    pub(super) fn of(weight: &Var) -> Self {
        Weight { values: weight.compute().clone(), operands: weight.operands() }
    }
}

/// The linear layer. `weight` may be of any rank whose first dimension is n_out; the rest is n_in.
pub fn forward(tape: Option<&mut Tape>, x: &Var, weight: &Var, bias: &Var, epilogue: Epilogue) -> Result<Var> {
    let (after, residual) = match epilogue {
        Epilogue::Bias => (After::Nothing, None),
        Epilogue::BiasResidual(r) => (After::Residual(&r.value), Some(r)),
    };
    let (y, _) = product(&x.value, weight, bias, after, tape.is_some())?;
    let inputs: Vec<&Var> = std::iter::once(x).chain(residual).collect();
    emit(tape, "matmul", y, &inputs, &[weight, bias], |_| MatmulBackward {
        x: x.value.clone(),
        weight: Weight::of(weight),
        dx: x.slot,
        dweight: weight.slot,
        dbias: bias.slot,
        dresidual: residual.map_or(Slot::None, |r| r.slot),
    })
}

/// The left operand of a layer behind another op.
pub enum Left {
    /// Values, to which a way back may lead.
    Values(Var),
    /// On the CPU with no way back: rows as products read them, and the shape of what they hold.
    Rows(Rows, Vec<usize>),
}

/// [`forward`] of a left operand of either kind.
pub fn forward_left(tape: Option<&mut Tape>, x: &Left, weight: &Var, bias: &Var, epilogue: Epilogue) -> Result<Var> {
    let (rows, shape) = match x {
        Left::Values(x) => return forward(tape, x, weight, bias, epilogue),
        Left::Rows(rows, shape) => (rows, shape),
    };
    let residual = match epilogue {
        Epilogue::Bias => None,
        Epilogue::BiasResidual(r) => Some(r),
    };
    leads_nowhere("matmul", tape, [weight, bias].into_iter().chain(residual))?;
    Ok(Var::constant(product_of_rows(rows, shape, weight, bias, residual.map(|r| &r.value))?))
}

/// An error when packed rows, from which no way leads back, come with a tape or with an activation of one.
pub(super) fn leads_nowhere<'a>(
    op: &'static str,
    tape: Option<&mut Tape>,
    inputs: impl IntoIterator<Item = &'a Var>,
) -> Result<()> {
    match tape {
        Some(_) => Err(Error::shape(op, "packed rows, which have no way back, came with a tape")),
        None => without_tape(op, inputs),
    }
}

/// What is done to a product and its bias before they are stored.
#[derive(Clone, Copy)]
pub(super) enum After<'a> {
    Nothing,
    Residual(&'a Tensor),
    Gelu,
}

/// Rows, columns and inner size of the product of x with a weight. An error when they or the bias do not fit.
fn fits(x: &[usize], weight: &Var, bias: &Var) -> Result<Sizes> {
    let k = *x.last().unwrap_or(&0);
    let n = *weight.shape().first().unwrap_or(&0);
    if k == 0 || n == 0 || weight.value.len() != n * k || bias.shape() != [n] {
        let (w, b) = (weight.shape(), bias.shape());
        return Err(Error::shape("matmul", format!("x {x:?} with weight {w:?}, bias {b:?}")));
    }
    Ok(Sizes { m: x.iter().product::<usize>() / k, n, k })
}

/// The shape of a product of x whose rows have n elements.
fn output(x: &[usize], n: usize) -> Vec<usize> {
    x[..x.len() - 1].iter().copied().chain([n]).collect()
}

/// An error when a residual has not the output's shape.
fn fits_output(residual: &Tensor, shape: &[usize]) -> Result<()> {
    match residual.shape() == shape {
        true => Ok(()),
        false => Err(Error::shape("matmul", format!("residual {:?} for an output of {shape:?}", residual.shape()))),
    }
}

/// [`fits`] for packed rows that hold values of shape `x`. An error also when they do not, or not as the weight is read.
fn fits_rows(rows: &Rows, x: &[usize], weight: &Var, bias: &Var) -> Result<Sizes> {
    let sizes = fits(x, weight, bias)?;
    match rows.holds([sizes.m, sizes.k], weight.operands()) {
        true => Ok(sizes),
        false => Err(Error::shape("matmul", format!("packed rows of another shape or type for x {x:?}"))),
    }
}

/// x W^T + b of packed rows that hold values of shape `x`, and the residual where there is one.
fn product_of_rows(rows: &Rows, x: &[usize], weight: &Var, bias: &Var, residual: Option<&Tensor>) -> Result<Tensor> {
    let sizes = fits_rows(rows, x, weight, bias)?;
    let mut y = Tensor::scratch(&output(x, sizes.n));
    residual.map_or(Ok(()), |r| fits_output(r, y.shape()))?;
    let panels = panels(weight, sizes, false);
    let finish = residual.map_or(Finish::Nothing, |r| Finish::Residual(r.data()));
    cpu::forward(rows, &panels, bias.value.data(), finish, y.data_mut());
    Ok(y)
}

/// gelu(x W1^T + b1) W2^T + b2 of packed rows that hold values of shape `x`, and the residual where there is one: the hidden
/// layer goes from one product to the other as the second reads it.
pub(super) fn product_of_gelu(
    rows: &Rows,
    x: &[usize],
    [weight1, weight2]: [&Var; 2],
    [bias1, bias2]: [&Var; 2],
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let sizes = fits_rows(rows, x, weight1, bias1)?;
    let middle = output(x, sizes.n);
    let last = fits(&middle, weight2, bias2)?;
    residual.map_or(Ok(()), |r| fits_output(r, &output(x, last.n)))?;
    let hidden = cpu::gelu_rows(rows, &panels(weight1, sizes, false), bias1.value.data());
    product_of_rows(&hidden, &middle, weight2, bias2, residual)
}

/// The weight as the right operand of products.
fn panels(weight: &Var, z: Sizes, training: bool) -> Arc<Panels> {
    weight.panels(training, || cpu::panels(weight.value.data(), z.n, z.k, weight.operands()))
}

/// x W^T + b and what comes after; a GELU's input comes beside it.
pub(super) fn product(
    x: &Tensor,
    weight: &Var,
    bias: &Var,
    after: After,
    training: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let sizes = fits(x.shape(), weight, bias)?;
    let shape = output(x.shape(), sizes.n);
    if let After::Residual(r) = after {
        fits_output(r, &shape)?;
    }
    let mut y = x.like(&shape)?;
    let gelu = matches!(after, After::Gelu);
    match x.device() {
        Device::Cpu => {
            let panels = panels(weight, sizes, training);
            let mut pre = gelu.then(|| x.like(&shape)).transpose()?;
            let (first, finish) = match (after, &mut pre) {
                (After::Residual(r), _) => (y.data_mut(), Finish::Residual(r.data())),
                (_, Some(pre)) => (pre.data_mut(), Finish::GeluBeside(y.data_mut())),
                _ => (y.data_mut(), Finish::Nothing),
            };
            let rows = cpu::rows(x.data(), sizes.k, weight.operands());
            cpu::forward(&rows, &panels, bias.value.data(), finish, first);
            Ok((y, pre))
        }
        Device::Cuda => {
            // The kernel keeps the pre-activation whether or not anybody wants it.
            let pre = gelu.then(|| x.like(&shape)).transpose()?;
            let fused = match (after, &pre) {
                (After::Residual(r), _) => Fused::BiasResidual { residual: r.values() },
                (_, Some(pre)) => Fused::BiasGelu { pre: pre.values() },
                _ => Fused::Bias,
            };
            let (weight, bias) = (weight.compute().values(), bias.value.floats());
            cuda::forward(x.gpu(), x.values(), weight, bias, fused, y.values())?;
            Ok((y, pre))
        }
    }
}

/// (m, n, k) of the layer that made g (..., n) with weights of n rows.
fn sizes(g: &Tensor, weight: &Weight) -> Sizes {
    let n = weight.values.shape()[0];
    Sizes { m: g.len() / n, n, k: weight.values.len() / n }
}

/// Gives g W, in the shape of x, to x's slot.
pub(super) fn input_gradient(g: &Tensor, weight: &Weight, x: &Tensor, dx: Slot, grads: &mut Grads) -> Result<()> {
    if !grads.wanted(dx) {
        return Ok(());
    }
    let mut gradient = x.like(x.shape())?;
    let sizes = sizes(g, weight);
    match g.device() {
        Device::Cpu => {
            cpu::backward_dx(g.data(), weight.values.data(), gradient.data_mut(), sizes.n, sizes.k, weight.operands)
        }
        Device::Cuda => cuda::backward_dx(g.gpu(), sizes, g.values(), weight.values.values(), None, gradient.values())?,
    }
    grads.add(dx, gradient)
}

/// The gradient of `pre`, whose GELU was the layer's input: (g W) gelu'(pre), whose rows' sum goes to `dbias`.
pub(super) fn gelu_gradient(
    g: &Tensor,
    weight: &Weight,
    pre: &Tensor,
    dbias: Slot,
    grads: &mut Grads,
) -> Result<Tensor> {
    let mut gradient = pre.like(pre.shape())?;
    let sizes = sizes(g, weight);
    match g.device() {
        Device::Cpu => {
            let (weight, operands) = (weight.values.data(), weight.operands);
            cpu::backward_dx_gelu(g.data(), weight, pre.data(), gradient.data_mut(), sizes.n, sizes.k, operands);
            grads.param_add(dbias, |sum| cpu::backward_dbias_add(gradient.data(), sum));
        }
        Device::Cuda => {
            let gpu = g.gpu();
            let partial = g.like_f32(&[cuda::gelu_partial_len(sizes)])?;
            let gelu = GeluBackward { pre: pre.values(), partial: partial.floats() };
            cuda::backward_dx(gpu, sizes, g.values(), weight.values.values(), Some(gelu), gradient.values())?;
            let [(dbias, write)] = grads.param_slices([dbias])?;
            cuda::reduce_dbias(gpu, partial.floats(), dbias, write)?;
        }
    }
    Ok(gradient)
}

/// Adds the sum of g's rows to a bias's gradient.
pub(super) fn bias_gradient(g: &Tensor, dbias: Slot, grads: &mut Grads) -> Result<()> {
    match g.device() {
        Device::Cpu => grads.param_add(dbias, |sum| cpu::backward_dbias_add(g.data(), sum)),
        Device::Cuda => {
            let [(dbias, write)] = grads.param_slices([dbias])?;
            let workspace = g.like_f32(&[cuda::dbias_len(g.len() / dbias.len(), dbias.len())])?;
            cuda::backward_dbias(g.gpu(), g.values(), workspace.floats(), dbias, write)?;
        }
    }
    Ok(())
}

/// Adds g^T x to a weight's gradient.
pub(super) fn weight_gradient(g: &Tensor, x: &Tensor, weight: &Weight, dweight: Slot, grads: &mut Grads) -> Result<()> {
    let sizes = sizes(g, weight);
    match g.device() {
        Device::Cpu => grads.param_put(dweight, |sum, write| {
            cpu::backward_dweight(g.data(), x.data(), sum, write, sizes.n, sizes.k, weight.operands);
        }),
        Device::Cuda => {
            let [(dweight, write)] = grads.param_slices([dweight])?;
            let workspace = g.like_f32(&[cuda::dweight_len(sizes, write)])?;
            cuda::backward_dweight(g.gpu(), sizes, g.values(), x.values(), workspace.floats(), dweight, write)?;
        }
    }
    Ok(())
}

impl Backward for MatmulBackward {
    fn op(&self) -> &'static str {
        "matmul"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        bias_gradient(&dy, self.dbias, grads)?;
        input_gradient(&dy, &self.weight, &self.x, self.dx, grads)?;
        weight_gradient(&dy, &self.x, &self.weight, self.dweight, grads)?;
        grads.add(self.dresidual, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::real::Real;
    use crate::ops::testing::{AWKWARD, Definition, Input, check, values};
    use crate::ops::{attention, layer_norm};
    use crate::tape::{ParamArena, ParamId};
    use crate::tensor::Spans;

    /// A layer (7, k) of an arena whose products read their operands so, with a norm of k and a bias of 7.
    fn layer(k: usize, read: Operands) -> ParamArena {
        let shapes = [vec![7, k], vec![7], vec![k], vec![k]];
        let specs: Vec<_> = shapes.into_iter().enumerate().map(|(i, shape)| (format!("p{i}"), shape)).collect();
        let mut params = ParamArena::new(&specs);
        for id in params.ids() {
            let len = params.values(id).len();
            params.values_mut(id).copy_from_slice(&values(len, id.0 as u32, 1.0));
        }
        params.set_operands(read);
        params
    }

    fn bits(x: &Var) -> Vec<u32> {
        x.value.data().iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn rows_that_an_op_packs_multiply_to_the_bits_of_its_values() {
        for (k, read) in AWKWARD.into_iter().flat_map(|k| [Operands::F32, Operands::Bf16].map(|read| (k, read))) {
            let params = layer(k, read);
            let [weight, bias, scale, shift] = [0, 1, 2, 3].map(|i| params.var(ParamId(i)));
            let product = |x: &Left| bits(&forward_left(None, x, &weight, &bias, Epilogue::Bias).unwrap());
            let x = Var::constant(Tensor::from_vec(values(13 * k, 5, 1.0), &[13, k]));
            let values_of = layer_norm::forward(None, &x, &scale, &shift, 1e-6).unwrap();
            let rows = layer_norm::forward_left(None, &x, [&scale, &shift], 1e-6, read).unwrap();
            assert!(matches!(rows, Left::Rows(..)));
            assert_eq!(product(&rows), product(&Left::Values(values_of)), "layer norm of {k}, {read:?}");

            let (spans, heads) = (Spans::of([5, 1, 7]), if k % 2 == 0 { 2 } else { 1 });
            let qkv = Var::constant(Tensor::from_vec(values(13 * 3 * k, 6, 1.0), &[13, 3 * k]));
            let values_of = attention::packed_within(None, &qkv, &spans, heads, read).unwrap();
            let rows = attention::packed_left(None, &qkv, &spans, heads, read).unwrap();
            assert!(matches!(rows, Left::Rows(..)));
            assert_eq!(product(&rows), product(&Left::Values(values_of)), "attention of {k}, {read:?}");
        }
    }

    #[test]
    fn packed_rows_and_a_tape_refuse_each_other() {
        let params = layer(4, Operands::F32);
        let [weight, bias, scale, shift] = [0, 1, 2, 3].map(|i| params.var(ParamId(i)));
        let x = Var::constant(Tensor::from_vec(values(12, 5, 1.0), &[3, 4]));
        let mut tape = Tape::new();
        let live = layer_norm::forward(Some(&mut tape), &x, &scale, &shift, 1e-6).unwrap();
        let why = |result: Result<Left>| result.map(|_| ()).unwrap_err().to_string();
        assert!(
            why(layer_norm::forward_left(None, &live, [&scale, &shift], 1e-6, Operands::F32)).contains("live tape")
        );
        let rows = layer_norm::forward_left(None, &x, [&scale, &shift], 1e-6, Operands::F32).unwrap();
        let run = |tape: Option<&mut Tape>, after| forward_left(tape, &rows, &weight, &bias, after);
        let error = run(Some(&mut tape), Epilogue::Bias).unwrap_err().to_string();
        assert!(error.contains("no way back"), "{error}");
        let residual = forward(Some(&mut tape), &live, &weight, &bias, Epilogue::Bias).unwrap();
        let error = run(None, Epilogue::BiasResidual(&residual)).unwrap_err().to_string();
        assert!(error.contains("live tape"), "{error}");
        run(None, Epilogue::Bias).unwrap();
        let other = layer_norm::forward_left(None, &x, [&scale, &shift], 1e-6, Operands::Bf16).unwrap();
        let error = forward_left(None, &other, &weight, &bias, Epilogue::Bias).unwrap_err().to_string();
        assert!(error.contains("another shape or type"), "{error}");
    }

    #[derive(Clone, Copy)]
    enum Kind {
        Bias,
        Residual,
    }

    struct Linear(Kind, usize, usize);

    impl Definition for Linear {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let Linear(kind, n, k) = *self;
            let pre = reference::forward(&inputs[0], &inputs[1], &inputs[2], k);
            let y = match kind {
                Kind::Bias => pre,
                Kind::Residual => pre.iter().zip(&inputs[3]).map(|(&y, &r)| y + r).collect(),
            };
            let (dx, dweight, dbias) = reference::backward(&inputs[0], &inputs[1], dy, n, k);
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
                for kind in [Kind::Bias, Kind::Residual] {
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
