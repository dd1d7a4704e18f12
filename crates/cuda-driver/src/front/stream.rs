//! Streams and events: work is queued with what it must wait for, and runs when somebody waits for it.
#![forbid(unsafe_code)]

use super::capture::Nodes;
use super::context::run_host_function;
use super::engine::Engine;
use super::host::HostFunction;
use super::launch::Geometry;
use super::memory::{Sink, Source};
use super::{Id, World};
use crate::codes::{self, Code};
use ptx_vm::{Fault, FaultKind};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// One thing that a stream does.
pub(super) enum Work<E: Engine> {
    Launch {
        kernel: Arc<E::Kernel>,
        geometry: Geometry,
        params: Vec<u8>,
    },
    ToDevice {
        to: u64,
        from: Source,
    },
    ToHost {
        to: Sink,
        from: u64,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: u64,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: u64,
    },
    Free(u64),
    Record(Id),
    Host(HostFunction),
    Graph(Nodes<E>),
    /// Nothing but a place in the order.
    Wait,
}

impl<E: Engine> Clone for Work<E> {
    fn clone(&self) -> Self {
        match self {
            Work::Launch { kernel, geometry, params } => {
                Work::Launch { kernel: kernel.clone(), geometry: *geometry, params: params.clone() }
            }
            Work::ToDevice { to, from } => Work::ToDevice { to: *to, from: from.clone() },
            Work::ToHost { to, from } => Work::ToHost { to: *to, from: *from },
            Work::Copy { to, from, bytes } => Work::Copy { to: *to, from: *from, bytes: *bytes },
            Work::Fill { to, pattern, count } => Work::Fill { to: *to, pattern: pattern.clone(), count: *count },
            Work::Free(address) => Work::Free(*address),
            Work::Record(event) => Work::Record(*event),
            Work::Host(function) => Work::Host(*function),
            Work::Graph(nodes) => Work::Graph(nodes.clone()),
            Work::Wait => Work::Wait,
        }
    }
}

/// Work in the queue.
pub(super) struct Pending<E: Engine> {
    pub(super) context: Id,
    /// Numbers of the work that must run before; what is no longer in the queue has run.
    after: Vec<u64>,
    work: Work<E>,
}

/// An order of work.
pub(super) struct Stream {
    pub(super) context: Id,
    /// Waits for all blocking streams of its context, and they for it.
    legacy: bool,
    blocking: bool,
    flags: u32,
    priority: i32,
    /// The last work put in.
    last: Option<u64>,
    /// The capture that takes the work in place of the queue.
    pub(super) capture: Option<Id>,
}

impl Stream {
    pub(super) fn legacy(context: Id) -> Self {
        Stream { context, legacy: true, blocking: true, flags: 0, priority: 0, last: None, capture: None }
    }

    pub(super) fn is_legacy(&self) -> bool {
        self.legacy
    }

    pub(super) fn is_blocking(&self) -> bool {
        self.blocking
    }
}

/// A mark in the order of a stream.
pub(super) struct Event {
    pub(super) context: Id,
    timing: bool,
    /// The number of its last record.
    record: Option<u64>,
    /// When that ran.
    done: Option<Instant>,
    /// Recorded in a capture: which, and the nodes it stands for.
    pub(super) captured: Option<(Id, Vec<usize>)>,
}

/// Bits of the flags of streams and of events.
const NON_BLOCKING: u32 = 1;
const DISABLE_TIMING: u32 = 2;

impl<E: Engine> World<E> {
    pub(crate) fn stream_create(&mut self, flags: u32, priority: i32) -> Result<Id, Code> {
        let context = self.alive()?;
        if flags & !NON_BLOCKING != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let id = self.new_id();
        let blocking = flags & NON_BLOCKING == 0;
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        self.streams
            .insert(id, Stream { context, legacy: false, blocking, flags, priority, last: None, capture: None });
        Ok(id)
    }

