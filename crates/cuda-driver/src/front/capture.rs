//! Capturing streams, and graphs: work that is written down and runs again and again.
#![forbid(unsafe_code)]

use super::engine::Engine;
use super::launch::Geometry;
use super::stream::Work;
use super::{Id, World};
use crate::codes::{self, Code};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, ThreadId};

/// A piece of work in a graph.
pub(super) struct Node<E: Engine> {
    id: Id,
    pub(super) work: Work<E>,
    /// Places of the nodes it waits for, all smaller than its own.
    after: Vec<usize>,
}

impl<E: Engine> Clone for Node<E> {
    fn clone(&self) -> Self {
        Node { id: self.id, work: self.work.clone(), after: self.after.clone() }
    }
}

/// The nodes of an instantiated graph.
pub(super) type Nodes<E> = Arc<Vec<Node<E>>>;

/// Work in an order in which it may run.
pub(super) struct Graph<E: Engine> {
    nodes: Vec<Node<E>>,
}

/// What other threads may do while a stream is captured; the numbers of `CUstreamCaptureMode`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Global = 0,
    ThreadLocal = 1,
    Relaxed = 2,
}

impl Mode {
    fn new(number: u32) -> Result<Self, Code> {
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed]
            .into_iter()
            .find(|m| *m as u32 == number)
            .ok_or(codes::INVALID_VALUE)
    }
}

