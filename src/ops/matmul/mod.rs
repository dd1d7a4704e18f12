//! The linear layer with fused epilogues, as torch's `linear` followed by nothing or a residual sum.
//!
//! - computes: y = x W^T + b; or x W^T + b + r
//! - derivative: dx = dy W, dW += dy^T x, db += sum of dy's rows, dr = dy
//! - saves: x, on the CPU where it is packed as packed rows, and W
//! - shapes: x (..., n_in), W (n_out, n_in), b (n_out), r and y (..., n_out)
//! - cost: 2 rows n_in n_out FLOPs forward, twice that backward; 4 (rows n_in + n_in n_out + rows n_out) bytes forward
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::device::cpu::gemm::{Mat, Operands, Panels, Rows};
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
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
    x: Left,
    weight: Weight,
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

    pub(super) fn operands(&self) -> Operands {
        self.operands
    }
}

/// The left operand of a layer, as the op before leaves it.
#[derive(Clone)]
pub enum Left {
    Values(Var),
    /// On the CPU: rows as products read them, the shape of what they hold, and the place of its gradient.
    Rows(Arc<Rows>, Vec<usize>, Slot),
}

impl Left {
    /// Whether an op on this device is to write its output as products read it, who read their operands so: not what a tape
    /// would keep, where that takes more memory than the values.
    pub fn pays(device: Device, read: Operands, taped: bool) -> bool {
        device == Device::Cpu && (!taped || read.rows_stay_small())
    }

    /// Packed rows that hold values of this shape, with the place of their gradient.
    pub fn rows(rows: Rows, shape: &[usize], slot: Slot) -> Self {
        Left::Rows(Arc::new(rows), shape.to_vec(), slot)
    }

    /// The shape of the values.
    pub fn shape(&self) -> &[usize] {
        match self {
            Left::Values(x) => x.shape(),
            Left::Rows(_, shape, _) => shape,
        }
    }

    /// Where the gradient of the values goes.
    pub fn slot(&self) -> Slot {
        match self {
            Left::Values(x) => x.slot,
            &Left::Rows(_, _, slot) => slot,
        }
    }

    /// Where they are.
    pub(super) fn device(&self) -> Device {
        self.on_card().map_or(Device::Cpu, |x| x.device())
    }

    /// The values as a tensor, where they are on a card.
    fn on_card(&self) -> Option<&Tensor> {
        match self {
            Left::Values(x) if x.value.device() == Device::Cuda => Some(&x.value),
            _ => None,
        }
    }

    /// On the CPU: the rows as products read them. An error when they are not of these sizes, or not read so.
    fn packed(&self, z: Sizes, operands: Operands) -> Result<Arc<Rows>> {
        match self {
            Left::Values(x) => Ok(Arc::new(cpu::rows(x.value.data(), z.k, operands))),
            Left::Rows(rows, ..) if rows.holds([z.m, z.k], operands) => Ok(rows.clone()),
            Left::Rows(_, shape, _) => {
                Err(Error::shape("matmul", format!("packed rows of another shape or type for x {shape:?}")))
            }
        }
    }
}

/// The linear layer. `weight` may be of any rank whose first dimension is n_out; the rest is n_in.
pub fn forward(tape: Option<&mut Tape>, x: &Var, weight: &Var, bias: &Var, epilogue: Epilogue) -> Result<Var> {
    forward_left(tape, &Left::Values(x.clone()), weight, bias, epilogue)
}

/// [`forward`] of a left operand of either kind.
pub fn forward_left(tape: Option<&mut Tape>, x: &Left, weight: &Var, bias: &Var, epilogue: Epilogue) -> Result<Var> {
    let residual = match epilogue {
        Epilogue::Bias => None,
        Epilogue::BiasResidual(r) => Some(r),
    };
    let y = product(x, weight, bias, residual.map(|r| &r.value), tape.is_some())?;
    let dresidual = residual.map_or(Slot::None, |r| r.slot);
    emit(tape, "matmul", y, &[x.slot(), dresidual], &[weight.slot, bias.slot], || MatmulBackward {
        x: x.clone(),
        weight: Weight::of(weight),
        dweight: weight.slot,
        dbias: bias.slot,
        dresidual,
    })
}

