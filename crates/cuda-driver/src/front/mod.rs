//! The driver's world on top of a virtual card: contexts, memory, modules, streams, events and graphs as numbers that
//! are looked up. It is generic over the card so that its logic can be tested without one.

mod capture;
mod context;
mod device;
mod engine;
pub(crate) mod host;
mod launch;
mod memory;
mod module;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use context::in_host_function;
pub(crate) use launch::Geometry;
pub(crate) use module::Refused;

use crate::codes::Code;
use capture::{Capture, Graph, Nodes};
use context::Context;
use engine::Engine;
use host::Pinned;
use launch::Function;
use ptx_vm::{Counters, Limits};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use stream::{Event, Pending, Stream};

/// A handle that C sees as a pointer.
pub(crate) type Id = u64;

/// Everything the virtual driver knows. One per process, behind a lock.
pub(crate) struct World<E: Engine> {
    engine: E,
    limits: Limits,
    initialised: bool,
    /// The last handle given out.
    ids: Id,
    /// The number of the last piece of work.
    sequence: u64,
    contexts: HashMap<Id, Context>,
    /// The primary context, how often it is retained, and its flags.
    primary: Option<Id>,
    retained: u32,
    primary_flags: u32,
    /// Device allocations by address, with their context.
    memory: HashMap<u64, Id>,
    /// Host memory that a copy may use late, by address.
    pinned: BTreeMap<usize, Pinned>,
    /// Modules with their context.
    modules: HashMap<Id, (Id, Arc<E::Module>)>,
    functions: HashMap<Id, Function<E>>,
    streams: HashMap<Id, Stream>,
    events: HashMap<Id, Event>,
    /// Work that has not run, by its number; what it waits for has a smaller one.
    pending: BTreeMap<u64, Pending<E>>,
    captures: HashMap<Id, Capture<E>>,
    graphs: HashMap<Id, Graph<E>>,
    /// Instantiated graphs with their context.
    executables: HashMap<Id, (Id, Nodes<E>)>,
    /// More about the error that the running call returns.
    note: Option<String>,
}

impl<E: Engine> World<E> {
    pub(crate) fn new(engine: E, limits: Limits) -> Self {
        World {
            engine,
            limits,
            initialised: false,
            // Small numbers name the legacy streams.
            ids: 0x1000,
            sequence: 0,
            contexts: HashMap::new(),
            primary: None,
            retained: 0,
            primary_flags: 0,
            memory: HashMap::new(),
            pinned: BTreeMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            pending: BTreeMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            note: None,
        }
    }

    /// A handle that was never given out. Handles of all kinds share the numbers, so that no kind passes for another.
    fn new_id(&mut self) -> Id {
        self.ids += 0x10;
        self.ids
    }

    /// Keeps `text` for whoever asks about `code`.
    fn fail<T>(&mut self, code: Code, text: impl Into<String>) -> Result<T, Code> {
        self.note = Some(text.into());
        Err(code)
    }

    /// What was noted about the error of the running call.
    pub(crate) fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }

    pub(crate) fn counters(&self) -> BTreeMap<String, Counters> {
        self.engine.counters()
    }

    pub(crate) fn reset_counters(&self) {
        self.engine.reset_counters();
    }
}