thread_local! {
    /// How this thread minds the captures that go on.
    static MINDS: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// A capture that goes on.
pub(super) struct Capture<E: Engine> {
    mode: Mode,
    thread: ThreadId,
    /// The stream it began in.
    pub(super) origin: Id,
    nodes: Vec<Node<E>>,
    /// For each stream in it, the nodes that its next work waits for.
    ends: HashMap<Id, Vec<usize>>,
    /// A call that no capture can take spoilt it.
    spoilt: bool,
}

impl<E: Engine> World<E> {
    pub(crate) fn capture_begin(&mut self, stream: Id, mode: u32) -> Result<(), Code> {
        let id = self.stream(stream)?;
        let mode = Mode::new(mode)?;
        let stream = &self.streams[&id];
        if stream.is_legacy() {
            return self.fail(codes::STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot be captured");
        }
        if stream.capture.is_some() {
            return self.fail(codes::ILLEGAL_STATE, "the stream is captured already");
        }
        let capture = self.new_id();
        let ends = HashMap::from([(id, Vec::new())]);
        let thread = thread::current().id();
        self.captures.insert(capture, Capture { mode, thread, origin: id, nodes: Vec::new(), ends, spoilt: false });
        self.set_capture(id, Some(capture));
        Ok(())
    }

    fn set_capture(&mut self, stream: Id, capture: Option<Id>) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = capture;
        }
    }

    pub(crate) fn capture_end(&mut self, stream: Id) -> Result<Id, Code> {
        let id = self.stream(stream)?;
        let Some(capture) = self.streams[&id].capture else {
            return self.fail(codes::ILLEGAL_STATE, "the stream is not captured");
        };
        let found = self.captures.get(&capture).ok_or(codes::ILLEGAL_STATE)?;
        if found.origin != id {
            return Err(codes::STREAM_CAPTURE_UNMATCHED);
        }
        if found.mode != Mode::Relaxed && found.thread != thread::current().id() {
            return Err(codes::STREAM_CAPTURE_WRONG_THREAD);
        }
        let ended = self.forget_capture(capture).ok_or(codes::ILLEGAL_STATE)?;
        if ended.spoilt {
            return Err(codes::STREAM_CAPTURE_INVALIDATED);
        }
        let mut reached = vec![false; ended.nodes.len()];
        let mut open = ended.ends.get(&id).cloned().unwrap_or_default();
        while let Some(i) = open.pop() {
            if !std::mem::replace(&mut reached[i], true) {
                open.extend(&ended.nodes[i].after);
            }
        }
        if reached.contains(&false) {
            return Err(codes::STREAM_CAPTURE_UNJOINED);
        }
        let graph = self.new_id();
        self.graphs.insert(graph, Graph { nodes: ended.nodes });
        Ok(graph)
    }

    /// Lets go of all streams of a capture.
    fn forget_capture(&mut self, capture: Id) -> Option<Capture<E>> {
        let ended = self.captures.remove(&capture)?;
        for stream in ended.ends.keys() {
            self.set_capture(*stream, None);
        }
        Some(ended)
    }

    /// Drops the capture that a stream is in, when the stream goes.
    pub(super) fn end_capture_of(&mut self, stream: Id) {
        if let Some(capture) = self.streams.get(&stream).and_then(|stream| stream.capture) {
            self.forget_capture(capture);
        }
    }

    /// 0: not captured, 1: captured, 2: captured and spoilt.
    pub(crate) fn capture_status(&mut self, stream: Id) -> Result<u32, Code> {
        let id = self.stream(stream)?;
        let capture = self.streams[&id].capture.and_then(|capture| self.captures.get(&capture));
        Ok(capture.map_or(0, |capture| if capture.spoilt { 2 } else { 1 }))
    }

    /// Sets how this thread minds captures; the mode before.
    pub(crate) fn capture_exchange(&mut self, mode: u32) -> Result<u32, Code> {
        let mode = Mode::new(mode)?;
        Ok(MINDS.replace(mode) as u32)
    }

    /// Marks a capture as spoilt and returns the error.
    pub(super) fn spoil<T>(&mut self, capture: Id, code: Code) -> Result<T, Code> {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.spoilt = true;
        }
        Err(code)
    }

    fn spoil_all(&mut self, captures: Vec<Id>, code: Code) -> Result<(), Code> {
        let none = captures.is_empty();
        for capture in captures {
            let _ = self.spoil::<()>(capture, code);
        }
        if none { Ok(()) } else { Err(code) }
    }

    /// Refuses what may wait for work, such as an allocation, while a capture that forbids it goes on.
    pub(super) fn refuse_in_capture(&mut self) -> Result<(), Code> {
        let here = thread::current().id();
        let minds = MINDS.get();
        let forbids = |capture: &Capture<E>| match (minds, capture.mode) {
            (Mode::Relaxed, _) | (_, Mode::Relaxed) => false,
            (Mode::Global, Mode::Global) => true,
            _ => capture.thread == here,
        };
        let found = self.captures.iter().filter(|(_, capture)| forbids(capture)).map(|(id, _)| *id).collect();
        self.spoil_all(found, codes::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses to wait for a context in which a stream is captured.
    pub(super) fn refuse_capture_in(&mut self, context: Id) -> Result<(), Code> {
        let captured = self.streams.values().filter(|stream| stream.context == context);
        let found = captured.filter_map(|stream| stream.capture).collect();
        self.spoil_all(found, codes::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses to wait for a stream that is captured, or for the legacy one beside a blocking one that is.
    pub(super) fn refuse_captured(&mut self, stream: Id) -> Result<(), Code> {
        match self.streams[&stream].capture {
            Some(capture) => self.spoil(capture, codes::STREAM_CAPTURE_UNSUPPORTED),
            None => self.refuse_implicit(stream),
        }
    }

    /// Refuses work in the legacy stream while a blocking stream of its context is captured.
    pub(super) fn refuse_implicit(&mut self, stream: Id) -> Result<(), Code> {
        if !self.streams[&stream].is_legacy() {
            return Ok(());
        }
        let context = self.streams[&stream].context;
        let blocking = self.streams.values().filter(|other| other.context == context && other.is_blocking());
        let found = blocking.filter_map(|other| other.capture).collect();
        self.spoil_all(found, codes::STREAM_CAPTURE_IMPLICIT)
    }

    /// The nodes that the next work of a captured stream waits for.
    pub(super) fn frontier(&self, capture: Id, stream: Id) -> Result<Vec<usize>, Code> {
        let capture = self.captures.get(&capture).ok_or(codes::ILLEGAL_STATE)?;
        if capture.spoilt {
            return Err(codes::STREAM_CAPTURE_INVALIDATED);
        }
        Ok(capture.ends.get(&stream).cloned().unwrap_or_default())
    }

    /// Writes work of a captured stream down.
    pub(super) fn capture_work(&mut self, stream: Id, work: Work<E>) -> Result<(), Code> {
        let capture = self.streams[&stream].capture.ok_or(codes::ILLEGAL_STATE)?;
        let after = self.frontier(capture, stream)?;
        let id = self.new_id();
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.ends.insert(stream, vec![capture.nodes.len()]);
            capture.nodes.push(Node { id, work, after });
        }
        Ok(())
    }

    /// A stream waits for an event of a capture, and so is part of it from here on.
    pub(super) fn join_capture(&mut self, stream: Id, capture: Id, nodes: &[usize]) -> Result<(), Code> {
        if !self.captures.contains_key(&capture) {
            return self.fail(codes::CAPTURED_EVENT, "the event was recorded in a capture that has ended");
        }
        match self.streams[&stream].capture {
            Some(own) if own != capture => {
                let _ = self.spoil::<()>(own, codes::STREAM_CAPTURE_MERGE);
                return self.spoil(capture, codes::STREAM_CAPTURE_MERGE);
            }
            None if self.streams[&stream].is_legacy() => {
                return self.spoil(capture, codes::STREAM_CAPTURE_IMPLICIT);
            }
            _ => {}
        }
        let mut ends = self.frontier(capture, stream)?;
        ends.extend(nodes);
        ends.sort_unstable();
        ends.dedup();
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.ends.insert(stream, ends);
        }
        self.set_capture(stream, Some(capture));
        Ok(())
    }

    pub(crate) fn graph_create(&mut self, flags: u32) -> Result<Id, Code> {
        self.ready()?;
        if flags != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let id = self.new_id();
        self.graphs.insert(id, Graph { nodes: Vec::new() });
        Ok(id)
    }

    pub(crate) fn graph_destroy(&mut self, id: Id) -> Result<(), Code> {
        self.ready()?;
        self.graphs.remove(&id).map(drop).ok_or(codes::INVALID_HANDLE)
    }

    fn graph(&self, id: Id) -> Result<&Graph<E>, Code> {
        self.ready()?;
        self.graphs.get(&id).ok_or(codes::INVALID_HANDLE)
    }

    pub(crate) fn graph_add_launch(
        &mut self,
        graph: Id,
        after: &[Id],
        function: Id,
        geometry: Geometry,
        params: Vec<u8>,
    ) -> Result<Id, Code> {
        self.alive()?;
        let nodes = &self.graph(graph)?.nodes;
        let place = |id: &Id| nodes.iter().position(|node| node.id == *id).ok_or(codes::INVALID_VALUE);
        let after = after.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let work = self.launch_work(function, geometry, params)?;
        let id = self.new_id();
        let graph = self.graphs.get_mut(&graph).ok_or(codes::INVALID_HANDLE)?;
        graph.nodes.push(Node { id, work, after });
        Ok(id)
    }

    pub(crate) fn graph_nodes(&self, graph: Id) -> Result<Vec<Id>, Code> {
        Ok(self.graph(graph)?.nodes.iter().map(|node| node.id).collect())
    }

    /// Pairs of nodes of which the second waits for the first.
    pub(crate) fn graph_edges(&self, graph: Id) -> Result<Vec<(Id, Id)>, Code> {
        let nodes = &self.graph(graph)?.nodes;
        Ok(nodes.iter().flat_map(|node| node.after.iter().map(|i| (nodes[*i].id, node.id))).collect())
    }

    /// The kind of a node as a number of `CUgraphNodeType`.
    pub(crate) fn node_kind(&self, id: Id) -> Result<u32, Code> {
        self.ready()?;
        let node = self.graphs.values().flat_map(|graph| &graph.nodes).find(|node| node.id == id);
        Ok(match node.ok_or(codes::INVALID_VALUE)?.work {
            Work::Launch { .. } => 0,
            Work::ToDevice { .. } | Work::ToHost { .. } | Work::Copy { .. } => 1,
            Work::Fill { .. } => 2,
            Work::Host(_) => 3,
            Work::Graph(_) => 4,
            Work::Wait | Work::Record(_) | Work::Free(_) => 5,
        })
    }

    pub(crate) fn graph_instantiate(&mut self, graph: Id) -> Result<Id, Code> {
        let context = self.alive()?;
        let nodes = Arc::new(self.graph(graph)?.nodes.clone());
        let id = self.new_id();
        self.executables.insert(id, (context, nodes));
        Ok(id)
    }

    pub(crate) fn executable_destroy(&mut self, id: Id) -> Result<(), Code> {
        self.ready()?;
        self.executables.remove(&id).map(drop).ok_or(codes::INVALID_HANDLE)
    }

    pub(crate) fn executable_known(&mut self, id: Id) -> Result<(), Code> {
        self.alive()?;
        self.executables.get(&id).map(drop).ok_or(codes::INVALID_HANDLE)
    }

    pub(crate) fn graph_launch(&mut self, id: Id, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        let (_, nodes) = self.executables.get(&id).ok_or(codes::INVALID_HANDLE)?;
        let work = Work::Graph(nodes.clone());
        self.enqueue(stream, work).map(drop)
    }
}