/// Rows, columns and inner size of the product of x with a weight. An error when they or the bias do not fit.
pub(super) fn fits(x: &[usize], weight: &Var, bias: &Var) -> Result<Sizes> {
    let k = *x.last().unwrap_or(&0);
    let n = *weight.shape().first().unwrap_or(&0);
    if k == 0 || n == 0 || weight.value.len() != n * k || bias.shape() != [n] {
        let (w, b) = (weight.shape(), bias.shape());
        return Err(Error::shape("matmul", format!("x {x:?} with weight {w:?}, bias {b:?}")));
    }
    Ok(Sizes { m: x.iter().product::<usize>() / k, n, k })
}

/// The shape of a product of x whose rows have n elements.
pub(super) fn output(x: &[usize], n: usize) -> Vec<usize> {
    x[..x.len() - 1].iter().copied().chain([n]).collect()
}

/// The weight as the right operand of products.
fn panels(weight: &Var, z: Sizes, training: bool) -> Arc<Panels> {
    weight.panels(training, || cpu::panels(weight.value.data(), z.n, z.k, weight.operands()))
}

/// x W^T + b, and the residual where there is one.
pub(super) fn product(x: &Left, weight: &Var, bias: &Var, residual: Option<&Tensor>, training: bool) -> Result<Tensor> {
    let sizes = fits(x.shape(), weight, bias)?;
    let shape = output(x.shape(), sizes.n);
    if let Some(r) = residual.filter(|r| r.shape() != shape) {
        return Err(Error::shape("matmul", format!("residual {:?} for an output of {shape:?}", r.shape())));
    }
    if let Some(x) = x.on_card() {
        let y = x.like(&shape)?;
        let fused = residual.map_or(Fused::Bias, |r| Fused::BiasResidual { residual: r.values() });
        let (weight, bias) = (weight.compute().values(), bias.value.floats());
        cuda::forward(x.gpu(), x.values(), weight, bias, fused, y.values())?;
        return Ok(y);
    }
    let (rows, mut y) = (x.packed(sizes, weight.operands())?, Tensor::scratch(&shape));
    let finish = residual.map_or(Finish::Nothing, |r| Finish::Residual(r.data()));
    cpu::forward(&rows, &panels(weight, sizes, training), bias.value.data(), finish, y.data_mut());
    Ok(y)
}

/// x W^T + b on the CPU, written as products read it.
pub(super) fn product_rows(x: &Left, weight: &Var, bias: &Var, training: bool) -> Result<Rows> {
    let sizes = fits(x.shape(), weight, bias)?;
    let rows = x.packed(sizes, weight.operands())?;
    Ok(cpu::forward_rows(&rows, &panels(weight, sizes, training), bias.value.data()))
}

/// gelu(x W^T + b), which is the left operand of another layer, and with a tape the GELU's input.
pub(super) fn product_gelu(x: &Left, weight: &Var, bias: &Var, training: bool) -> Result<(Left, Option<Tensor>)> {
    let sizes = fits(x.shape(), weight, bias)?;
    let shape = output(x.shape(), sizes.n);
    if let Some(x) = x.on_card() {
        let (y, pre) = (x.like(&shape)?, training.then(|| x.like(&shape)).transpose()?);
        let (weight, bias) = (weight.compute().values(), bias.value.floats());
        let fused = Fused::BiasGelu { pre: pre.as_ref().map(Tensor::values) };
        cuda::forward(x.gpu(), x.values(), weight, bias, fused, y.values())?;
        return Ok((Left::Values(Var::constant(y)), pre));
    }
    let (rows, panels) = (x.packed(sizes, weight.operands())?, panels(weight, sizes, training));
    if !Left::pays(Device::Cpu, weight.operands(), training) {
        let (mut y, mut pre) = (Tensor::scratch(&shape), Tensor::scratch(&shape));
        cpu::forward(&rows, &panels, bias.value.data(), Finish::GeluBeside(y.data_mut()), pre.data_mut());
        return Ok((Left::Values(Var::constant(y)), Some(pre)));
    }
    let mut pre = training.then(|| Tensor::scratch(&shape));
    let kept = pre.as_mut().map_or(&mut [][..], |pre| pre.data_mut());
    let hidden = cpu::gelu_rows(&rows, &panels, bias.value.data(), kept);
    Ok((Left::rows(hidden, &shape, Slot::None), pre))
}

