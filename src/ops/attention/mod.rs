//! Multi-head attention over a whole sequence, as timm's `Attention` between its qkv and proj layers.
//!
//! - computes: per image and head y = P v, P = softmax(q k^T / sqrt(Dh))
//! - derivative: dv = P^T dy; dS = P (dy v^T - rowsum(y dy)); dq = dS k / sqrt(Dh); dk = dS^T q / sqrt(Dh)
//! - saves: q, k, v and the log-sum-exp of each row of scores, from which P is made again; on a card y too, with which the sum of a
//!   row of P (dy v^T), which is rowsum(y dy), takes less
//! - shapes: packed: qkv (B,S,3D) in timm's order; split: q (B,Sq,D) with kv (B,S,2D); y (B,Sq,D). Where images have
//!   different numbers of rows, on the CPU alone, all of them lie one after the other: (rows,3D) and so on
//! - cost: 4 B Sq S D FLOPs forward, 10 B Sq S D backward; the (Sq,S) scores never leave the cache
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::device::cpu::gemm::{Mat, Operands as Read};
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::{Spans, Tensor};
use cpu::Operands;
use reference::Sizes;

/// The inputs as they came.
enum Source {
    /// (B,S,3D): q, k, v side by side.
    Packed(Tensor, Slot),
    /// q (B,Sq,D), and kv (B,S,2D): k, v side by side.
    Split { q: Tensor, kv: Tensor, dq: Slot, dkv: Slot },
}

impl Source {
    fn operands(&self, d: usize) -> Operands<'_> {
        match self {
            Source::Packed(qkv, _) => Operands::side_by_side(Mat::new(qkv.data(), qkv.len() / (3 * d), 3 * d)),
            Source::Split { q, kv, .. } => {
                let (queries, keys) = (q.len() / d, kv.len() / (2 * d));
                let kv = Mat::new(kv.data(), keys, 2 * d);
                let [k, v] = [0, 1].map(|part| kv.block(0..keys, part * d..(part + 1) * d));
                Operands { q: Mat::new(q.data(), queries, d), k, v }
            }
        }
    }
}

/// How the rows are shared out among images and heads.
#[derive(Clone, Debug)]
pub struct Layout {
    pub queries: Spans,
    pub keys: Spans,
    pub heads: usize,
    pub head_width: usize,
    /// How products of the CPU read their operands.
    pub read: Read,
}

impl Layout {
    /// Of self-attention over values of this shape, q, k and v side by side. An error when D is not a multiple of `heads`, or
    /// when the rows are not those of `spans`.
    pub(super) fn packed(op: &'static str, qkv: &[usize], spans: &Spans, heads: usize, read: Read) -> Result<Self> {
        let width = qkv.last().map_or(0, |&width| width);
        let d = width / 3;
        let divides = heads > 0 && d > 0 && width == 3 * d && d.is_multiple_of(heads);
        if !divides || spans.any_empty() || qkv.iter().product::<usize>() != spans.rows() * width {
            let reason = format!("qkv {qkv:?} with {heads} heads, {} rows", spans.rows());
            return Err(Error::shape(op, reason));
        }
        Ok(Layout { queries: spans.clone(), keys: spans.clone(), heads, head_width: d / heads, read })
    }

    /// D.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Queries and keys of an image.
    fn rows_of(&self, image: usize) -> (usize, usize) {
        (self.queries.range(image).len(), self.keys.range(image).len())
    }

    /// The same for images of one length, which is what the kernels of a card take.
    pub(super) fn sizes(&self) -> Result<Sizes> {
        let (Some(queries), Some(keys)) = (self.queries.common(), self.keys.common()) else {
            return Err(Error::shape("attention", "a card's kernels take images of one length"));
        };
        let &Layout { heads, head_width, .. } = self;
        Ok(Sizes { b: self.queries.images(), queries, keys, heads, head_width })
    }
}

struct AttentionBackward {
    source: Source,
    layout: Layout,
    /// On a card.
    y: Option<Tensor>,
    lse: Tensor,
}

