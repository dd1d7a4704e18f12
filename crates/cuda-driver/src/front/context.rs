//! Initialisation, the card itself, contexts and the stack of them that each thread has.
#![forbid(unsafe_code)]

use super::engine::Engine;
use super::stream::Stream;
use super::{Id, World};
use crate::codes::{self, Code};
use std::cell::{Cell, RefCell};

/// A context: what fails in it stays failed until it is destroyed.
pub(super) struct Context {
    pub(super) flags: u32,
    /// The stream that has no handle.
    pub(super) legacy: Id,
    /// The code and the report of the first fault in it.
    pub(super) fault: Option<(Code, String)>,
    /// An error of queued work that leaves the context usable; the next synchronise returns it.
    pub(super) late: Option<(Code, String)>,
    cache: u32,
    banks: u32,
    limits: [usize; LIMITS.len()],
}

/// What `cuCtxGetLimit` says at first: stack, printf buffer, heap, depth, pending launches, L2 granularity, L2 persisting.
const LIMITS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];

thread_local! {
    static STACK: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a host function that a stream runs.
pub(crate) fn in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

/// Runs a host function of a stream, in which calls of the driver are refused.
pub(super) fn run_host_function(body: impl FnOnce()) {
    IN_HOST_FUNCTION.set(true);
    body();
    IN_HOST_FUNCTION.set(false);
}

impl<E: Engine> World<E> {
    pub(crate) fn init(&mut self, flags: u32) -> Result<(), Code> {
        if flags != 0 {
            return Err(codes::INVALID_VALUE);
        }
        self.initialised = true;
        Ok(())
    }

    pub(super) fn ready(&self) -> Result<(), Code> {
        if self.initialised { Ok(()) } else { Err(codes::NOT_INITIALIZED) }
    }

    /// There is one card, number 0.
    pub(crate) fn check_device(&self, device: i32) -> Result<(), Code> {
        self.ready()?;
        if device == 0 { Ok(()) } else { Err(codes::INVALID_DEVICE) }
    }

    pub(crate) fn device_count(&self) -> Result<i32, Code> {
        self.ready().map(|()| 1)
    }

    fn new_context(&mut self, flags: u32) -> Id {
        let (id, legacy) = (self.new_id(), self.new_id());
        self.streams.insert(legacy, Stream::legacy(id));
        let context = Context { flags, legacy, fault: None, late: None, cache: 0, banks: 0, limits: LIMITS };
        self.contexts.insert(id, context);
        id
    }

    /// Ends everything in a context. Work that is queued does not run.
    fn clear_context(&mut self, id: Id) {
        self.pending.retain(|_, work| work.context != id);
        let addresses: Vec<u64> = self.memory.iter().filter(|(_, owner)| **owner == id).map(|(a, _)| *a).collect();
        for address in addresses {
            self.memory.remove(&address);
            // Nobody is left who could be told.
            let _ = self.engine.free(address);
        }
        self.pinned.retain(|_, memory| memory.context != id);
        self.modules.retain(|_, (owner, _)| *owner != id);
        self.functions.retain(|_, function| function.context != id);
        let streams = &mut self.streams;
        self.captures.retain(|_, capture| streams.get(&capture.origin).is_some_and(|stream| stream.context != id));
        streams.retain(|_, stream| stream.context != id);
        self.events.retain(|_, event| event.context != id);
        self.executables.retain(|_, (owner, _)| *owner != id);
    }

    pub(crate) fn context_create(&mut self, flags: u32, device: i32) -> Result<Id, Code> {
        self.check_device(device)?;
        let id = self.new_context(flags);
        STACK.with_borrow_mut(|stack| stack.push(id));
        Ok(id)
    }

    pub(crate) fn context_destroy(&mut self, id: Id) -> Result<(), Code> {
        self.ready()?;
        if self.primary == Some(id) || !self.contexts.contains_key(&id) {
            return Err(codes::INVALID_CONTEXT);
        }
        self.clear_context(id);
        self.contexts.remove(&id);
        STACK.with_borrow_mut(|stack| {
            if stack.last() == Some(&id) {
                stack.pop();
            }
        });
        Ok(())
    }

    pub(crate) fn primary_retain(&mut self, device: i32) -> Result<Id, Code> {
        self.check_device(device)?;
        self.retained += 1;
        if let Some(id) = self.primary {
            return Ok(id);
        }
        let id = self.new_context(self.primary_flags);
        self.primary = Some(id);
        Ok(id)
    }

    pub(crate) fn primary_release(&mut self, device: i32) -> Result<(), Code> {
        self.check_device(device)?;
        let Some(id) = self.primary else { return Err(codes::INVALID_CONTEXT) };
        self.retained -= 1;
        if self.retained == 0 {
            self.clear_context(id);
            self.contexts.remove(&id);
            self.primary = None;
        }
        Ok(())
    }

    /// Ends everything in the primary context, faults too. Its handle stays good for those who retain it.
    pub(crate) fn primary_reset(&mut self, device: i32) -> Result<(), Code> {
        self.check_device(device)?;
        if let Some(id) = self.primary {
            self.clear_context(id);
            let legacy = self.new_id();
            self.streams.insert(legacy, Stream::legacy(id));
            let context = self.context(id)?;
            (context.legacy, context.fault, context.late) = (legacy, None, None);
        }
        Ok(())
    }

    pub(crate) fn primary_set_flags(&mut self, device: i32, flags: u32) -> Result<(), Code> {
        self.check_device(device)?;
        self.primary_flags = flags;
        if let Some(id) = self.primary {
            self.context(id)?.flags = flags;
        }
        Ok(())
    }

    pub(crate) fn primary_state(&mut self, device: i32) -> Result<(u32, bool), Code> {
        self.check_device(device)?;
        Ok((self.primary_flags, self.primary.is_some()))
    }

    pub(super) fn context(&mut self, id: Id) -> Result<&mut Context, Code> {
        self.contexts.get_mut(&id).ok_or(codes::CONTEXT_IS_DESTROYED)
    }

    /// The context on top of this thread's stack, or 0.
    pub(crate) fn current_or_none(&self) -> Result<Id, Code> {
        self.ready()?;
        Ok(STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0)))
    }

    /// The current context, failed or not.
    pub(super) fn current(&self) -> Result<Id, Code> {
        match self.current_or_none()? {
            0 => Err(codes::INVALID_CONTEXT),
            id if self.contexts.contains_key(&id) => Ok(id),
            _ => Err(codes::CONTEXT_IS_DESTROYED),
        }
    }

    /// The current context, in which nothing has failed.
    pub(super) fn alive(&mut self) -> Result<Id, Code> {
        let id = self.current()?;
        self.healthy(id).map(|()| id)
    }

    /// The fault of a context again, for every call after it.
    pub(super) fn healthy(&mut self, id: Id) -> Result<(), Code> {
        match &self.context(id)?.fault {
            None => Ok(()),
            Some((code, text)) => {
                let (code, text) = (*code, text.clone());
                self.fail(code, text)
            }
        }
    }

    pub(crate) fn context_set_current(&mut self, id: Id) -> Result<(), Code> {
        self.known_context(id, true)?;
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            if id != 0 {
                stack.push(id);
            }
        });
        Ok(())
    }

    pub(crate) fn context_push(&mut self, id: Id) -> Result<(), Code> {
        self.known_context(id, false)?;
        STACK.with_borrow_mut(|stack| stack.push(id));
        Ok(())
    }

    pub(crate) fn context_pop(&mut self) -> Result<Id, Code> {
        self.ready()?;
        STACK.with_borrow_mut(Vec::pop).ok_or(codes::INVALID_CONTEXT)
    }

    fn known_context(&self, id: Id, or_none: bool) -> Result<(), Code> {
        self.ready()?;
        let known = self.contexts.contains_key(&id) || (or_none && id == 0);
        if known { Ok(()) } else { Err(codes::INVALID_CONTEXT) }
    }

    /// 0 asks for the current one.
    pub(crate) fn context_api_version(&self, id: Id) -> Result<u32, Code> {
        let id = if id == 0 { self.current()? } else { id };
        self.known_context(id, false).map(|()| 3020)
    }

    pub(crate) fn context_device(&mut self) -> Result<i32, Code> {
        self.current().map(|_| 0)
    }

    pub(crate) fn context_flags(&mut self) -> Result<u32, Code> {
        let id = self.current()?;
        Ok(self.context(id)?.flags)
    }

    fn limit(&mut self, limit: u32) -> Result<&mut usize, Code> {
        let id = self.alive()?;
        self.context(id)?.limits.get_mut(limit as usize).ok_or(codes::UNSUPPORTED_LIMIT)
    }

    pub(crate) fn context_limit(&mut self, limit: u32) -> Result<usize, Code> {
        self.limit(limit).copied()
    }

    pub(crate) fn context_set_limit(&mut self, limit: u32, value: usize) -> Result<(), Code> {
        *self.limit(limit)? = value;
        Ok(())
    }

    /// The preferred split between cache and shared memory; it is kept and means nothing here.
    pub(crate) fn context_cache(&mut self) -> Result<&mut u32, Code> {
        let id = self.alive()?;
        Ok(&mut self.context(id)?.cache)
    }

    /// The width of the banks of shared memory; it is kept and means nothing here.
    pub(crate) fn context_banks(&mut self) -> Result<&mut u32, Code> {
        let id = self.alive()?;
        Ok(&mut self.context(id)?.banks)
    }
}
