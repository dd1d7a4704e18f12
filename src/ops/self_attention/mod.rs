//! The block's qkv layer and the attention behind it, as timm's `Attention` before its projection.
//!
//! One op, since on the CPU q, k, v and their gradients are then in memory only as products read them.
//!
//! - computes: with [q k v] = x W^T + b, per image and head y = P v, P = softmax(q k^T / sqrt(Dh))
//! - derivative: with g = [dq dk dv] of attention: dx = g W, dW += g^T x, db += sum of g's rows
//! - saves: x and [q k v], on the CPU as packed rows where those stay small (but q, k and v of heads of an odd width are in f32 where
//!   rows are of pairs), W, and what attention saves beside
//! - shapes: x and y (B,S,D), W (3D,D), b (3D); where images have different numbers of rows, on the CPU alone, all of them lie one
//!   after the other: x and y (rows,D)
//! - cost: 6 B S D^2 + 4 B S^2 D FLOPs forward, 12 B S D^2 + 10 B S^2 D backward
#![forbid(unsafe_code)]

pub mod reference;

use super::attention::cpu::Operands;
use super::attention::{self, Layout};
use super::matmul::{Left, Upstream, Weight, fits, input_gradient, output, product, product_rows, put_weight_gradient};
use crate::device::Device;
use crate::device::cpu::gemm::{Mat, Rows};
use crate::error::Result;
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit, emit_slot};
use crate::tensor::{Spans, Tensor};

/// q, k and v side by side, (rows,3D).
enum Qkv {
    Values(Tensor),
    Rows(Rows),
}

impl Qkv {
    fn operands(&self) -> Operands<'_> {
        Operands::side_by_side(match self {
            Qkv::Rows(rows) => rows.mat(),
            Qkv::Values(values) => {
                let width = *values.shape().last().expect("q, k and v have a last dimension");
                Mat::new(values.data(), values.len() / width, width)
            }
        })
    }
}

struct SelfAttentionBackward {
    x: Left,
    weight: Weight,
    qkv: Qkv,
    layout: Layout,
    /// On a card.
    y: Option<Tensor>,
    lse: Tensor,
    dweight: Slot,
    dbias: Slot,
}

/// Self-attention, within each image of `spans`, of what the layer makes of x; y is written as the products read it that read this
/// layer's weight where [`Left::pays`]. An error when shapes do not fit together, or D is not a multiple of `heads`.
pub fn forward(
    tape: Option<&mut Tape>,
    x: &Left,
    weight: &Var,
    bias: &Var,
    spans: &Spans,
    heads: usize,
) -> Result<Left> {
    fits(x.shape(), weight, bias)?;
    let (read, taped) = (weight.operands(), tape.is_some());
    let layout = Layout::packed("self_attention", &output(x.shape(), bias.value.len()), spans, heads, read)?;
    let shape = spans.shape(layout.width());
    let saved = |qkv, layout, y, lse| SelfAttentionBackward {
        x: x.clone(),
        weight: Weight::of(weight),
        qkv,
        layout,
        y,
        lse,
        dweight: weight.slot,
        dbias: bias.slot,
    };
    let params = [weight.slot, bias.slot];
    if x.device() == Device::Cuda {
        let qkv = product(x, weight, bias, None, taped)?;
        let (y, lse) = attention::packed_on_card(&qkv, &layout)?;
        let kept = Some(y.clone());
        let y = emit(tape, "self_attention", y, &[x.slot()], &params, || saved(Qkv::Values(qkv), layout, kept, lse))?;
        return Ok(Left::Values(y));
    }
    // Of elements two to a word, a head of an odd width begins inside a word.
    let heads_begin_with_words = read.row_bytes() != 2 || layout.head_width.is_multiple_of(2);
    let qkv = match read.rows_stay_small() && heads_begin_with_words {
        true => Qkv::Rows(product_rows(x, weight, bias, taped)?),
        false => Qkv::Values(product(x, weight, bias, None, taped)?),
    };
    let mut lse = Tensor::scratch(&[if taped { spans.rows() * heads } else { 0 }]);
    if Left::pays(Device::Cpu, read, taped) {
        let rows = attention::cpu::forward_rows(qkv.operands(), &layout, lse.data_mut());
        let slot = emit_slot(tape, "self_attention", &shape, &[x.slot()], &params, || saved(qkv, layout, None, lse))?;
        return Ok(Left::rows(rows, &shape, slot));
    }
    let mut y = Tensor::scratch(&shape);
    attention::cpu::forward(qkv.operands(), &layout, y.data_mut(), lse.data_mut());
    let y = emit(tape, "self_attention", y, &[x.slot()], &params, || saved(qkv, layout, None, lse))?;
    Ok(Left::Values(y))
}

