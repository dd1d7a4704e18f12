//! The tape: what ran, in order, with what its backward needs; and the walk back along it.
//!
//! The rule of gradients, written once: the gradient of a value is set by its first consumer and added to by the
//! others, that of a parameter in its place in the flat arena; an op receives the complete gradient of its output,
//! because all consumers stand later on the tape and have run.
#![forbid(unsafe_code)]

pub mod gradcheck;
mod params;
mod recompute;

pub use params::{ParamArena, ParamId};

use crate::device::Device;
use crate::device::cpu::gemm::{Operands, Panels, Write};
use crate::device::cpu::{PanelCache, vector};
use crate::device::cuda::Slice;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// Where the gradient of a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nowhere: a constant, or no tape.
    None,
    /// An activation, by its place on the tape.
    Node(usize),
    /// A run of the parameter arena.
    Param { offset: usize, len: usize },
}

/// A value that may carry a gradient.
#[derive(Clone, Debug)]
pub struct Var {
    pub value: Tensor,
    pub slot: Slot,
    /// Packed forms of the arena's values, for a parameter.
    panels: Option<Arc<PanelCache>>,
    /// A parameter's values as a card's products read them.
    compute: Option<Tensor>,
}

impl Var {
    /// A value without gradient: pixels, or any value outside training.
    pub fn constant(value: Tensor) -> Self {
        Var { value, slot: Slot::None, panels: None, compute: None }
    }

    /// The shape of the value.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// The packed form of a parameter's value, kept for the next pass when nobody is training; `make` packs it.
    pub fn panels(&self, training: bool, make: impl FnOnce() -> Panels) -> Arc<Panels> {
        match (self.slot, &self.panels) {
            (Slot::Param { offset, len }, Some(cache)) if !training => cache.get((offset, len), make),
            _ => Arc::new(make()),
        }
    }

    /// How products of the CPU with this parameter read their operands; as they are where this is none.
    pub fn operands(&self) -> Operands {
        self.panels.as_ref().map_or(Operands::F32, |cache| cache.operands())
    }

    /// The same value and gradient under another shape of equal size.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        let compute = self.compute.as_ref().map(|values| values.reshape(shape));
        Var { value: self.value.reshape(shape), slot: self.slot, panels: self.panels.clone(), compute }
    }

    /// The values as the products of the device read them: on a card, a parameter's copy in its type.
    pub fn compute(&self) -> &Tensor {
        self.compute.as_ref().unwrap_or(&self.value)
    }
}

impl ParamArena {
    /// A parameter as an input of ops.
    pub fn var(&self, id: ParamId) -> Var {
        self.view(self.range(id).start, self.shape(id))
    }

    /// Rows `first..first + rows` of a parameter of rank 1 or 2 as an input of ops.
    pub fn rows(&self, id: ParamId, first: usize, rows: usize) -> Var {
        assert!(first + rows <= self.shape(id)[0], "rows {first}+{rows} leave {}", self.name(id));
        let row: usize = self.shape(id)[1..].iter().product();
        let mut shape = self.shape(id).to_vec();
        shape[0] = rows;
        self.view(self.range(id).start + first * row, &shape)
    }

    fn view(&self, offset: usize, shape: &[usize]) -> Var {
        let value = self.flat().window(offset, shape);
        let slot = Slot::Param { offset, len: value.len() };
        let compute = self.compute().map(|values| values.window(offset, shape));
        Var { value, slot, panels: Some(self.panels().clone()), compute }
    }
}

/// What an op leaves on the tape: its saved values and the way back.
pub trait Backward {
    /// The op's name, as in its folder.
    fn op(&self) -> &'static str;
    /// Passes `dy`, the gradient of the output in the output's shape, on to the inputs' slots.
    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()>;
}

struct Record {
    backward: Box<dyn Backward>,
    /// The output's shape, shown when the tape is printed.
    shape: Vec<usize>,
}

