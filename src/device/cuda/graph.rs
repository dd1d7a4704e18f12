//! A graph: what a stream was told, to be run again with one call.
#![allow(unsafe_code)]

use super::check;
use crate::error::Result;
use cust::context::Context;
use cust::sys::{self, CUgraph, CUgraphExec};
use std::ptr;
use std::sync::Arc;

/// Copies and launches that run in their order each time [`super::Stream::replay`] is called.
pub struct Graph {
    executable: CUgraphExec,
    /// A graph may outlive its `Gpu`, but not the context.
    _context: Arc<Context>,
}

// SAFETY: a handle of the driver may be used from any thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Makes a captured graph ready to run. It owns `graph` and destroys it.
    pub(super) fn new(graph: CUgraph, context: Arc<Context>) -> Result<Self> {
        let mut executable = ptr::null_mut();
        // SAFETY: the graph is one that a capture ended with; it is destroyed once, after its last use.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            made
        };
        check(|| "graph".into(), made)?;
        Ok(Graph { executable, _context: context })
    }

    pub(super) fn handle(&self) -> CUgraphExec {
        self.executable
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, nobody has it afterwards, and its context goes after it.
        unsafe { sys::cuGraphExecDestroy(self.executable) };
    }
}
