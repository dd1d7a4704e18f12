//! The order of work in streams, events and graphs, on a card that does as little as shows it.

use super::engine::{Describe, Engine};
use super::host::{HostFunction, HostRange};
use super::{Geometry, Id, World};
use crate::codes::{self, Code};
use ptx_vm::{Counters, Fault, FaultKind, LaunchShape, Limits, ParseError};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Memory without checks; kernels that add a number to a word, or fail.
#[derive(Default)]
struct Toy {
    memory: RefCell<HashMap<u64, Vec<u8>>>,
    slots: Cell<u64>,
}

struct ToyKernel(String);

fn fault(kind: FaultKind) -> Fault {
    Fault { kind, message: "as planned".into() }
}

impl Describe for ToyKernel {
    fn name(&self) -> &str {
        &self.0
    }
    fn params(&self) -> &[(u32, u32)] {
        &[(0, 8), (8, 4)]
    }
    fn param_bytes(&self) -> u32 {
        12
    }
    fn registers(&self) -> u32 {
        if self.0 == "greedy" { 255 } else { 32 }
    }
    fn static_shared(&self) -> u32 {
        1024
    }
    fn local_bytes(&self) -> u32 {
        0
    }
    fn threads_per_block(&self) -> u32 {
        512
    }
    fn set_dynamic_shared_limit(&self, _: u32) -> Result<(), Fault> {
        Ok(())
    }
}

impl Toy {
    fn at<R>(&self, address: u64, bytes: u64, body: impl FnOnce(&mut [u8]) -> R) -> Result<R, Fault> {
        let mut memory = self.memory.borrow_mut();
        let slot = memory.get_mut(&(address >> 32)).ok_or_else(|| fault(FaultKind::UseAfterFree))?;
        let start = (address & 0xffff_ffff) as usize;
        let place = slot.get_mut(start..start + bytes as usize).ok_or_else(|| fault(FaultKind::OutOfBounds))?;
        Ok(body(place))
    }
}

impl Engine for Toy {
    type Module = ();
    type Kernel = ToyKernel;

    fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        if bytes > 1 << 20 {
            return Err(fault(FaultKind::OutOfMemory));
        }
        self.slots.set(self.slots.get() + 1);
        self.memory.borrow_mut().insert(self.slots.get(), vec![0; bytes as usize]);
        Ok(self.slots.get() << 32)
    }
    fn free(&self, address: u64) -> Result<(), Fault> {
        self.memory.borrow_mut().remove(&(address >> 32)).map(drop).ok_or_else(|| fault(FaultKind::UseAfterFree))
    }
    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.at(to, bytes.len() as u64, |place| place.copy_from_slice(bytes))
    }
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.at(from, bytes.len() as u64, |place| bytes.copy_from_slice(place))
    }
    fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        let copied = self.at(from, bytes, |place| place.to_vec())?;
        self.write(to, &copied)
    }
    fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        self.write(to, &pattern.repeat(count as usize))
    }
    fn range(&self, address: u64) -> Option<(u64, u64)> {
        let memory = self.memory.borrow();
        let slot = memory.get(&(address >> 32))?;
        Some((address >> 32 << 32, slot.len() as u64))
    }
    fn memory_info(&self) -> (u64, u64) {
        (1 << 20, 1 << 20)
    }
    fn load(&self, name: &str, ptx: &str) -> Result<Arc<()>, ParseError> {
        if ptx.contains("bad") {
            return Err(ParseError { file: name.into(), line: 3, message: "what is bad".into() });
        }
        Ok(Arc::new(()))
    }
    fn kernel((): &(), name: &str) -> Option<Arc<ToyKernel>> {
        (name != "nobody").then(|| Arc::new(ToyKernel(name.into())))
    }
    fn global((): &(), _: &str) -> Option<(u64, u64)> {
        None
    }
    fn launch(&self, kernel: &ToyKernel, _: LaunchShape, params: &[u8]) -> Result<(), Fault> {
        let address = u64::from_le_bytes(params[..8].try_into().unwrap());
        let value = u32::from_le_bytes(params[8..].try_into().unwrap());
        match kernel.0.as_str() {
            "stray" => Err(fault(FaultKind::OutOfBounds)),
            "limits" => Err(fault(FaultKind::LaunchLimits)),
            // Not commutative, so that the order shows.
            _ => self.at(address, 4, |word| {
                let old = u32::from_le_bytes((&*word).try_into().unwrap());
                word.copy_from_slice(&(old * 10 + value).to_le_bytes());
            }),
        }
    }
    fn counters(&self) -> BTreeMap<String, Counters> {
        BTreeMap::new()
    }
    fn reset_counters(&self) {}
}

