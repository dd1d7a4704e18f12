//! Multi-head attention over a whole sequence, as timm's `Attention` between its qkv and proj layers.
//!
//! - computes: per image and head y = P v, P = softmax(q k^T / sqrt(Dh))
//! - derivative: dv = P^T dy; dS = P (dy v^T - rowsum(y dy)); dq = dS k / sqrt(Dh); dk = dS^T q / sqrt(Dh)
//! - saves: q, k, v, y and the log-sum-exp of each row of scores, from which P is made again
//! - shapes: packed: qkv (B,S,3D) in timm's order; split: q (B,Sq,D) with kv (B,S,2D); y (B,Sq,D)
//! - cost: 4 B Sq S D FLOPs forward, 10 B Sq S D backward; the (Sq,S) scores never leave the cache
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;
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
            Source::Packed(qkv, _) => {
                let x = qkv.data();
                Operands { q: x, k: &x[d..], v: &x[2 * d..], q_stride: 3 * d, kv_stride: 3 * d }
            }
            Source::Split { q, kv, .. } => {
                Operands { q: q.data(), k: kv.data(), v: &kv.data()[d..], q_stride: d, kv_stride: 2 * d }
            }
        }
    }
}

struct AttentionBackward {
    source: Source,
    sizes: Sizes,
    y: Tensor,
    lse: Tensor,
}

/// Self-attention of qkv (B,S,3D). An error when D is not a multiple of `heads`.
pub fn packed(tape: Option<&mut Tape>, qkv: &Var, heads: usize) -> Result<Var> {
    let &[b, s, width] = qkv.shape() else {
        return Err(Error::shape("attention", format!("qkv {:?} is not (B,S,3D)", qkv.shape())));
    };
    let d = width / 3;
    if heads == 0 || s == 0 || width % 3 != 0 || d % heads != 0 || d == 0 {
        return Err(Error::shape("attention", format!("qkv {:?} with {heads} heads", qkv.shape())));
    }
    let sizes = Sizes { b, queries: s, keys: s, heads, head_width: d / heads };
    run(tape, &[qkv], Source::Packed(qkv.value.clone(), qkv.slot), sizes)
}

/// Attention of queries q (B,Sq,D) over kv (B,S,2D). An error when the shapes do not fit together.
pub fn split(tape: Option<&mut Tape>, q: &Var, kv: &Var, heads: usize) -> Result<Var> {
    let (&[b, queries, d], &[kv_b, keys, kv_width]) = (q.shape(), kv.shape()) else {
        return Err(Error::shape("attention", format!("q {:?}, kv {:?}", q.shape(), kv.shape())));
    };
    let fits = kv_b == b && kv_width == 2 * d && heads > 0 && d > 0 && d % heads == 0;
    if !fits || keys == 0 || queries == 0 {
        return Err(Error::shape("attention", format!("q {:?}, kv {:?}, {heads} heads", q.shape(), kv.shape())));
    }
    let sizes = Sizes { b, queries, keys, heads, head_width: d / heads };
    let source = Source::Split { q: q.value.clone(), kv: kv.value.clone(), dq: q.slot, dkv: kv.slot };
    run(tape, &[q, kv], source, sizes)
}

fn run(tape: Option<&mut Tape>, inputs: &[&Var], source: Source, sizes: Sizes) -> Result<Var> {
    let first = &inputs[0].value;
    let mut y = first.like(&[sizes.b, sizes.queries, sizes.width()])?;
    let mut lse = first.like_f32(&[sizes.b, sizes.heads, sizes.queries])?;
    match y.device() {
        Device::Cpu => cpu::forward(source.operands(sizes.width()), sizes, y.data_mut(), lse.data_mut()),
        Device::Cuda => match &source {
            Source::Packed(qkv, _) => cuda::forward(y.gpu(), qkv.values(), sizes, y.values(), lse.floats())?,
            Source::Split { q, kv, .. } => {
                cuda::forward_split(y.gpu(), q.values(), kv.values(), sizes, y.values(), lse.floats())?;
            }
        },
    }
    emit(tape, "attention", y, inputs, &[], |y| AttentionBackward { source, sizes, y: y.clone(), lse })
}

impl Backward for AttentionBackward {
    fn op(&self) -> &'static str {
        "attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (z, d) = (self.sizes, self.sizes.width());
        match dy.device() {
            Device::Cuda => {
                let (gpu, y, lse) = (dy.gpu(), self.y.values(), self.lse.floats());
                match self.source {
                    Source::Packed(qkv, slot) => {
                        let delta = self.lse.like(&[cuda::delta_len(z.b, z.keys, z.heads)])?;
                        let dqkv = qkv.like(qkv.shape())?;
                        cuda::backward(gpu, qkv.values(), z, y, lse, dy.values(), delta.floats(), dqkv.values())?;
                        grads.add(slot, dqkv)?;
                    }
                    Source::Split { q, kv, dq: dq_slot, dkv: dkv_slot } => {
                        let (dq, dkv) = (q.like(q.shape())?, kv.like(kv.shape())?);
                        let results = [dq.values(), dkv.values()];
                        cuda::backward_split(gpu, q.values(), kv.values(), z, y, lse, dy.values(), results)?;
                        grads.add(dq_slot, dq)?;
                        grads.add(dkv_slot, dkv)?;
                    }
                }
            }
            Device::Cpu => {
                let heads = cpu::backward(self.source.operands(d), z, self.y.data(), self.lse.data(), dy.data());
                match self.source {
                    Source::Packed(qkv, slot) => {
                        let mut dqkv = Tensor::scratch(qkv.shape());
                        cpu::spread_query(&heads, z, dqkv.data_mut(), 3 * d);
                        cpu::spread_keys_values(&heads, z, dqkv.data_mut(), 3 * d, d);
                        grads.add(slot, dqkv)?;
                    }
                    Source::Split { q, kv, dq: dq_slot, dkv: dkv_slot } => {
                        let (mut dq, mut dkv) = (Tensor::scratch(q.shape()), Tensor::scratch(kv.shape()));
                        cpu::spread_query(&heads, z, dq.data_mut(), d);
                        cpu::spread_keys_values(&heads, z, dkv.data_mut(), 2 * d, 0);
                        grads.add(dq_slot, dq)?;
                        grads.add(dkv_slot, dkv)?;
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
    use crate::ops::real::Real;
    use crate::ops::testing::{Definition, check, values};

    /// Columns `first..first + d` of rows of `stride`.
    fn columns<R: Real>(x: &[R], stride: usize, first: usize, d: usize) -> Vec<R> {
        x.chunks(stride).flat_map(|row| row[first..first + d].to_vec()).collect()
    }

    /// Rows of the parts side by side.
    fn interleave<R: Real>(parts: &[Vec<R>], d: usize) -> Vec<R> {
        let rows = parts[0].len() / d;
        (0..rows).flat_map(|r| parts.iter().flat_map(move |p| p[r * d..(r + 1) * d].to_vec())).collect()
    }

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

    #[test]
    fn refuses_heads_that_do_not_divide() {
        assert!(packed(None, &Var::constant(Tensor::zeros(&[1, 2, 9])), 2).is_err());
    }
}