/// Ends the forward of every op: records `saved` when there is a tape, and returns the output.
///
/// `inputs` are activations or anything else, `params` the inputs whose gradient the op adds in place. Two mistakes that
/// would lose a gradient in silence are errors: an activation of a live tape without that tape, and an in-place input
/// that is no parameter.
pub fn emit<B: Backward + 'static>(
    tape: Option<&mut Tape>,
    op: &'static str,
    y: Tensor,
    inputs: &[Slot],
    params: &[Slot],
    saved: impl FnOnce() -> B,
) -> Result<Var> {
    let slot = emit_slot(tape, op, y.shape(), inputs, params, saved)?;
    Ok(Var { slot, ..Var::constant(y) })
}

/// [`emit`] of an op whose output, of this shape, is no tensor: returns the place of its gradient.
pub fn emit_slot<B: Backward + 'static>(
    tape: Option<&mut Tape>,
    op: &'static str,
    shape: &[usize],
    inputs: &[Slot],
    params: &[Slot],
    saved: impl FnOnce() -> B,
) -> Result<Slot> {
    let Some(tape) = tape else {
        return match inputs.iter().chain(params).any(|slot| matches!(slot, Slot::Node(_))) {
            true => Err(Error::shape(op, "an activation of a live tape came without that tape")),
            false => Ok(Slot::None),
        };
    };
    if params.iter().any(|slot| !matches!(slot, Slot::Param { .. })) {
        return Err(Error::shape(op, "weights must come from a parameter arena"));
    }
    Ok(tape.push(shape, saved()))
}

/// What ran, in order of execution. One record makes one activation; its index is the activation's node.
#[derive(Default)]
pub struct Tape {
    records: Vec<Record>,
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the op that made `value` (ops go through `emit`) and returns the value with a place for its gradient.
    pub fn record(&mut self, value: Tensor, backward: impl Backward + 'static) -> Var {
        let slot = self.push(value.shape(), backward);
        Var { slot, ..Var::constant(value) }
    }

    /// Appends the op that made something of this shape and returns the place of its gradient.
    fn push(&mut self, shape: &[usize], backward: impl Backward + 'static) -> Slot {
        self.records.push(Record { shape: shape.to_vec(), backward: Box::new(backward) });
        Slot::Node(self.records.len() - 1)
    }

    /// Walks back from `output` with upstream gradient `dy`, overwriting `flat` with the gradients of the arena. Returns whether all
    /// that was written is finite; on a card, which looks for itself, true.
    /// An error names every parameter that no gradient reached in full; `flat` then holds old values in their places.
    pub fn backward(self, output: &Var, dy: Tensor, params: &ParamArena, flat: &mut Tensor) -> Result<bool> {
        if flat.shape() != params.flat().shape() {
            return Err(Error::shape("tape", format!("gradients of shape {:?}", flat.shape())));
        }
        let mut grads = Grads::new(flat);
        self.walk(output, dy, &mut grads)?;
        let finite = grads.all_finite();
        grads.check_coverage(params)?;
        Ok(finite)
    }

    /// Runs the records from the last to the first, with the gradients of this tape's activations in `grads.nodes`.
    fn walk(self, output: &Var, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.nodes = vec![None; self.records.len()];
        grads.add(output.slot, dy)?;
        for (node, record) in self.records.into_iter().enumerate().rev() {
            if let Some(dy) = grads.nodes[node].take() {
                record.backward.backward(dy, grads)?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tape {
    /// The network as it ran: one line an op.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (node, record) in self.records.iter().enumerate() {
            writeln!(f, "{node:4} {:14} -> {:?}", record.backward.op(), record.shape)?;
        }
        Ok(())
    }
}

/// Gradients on the way back: of activations that wait for their op, and of the arena.
pub struct Grads<'a> {
    nodes: Vec<Option<Tensor>>,
    flat: &'a mut Tensor,
    reached: Vec<(usize, usize)>,
    /// Whether what was looked at as it was written is finite.
    finite: bool,
    /// What was written and not looked at.
    unseen: Vec<(usize, usize)>,
}

impl<'a> Grads<'a> {
    /// Nothing reached yet of the arena, whose gradients are to lie in `flat`.
    fn new(flat: &'a mut Tensor) -> Self {
        Grads { nodes: Vec::new(), flat, reached: Vec::new(), finite: true, unseen: Vec::new() }
    }