impl Backward for SelfAttentionBackward {
    fn op(&self) -> &'static str {
        "self_attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let SelfAttentionBackward { x, weight, qkv, layout: z, y, lse, dweight, dbias } = *self;
        let g = match (qkv, y) {
            (Qkv::Values(qkv), Some(y)) => {
                let dqkv = attention::packed_gradient_on_card(&qkv, &z, [&y, &lse], &dy)?;
                drop(qkv);
                Upstream::of(&dqkv, weight.operands(), dbias, grads)?
            }
            (qkv, _) => {
                let read = qkv.operands();
                if z.read.rows_stay_small() {
                    let mut rows = None;
                    grads.param_add(dbias, |sum| {
                        rows = Some(attention::cpu::backward_rows(read, &z, lse.data(), dy.data(), sum));
                    });
                    drop(qkv);
                    Upstream::of_rows(rows.expect("a parameter's gradient is added to"))
                } else {
                    let by_head = attention::cpu::backward(read, &z, lse.data(), dy.data());
                    drop(qkv);
                    let dqkv = attention::cpu::gradient(&by_head, &z);
                    drop(by_head);
                    Upstream::of(&dqkv, weight.operands(), dbias, grads)?
                }
            }
        };
        drop((dy, lse));
        input_gradient(&g, &weight, &x, grads)?;
        put_weight_gradient(&g, &x, &weight, dweight, grads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::gemm::Operands as Read;
    use crate::ops::matmul::{self, Epilogue};
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, Input, check, values};
    use crate::tape::{ParamArena, ParamId};