/// Self-attention of qkv (B,S,3D). An error when D is not a multiple of `heads`.
pub fn packed(tape: Option<&mut Tape>, qkv: &Var, heads: usize) -> Result<Var> {
    let &[b, s, _] = qkv.shape() else {
        return Err(Error::shape("attention", format!("qkv {:?} is not (B,S,3D)", qkv.shape())));
    };
    packed_within(tape, qkv, &Spans::even(b, s), heads, Read::F32)
}

/// Self-attention within each image of qkv (rows,3D); products of the CPU read their operands as `read` says. An error
/// when D is not a multiple of `heads`, or when the rows are not those of `spans`.
pub fn packed_within(tape: Option<&mut Tape>, qkv: &Var, spans: &Spans, heads: usize, read: Read) -> Result<Var> {
    let layout = Layout::packed("attention", qkv.shape(), spans, heads, read)?;
    run(tape, Source::Packed(qkv.value.clone(), qkv.slot), layout)
}

/// Attention of queries q (B,Sq,D) over kv (B,S,2D). An error when the shapes do not fit together.
pub fn split(tape: Option<&mut Tape>, q: &Var, kv: &Var, heads: usize) -> Result<Var> {
    let &[b, keys, _] = kv.shape() else {
        return Err(Error::shape("attention", format!("q {:?}, kv {:?}", q.shape(), kv.shape())));
    };
    split_within(tape, q, kv, &Spans::even(b, keys), heads, Read::F32)
}

/// Attention of queries q (B,Sq,D) over the keys and values of their image in kv (rows,2D), which `keys` shares out;
/// products of the CPU read their operands as `read` says. An error when the shapes do not fit together.
pub fn split_within(tape: Option<&mut Tape>, q: &Var, kv: &Var, keys: &Spans, heads: usize, read: Read) -> Result<Var> {
    let fits = match *q.shape() {
        [b, queries, d] => {
            let heads_fit = heads > 0 && d > 0 && d % heads == 0;
            let rows_fit = b == keys.images() && queries > 0 && !keys.any_empty();
            heads_fit && rows_fit && kv.shape().last() == Some(&(2 * d)) && kv.value.len() == keys.rows() * 2 * d
        }
        _ => false,
    };
    if !fits {
        return Err(Error::shape("attention", format!("q {:?}, kv {:?}, {heads} heads", q.shape(), kv.shape())));
    }
    let (b, queries, d) = (q.shape()[0], q.shape()[1], q.shape()[2]);
    let layout = Layout { queries: Spans::even(b, queries), keys: keys.clone(), heads, head_width: d / heads, read };
    let source = Source::Split { q: q.value.clone(), kv: kv.value.clone(), dq: q.slot, dkv: kv.slot };
    run(tape, source, layout)
}

fn run(tape: Option<&mut Tape>, source: Source, layout: Layout) -> Result<Var> {
    let (first, slots) = match &source {
        Source::Packed(qkv, slot) => (qkv, [*slot, Slot::None]),
        Source::Split { q, dq, dkv, .. } => (q, [*dq, *dkv]),
    };
    let (y, lse) = match (first.device(), &source) {
        (Device::Cuda, Source::Packed(qkv, _)) => packed_on_card(qkv, &layout)?,
        (device, _) => {
            let mut y = first.like(&layout.queries.shape(layout.width()))?;
            let mut lse = first.like_f32(&[layout.queries.rows() * layout.heads])?;
            match (device, &source) {
                (Device::Cuda, Source::Split { q, kv, .. }) => {
                    cuda::forward_split(y.gpu(), q.values(), kv.values(), layout.sizes()?, y.values(), lse.floats())?;
                }
                _ => cpu::forward(source.operands(layout.width()), &layout, y.data_mut(), lse.data_mut()),
            }
            (y, lse)
        }
    };
    let kept = (y.device() == Device::Cuda).then(|| y.clone());
    emit(tape, "attention", y, &slots, &[], || AttentionBackward { source, layout, y: kept, lse })
}

/// On a card: y, and the log-sum-exp of each row of scores, of q, k and v side by side.
pub(super) fn packed_on_card(qkv: &Tensor, z: &Layout) -> Result<(Tensor, Tensor)> {
    let (y, lse) = (qkv.like(&z.queries.shape(z.width()))?, qkv.like_f32(&[z.queries.rows() * z.heads])?);
    cuda::forward(y.gpu(), qkv.values(), z.sizes()?, y.values(), lse.floats())?;
    Ok((y, lse))
}