    /// True when somebody wants the gradient of this slot.
    pub fn wanted(&self, slot: Slot) -> bool {
        slot != Slot::None
    }

    /// Sets or adds a finished gradient: set on an activation's first, added otherwise.
    pub fn add(&mut self, slot: Slot, gradient: Tensor) -> Result<()> {
        match slot {
            Slot::None => {}
            Slot::Node(node) => match &mut self.nodes[node] {
                empty @ None => *empty = Some(gradient),
                Some(_) => {
                    let mut sum = self.nodes[node].take().expect("matched above").into_unique()?;
                    sum.add(&gradient)?;
                    self.nodes[node] = Some(sum);
                }
            },
            Slot::Param { .. } => match gradient.device() {
                Device::Cpu => self.param_add(slot, |sum| vector::add(sum, gradient.data())),
                Device::Cuda => {
                    let [(sum, write)] = self.param_slices([slot])?;
                    gradient.put(sum, write == Write::Add)?;
                }
            },
        }
        Ok(())
    }

    /// What others have given to an activation so far, held by nobody else. Whoever takes it gives back the sum with `add`.
    pub fn take(&mut self, slot: Slot) -> Result<Option<Tensor>> {
        match slot {
            Slot::Node(node) => self.nodes[node].take().map(Tensor::into_unique).transpose(),
            Slot::None | Slot::Param { .. } => Ok(None),
        }
    }

    /// Lets `add` add to a parameter's gradient in place. `slot` must be a parameter, which `emit` sees to.
    pub fn param_add(&mut self, slot: Slot, add: impl FnOnce(&mut [f32])) {
        self.param_put(slot, |sum, write| {
            if write == Write::Set {
                sum.fill(0.0);
            }
            add(sum);
        });
    }

    /// Lets `put` set a parameter's gradient, or add to it when an earlier op has set it.
    pub fn param_put(&mut self, slot: Slot, put: impl FnOnce(&mut [f32], Write)) {
        let (place, write) = self.place(slot, |flat, gap| flat.data_mut()[gap].fill(0.0));
        self.unseen.push((place.start, place.end));
        put(&mut self.flat.data_mut()[place], write);
    }

    /// [`Grads::param_put`] by one who says whether all that it leaves there is finite, which spares a look at it from memory.
    pub fn param_put_seen(&mut self, slot: Slot, put: impl FnOnce(&mut [f32], Write) -> bool) {
        let (place, write) = self.place(slot, |flat, gap| flat.data_mut()[gap].fill(0.0));
        self.finite &= put(&mut self.flat.data_mut()[place], write);
    }

    /// Whether all that was written is finite; on a card true.
    fn all_finite(&mut self) -> bool {
        if self.flat.device() == Device::Cuda {
            return true;
        }
        // What several ops have written is looked at once.
        self.unseen.sort_unstable();
        let mut end = 0;
        self.finite
            && self.unseen.iter().all(|&(from, to)| {
                let rest = from.max(end).min(to)..to;
                end = end.max(to);
                vector::all_finite(&self.flat.data()[rest])
            })
    }

