//! A part of the network that keeps only its input and is run again on the way back: time for memory.
#![forbid(unsafe_code)]

use super::{Backward, Grads, Slot, Tape, Var};
use crate::error::Result;
use crate::tensor::Tensor;

impl Tape {
    /// Runs `part` on x and keeps nothing of it but x; the way back runs it again. `part` must give the same bits both
    /// times and reach no activation but x. Gradients are those of recording it, bit for bit: the same ops run in the same
    /// order. Equals `torch.utils.checkpoint.checkpoint` with `use_reentrant=False`.
    pub fn recomputed(&mut self, x: &Var, part: impl Fn(&mut Tape, &Var) -> Result<Var> + 'static) -> Result<Var> {
        // With a tape of its own, which is dropped at once, so that the ops take the way that they take when run again.
        let y = {
            let mut tape = Tape::new();
            let x = tape.leaf(x.value.clone());
            part(&mut tape, &x)?.value
        };
        Ok(self.record(y, Recomputed { x: x.value.clone(), slot: x.slot, part }))
    }

    /// An input as the first record: its gradient stays in its place.
    fn leaf(&mut self, value: Tensor) -> Var {
        let node = self.records.len();
        self.record(value, Leaf { slot: Slot::Node(node) })
    }
}

struct Leaf {
    slot: Slot,
}

impl Backward for Leaf {
    fn op(&self) -> &'static str {
        "leaf"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(self.slot, dy)
    }
}

struct Recomputed<F> {
    x: Tensor,
    slot: Slot,
    part: F,
}

impl<F: Fn(&mut Tape, &Var) -> Result<Var>> Backward for Recomputed<F> {
    fn op(&self) -> &'static str {
        "recomputed"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let Recomputed { x, slot, part } = *self;
        let mut tape = Tape::new();
        let x = tape.leaf(x);
        let y = part(&mut tape, &x)?;
        let outer = std::mem::take(&mut grads.nodes);
        let walked = tape.walk(&y, dy, grads);
        let inner = std::mem::replace(&mut grads.nodes, outer);
        walked?;
        match inner.into_iter().next().flatten() {
            Some(dx) => grads.add(slot, dx),
            None => Ok(()),
        }
    }
}