/// A world with a context, a module, and one word of memory.
struct Bench {
    world: World<Toy>,
    context: Id,
    append: Id,
    word: u64,
}

fn bench() -> Bench {
    let limits = crate::VirtualCard::sm_80().limits;
    bench_of(limits)
}

fn bench_of(limits: Limits) -> Bench {
    let mut world = World::new(Toy::default(), limits);
    assert_eq!(world.context_create(0, 0), Err(codes::NOT_INITIALIZED));
    world.init(0).unwrap();
    let context = world.context_create(0, 0).unwrap();
    let module = world.load(b".version 7.8").map_err(|refused| refused.code).unwrap();
    let append = world.function(module, "append").unwrap();
    let word = world.alloc(4).unwrap();
    Bench { world, context, append, word }
}

const ONE: Geometry = Geometry { grid: [1; 3], block: [1; 3], dynamic_shared: 0 };

impl Bench {
    fn params(&self, value: u32) -> Vec<u8> {
        [&self.word.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    /// Queues a launch that appends a digit to the word.
    fn push(&mut self, digit: u32, stream: Id) -> Result<(), Code> {
        let params = self.params(digit);
        self.world.launch(self.append, ONE, params, stream)
    }

    /// The word as the card has it now, whatever is queued.
    fn now(&self) -> u32 {
        self.world.engine.at(self.word, 4, |word| u32::from_le_bytes((&*word).try_into().unwrap())).unwrap()
    }

    fn stream(&mut self, flags: u32) -> Id {
        self.world.stream_create(flags, 0).unwrap()
    }

    fn function(&mut self, name: &str) -> Id {
        let module = self.world.load(b"x").map_err(|refused| refused.code).unwrap();
        self.world.function(module, name).unwrap()
    }
}

#[test]
fn work_waits_until_somebody_waits_for_it() {
    let mut bench = bench();
    let (a, b) = (bench.stream(1), bench.stream(1));
    bench.push(1, a).unwrap();
    bench.push(2, b).unwrap();
    bench.push(3, a).unwrap();
    assert_eq!(bench.now(), 0);
    bench.world.stream_synchronize(a).unwrap();
    assert_eq!(bench.now(), 13);
    bench.world.context_synchronize().unwrap();
    assert_eq!(bench.now(), 132);
    // A question moves the work on by one piece.
    bench.push(4, a).unwrap();
    bench.push(5, a).unwrap();
    assert_eq!(bench.world.stream_query(a), Err(codes::NOT_READY));
    assert_eq!(bench.now(), 1324);
    assert_eq!(bench.world.stream_query(a), Err(codes::NOT_READY));
    assert_eq!(bench.world.stream_query(a), Ok(()));
    assert_eq!(bench.now(), 13245);
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    let mut bench = bench();
    let (free, blocking, other) = (bench.stream(1), bench.stream(0), bench.stream(0));
    bench.push(1, blocking).unwrap();
    bench.push(2, 0).unwrap();
    bench.push(9, free).unwrap();
    bench.push(3, other).unwrap();
    bench.world.stream_synchronize(other).unwrap();
    assert_eq!(bench.now(), 123);
    // A synchronous copy is in the legacy stream: it sees the blocking ones and not the other.
    bench.push(4, blocking).unwrap();
    let mut seen = 0_u32;
    // SAFETY: the range outlives the copies of this test.
    let place = unsafe { HostRange::new((&raw mut seen).cast(), 4) };
    bench.world.copy_to_host(place, bench.word).unwrap();
    assert_eq!(seen, 1234);
    // What a stream had queued is done even when it is destroyed.
    bench.push(5, blocking).unwrap();
    bench.world.stream_destroy(blocking).unwrap();
    bench.world.stream_synchronize(0).unwrap();
    assert_eq!(bench.now(), 12345);
    bench.world.context_synchronize().unwrap();
    assert_eq!(bench.now(), 123459);
    assert_eq!(bench.push(1, blocking), Err(codes::INVALID_HANDLE));
}

#[test]
fn events_order_streams_and_tell_time() {
    let mut bench = bench();
    let (a, b) = (bench.stream(1), bench.stream(1));
    let (start, end) = (bench.world.event_create(0).unwrap(), bench.world.event_create(0).unwrap());
    let silent = bench.world.event_create(2).unwrap();
    assert_eq!(bench.world.event_elapsed(start, end), Err(codes::INVALID_HANDLE));
    bench.world.event_record(start, b).unwrap();
    bench.push(1, b).unwrap();
    bench.world.event_record(end, b).unwrap();
    bench.world.event_record(silent, b).unwrap();
    bench.push(7, b).unwrap();
    bench.world.stream_wait(a, end).unwrap();
    bench.push(2, a).unwrap();
    assert_eq!(bench.world.event_elapsed(start, end), Err(codes::NOT_READY));
    assert_eq!(bench.world.event_query(start), Err(codes::NOT_READY));
    assert_eq!(bench.world.event_query(start), Ok(()));
    bench.world.stream_synchronize(a).unwrap();
    assert_eq!(bench.now(), 12);
    assert!(bench.world.event_elapsed(start, end).unwrap() >= 0.0);
    assert_eq!(bench.world.event_elapsed(start, silent), Err(codes::INVALID_HANDLE));
    bench.world.event_destroy(end).unwrap();
    assert_eq!(bench.world.event_query(end), Err(codes::INVALID_HANDLE));
    bench.world.event_synchronize(silent).unwrap();
    assert_eq!(bench.now(), 12);
    bench.world.stream_synchronize(b).unwrap();
    assert_eq!(bench.now(), 127);
}

#[test]
fn captured_work_runs_when_its_graph_is_launched() {
    let mut bench = bench();
    let (a, b, other) = (bench.stream(1), bench.stream(1), bench.stream(1));
    let event = bench.world.event_create(0).unwrap();
    bench.world.capture_begin(a, 1).unwrap();
    assert_eq!(bench.world.capture_status(a), Ok(1));
    bench.push(1, a).unwrap();
    bench.world.event_record(event, a).unwrap();
    bench.world.stream_wait(b, event).unwrap();
    bench.push(2, b).unwrap();
    bench.world.event_record(event, b).unwrap();
    bench.world.stream_wait(a, event).unwrap();
    bench.push(3, a).unwrap();
    bench.push(8, other).unwrap();
    assert_eq!(bench.world.event_query(event), Err(codes::CAPTURED_EVENT));
    let graph = bench.world.capture_end(a).unwrap();
    assert_eq!((bench.world.capture_status(a), bench.world.capture_status(b)), (Ok(0), Ok(0)));
    let nodes = bench.world.graph_nodes(graph).unwrap();
    assert_eq!(nodes.len(), 3);
    let edges = bench.world.graph_edges(graph).unwrap();
    assert_eq!(edges, [(nodes[0], nodes[1]), (nodes[0], nodes[2]), (nodes[1], nodes[2])]);
    let executable = bench.world.graph_instantiate(graph).unwrap();
    bench.world.graph_destroy(graph).unwrap();
    bench.world.graph_launch(executable, a).unwrap();
    bench.push(5, a).unwrap();
    bench.world.graph_launch(executable, a).unwrap();
    assert_eq!(bench.now(), 0);
    bench.world.stream_synchronize(a).unwrap();
    assert_eq!(bench.now(), 1_235_123);
    bench.world.executable_destroy(executable).unwrap();
    assert_eq!(bench.world.graph_launch(executable, a), Err(codes::INVALID_HANDLE));
}

#[test]
fn what_no_capture_can_take_spoils_it() {
    let mut bench = bench();
    let (a, b, blocking) = (bench.stream(1), bench.stream(1), bench.stream(0));
    let event = bench.world.event_create(0).unwrap();
    assert_eq!(bench.world.capture_begin(0, 0), Err(codes::STREAM_CAPTURE_UNSUPPORTED));
    assert_eq!(bench.world.capture_end(a), Err(codes::ILLEGAL_STATE));
    // Waiting for it.
    bench.world.capture_begin(a, 2).unwrap();
    assert_eq!(bench.world.stream_synchronize(a), Err(codes::STREAM_CAPTURE_UNSUPPORTED));
    assert_eq!(bench.push(1, a), Err(codes::STREAM_CAPTURE_INVALIDATED));
    assert_eq!(bench.world.capture_status(a), Ok(2));
    assert_eq!(bench.world.capture_end(a), Err(codes::STREAM_CAPTURE_INVALIDATED));
    // Allocating, unless the capture is a relaxed one.
    bench.world.capture_begin(a, 0).unwrap();
    assert_eq!(bench.world.alloc(4), Err(codes::STREAM_CAPTURE_UNSUPPORTED));
    assert_eq!(bench.world.capture_end(a), Err(codes::STREAM_CAPTURE_INVALIDATED));
    bench.world.capture_begin(a, 2).unwrap();
    assert!(bench.world.alloc(4).is_ok());
    // A dependency on work outside.
    bench.push(1, b).unwrap();
    bench.world.event_record(event, b).unwrap();
    assert_eq!(bench.world.stream_wait(a, event), Err(codes::STREAM_CAPTURE_ISOLATION));
    assert_eq!(bench.world.capture_end(a), Err(codes::STREAM_CAPTURE_INVALIDATED));
    // A fork that does not come back.
    bench.world.capture_begin(a, 1).unwrap();
    bench.world.event_record(event, a).unwrap();
    bench.world.stream_wait(b, event).unwrap();
    bench.push(1, b).unwrap();
    assert_eq!(bench.world.capture_end(b), Err(codes::STREAM_CAPTURE_UNMATCHED));
    assert_eq!(bench.world.capture_end(a), Err(codes::STREAM_CAPTURE_UNJOINED));
    // The legacy stream beside a blocking one.
    bench.world.capture_begin(blocking, 2).unwrap();
    assert_eq!(bench.push(1, 0), Err(codes::STREAM_CAPTURE_IMPLICIT));
    assert_eq!(bench.world.capture_end(blocking), Err(codes::STREAM_CAPTURE_INVALIDATED));
    // Two captures in one.
    bench.world.capture_begin(a, 1).unwrap();
    bench.world.capture_begin(b, 1).unwrap();
    bench.world.event_record(event, a).unwrap();
    assert_eq!(bench.world.stream_wait(b, event), Err(codes::STREAM_CAPTURE_MERGE));
}

#[test]
fn graphs_are_also_built_by_hand() {
    let mut bench = bench();
    let stream = bench.stream(1);
    let graph = bench.world.graph_create(0).unwrap();
    let (params, append) = (bench.params(6), bench.append);
    let first = bench.world.graph_add_launch(graph, &[], append, ONE, params).unwrap();
    let params = bench.params(7);
    bench.world.graph_add_launch(graph, &[first], append, ONE, params.clone()).unwrap();
    assert_eq!(bench.world.graph_add_launch(graph, &[3], append, ONE, params), Err(codes::INVALID_VALUE));
    assert_eq!(bench.world.node_kind(first), Ok(0));
    let executable = bench.world.graph_instantiate(graph).unwrap();
    bench.world.graph_launch(executable, stream).unwrap();
    bench.world.stream_synchronize(stream).unwrap();
    assert_eq!(bench.now(), 67);
}

#[test]
fn a_fault_stays_with_its_context() {
    let mut bench = bench();
    let stream = bench.stream(1);
    let stray = bench.function("stray");
    let params = bench.params(0);
    bench.world.launch(stray, ONE, params, stream).unwrap();
    bench.push(1, stream).unwrap();
    assert_eq!(bench.world.stream_synchronize(stream), Err(codes::ILLEGAL_ADDRESS));
    assert!(bench.world.take_note().unwrap().contains("as planned"));
    assert_eq!(bench.now(), 0, "nothing runs after a fault");
    assert_eq!(bench.world.alloc(4), Err(codes::ILLEGAL_ADDRESS));
    assert_eq!(bench.push(1, stream), Err(codes::ILLEGAL_ADDRESS));
    assert_eq!(bench.world.context_synchronize(), Err(codes::ILLEGAL_ADDRESS));
    // Another context is not touched by it, and the failed one can be destroyed.
    let other = bench.world.context_create(0, 0).unwrap();
    let address = bench.world.alloc(4).unwrap();
    bench.world.fill(address, &[1], 4, 0).unwrap();
    bench.world.context_synchronize().unwrap();
    assert_eq!(bench.world.context_pop(), Ok(other));
    bench.world.context_destroy(bench.context).unwrap();
    assert_eq!(bench.world.alloc(4), Err(codes::INVALID_CONTEXT));
    bench.world.context_push(other).unwrap();
    assert!(bench.world.alloc(4).is_ok());
}

#[test]
fn a_launch_too_large_is_told_once() {
    let mut bench = bench();
    let (limits, greedy) = (bench.function("limits"), bench.function("greedy"));
    let params = bench.params(0);
    bench.world.launch(limits, ONE, params.clone(), 0).unwrap();
    assert_eq!(bench.world.context_synchronize(), Err(codes::LAUNCH_OUT_OF_RESOURCES));
    assert_eq!(bench.world.context_synchronize(), Ok(()));
    let mut launch = |function, grid, block, dynamic_shared| {
        bench.world.launch(function, Geometry { grid, block, dynamic_shared }, params.clone(), 0)
    };
    let (one, append) = ([1; 3], bench.append);
    assert_eq!(launch(append, [0, 1, 1], one, 0), Err(codes::INVALID_VALUE));
    assert_eq!(launch(append, [1, 70_000, 1], one, 0), Err(codes::INVALID_VALUE));
    assert_eq!(launch(append, one, [513, 1, 1], 0), Err(codes::INVALID_VALUE));
    assert_eq!(launch(append, one, one, 48 * 1024 - 1023), Err(codes::INVALID_VALUE));
    assert_eq!(launch(greedy, one, [512, 1, 1], 0), Err(codes::LAUNCH_OUT_OF_RESOURCES));
    assert_eq!(launch(append, one, [512, 1, 1], 47 * 1024), Ok(()));
    // More shared memory after asking for it.
    assert_eq!(bench.world.function_set_attribute(append, 8, 200_000), Err(codes::INVALID_VALUE));
    bench.world.function_set_attribute(append, 8, 64 << 10).unwrap();
    assert_eq!(bench.world.function_attribute(append, 8), Ok(64 << 10));
    let geometry = Geometry { dynamic_shared: 64 << 10, ..ONE };
    bench.world.launch(append, geometry, params, 0).unwrap();
    // 32 registers: 2048 threads; 65 KiB and one of the system: two blocks of 164 KiB.
    assert_eq!(bench.world.active_blocks(append, 256, 0), Ok(8));
    assert_eq!(bench.world.active_blocks(append, 256, 64 << 10), Ok(2));
    assert_eq!(bench.world.active_blocks(append, 1024, 0), Ok(0));
    assert_eq!(bench.world.best_block(append, |_| 0, 0), Ok((4 * 108, 512)));
}

#[test]
fn pinned_memory_is_used_late_and_other_memory_at_the_call() {
    let mut bench = bench();
    let stream = bench.stream(1);
    let mut host = [5_u32];
    // SAFETY: the range outlives the copies of this test.
    let range = unsafe { HostRange::new((&raw mut host).cast(), 4) };
    bench.world.copy_to_device_async(bench.word, range, stream).unwrap();
    host[0] = 6;
    bench.world.stream_synchronize(stream).unwrap();
    assert_eq!(bench.now(), 5);
    // Host memory that is not pinned is filled before the call returns.
    bench.push(1, stream).unwrap();
    bench.world.copy_to_host_async(range, bench.word, stream).unwrap();
    assert_eq!(host[0], 51);
    let pinned = bench.world.host_alloc(4).unwrap();
    // SAFETY: the range outlives the copies of this test.
    let place = unsafe { HostRange::new(pinned as *const c_void, 4) };
    place.set(&7_u32.to_le_bytes());
    bench.world.copy_to_device_async(bench.word, place, stream).unwrap();
    place.set(&8_u32.to_le_bytes());
    bench.push(9, stream).unwrap();
    bench.world.copy_to_host_async(place, bench.word, stream).unwrap();
    assert_eq!(place.bytes(), 8_u32.to_le_bytes());
    bench.world.stream_synchronize(stream).unwrap();
    assert_eq!(place.bytes(), 89_u32.to_le_bytes());
    bench.world.host_free(pinned).unwrap();
    assert_eq!(bench.world.host_free(pinned), Err(codes::INVALID_VALUE));
    bench.world.host_register(range.address(), 4).unwrap();
    assert_eq!(bench.world.host_register(range.address() + 2, 4), Err(codes::HOST_MEMORY_ALREADY_REGISTERED));
    bench.world.host_unregister(range.address()).unwrap();
    assert_eq!(bench.world.host_unregister(range.address()), Err(codes::HOST_MEMORY_NOT_REGISTERED));
}

#[test]
fn copies_that_leave_an_allocation_are_refused() {
    let mut bench = bench();
    let host = [0_u8; 8];
    // SAFETY: the range outlives the copies of this test.
    let range = unsafe { HostRange::new(host.as_ptr().cast(), 8) };
    assert_eq!(bench.world.copy_to_device(bench.word, range), Err(codes::INVALID_VALUE));
    assert!(bench.world.take_note().unwrap().contains("leave the allocation"));
    assert_eq!(bench.world.fill(bench.word, &[0; 4], 2, 0), Err(codes::INVALID_VALUE));
    assert_eq!(bench.world.fill(bench.word + 1, &[0; 2], 1, 0), Err(codes::INVALID_VALUE));
    assert_eq!(bench.world.copy(bench.word, bench.word + (1 << 40), 4, 0), Err(codes::INVALID_VALUE));
    assert_eq!(bench.world.alloc(0), Err(codes::INVALID_VALUE));
    assert_eq!(bench.world.alloc(2 << 20), Err(codes::OUT_OF_MEMORY));
    bench.push(1, 0).unwrap();
    bench.world.free(bench.word).unwrap();
    assert_eq!(bench.world.free(bench.word), Err(codes::INVALID_VALUE));
    bench.world.context_synchronize().unwrap();
}

#[test]
fn contexts_are_a_stack_of_each_thread() {
    let mut bench = bench();
    let first = bench.context;
    let primary = bench.world.primary_retain(0).unwrap();
    assert_eq!(bench.world.primary_retain(0), Ok(primary));
    assert_eq!(bench.world.primary_retain(1), Err(codes::INVALID_DEVICE));
    bench.world.context_push(primary).unwrap();
    let address = bench.world.alloc(4).unwrap();
    assert_eq!(bench.world.context_pop(), Ok(primary));
    assert_eq!(bench.world.free(address), Err(codes::INVALID_VALUE), "it belongs to the other context");
    bench.world.primary_release(0).unwrap();
    bench.world.context_set_current(primary).unwrap();
    assert_eq!(bench.world.context_set_current(first), Ok(()));
    bench.world.primary_release(0).unwrap();
    assert_eq!(bench.world.context_push(primary), Err(codes::INVALID_CONTEXT));
    assert!(bench.world.engine.range(address).is_none(), "its memory went with it");
    bench.world.context_set_current(0).unwrap();
    assert_eq!(bench.world.alloc(4), Err(codes::INVALID_CONTEXT));
}

#[test]
fn host_functions_run_in_their_turn_and_may_not_call() {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn look(data: *mut c_void) {
        SEEN.store(data as usize as u32, Ordering::Relaxed);
        assert!(super::in_host_function());
    }
    let mut bench = bench();
    let stream = bench.stream(1);
    // SAFETY: the function takes any data.
    let function = unsafe { HostFunction::new(look, std::ptr::without_provenance_mut(77)) };
    bench.world.host_function(stream, function).unwrap();
    assert_eq!(SEEN.load(Ordering::Relaxed), 0);
    bench.world.stream_synchronize(stream).unwrap();
    assert_eq!(SEEN.load(Ordering::Relaxed), 77);
    assert!(!super::in_host_function());
}

#[test]
fn bad_ptx_comes_back_with_its_line() {
    let mut bench = bench();
    let refused = bench.world.load(b".file 1 \"ptx/gelu.cu\"\nbad").err().unwrap();
    assert_eq!((refused.code, refused.log.as_str()), (codes::INVALID_PTX, "gelu.ptx:3: what is bad"));
    assert_eq!(bench.world.load(b"\x7fELF").err().unwrap().code, codes::NO_BINARY_FOR_GPU);
    let module = bench.world.load(b"x").map_err(|refused| refused.code).unwrap();
    assert_eq!(bench.world.function(module, "nobody"), Err(codes::NOT_FOUND));
    let function = bench.world.function(module, "append").unwrap();
    assert_eq!(bench.world.function(module, "append"), Ok(function));
    bench.world.unload(module).unwrap();
    assert_eq!(bench.world.function_known(function), Err(codes::INVALID_HANDLE));
}