    /// On a card: where the gradients of parameters lie, and whether each is to be set or added to.
    pub fn param_slices<const N: usize>(&mut self, slots: [Slot; N]) -> Result<[(Slice<'_, f32>, Write); N]> {
        let mut cleared = Ok(());
        let places = slots.map(|slot| {
            self.place(slot, |flat, gap| {
                let zeros = flat.gpu().stream().clear(flat.floats().window(gap.start, gap.len()));
                cleared = std::mem::replace(&mut cleared, Ok(())).and(zeros);
            })
        });
        cleared?;
        Ok(places.map(|(place, write)| (self.flat.floats().window(place.start, place.len()), write)))
    }

    /// The place of a parameter's gradient, counted as reached; `zero` clears what others have left out of it.
    fn place(&mut self, slot: Slot, zero: impl FnMut(&mut Tensor, Range<usize>)) -> (Range<usize>, Write) {
        let Slot::Param { offset, len } = slot else { unreachable!("only parameters are added to in place") };
        let end = offset + len;
        let mut write = Write::Set;
        if self.reached.iter().any(|&(from, to)| from < end && offset < to) {
            self.zero_gaps(offset, end, zero);
            write = Write::Add;
        }
        self.reached.push((offset, end));
        (offset..end, write)
    }

    /// Zeros what no gradient has reached of a run that others have reached in part.
    fn zero_gaps(&mut self, offset: usize, end: usize, mut zero: impl FnMut(&mut Tensor, Range<usize>)) {
        let mut inside: Vec<_> =
            self.reached.iter().filter(|&&(from, to)| from < end && offset < to).copied().collect();
        inside.sort_unstable();
        let mut covered = offset;
        for (from, to) in inside.into_iter().chain([(end, end)]) {
            if from > covered {
                zero(self.flat, covered..from);
            }
            covered = covered.max(to);
        }
    }

    fn check_coverage(mut self, params: &ParamArena) -> Result<()> {
        self.reached.sort_unstable();
        let mut names = Vec::new();
        for id in params.ids().filter(|&id| !params.is_frozen(id)) {
            let range = params.range(id);
            let mut covered = range.start;
            for &(start, end) in &self.reached {
                if start <= covered {
                    covered = covered.max(end);
                }
            }
            if covered < range.end {
                names.push(params.name(id).to_string());
            }
        }
        if names.is_empty() { Ok(()) } else { Err(Error::NoGradient { names }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Double {
        x: Slot,
    }

    impl Backward for Double {
        fn op(&self) -> &'static str {
            "double"
        }
        fn backward(self: Box<Self>, mut dy: Tensor, grads: &mut Grads) -> Result<()> {
            vector::scale(dy.data_mut(), 2.0);
            grads.add(self.x, dy)
        }
    }

    fn double(tape: &mut Tape, x: &Var) -> Var {
        let mut y = Tensor::from_vec(x.value.data().to_vec(), x.shape());
        vector::scale(y.data_mut(), 2.0);
        tape.record(y, Double { x: x.slot })
    }

    #[test]
    fn gradients_add_over_two_consumers_and_print_in_order() {
        let mut params = ParamArena::new(&[("w".into(), vec![2])]);
        params.values_mut(ParamId(0)).copy_from_slice(&[1.0, 3.0]);
        let mut tape = Tape::new();
        let w = params.var(ParamId(0));
        let y = double(&mut tape, &w);
        let z = double(&mut tape, &y);
        assert!(format!("{tape:?}").contains("   1 double"));
        let mut flat = Tensor::zeros(&[2]);
        tape.backward(&z, Tensor::from_vec(vec![1.0, 10.0], &[2]), &params, &mut flat).unwrap();
        assert_eq!(flat.data(), [4.0, 40.0]);
    }

    #[test]
    fn a_parameter_without_a_full_gradient_is_named() {
        let params =
            ParamArena::new(&[("used".into(), vec![2]), ("half".into(), vec![4, 1]), ("idle".into(), vec![1])]);
        let mut tape = Tape::new();
        let a = double(&mut tape, &params.var(ParamId(0)));
        let b = double(&mut tape, &params.rows(ParamId(1), 2, 2));
        let mut flat = Tensor::zeros(&[7]);
        let mut grads = Grads { nodes: vec![None; 2], ..Grads::new(&mut flat) };
        for (var, record) in [(&b, 1), (&a, 0)] {
            grads.add(var.slot, Tensor::from_vec(vec![1.0, 1.0], &[2])).unwrap();
            let dy = grads.nodes[record].take().unwrap();
            Box::new(Double {
                x: if record == 0 { params.var(ParamId(0)).slot } else { params.rows(ParamId(1), 2, 2).slot },
            })
            .backward(dy, &mut grads)
            .unwrap();
        }
        let Err(Error::NoGradient { names }) = grads.check_coverage(&params) else { panic!("the gap went unnoticed") };
        assert_eq!(names, ["half", "idle"]);
    }

    #[test]
    fn the_first_gradient_sets_and_overlapping_ones_add() {
        let mut flat = Tensor::from_vec(vec![9.0; 6], &[6]);
        let mut grads = Grads::new(&mut flat);
        for (offset, len) in [(2, 2), (0, 6), (1, 1)] {
            grads.param_put(Slot::Param { offset, len }, |sum, write| {
                sum.iter_mut().for_each(|v| *v = if write == Write::Add { *v + 1.0 } else { 1.0 });
            });
        }
        grads.param_add(Slot::Param { offset: 5, len: 1 }, |sum| sum[0] += 1.0);
        assert_eq!(flat.data(), [1.0, 2.0, 2.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_noticed_wherever_it_is_written() {
        let (first, middle) = (Slot::Param { offset: 0, len: 4 }, Slot::Param { offset: 2, len: 5 });
        // Each writes over what the one before left; the last says what it sees.
        let finite = |values: [f32; 3], seen: bool| {
            let mut flat = Tensor::zeros(&[9]);
            let mut grads = Grads::new(&mut flat);
            grads.param_put(first, |sum, _| sum.fill(values[0]));
            grads.param_add(middle, |sum| sum[0] += values[1]);
            grads.param_put_seen(middle, |sum, _| {
                sum[4] = values[2];
                seen
            });
            grads.all_finite()
        };
        assert!(finite([f32::MAX, 1.0, 2.0], true));
        assert!(!finite([f32::MAX, 1.0, 2.0], false));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!finite([bad, 1.0, 2.0], true));
            assert!(!finite([1.0, bad, 2.0], true));
            // In the second window alone, which somebody wrote to without looking.
            assert!(!finite([1.0, 1.0, bad], true));
        }
    }

    #[test]
    fn packed_weights_are_kept_until_the_values_change() {
        use crate::device::cpu::gemm::Mat;
        let mut params = ParamArena::new(&[("w".into(), vec![2, 3])]);
        let made = std::cell::Cell::new(0);
        let pack = |w: &Var, training| {
            w.panels(training, || {
                made.set(made.get() + 1);
                Panels::new(Mat::new(w.value.data(), w.value.len() / 3, 3), w.operands())
            });
            made.get()
        };
        let w = params.var(ParamId(0));
        assert_eq!([pack(&w, false), pack(&params.var(ParamId(0)), false)], [1, 1]);
        assert_eq!([pack(&w, true), pack(&params.rows(ParamId(0), 0, 1), false)], [2, 3]);
        drop(w);
        params.flat_mut();
        assert_eq!(pack(&params.var(ParamId(0)), false), 4);
        assert_eq!(pack(&Var::constant(Tensor::zeros(&[2, 3])), false), 5);
    }

    #[test]
    fn a_live_value_without_its_tape_is_refused() {
        let params = ParamArena::new(&[("w".into(), vec![2])]);
        let mut tape = Tape::new();
        let live = double(&mut tape, &params.var(ParamId(0)));
        let y = Tensor::zeros(&[2]);
        assert!(emit(None, "double", y.clone(), &[live.slot], &[], || Double { x: Slot::None }).is_err());
        assert!(emit(Some(&mut tape), "double", y, &[], &[live.slot], || Double { x: Slot::None }).is_err());
    }

    #[test]
    #[should_panic(expected = "rows 1+2 leave w")]
    fn rows_beyond_a_parameter_are_refused() {
        let params = ParamArena::new(&[("w".into(), vec![2, 1]), ("next".into(), vec![5])]);
        params.rows(ParamId(0), 1, 2);
    }
}
