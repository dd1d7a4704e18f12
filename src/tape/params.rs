//! The flat arena of parameters: one tensor for all, so that the optimiser walks it in one pass.
#![forbid(unsafe_code)]

use crate::device::cpu::PanelCache;
use crate::device::cpu::gemm::Operands;
use crate::device::cuda::{Gpu, Store};
use crate::error::Result;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The place of a parameter in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub usize);

/// Named parameters side by side in one flat tensor, in the order of their names' registration. A clone is a view of the
/// same values, as `var` gives one of a parameter.
#[derive(Clone, Debug)]
pub struct ParamArena {
    names: Vec<String>,
    shapes: Vec<Vec<usize>>,
    ranges: Vec<Range<usize>>,
    /// Whether each is kept from training.
    frozen: Vec<bool>,
    index: HashMap<String, ParamId>,
    flat: Tensor,
    /// The same values in the type that a card's products read, unless that is f32.
    compute: Option<Tensor>,
    /// What ops made of the present values; begun anew when they change.
    panels: Arc<PanelCache>,
}

impl ParamArena {
    /// An arena of zeros for these (name, shape) pairs. Panics on a name that comes twice.
    pub fn new(specs: &[(String, Vec<usize>)]) -> Self {
        let (mut names, mut shapes, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        let mut index = HashMap::new();
        let mut offset = 0;
        for (i, (name, shape)) in specs.iter().enumerate() {
            let len: usize = shape.iter().product();
            assert!(index.insert(name.clone(), ParamId(i)).is_none(), "parameter {name} comes twice");
            names.push(name.clone());
            shapes.push(shape.clone());
            ranges.push(offset..offset + len);
            offset += len;
        }
        ParamArena {
            frozen: vec![false; names.len()],
            names,
            shapes,
            ranges,
            index,
            flat: Tensor::zeros(&[offset]),
            compute: None,
            panels: Arc::default(),
        }
    }

    /// The number of parameters (tensors).
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// All ids in order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.names.len()).map(ParamId)
    }

    /// The id of `name`, if the arena has it.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.index.get(name).copied()
    }

    /// The name of a parameter.
    pub fn name(&self, id: ParamId) -> &str {
        &self.names[id.0]
    }

    /// The shape of a parameter.
    pub fn shape(&self, id: ParamId) -> &[usize] {
        &self.shapes[id.0]
    }

    /// Where a parameter lies in the flat tensor.
    pub fn range(&self, id: ParamId) -> Range<usize> {
        self.ranges[id.0].clone()
    }

    /// Keeps the parameters whose names `holds` from training: the way back may leave them without a gradient.
    pub fn freeze(&mut self, holds: impl Fn(&str) -> bool) {
        self.frozen = self.names.iter().map(|name| holds(name)).collect();
    }

    /// Whether a parameter is kept from training.
    pub fn is_frozen(&self, id: ParamId) -> bool {
        self.frozen[id.0]
    }

    /// The values of a parameter.
    pub fn values(&self, id: ParamId) -> &[f32] {
        &self.flat.data()[self.range(id)]
    }

    /// The values of a parameter, for writing while no tape holds a view.
    pub fn values_mut(&mut self, id: ParamId) -> &mut [f32] {
        let range = self.range(id);
        &mut self.flat_mut().data_mut()[range]
    }

    /// All parameters as one flat tensor of shape (len,).
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// All parameters for the optimiser, while no tape holds a view.
    pub fn flat_mut(&mut self) -> &mut Tensor {
        self.forget_panels();
        &mut self.flat
    }

    /// Exchanges all parameters for others on the same device.
    pub fn swap(&mut self, values: &mut Tensor) -> Result<()> {
        let compute = self.compute.as_ref().map(|_| values.narrowed()).transpose()?;
        std::mem::swap(values, self.flat_mut());
        self.compute = compute;
        Ok(())
    }

    /// Moves the parameters to a card, with a copy in the type that its products read.
    pub fn move_to(&mut self, gpu: &Arc<Gpu>) -> Result<()> {
        self.forget_panels();
        self.flat = self.flat.to_card(gpu)?;
        self.compute = (gpu.compute() != Store::F32).then(|| self.flat.narrowed()).transpose()?;
        Ok(())
    }

    /// The copy in the type that a card's products read, unless that is f32.
    pub fn compute(&self) -> Option<&Tensor> {
        self.compute.as_ref()
    }

    /// Gives back what inference packed of the weights, as before training goes on.
    pub fn forget_panels(&mut self) {
        self.panels = Arc::new(PanelCache::new(self.operands()));
    }

    /// How products of the CPU read their operands: these parameters, what they are multiplied with, gradients, and
    /// attention's.
    pub fn operands(&self) -> Operands {
        self.panels.operands()
    }

    /// Sets `operands`, for passes to come.
    pub fn set_operands(&mut self, operands: Operands) {
        self.panels = Arc::new(PanelCache::new(operands));
    }

    /// Packed weights of the present values.
    pub(super) fn panels(&self) -> &Arc<PanelCache> {
        &self.panels
    }
}