    /// With a projection behind it, which reads rows and values alike.
    struct Projected<'a> {
        spans: &'a Spans,
        heads: usize,
    }

    impl Definition for Projected<'_> {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let [x, weight, bias, projection, shift] = [0, 1, 2, 3, 4].map(|i| inputs[i].as_slice());
            let (d, n) = (bias.len() / 3, shift.len());
            let mixed = reference::forward([x, weight, bias], self.spans, self.heads);
            let y = matmul::reference::forward(&mixed, projection, shift, d);
            let (dmixed, dprojection, dshift) = matmul::reference::backward(&mixed, projection, dy, n, d);
            let mut gradients = reference::backward([x, weight, bias], self.spans, self.heads, &dmixed);
            gradients.extend([dprojection, dshift]);
            (y, gradients)
        }
    }

    /// x, W, b, and a projection to five columns.
    fn inputs(rows: usize, d: usize) -> Vec<Input> {
        let shapes = [vec![rows, d], vec![3 * d, d], vec![3 * d], vec![5, d], vec![5]];
        let with_values = |(i, shape): (usize, Vec<usize>)| {
            let len = shape.iter().product();
            (shape, values(len, i as u32, 1.0))
        };
        shapes.into_iter().enumerate().map(with_values).collect()
    }

    fn projected(mut tape: Option<&mut Tape>, v: &[Var], spans: &Spans, heads: usize) -> Result<Var> {
        let y = forward(tape.as_deref_mut(), &Left::Values(v[0].clone()), &v[1], &v[2], spans, heads)?;
        matmul::forward_left(tape, &y, &v[3], &v[4], Epilogue::Bias)
    }

    #[test]
    fn matches_its_reference() {
        for (lengths, heads, head_width) in [
            (&[1][..], 1, 1),
            (&[3, 1], 2, 3),
            (&[2, 3], 2, 2),
            (&[7, 31, 1, 33], 3, 4),
            (&[33, 64, 20], 2, 7),
            (&[138, 2, 197], 2, 32),
        ] {
            let (spans, rows) = (Spans::of(lengths.iter().copied()), lengths.iter().sum());
            let op = |tape: Option<&mut Tape>, v: &[Var]| projected(tape, v, &spans, heads);
            let what = format!("self-attention of {lengths:?}, {heads} heads of {head_width}");
            check(&what, &inputs(rows, heads * head_width), &Projected { spans: &spans, heads }, op);
        }
    }

    /// Bits of the output, and of all gradients but that of b, whose rows are summed in another order.
    fn taped(params: &ParamArena, op: impl FnOnce(&mut Tape, &[Var]) -> Result<Var>) -> Vec<u32> {
        let vars: Vec<Var> = params.ids().map(|id| params.var(id)).collect();
        let (mut tape, mut flat) = (Tape::new(), Tensor::zeros(params.flat().shape()));
        let y = op(&mut tape, &vars).unwrap();
        let dy = Tensor::from_vec(values(y.value.len(), 8, 1.0), y.shape());
        tape.backward(&y, dy, params, &mut flat).unwrap();
        let b = params.range(ParamId(2));
        let gradients = [&flat.data()[..b.start], &flat.data()[b.end..]].concat();
        y.value.data().iter().chain(&gradients).map(|v| v.to_bits()).collect()
    }

    #[test]
    fn has_the_bits_of_the_layer_and_attention_apart() {
        let cases = [(2, 4), (1, 7), (3, 16), (2, 33), (1, 64)];
        for ((heads, head_width), read) in cases.into_iter().flat_map(|case| [(case, Read::F32), (case, Read::Bf16)]) {
            let (spans, d) = (Spans::of([5, 1, 40, 17]), heads * head_width);
            let inputs = inputs(spans.rows(), d);
            let specs: Vec<_> =
                inputs.iter().enumerate().map(|(i, input)| (format!("p{i}"), input.0.clone())).collect();
            let mut params = ParamArena::new(&specs);
            for (i, (_, values)) in inputs.iter().enumerate() {
                params.values_mut(ParamId(i)).copy_from_slice(values);
            }
            params.set_operands(read);
            let vars: Vec<Var> = params.ids().map(|id| params.var(id)).collect();
            let left = Left::Values(vars[0].clone());
            let leaves = |tape| forward(tape, &left, &vars[1], &vars[2], &spans, heads).unwrap();
            assert!(matches!(leaves(None), Left::Rows(..)));
            assert_eq!(matches!(leaves(Some(&mut Tape::new())), Left::Rows(..)), read.rows_stay_small());
            let together = taped(&params, |tape, v| projected(Some(tape), v, &spans, heads));
            let apart = taped(&params, |tape, v| {
                let qkv = matmul::forward(Some(tape), &v[0], &v[1], &v[2], Epilogue::Bias)?;
                let mixed = attention::packed_within(Some(tape), &qkv, &spans, heads, read)?;
                matmul::forward(Some(tape), &mixed, &v[3], &v[4], Epilogue::Bias)
            });
            assert_eq!(together, apart, "{heads} heads of {head_width}, {read:?}");
            let alone = projected(None, &vars, &spans, heads).unwrap().value;
            let bits: Vec<u32> = alone.data().iter().map(|v| v.to_bits()).collect();
            assert_eq!(bits, together[..bits.len()], "{heads} heads of {head_width}, {read:?}, without a tape");
        }
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        let run = |x: &[usize], weight: &[usize], bias: &[usize], lengths: &[usize], heads| {
            let spans = Spans::of(lengths.iter().copied());
            forward(None, &Left::Values(var(x)), &var(weight), &var(bias), &spans, heads).is_ok()
        };
        assert!(run(&[5, 4], &[12, 4], &[12], &[2, 3], 2));
        assert!(!run(&[5, 4], &[12, 4], &[12], &[2, 3], 3));
        assert!(!run(&[5, 4], &[12, 4], &[12], &[2, 3], 0));
        assert!(!run(&[5, 4], &[12, 4], &[12], &[2, 2], 2));
        assert!(!run(&[5, 4], &[12, 4], &[12], &[5, 0], 2));
        assert!(!run(&[5, 4], &[12, 5], &[12], &[2, 3], 2));
        assert!(!run(&[5, 4], &[8, 4], &[8], &[2, 3], 2));
        assert!(!run(&[5, 4], &[12, 4], &[11], &[2, 3], 2));
        assert!(!run(&[5, 4], &[], &[12], &[2, 3], 2));
        assert!(!run(&[], &[12, 4], &[12], &[2, 3], 2));
    }
}