/// The gradient g of a layer's output, as the products of its way back read it.
pub(super) struct Upstream {
    /// On a card; on the CPU too, unless `rows` suffice.
    values: Option<Tensor>,
    /// On the CPU.
    rows: Option<Rows>,
}

impl Upstream {
    /// Of g, of a layer whose weight is read so; the sum of its rows is added to the gradient of the bias.
    pub(super) fn of(g: &Tensor, operands: Operands, dbias: Slot, grads: &mut Grads) -> Result<Self> {
        let mut rows = None;
        match g.device() {
            Device::Cpu => grads.param_add(dbias, |sum| rows = Some(cpu::gradient_rows(g.data(), operands, sum))),
            Device::Cuda => put_bias_gradient(g, dbias, grads)?,
        }
        Ok(Upstream { values: Some(g.clone()), rows })
    }

    /// Of g as rows that products read, on the CPU where those stay small.
    pub(super) fn of_rows(rows: Rows) -> Self {
        Upstream { values: None, rows: Some(rows) }
    }

    /// The values, where they are at hand.
    fn values(&self) -> &Tensor {
        self.values.as_ref().expect("rows suffice where values are missing")
    }

    /// g^T (n, m) on the CPU.
    fn turned(&self, z: Sizes, operands: Operands) -> Rows {
        match &self.rows {
            Some(rows) if operands.rows_stay_small() => Rows::new(rows.mat().t(), operands),
            _ => Rows::new(Mat::new(self.values().data(), z.m, z.n).t(), operands),
        }
    }
}

/// (m, n, k) of a layer on x (.., k).
fn sizes(x: &[usize], weight: &Weight) -> Sizes {
    let (n, k) = (weight.values.shape()[0], *x.last().expect("a layer's input has a last dimension"));
    Sizes { m: x.iter().product::<usize>() / k, n, k }
}

/// Gives g W, in the shape of x, to x's slot.
pub(super) fn input_gradient(g: &Upstream, weight: &Weight, x: &Left, grads: &mut Grads) -> Result<()> {
    if !grads.wanted(x.slot()) {
        return Ok(());
    }
    let z = sizes(x.shape(), weight);
    let gradient = match &g.rows {
        Some(rows) => {
            let mut gradient = Tensor::scratch(x.shape());
            cpu::backward_dx(rows, weight.values.data(), gradient.data_mut(), z.n, z.k, weight.operands);
            gradient
        }
        None => {
            let g = g.values();
            let gradient = g.like(x.shape())?;
            cuda::backward_dx(g.gpu(), z, g.values(), weight.values.values(), None, gradient.values())?;
            gradient
        }
    };
    grads.add(x.slot(), gradient)
}

/// The gradient of `pre`, whose GELU was the layer's input: (g W) gelu'(pre), whose rows' sum is added to `dbias`.
pub(super) fn gelu_gradient(
    g: &Upstream,
    weight: &Weight,
    pre: &Tensor,
    dbias: Slot,
    grads: &mut Grads,
) -> Result<Upstream> {
    let (z, operands) = (sizes(pre.shape(), weight), weight.operands);
    match &g.rows {
        Some(rows) if operands.rows_stay_small() => {
            let mut made = None;
            grads.param_add(dbias, |sum| {
                made = Some(cpu::backward_dx_gelu_rows(rows, weight.values.data(), pre.data(), z.n, operands, sum));
            });
            Ok(Upstream::of_rows(made.expect("a parameter's gradient is added to")))
        }
        Some(rows) => {
            let mut gradient = Tensor::scratch(pre.shape());
            let (weight, pre) = (weight.values.data(), pre.data());
            cpu::backward_dx_gelu(rows, weight, pre, gradient.data_mut(), z.n, z.k, operands);
            Upstream::of(&gradient, operands, dbias, grads)
        }
        None => {
            let g = g.values();
            let (gpu, gradient) = (g.gpu(), pre.like(pre.shape())?);
            let partial = g.like_f32(&[cuda::gelu_partial_len(z)])?;
            let gelu = GeluBackward { pre: pre.values(), partial: partial.floats() };
            cuda::backward_dx(gpu, z, g.values(), weight.values.values(), Some(gelu), gradient.values())?;
            let [(dbias, write)] = grads.param_slices([dbias])?;
            cuda::reduce_dbias(gpu, partial.floats(), dbias, write)?;
            Ok(Upstream { values: Some(gradient), rows: None })
        }
    }
}

