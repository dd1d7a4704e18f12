//! Packed weights, kept from one forward pass to the next while the weights stay as they are.
#![forbid(unsafe_code)]

use super::gemm::Panels;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Packed operands by the range of the parameter arena that they were made of.
#[derive(Default)]
pub struct PanelCache(Mutex<HashMap<(usize, usize), Arc<Panels>>>);

impl PanelCache {
    /// The panels of the range (offset, length), made at the first call.
    pub fn get(&self, range: (usize, usize), make: impl FnOnce() -> Panels) -> Arc<Panels> {
        if let Some(panels) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&range) {
            return Arc::clone(panels);
        }
        // Made outside the lock, which a thread that helps with the packing might want.
        let panels = Arc::new(make());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(range, Arc::clone(&panels));
        panels
    }
}

impl std::fmt::Debug for PanelCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PanelCache")
    }
}
