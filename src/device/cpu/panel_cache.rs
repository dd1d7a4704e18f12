//! Packed weights, kept from one forward pass to the next while the weights stay as they are.
#![forbid(unsafe_code)]

use super::gemm::{Operands, Panels};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Packed operands by the range of the parameter arena that they were made of.
#[derive(Default)]
pub struct PanelCache {
    operands: Operands,
    panels: Mutex<HashMap<(usize, usize), Arc<Panels>>>,
}

impl PanelCache {
    /// Nothing packed yet; products with these parameters are to read their operands so.
    pub fn new(operands: Operands) -> Self {
        PanelCache { operands, panels: Mutex::default() }
    }

    /// How products with these parameters read their operands.
    pub fn operands(&self) -> Operands {
        self.operands
    }

    /// The panels of the range (offset, length), made at the first call.
    pub fn get(&self, range: (usize, usize), make: impl FnOnce() -> Panels) -> Arc<Panels> {
        if let Some(panels) = self.panels.lock().unwrap_or_else(PoisonError::into_inner).get(&range) {
            return Arc::clone(panels);
        }
        // Made outside the lock, which a thread that helps with the packing might want.
        let panels = Arc::new(make());
        self.panels.lock().unwrap_or_else(PoisonError::into_inner).insert(range, Arc::clone(&panels));
        panels
    }
}

impl std::fmt::Debug for PanelCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PanelCache")
    }
}
