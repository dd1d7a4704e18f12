//! Device memory, pinned host memory, copies and fills.
#![forbid(unsafe_code)]

use super::engine::Engine;
use super::host::{HostRange, Pinned};
use super::stream::Work;
use super::{Id, World};
use crate::codes::{self, Code};
use ptx_vm::{Fault, FaultKind};

/// Where a copy to the card takes its bytes from.
#[derive(Clone)]
pub(crate) enum Source {
    /// The caller's memory, read when the copy runs.
    Host(HostRange),
    /// A copy made at the call: so the driver does with memory that is not pinned.
    Staged(Vec<u8>),
}

/// Where a copy from the card puts its bytes.
pub(crate) type Sink = HostRange;

impl<E: Engine> World<E> {
    pub(crate) fn alloc(&mut self, bytes: usize) -> Result<u64, Code> {
        let context = self.alive()?;
        self.refuse_in_capture()?;
        self.alloc_in(context, bytes)
    }

    fn alloc_in(&mut self, context: Id, bytes: usize) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(codes::INVALID_VALUE);
        }
        match self.engine.alloc(bytes as u64) {
            Ok(address) => {
                self.memory.insert(address, context);
                Ok(address)
            }
            Err(fault) => self.refused(&fault),
        }
    }

    /// The code of a fault that does not spoil the context.
    fn refused<T>(&mut self, fault: &Fault) -> Result<T, Code> {
        let code = if fault.kind == FaultKind::OutOfMemory { codes::OUT_OF_MEMORY } else { codes::INVALID_VALUE };
        self.fail(code, fault.to_string())
    }

    /// Waits for all work of the context, as drivers do, then frees.
    pub(crate) fn free(&mut self, address: u64) -> Result<(), Code> {
        let context = self.alive()?;
        self.refuse_in_capture()?;
        if self.memory.get(&address) != Some(&context) {
            return self.fail(codes::INVALID_VALUE, format!("free: no allocation begins at {address:#x}"));
        }
        self.run_context(context)?;
        self.memory.remove(&address);
        self.engine.free(address).or_else(|fault| self.refused(&fault))
    }

    /// Memory in the order of a stream. It is there at once, which no program can tell.
    pub(crate) fn alloc_async(&mut self, bytes: usize, stream: Id) -> Result<u64, Code> {
        let stream = self.stream(stream)?;
        if self.streams[&stream].capture.is_some() {
            return Err(codes::NOT_SUPPORTED);
        }
        let context = self.streams[&stream].context;
        self.alloc_in(context, bytes)
    }

    pub(crate) fn free_async(&mut self, address: u64, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        if self.streams[&stream].capture.is_some() {
            return Err(codes::NOT_SUPPORTED);
        }
        if self.memory.remove(&address).is_none() {
            return self.fail(codes::INVALID_VALUE, format!("free: no allocation begins at {address:#x}"));
        }
        self.enqueue(stream, Work::Free(address)).map(drop)
    }

    pub(crate) fn memory_info(&mut self) -> Result<(u64, u64), Code> {
        self.alive()?;
        Ok(self.engine.memory_info())
    }

    pub(crate) fn total_memory(&self, device: i32) -> Result<u64, Code> {
        self.check_device(device).map(|()| self.limits.memory)
    }

    /// Base and size of the allocation that holds `address`.
    pub(crate) fn address_range(&mut self, address: u64) -> Result<(u64, u64), Code> {
        self.alive()?;
        match self.engine.range(address) {
            Some(range) => Ok(range),
            None => self.fail(codes::INVALID_VALUE, format!("{address:#x} is in no allocation")),
        }
    }

    /// Whether `bytes` at `address` lie within one allocation; drivers refuse other copies at the call.
    fn check_range(&mut self, address: u64, bytes: u64) -> Result<(), Code> {
        let (base, size) = self.address_range(address)?;
        if bytes <= size - (address - base) {
            return Ok(());
        }
        let text = format!("{bytes} bytes at {address:#x} leave the allocation of {size} bytes at {base:#x}");
        self.fail(codes::INVALID_VALUE, text)
    }

    pub(crate) fn host_alloc(&mut self, bytes: usize) -> Result<usize, Code> {
        let context = self.alive()?;
        if bytes == 0 {
            return Err(codes::INVALID_VALUE);
        }
        let (address, memory) = Pinned::allocate(context, bytes).ok_or(codes::OUT_OF_MEMORY)?;
        self.pinned.insert(address, memory);
        Ok(address)
    }

    /// Waits for all work of the context, so that no copy comes too late.
    pub(crate) fn host_free(&mut self, address: usize) -> Result<(), Code> {
        let context = self.current()?;
        if self.pinned.get(&address).is_none_or(Pinned::is_registered) {
            return Err(codes::INVALID_VALUE);
        }
        let ran = self.run_context(context);
        self.pinned.remove(&address);
        ran
    }

    pub(crate) fn host_register(&mut self, address: usize, bytes: usize) -> Result<(), Code> {
        let context = self.alive()?;
        if bytes == 0 || address.checked_add(bytes).is_none() {
            return Err(codes::INVALID_VALUE);
        }
        let before = self.pinned.range(..address + bytes).next_back();
        if before.is_some_and(|(start, memory)| start + memory.len > address) {
            return Err(codes::HOST_MEMORY_ALREADY_REGISTERED);
        }
        self.pinned.insert(address, Pinned::registered(context, bytes));
        Ok(())
    }

    /// Waits for all work of the context, so that no copy comes too late.
    pub(crate) fn host_unregister(&mut self, address: usize) -> Result<(), Code> {
        let context = self.current()?;
        if !self.pinned.get(&address).is_some_and(Pinned::is_registered) {
            return Err(codes::HOST_MEMORY_NOT_REGISTERED);
        }
        let ran = self.run_context(context);
        self.pinned.remove(&address);
        ran
    }

    fn is_pinned(&self, range: &HostRange) -> bool {
        let below = self.pinned.range(..=range.address()).next_back();
        below.is_some_and(|(start, memory)| range.address() + range.len() <= start + memory.len)
    }

    /// Host to device: waits for the work before it in streams that wait for the legacy one.
    pub(crate) fn copy_to_device(&mut self, to: u64, from: HostRange) -> Result<(), Code> {
        let stream = self.stream(0)?;
        self.refuse_in_capture()?;
        if from.len() > 0 {
            self.check_range(to, from.len() as u64)?;
            self.enqueue_and_wait(stream, Work::ToDevice { to, from: Source::Host(from) })?;
        }
        Ok(())
    }

    /// Device to host, likewise.
    pub(crate) fn copy_to_host(&mut self, to: Sink, from: u64) -> Result<(), Code> {
        let stream = self.stream(0)?;
        self.refuse_in_capture()?;
        if to.len() > 0 {
            self.check_range(from, to.len() as u64)?;
            self.enqueue_and_wait(stream, Work::ToHost { to, from })?;
        }
        Ok(())
    }

    /// Host to device in the order of a stream. Pinned memory is read late, other memory now.
    pub(crate) fn copy_to_device_async(&mut self, to: u64, from: HostRange, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        if from.len() == 0 {
            return Ok(());
        }
        self.check_range(to, from.len() as u64)?;
        let late = self.is_pinned(&from) || self.streams[&stream].capture.is_some();
        let from = if late { Source::Host(from) } else { Source::Staged(from.bytes().to_vec()) };
        self.enqueue(stream, Work::ToDevice { to, from }).map(drop)
    }

    /// Device to host in the order of a stream. Pinned memory is written late, other memory before this returns.
    pub(crate) fn copy_to_host_async(&mut self, to: Sink, from: u64, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        if to.len() == 0 {
            return Ok(());
        }
        self.check_range(from, to.len() as u64)?;
        let late = self.is_pinned(&to) || self.streams[&stream].capture.is_some();
        let work = Work::ToHost { to, from };
        if late { self.enqueue(stream, work).map(drop) } else { self.enqueue_and_wait(stream, work) }
    }

    /// Device to device in the order of a stream; stream 0 is the legacy one, and even then nobody waits.
    pub(crate) fn copy(&mut self, to: u64, from: u64, bytes: usize, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let bytes = bytes as u64;
        self.check_range(to, bytes)?;
        self.check_range(from, bytes)?;
        self.enqueue(stream, Work::Copy { to, from, bytes }).map(drop)
    }

    /// Repeats a pattern of 1, 2 or 4 bytes in the order of a stream.
    pub(crate) fn fill(&mut self, to: u64, pattern: &[u8], count: usize, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        if count == 0 {
            return Ok(());
        }
        let width = pattern.len() as u64;
        let Some(bytes) = (count as u64).checked_mul(width) else { return Err(codes::INVALID_VALUE) };
        if !to.is_multiple_of(width) {
            return self.fail(codes::INVALID_VALUE, format!("fill: {to:#x} is not aligned to {width} bytes"));
        }
        self.check_range(to, bytes)?;
        self.enqueue(stream, Work::Fill { to, pattern: pattern.to_vec(), count: count as u64 }).map(drop)
    }
}
