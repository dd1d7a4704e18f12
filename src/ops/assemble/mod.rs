//! Assembles the encoder's input: [CLS] and the kept tokens, each with its row of the position table.
//!
//! - computes: y[b, 0] = cls + pos[0]; y[b, 1 + i] = tokens[b, i] + pos[rows[b, i]] (paper, Eqs. 6 to 8)
//! - derivative: dtokens = dy[1..]; dcls += sum dy[0]; dpos[row] += dy of every token that took the row
//! - saves: rows
//! - shapes: tokens (B,k,D), cls (1,1,D), pos (1,N+1,D), rows (B,k) in 1..=N, y (B,1+k,D)
//! - cost: 1 FLOP and 12 bytes an element
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{Backward, Grads, Slot, Tape, Var, emit};
use crate::tensor::Tensor;
use std::sync::Arc;

struct AssembleBackward {
    rows: Arc<[u32]>,
    k: usize,
    dtokens: Slot,
    dcls: Slot,
    dpos: Slot,
}

/// The sequence (B,1+k,D). `rows` (B,k) names the position row of each token: 1 + patch index when gathered,
/// 1, 2, ... when the first k rows are taken. An error when shapes or rows do not fit.
pub fn forward(tape: Option<&mut Tape>, tokens: &Var, cls: &Var, pos: &Var, rows: &Arc<[u32]>) -> Result<Var> {
    let &[b, k, d] = tokens.shape() else {
        return Err(Error::shape("assemble", format!("tokens {:?} are not (B,k,D)", tokens.shape())));
    };
    let table = pos.value.len() / d.max(1);
    let fits = cls.value.len() == d && pos.value.len() == table * d && rows.len() == b * k;
    if b * k * d == 0 || !fits || table == 0 || rows.iter().any(|&row| row as usize >= table) {
        let (cls, pos, rows) = (cls.shape(), pos.shape(), rows.len());
        return Err(Error::shape(
            "assemble",
            format!("tokens {:?}, cls {cls:?}, pos {pos:?}, {rows} rows", tokens.shape()),
        ));
    }
    let mut y = tokens.value.like(&[b, 1 + k, d])?;
    match tokens.value.device() {
        Device::Cpu => {
            cpu::forward(tokens.value.data(), cls.value.data(), pos.value.data(), rows, k, y.data_mut());
        }
        Device::Cuda => {
            let gpu = tokens.value.gpu();
            let (rows, cls, pos) = (Tensor::indices(gpu, rows)?, cls.value.floats(), pos.value.floats());
            cuda::forward(gpu, tokens.value.values(), cls, pos, rows.words(), k, y.values())?;
        }
    }
    emit(tape, "assemble", y, &[tokens], &[cls, pos], |_| AssembleBackward {
        rows: rows.clone(),
        k,
        dtokens: tokens.slot,
        dcls: cls.slot,
        dpos: pos.slot,
    })
}

impl Backward for AssembleBackward {
    fn op(&self) -> &'static str {
        "assemble"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let &[b, _, d] = dy.shape() else { unreachable!("the output has rank 3") };
        let mut dtokens = dy.like(&[b, self.k, d])?;
        match dy.device() {
            Device::Cpu => {
                cpu::backward_dtokens(dy.data(), self.k, d, dtokens.data_mut());
                grads.param_add(self.dcls, |sum| cpu::backward_dcls_add(dy.data(), self.k, sum));
                grads.param_add(self.dpos, |sum| cpu::backward_dpos_add(dy.data(), &self.rows, self.k, d, sum));
            }
            Device::Cuda => {
                let rows = Tensor::indices(dy.gpu(), &self.rows)?;
                let [dcls, dpos] = grads.param_slices([self.dcls, self.dpos])?;
                cuda::backward(dy.gpu(), dy.values(), rows.words(), self.k, dtokens.values(), dcls, dpos)?;
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

    #[test]
    fn refuses_a_row_beyond_the_table() {
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        assert!(forward(None, &var(&[1, 1, 2]), &var(&[1, 1, 2]), &var(&[1, 3, 2]), &Arc::from([3])).is_err());
    }
}