    /// The stream of a handle, whose context has not failed. 0 and 1 are the legacy stream of the current context.
    pub(super) fn stream(&mut self, handle: Id) -> Result<Id, Code> {
        self.ready()?;
        match handle {
            0 | 1 => {
                let context = self.alive()?;
                Ok(self.context(context)?.legacy)
            }
            2 => self.fail(codes::NOT_SUPPORTED, "the virtual GPU has no default stream of each thread"),
            id => {
                let context = self.streams.get(&id).ok_or(codes::INVALID_HANDLE)?.context;
                self.healthy(context).map(|()| id)
            }
        }
    }

    /// Flags and priority.
    pub(crate) fn stream_describe(&mut self, stream: Id) -> Result<(u32, i32), Code> {
        let id = self.stream(stream)?;
        let stream = &self.streams[&id];
        Ok((stream.flags, stream.priority))
    }

    /// The least and the greatest priority.
    pub(crate) fn stream_priorities(&mut self) -> Result<(i32, i32), Code> {
        self.alive().map(|_| PRIORITIES)
    }

    /// Ends a stream. Its work stays in the queue.
    pub(crate) fn stream_destroy(&mut self, id: Id) -> Result<(), Code> {
        self.ready()?;
        if self.streams.get(&id).is_none_or(Stream::is_legacy) {
            return Err(codes::INVALID_HANDLE);
        }
        self.end_capture_of(id);
        let stream = self.streams.remove(&id).ok_or(codes::INVALID_HANDLE)?;
        let unfinished = stream.last.filter(|last| self.pending.contains_key(last));
        if let (true, Some(last)) = (stream.blocking, unfinished) {
            // The legacy stream goes on waiting for it.
            let legacy = self.context(stream.context)?.legacy;
            self.put(legacy, Work::Wait, vec![last]);
        }
        Ok(())
    }

    /// Puts work at the end of a stream, or into the capture that the stream is in. The number that it has in the queue.
    pub(super) fn enqueue(&mut self, stream: Id, work: Work<E>) -> Result<Option<u64>, Code> {
        if self.streams[&stream].capture.is_some() {
            return self.capture_work(stream, work).map(|()| None);
        }
        self.refuse_implicit(stream)?;
        Ok(Some(self.put(stream, work, Vec::new())))
    }