/// On a card: sets, or adds to, a bias's gradient by the sum of g's rows.
pub(super) fn put_bias_gradient(g: &Tensor, dbias: Slot, grads: &mut Grads) -> Result<()> {
    let [(dbias, write)] = grads.param_slices([dbias])?;
    let workspace = g.like_f32(&[cuda::dbias_len(g.len() / dbias.len(), dbias.len())])?;
    cuda::backward_dbias(g.gpu(), g.values(), workspace.floats(), dbias, write)
}

/// Sets, or adds to, a weight's gradient by g^T x.
pub(super) fn put_weight_gradient(
    g: &Upstream,
    x: &Left,
    weight: &Weight,
    dweight: Slot,
    grads: &mut Grads,
) -> Result<()> {
    let z = sizes(x.shape(), weight);
    if let Some(x) = x.on_card() {
        let g = g.values();
        let [(dweight, write)] = grads.param_slices([dweight])?;
        let workspace = g.like_f32(&[cuda::dweight_len(z, write)])?;
        return cuda::backward_dweight(g.gpu(), z, g.values(), x.values(), workspace.floats(), dweight, write);
    }
    let x = match x {
        Left::Values(x) => Mat::new(x.value.data(), z.m, z.k),
        Left::Rows(rows, ..) => rows.mat(),
    };
    let x = Panels::new(x, weight.operands);
    let g = g.turned(z, weight.operands);
    grads.param_put_seen(dweight, |sum, write| cpu::backward_dweight(&g, &x, sum, write));
    Ok(())
}