/// On a card: the gradient of q, k and v side by side, from what [`packed_on_card`] gave.
pub(super) fn packed_gradient_on_card(qkv: &Tensor, z: &Layout, [y, lse]: [&Tensor; 2], dy: &Tensor) -> Result<Tensor> {
    let sizes = z.sizes()?;
    let (delta, dqkv) = (lse.like(&[cuda::delta_len(dy.gpu(), sizes)])?, qkv.like(qkv.shape())?);
    let (y, lse, delta, result) = (y.values(), lse.floats(), delta.floats(), dqkv.values());
    cuda::backward(dy.gpu(), qkv.values(), sizes, y, lse, dy.values(), delta, result)?;
    Ok(dqkv)
}

impl Backward for AttentionBackward {
    fn op(&self) -> &'static str {
        "attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (z, d) = (&self.layout, self.layout.width());
        match dy.device() {
            Device::Cuda => {
                let y = self.y.as_ref().expect("attention on a card keeps its output");
                match self.source {
                    Source::Packed(qkv, slot) => {
                        grads.add(slot, packed_gradient_on_card(&qkv, z, [y, &self.lse], &dy)?)?;
                    }
                    Source::Split { q, kv, dq: dq_slot, dkv: dkv_slot } => {
                        let (dq, dkv) = (q.like(q.shape())?, kv.like(kv.shape())?);
                        let (gpu, z, y, lse) = (dy.gpu(), z.sizes()?, y.values(), self.lse.floats());
                        let results = [dq.values(), dkv.values()];
                        cuda::backward_split(gpu, q.values(), kv.values(), z, y, lse, dy.values(), results)?;
                        grads.add(dq_slot, dq)?;
                        grads.add(dkv_slot, dkv)?;
                    }
                }
            }
            Device::Cpu => {
                let heads = cpu::backward(self.source.operands(d), z, self.lse.data(), dy.data());
                match &self.source {
                    Source::Packed(_, slot) => grads.add(*slot, cpu::gradient(&heads, z))?,
                    Source::Split { q, kv, dq: dq_slot, dkv: dkv_slot } => {
                        let (mut dq, mut dkv) = (Tensor::scratch(q.shape()), Tensor::scratch(kv.shape()));
                        cpu::spread_query(&heads, z, dq.data_mut(), d);
                        cpu::spread_keys_values(&heads, z, dkv.data_mut(), 2 * d, 0);
                        grads.add(*dq_slot, dq)?;
                        grads.add(*dkv_slot, dkv)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::gemm::{Write, gemm};
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, check, values};
    use crate::tensor::compare::{UNIT_F32, relative_norm};
    use reference::{columns, interleave};

    struct Packed(Sizes);
    struct Split(Sizes);

    impl Definition for Packed {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let d = self.0.width();
            let [q, k, v] = [0, 1, 2].map(|part| columns(&inputs[0], 3 * d, part * d, d));
            let (dq, dk, dv) = reference::backward(&q, &k, &v, dy, self.0);
            (reference::forward(&q, &k, &v, self.0), vec![interleave(&[dq, dk, dv], d)])
        }
    }

    impl Definition for Split {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let d = self.0.width();
            let [k, v] = [0, 1].map(|part| columns(&inputs[1], 2 * d, part * d, d));
            let (dq, dk, dv) = reference::backward(&inputs[0], &k, &v, dy, self.0);
            (reference::forward(&inputs[0], &k, &v, self.0), vec![dq, interleave(&[dk, dv], d)])
        }
    }

    #[test]
    fn packed_matches_its_reference() {
        for (b, s, heads, head_width) in
            [(1, 1, 1, 1), (2, 2, 2, 3), (1, 7, 3, 4), (3, 31, 1, 64), (2, 33, 2, 7), (1, 138, 2, 64), (1, 197, 1, 33)]
        {
            let sizes = Sizes { b, queries: s, keys: s, heads, head_width };
            let width = 3 * heads * head_width;
            let inputs = [(vec![b, s, width], values(b * s * width, s as u32, 2.0))];
            let op = |tape: Option<&mut Tape>, v: &[Var]| packed(tape, &v[0], heads);
            check(&format!("attention {sizes:?}"), &inputs, &Packed(sizes), op);
        }
    }

    #[test]
    fn split_matches_its_reference() {
        for (b, queries, keys, heads, head_width) in
            [(1, 1, 1, 1, 2), (2, 1, 7, 2, 3), (2, 1, 138, 2, 64), (1, 5, 33, 1, 8)]
        {
            let sizes = Sizes { b, queries, keys, heads, head_width };
            let d = heads * head_width;
            let inputs = [
                (vec![b, queries, d], values(b * queries * d, 1, 2.0)),
                (vec![b, keys, 2 * d], values(b * keys * 2 * d, 2, 2.0)),
            ];
            let op = |tape: Option<&mut Tape>, v: &[Var]| split(tape, &v[0], &v[1], heads);
            check(&format!("attention {sizes:?}"), &inputs, &Split(sizes), op);
        }
    }

    /// Each image of rows of `width` by itself, one after the other.
    fn each<R: Real>(rows: &[R], width: usize, spans: &Spans) -> Vec<Vec<R>> {
        spans.split(rows, width).into_iter().map(<[R]>::to_vec).collect()
    }

    struct PackedWithin(Spans, usize, usize);
    struct SplitWithin(Spans, usize, usize);

    /// One image of `queries` and `keys`.
    fn alone(queries: usize, keys: usize, heads: usize, head_width: usize) -> Sizes {
        Sizes { b: 1, queries, keys, heads, head_width }
    }

    impl Definition for PackedWithin {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let PackedWithin(spans, heads, head_width) = self;
            let (d, mut y, mut dx) = (heads * head_width, Vec::new(), Vec::new());
            for (qkv, dy) in each(&inputs[0], 3 * d, spans).into_iter().zip(each(dy, d, spans)) {
                let s = qkv.len() / (3 * d);
                let (one, gradients) = Packed(alone(s, s, *heads, *head_width)).run(&[qkv], &dy);
                y.extend(one);
                dx.extend(gradients.concat());
            }
            (y, vec![dx])
        }
    }