    fn put(&mut self, id: Id, work: Work<E>, mut after: Vec<u64>) -> u64 {
        self.sequence += 1;
        let number = self.sequence;
        let stream = &self.streams[&id];
        let context = stream.context;
        after.extend(stream.last);
        after.extend(self.before(id));
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.last = Some(number);
        }
        self.pending.insert(number, Pending { context, after, work });
        number
    }

    /// The last work of the streams that this one waits for by its kind: the legacy one and the blocking ones wait for
    /// each other.
    fn before(&self, id: Id) -> Vec<u64> {
        let stream = &self.streams[&id];
        let others = self.streams.values().filter(|other| other.context == stream.context && other.blocking);
        let others = others.filter(|other| stream.legacy || (stream.blocking && other.legacy));
        others.filter_map(|other| other.last).collect()
    }

    pub(super) fn enqueue_and_wait(&mut self, stream: Id, work: Work<E>) -> Result<(), Code> {
        let context = self.streams[&stream].context;
        let number = self.enqueue(stream, work)?;
        self.run(number.into_iter().collect(), usize::MAX);
        self.settle(context)
    }

    /// What of `goals` and all before them has not run.
    fn needed(&self, goals: Vec<u64>) -> BTreeSet<u64> {
        let (mut needed, mut open) = (BTreeSet::new(), goals);
        while let Some(number) = open.pop() {
            if let Some(work) = self.pending.get(&number)
                && needed.insert(number)
            {
                open.extend(&work.after);
            }
        }
        needed
    }

    /// Runs `goals` and all before them, `most` pieces of work at most; faults stay with their contexts.
    fn run(&mut self, goals: Vec<u64>, most: usize) {
        for number in self.needed(goals).into_iter().take(most) {
            // A fault before this one may have emptied the queue.
            let Some(Pending { context, work, .. }) = self.pending.remove(&number) else { continue };
            if let Err(fault) = self.execute(number, &work) {
                self.blame(context, &fault);
            }
        }
    }

    fn execute(&mut self, number: u64, work: &Work<E>) -> Result<(), Fault> {
        match work {
            Work::Launch { kernel, geometry, params } => self.engine.launch(kernel, *geometry, params),
            Work::ToDevice { to, from: Source::Host(range) } => self.engine.write(*to, range.bytes()),
            Work::ToDevice { to, from: Source::Staged(bytes) } => self.engine.write(*to, bytes),
            Work::ToHost { to, from } => {
                let mut bytes = vec![0; to.len()];
                self.engine.read(*from, &mut bytes)?;
                to.set(&bytes);
                Ok(())
            }
            Work::Copy { to, from, bytes } => self.engine.copy(*to, *from, *bytes),
            Work::Fill { to, pattern, count } => self.engine.fill(*to, pattern, *count),
            Work::Free(address) => self.engine.free(*address),
            Work::Record(event) => {
                if let Some(event) = self.events.get_mut(event).filter(|event| event.record == Some(number)) {
                    event.done = Some(Instant::now());
                }
                Ok(())
            }
            Work::Host(function) => {
                run_host_function(|| function.call());
                Ok(())
            }
            Work::Graph(nodes) => nodes.iter().try_for_each(|node| self.execute(number, &node.work)),
            Work::Wait => Ok(()),
        }
    }

    /// Keeps a fault with its context. All but limits end what is queued there, and every later call.
    fn blame(&mut self, id: Id, fault: &Fault) {
        let code = match fault.kind {
            FaultKind::OutOfBounds | FaultKind::UseAfterFree => codes::ILLEGAL_ADDRESS,
            FaultKind::Misaligned => codes::MISALIGNED_ADDRESS,
            FaultKind::LaunchLimits => codes::LAUNCH_OUT_OF_RESOURCES,
            FaultKind::OutOfMemory => codes::OUT_OF_MEMORY,
            _ => codes::LAUNCH_FAILED,
        };
        let Ok(context) = self.context(id) else { return };
        if matches!(fault.kind, FaultKind::LaunchLimits | FaultKind::OutOfMemory) {
            context.late.get_or_insert((code, fault.to_string()));
        } else {
            context.fault.get_or_insert((code, fault.to_string()));
            self.pending.retain(|_, work| work.context != id);
        }
    }

    /// The outcome of what has run in a context: its fault, or an error that is told once.
    fn settle(&mut self, id: Id) -> Result<(), Code> {
        self.healthy(id)?;
        match self.context(id)?.late.take() {
            None => Ok(()),
            Some((code, text)) => self.fail(code, text),
        }
    }

    /// Runs all work of a context.
    pub(super) fn run_context(&mut self, id: Id) -> Result<(), Code> {
        let goals = self.pending.iter().filter(|(_, work)| work.context == id).map(|(number, _)| *number).collect();
        self.run(goals, usize::MAX);
        self.settle(id)
    }

    pub(crate) fn context_synchronize(&mut self) -> Result<(), Code> {
        let context = self.alive()?;
        self.refuse_capture_in(context)?;
        self.run_context(context)
    }

    /// The numbers that must have run before a stream is idle.
    fn stream_goals(&self, id: Id) -> Vec<u64> {
        let mut goals = if self.streams[&id].legacy { self.before(id) } else { Vec::new() };
        goals.extend(self.streams[&id].last);
        goals
    }

    pub(crate) fn stream_synchronize(&mut self, stream: Id) -> Result<(), Code> {
        let id = self.stream(stream)?;
        self.refuse_captured(id)?;
        self.run(self.stream_goals(id), usize::MAX);
        self.settle(self.streams[&id].context)
    }

    /// Whether a stream is idle. Asking moves the work on by one piece, so that a loop of questions ends.
    pub(crate) fn stream_query(&mut self, stream: Id) -> Result<(), Code> {
        let id = self.stream(stream)?;
        self.refuse_captured(id)?;
        let goals = self.stream_goals(id);
        let context = self.streams[&id].context;
        self.query(goals, context)
    }

    fn query(&mut self, goals: Vec<u64>, context: Id) -> Result<(), Code> {
        let busy = !self.needed(goals.clone()).is_empty();
        self.run(goals, 1);
        self.settle(context)?;
        if busy { Err(codes::NOT_READY) } else { Ok(()) }
    }

    pub(crate) fn host_function(&mut self, stream: Id, function: HostFunction) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        self.enqueue(stream, Work::Host(function)).map(drop)
    }

    pub(crate) fn event_create(&mut self, flags: u32) -> Result<Id, Code> {
        let context = self.alive()?;
        if flags & !7 != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let id = self.new_id();
        let timing = flags & DISABLE_TIMING == 0;
        self.events.insert(id, Event { context, timing, record: None, done: None, captured: None });
        Ok(id)
    }

    pub(crate) fn event_destroy(&mut self, id: Id) -> Result<(), Code> {
        self.ready()?;
        self.events.remove(&id).map(drop).ok_or(codes::INVALID_HANDLE)
    }

    pub(super) fn event(&mut self, id: Id) -> Result<&mut Event, Code> {
        let context = self.events.get(&id).ok_or(codes::INVALID_HANDLE)?.context;
        self.healthy(context)?;
        self.events.get_mut(&id).ok_or(codes::INVALID_HANDLE)
    }

    pub(crate) fn event_record(&mut self, id: Id, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        if self.event(id)?.context != self.streams[&stream].context {
            return self.fail(codes::INVALID_HANDLE, "the event and the stream are of different contexts");
        }
        if let Some(capture) = self.streams[&stream].capture {
            let nodes = self.frontier(capture, stream)?;
            let event = self.event(id)?;
            (event.captured, event.record, event.done) = (Some((capture, nodes)), None, None);
            return Ok(());
        }
        let number = self.enqueue(stream, Work::Record(id))?;
        let event = self.event(id)?;
        (event.captured, event.record, event.done) = (None, number, None);
        Ok(())
    }

    /// The number of the last record, if it has one; an error for a captured event, which nobody can wait for.
    fn event_goal(&mut self, id: Id) -> Result<(Vec<u64>, Id), Code> {
        let event = self.event(id)?;
        if event.captured.is_some() {
            return Err(codes::CAPTURED_EVENT);
        }
        Ok((event.record.into_iter().collect(), event.context))
    }

    pub(crate) fn event_synchronize(&mut self, id: Id) -> Result<(), Code> {
        let (goals, context) = self.event_goal(id)?;
        self.run(goals, usize::MAX);
        self.settle(context)
    }

    /// Whether what an event marks has run. Asking moves the work on by one piece.
    pub(crate) fn event_query(&mut self, id: Id) -> Result<(), Code> {
        let (goals, context) = self.event_goal(id)?;
        self.query(goals, context)
    }

    /// Milliseconds between two events.
    pub(crate) fn event_elapsed(&mut self, start: Id, end: Id) -> Result<f32, Code> {
        let mut times = [None; 2];
        for (time, id) in times.iter_mut().zip([start, end]) {
            let event = self.event(id)?;
            if !event.timing || event.record.is_none() {
                return self.fail(codes::INVALID_HANDLE, "an event was not recorded, or keeps no time");
            }
            *time = event.done;
        }
        let [Some(start), Some(end)] = times else { return Err(codes::NOT_READY) };
        let sign = if end >= start { 1.0 } else { -1.0 };
        Ok(sign * (end.max(start) - end.min(start)).as_secs_f32() * 1e3)
    }

    /// Lets the further work of a stream wait for an event.
    pub(crate) fn stream_wait(&mut self, stream: Id, id: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        let event = self.event(id)?;
        if let Some((capture, nodes)) = event.captured.clone() {
            return self.join_capture(stream, capture, &nodes);
        }
        let record = event.record;
        if let Some(capture) = self.streams[&stream].capture {
            return self.spoil(capture, codes::STREAM_CAPTURE_ISOLATION);
        }
        if let Some(number) = record.filter(|number| self.pending.contains_key(number)) {
            self.refuse_implicit(stream)?;
            self.put(stream, Work::Wait, vec![number]);
        }
        Ok(())
    }
}

/// The least and the greatest priority of streams, the greater being the smaller number.
const PRIORITIES: (i32, i32) = (0, -5);
