//! A graph: what a stream was told, to be run again with one call.
#![allow(unsafe_code)]

use super::check;
use crate::error::Result;
use cust::sys::{self, CUgraph, CUgraphExec};
use std::ptr;

/// Copies and launches that run in their order each time [`super::Stream::replay`] is called.
pub struct Graph(CUgraphExec);

// SAFETY: a handle of the driver may be used from any thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Makes a captured graph ready to run. It owns `graph` and destroys it.
    pub(super) fn new(graph: CUgraph) -> Result<Self> {
        let mut executable = ptr::null_mut();
        // SAFETY: the graph is one that a capture ended with; it is destroyed once, after its last use.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            made
        };
        check(|| "graph".into(), made)?;
        Ok(Graph(executable))
    }

    pub(super) fn handle(&self) -> CUgraphExec {
        self.0
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nobody has it afterwards.
        unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}