    impl Definition for SplitWithin {
        fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>) {
            let SplitWithin(keys, heads, head_width) = self;
            let (d, mut y, mut dq, mut dkv) = (heads * head_width, Vec::new(), Vec::new(), Vec::new());
            let queries = Spans::even(keys.images(), inputs[0].len() / d / keys.images());
            let images = each(&inputs[0], d, &queries).into_iter().zip(each(&inputs[1], 2 * d, keys));
            for ((q, kv), dy) in images.zip(each(dy, d, &queries)) {
                let sizes = alone(q.len() / d, kv.len() / (2 * d), *heads, *head_width);
                let (one, gradients) = Split(sizes).run(&[q, kv], &dy);
                y.extend(one);
                dq.extend_from_slice(&gradients[0]);
                dkv.extend_from_slice(&gradients[1]);
            }
            (y, vec![dq, dkv])
        }
    }

    /// Lengths of images that share a batch; the first cases are small enough for finite differences.
    const RAGGED: [(&[usize], usize, usize); 5] =
        [(&[1, 3, 2], 1, 4), (&[4, 1], 2, 3), (&[2, 2], 1, 2), (&[7, 31, 1, 33], 3, 5), (&[138, 2, 197], 2, 64)];

    #[test]
    fn images_of_different_lengths_match_the_reference_one_by_one() {
        for (lengths, heads, head_width) in RAGGED {
            let (spans, d) = (Spans::of(lengths.iter().copied()), heads * head_width);
            let rows = spans.rows();
            let inputs = [(spans.shape(3 * d), values(rows * 3 * d, rows as u32, 2.0))];
            let op = |tape: Option<&mut Tape>, v: &[Var]| packed_within(tape, &v[0], &spans, heads, Read::F32);
            check(&format!("packed {lengths:?}"), &inputs, &PackedWithin(spans.clone(), heads, head_width), op);
            let b = lengths.len();
            let inputs = [(vec![b, 1, d], values(b * d, 1, 2.0)), (spans.shape(2 * d), values(rows * 2 * d, 2, 2.0))];
            let op = |tape: Option<&mut Tape>, v: &[Var]| split_within(tape, &v[0], &v[1], &spans, heads, Read::F32);
            check(&format!("split {lengths:?}"), &inputs, &SplitWithin(spans.clone(), heads, head_width), op);
        }
    }

    #[test]
    fn a_gradient_as_rows_is_the_gradient() {
        for read in [Read::F32, Read::Bf16].into_iter().filter(|read| read.rows_stay_small()) {
            // Images of one block of sums and of several.
            let spans = Spans::of([5, 1, 40, 138, 64, 65]);
            let (heads, d) = (2, 14);
            let z = Layout::packed("attention", &[spans.rows(), 3 * d], &spans, heads, read).unwrap();
            let (qkv, dy) = (values(spans.rows() * 3 * d, 4, 2.0), values(spans.rows() * d, 5, 1.0));
            let x = cpu::Operands::side_by_side(Mat::new(&qkv, spans.rows(), 3 * d));
            let (mut y, mut lse) = (vec![0.0; spans.rows() * d], vec![0.0; spans.rows() * heads]);
            cpu::forward(x, &z, &mut y, &mut lse);
            let gradient = cpu::gradient(&cpu::backward(x, &z, &lse, &dy), &z);
            assert!(gradient.data().iter().any(|&v| v != 0.0));
            let mut sums = vec![0.5; 3 * d];
            let rows = cpu::backward_rows(x, &z, &lse, &dy, &mut sums);
            let turned = |m: Mat| {
                let one: Vec<f32> = (0..m.rows() * m.rows()).map(|i| f32::from(i % (m.rows() + 1) == 0)).collect();
                let mut out = vec![0.0; m.rows() * m.cols()];
                gemm(&mut out, m.cols(), Mat::new(&one, m.rows(), m.rows()), m, 1.0, Write::Set, read);
                out
            };
            assert_eq!(turned(rows.mat()), turned(Mat::new(gradient.data(), spans.rows(), 3 * d)), "{read:?}");
            for (j, sum) in sums.into_iter().enumerate() {
                let column = gradient.data().iter().skip(j).step_by(3 * d);
                let terms = || std::iter::once(0.5).chain(column.clone().map(|&v| f64::from(v)));
                let budget = UNIT_F32 * spans.rows() as f64 * terms().map(f64::abs).sum::<f64>();
                assert!((f64::from(sum) - terms().sum::<f64>()).abs() <= budget, "{read:?}, sum of column {j}");
            }
        }
    }

    #[test]
    fn rounded_operands_are_near_and_not_the_same() {
        let (spans, heads, d) = (Spans::of([31, 138]), 2, 128);
        let qkv = Var::constant(Tensor::from_vec(values(spans.rows() * 3 * d, 3, 1.0), &spans.shape(3 * d)));
        let [whole, half] = [Read::F32, Read::Bf16].map(|read| packed_within(None, &qkv, &spans, heads, read).unwrap());
        let exact: Vec<f64> = whole.value.data().iter().map(|&v| f64::from(v)).collect();
        let distance = relative_norm(half.value.data(), &exact);
        // Each of the two products rounds both operands by 2^-9 at most; scores of size one pass that on to P.
        assert!(distance > 0.0 && distance < 4.0 / 512.0, "{distance:e}");
    }

    #[test]
    fn refuses_rows_that_are_not_the_images() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        for spans in [Spans::of([1, 2]), Spans::of([0, 4]), Spans::of([5])] {
            assert!(packed_within(None, &var(&[4, 6]), &spans, 1, Read::F32).is_err(), "{spans:?}");
            assert!(split_within(None, &var(&[2, 1, 2]), &var(&[4, 4]), &spans, 1, Read::F32).is_err(), "{spans:?}");
        }
        assert!(split_within(None, &var(&[3, 1, 2]), &var(&[4, 4]), &Spans::of([1, 3]), 1, Read::F32).is_err());
    }

    #[test]
    fn refuses_heads_that_do_not_divide() {
        assert!(packed(None, &Var::constant(Tensor::zeros(&[1, 2, 9])), 2).is_err());
    }
}