impl Backward for MatmulBackward {
    fn op(&self) -> &'static str {
        "matmul"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let g = Upstream::of(&dy, self.weight.operands, self.dbias, grads)?;
        input_gradient(&g, &self.weight, &self.x, grads)?;
        put_weight_gradient(&g, &self.x, &self.weight, self.dweight, grads)?;
        // Whoever gets dy next may add to it in place.
        drop(g);
        grads.add(self.dresidual, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::gemm::Write;
    use crate::ops::layer_norm;
    use crate::ops::real::Real;
    use crate::ops::testing::{AWKWARD, Definition, Input, check, values};
    use crate::tape::{ParamArena, ParamId};

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

    fn bits(x: &Tensor) -> Vec<u32> {
        x.data().iter().map(|v| v.to_bits()).collect()
    }

    /// Bits of a layer behind another op, and of the gradients of all parameters.
    fn taped(params: &ParamArena, op: impl FnOnce(&mut Tape) -> Result<Left>) -> [Vec<u32>; 2] {
        let [weight, bias] = [0, 1].map(|i| params.var(ParamId(i)));
        let mut tape = Tape::new();
        let x = op(&mut tape).unwrap();
        let y = forward_left(Some(&mut tape), &x, &weight, &bias, Epilogue::Bias).unwrap();
        let (dy, mut flat) = (values(y.value.len(), 8, 1.0), Tensor::zeros(params.flat().shape()));
        tape.backward(&y, Tensor::from_vec(dy, y.shape()), params, &mut flat).unwrap();
        [bits(&y.value), bits(&flat)]
    }

    /// A layer behind an op has the same bits, and with a tape the same gradients, whether the op leaves values or rows. With a
    /// tape an op leaves values twice where rows would be larger.
    fn check_alike(
        what: &str,
        params: &ParamArena,
        of_values: impl Fn(Option<&mut Tape>) -> Result<Var>,
        of_rows: impl Fn(Option<&mut Tape>) -> Result<Left>,
    ) {
        let [weight, bias] = [0, 1].map(|i| params.var(ParamId(i)));
        let product = |x: &Left| bits(&forward_left(None, x, &weight, &bias, Epilogue::Bias).unwrap().value);
        let rows = of_rows(None).unwrap();
        assert!(matches!(rows, Left::Rows(..)));
        assert_eq!(product(&rows), product(&Left::Values(of_values(None).unwrap())), "{what}");
        let want = taped(params, |tape| of_values(Some(tape)).map(Left::Values));
        assert_eq!(taped(params, |tape| of_rows(Some(tape))), want, "{what}, with a tape");
    }

    #[test]
    fn rows_that_an_op_packs_have_the_bits_of_its_values() {
        for (k, read) in AWKWARD.into_iter().flat_map(|k| [Operands::F32, Operands::Bf16].map(|read| (k, read))) {
            let params = layer(k, read);
            let [scale, shift] = [2, 3].map(|i| params.var(ParamId(i)));
            let x = Var::constant(Tensor::from_vec(values(13 * k, 5, 1.0), &[13, k]));
            let norm_values = |tape: Option<&mut Tape>| layer_norm::forward(tape, &x, &scale, &shift, 1e-6);
            let norm_rows = |tape: Option<&mut Tape>| layer_norm::forward_left(tape, &x, [&scale, &shift], 1e-6, read);
            check_alike(&format!("layer norm of {k}, {read:?}"), &params, norm_values, norm_rows);
        }
    }

    #[test]
    fn packed_rows_that_do_not_fit_are_refused() {
        let params = layer(4, Operands::F32);
        let [weight, bias, scale, shift] = [0, 1, 2, 3].map(|i| params.var(ParamId(i)));
        let x = Var::constant(Tensor::from_vec(values(12, 5, 1.0), &[3, 4]));
        let mut tape = Tape::new();
        let live = layer_norm::forward(Some(&mut tape), &x, &scale, &shift, 1e-6).unwrap();
        let why = |result: Result<Left>| result.map(|_| ()).unwrap_err().to_string();
        assert!(
            why(layer_norm::forward_left(None, &live, [&scale, &shift], 1e-6, Operands::F32)).contains("live tape")
        );
        let rows = |tape, read| layer_norm::forward_left(tape, &x, [&scale, &shift], 1e-6, read).unwrap();
        let run = |rows: &Left| forward_left(None, rows, &weight, &bias, Epilogue::Bias);
        run(&rows(None, Operands::F32)).unwrap();
        let error = run(&rows(Some(&mut tape), Operands::F32)).unwrap_err().to_string();
        assert!(error.contains("live tape"), "{error}");
        let error = run(&rows(None, Operands::Bf16)).unwrap_err().to_string();
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
    fn a_weight_gradient_that_is_not_finite_is_seen_wherever_it_is() {
        let (m, n, k) = (37, 150, 70);
        for operands in [Operands::F32, Operands::Bf16] {
            // One element of dW is beyond f32: the product of two large ones.
            let seen = |large: f32, [i, j]: [usize; 2], old: f32, write: Write| {
                let (mut g, mut x) = (values(m * n, 1, 1.0), values(m * k, 2, 1.0));
                (g[5 * n + i], x[5 * k + j]) = (large, large);
                let g = Rows::new(Mat::new(&g, m, n).t(), operands);
                let x = Panels::new(Mat::new(&x, m, k), operands);
                let mut dweight = vec![1.0; n * k];
                dweight[i * k + j] = old;
                let seen = cpu::backward_dweight(&g, &x, &mut dweight, write);
                assert_eq!(seen, dweight.iter().all(|w| w.is_finite()));
                seen
            };
            for at in [[0, 0], [0, k - 1], [n / 2, k / 2], [n - 1, 0], [n - 1, k - 1]] {
                for write in [Write::Set, Write::Add] {
                    assert!(seen(1e3, at, 1.0, write) && !seen(1e30, at, 1.0, write), "{at:?} {operands:?}");
                }
                assert!(
                    seen(1e3, at, f32::NAN, Write::Set) && !seen(1e3, at, f32::NAN, Write::Add),
                    "{at:?} {operands:?}"
                );
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
