//! A virtual GPU: executes PTX on the CPU and checks what no card checks.
#![deny(unsafe_code)]

mod check;
mod counters;
mod decode;
mod exec;
mod inst;
mod launch;
mod memory;
mod module;
mod parse;
#[allow(unsafe_code)]
mod simd;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, RwLock};

pub use module::{Kernel, Module};

/// What the virtual card claims to be; kernels that ask for more are refused as the real one refuses them.
#[derive(Clone, Debug)]
pub struct Limits {
    pub name: String,
    /// Compute capability, as (8, 0) for sm_80; a module for a later target is refused.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    pub threads_per_block: u32,
    pub registers_per_block: u32,
    /// Bytes of shared memory a block gets without asking, and at most after `Kernel::set_dynamic_shared_limit`.
    pub shared_per_block: u32,
    pub shared_per_block_optin: u32,
    /// Bytes of global memory.
    pub memory: u64,
}

/// Which checks run and in which order blocks do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Off: only what is needed to execute safely (bounds, alignment); for timing the difference.
    pub checks: bool,
    /// Whether global memory is watched for races between blocks, and for writes to what `.nc` loads read.
    pub global_races: bool,
    /// Whether counters are kept.
    pub counters: bool,
    /// Shuffles the order of blocks and of warps.
    pub seed: u64,
    /// Warp instructions that a launch may execute, about: it is looked at where a warp branches back, waits or ends.
    /// More of them are a fault, so that an endless loop ends.
    pub max_instructions: Option<u64>,
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug)]
pub struct LaunchShape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

/// What went wrong, with all that is known of where: `Display` is the whole report.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub message: String,
}

/// The class of a fault; a driver front maps it to an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    OutOfBounds,
    UseAfterFree,
    Misaligned,
    Uninitialised,
    SharedRace,
    GlobalRace,
    /// Memory that a kernel reads with `.nc` and writes.
    NotConstant,
    Divergence,
    MissingWait,
    Deadlock,
    /// More instructions than `Options::max_instructions` allows.
    TooLong,
    LaunchLimits,
    OutOfMemory,
    Unsupported,
    Trap,
}

/// PTX that cannot be taken: file, line, and what is unknown or wrong there.
#[derive(Clone, Debug)]
pub struct ParseError {
    pub file: String,
    pub line: u32,
    pub message: String,
}

/// What a kernel did, summed over its launches.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub launches: u64,
    pub blocks: u64,
    pub warp_instructions: u64,
    /// Executed warp instructions by opcode with its modifiers, as written in the PTX.
    pub opcodes: BTreeMap<String, u64>,
    /// Bytes that lanes asked for, and 32-byte sectors that served them, per direction.
    pub global_read_bytes: u64,
    pub global_read_sectors: u64,
    pub global_write_bytes: u64,
    pub global_write_sectors: u64,
    /// Shared-memory requests, and the passes they took beyond the least possible.
    pub shared_requests: u64,
    pub bank_conflicts: u64,
    /// Multiply-adds of mma and of scalar fma, per lane.
    pub mma_macs: u64,
    pub fma_lanes: u64,
    /// By source line of the PTX: requests, passes beyond the least, sectors beyond the least.
    pub by_line: BTreeMap<u32, LineCounters>,
}

/// The memory behaviour of one PTX line.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineCounters {
    pub requests: u64,
    pub excess_passes: u64,
    pub excess_sectors: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

impl Limits {
    /// A card of this capability with 8 GB of memory and the shared memory that its generation has.
    pub fn of_capability(major: u32, minor: u32) -> Self {
        let optin = match (major, minor) {
            (7, _) => 64 << 10,
            (8, 0 | 7) => 163 << 10,
            (8, _) | (12, _) => 99 << 10,
            _ => 227 << 10,
        };
        Self {
            name: format!("virtual sm_{major}{minor}"),
            capability: (major, minor),
            multiprocessors: 16,
            threads_per_block: 1024,
            registers_per_block: 65536,
            shared_per_block: 48 << 10,
            shared_per_block_optin: optin,
            memory: 8 << 30,
        }
    }
}

impl Default for Options {
    /// All checks and counters, without the watch over races between blocks.
    fn default() -> Self {
        Self { checks: true, global_races: false, counters: true, seed: 0, max_instructions: None }
    }
}

/// The virtual card. All methods may be called from any thread; a launch returns when the grid is done.
pub struct Card {
    limits: Limits,
    options: Options,
    slots: Arc<RwLock<memory::slots::Slots>>,
    counters: Mutex<BTreeMap<String, Counters>>,
}

impl Card {
    /// A card with these limits.
    pub fn new(limits: Limits, options: Options) -> Self {
        let slots = Arc::new(RwLock::new(memory::slots::Slots::new(limits.memory)));
        Self { limits, options, slots, counters: Mutex::new(BTreeMap::new()) }
    }

    fn slots(&self) -> std::sync::RwLockReadGuard<'_, memory::slots::Slots> {
        self.slots.read().unwrap_or_else(|e| e.into_inner())
    }

    fn slots_mut(&self) -> std::sync::RwLockWriteGuard<'_, memory::slots::Slots> {
        self.slots.write().unwrap_or_else(|e| e.into_inner())
    }

    /// New memory in a slot of its own of 4 GiB of addresses, 256-byte aligned, uninitialised; the slot is never reused.
    pub fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        self.slots_mut().alloc(bytes)
    }

    /// Ends an allocation; `address` must be what `alloc` returned.
    pub fn free(&self, address: u64) -> Result<(), Fault> {
        self.slots_mut().free(address)
    }

    /// Host to device.
    pub fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.slots().write(to, bytes)
    }

    /// Device to host; reading what was never written is a fault.
    pub fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.slots().read(from, bytes, self.options.checks)
    }

    /// Device to device; what is uninitialised stays so.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        self.slots().copy(to, from, bytes)
    }

    /// Repeats `pattern` (1, 2 or 4 bytes) `count` times.
    pub fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        self.slots().fill(to, pattern, count)
    }

    /// The allocation that holds `address`: its base and its size.
    pub fn range(&self, address: u64) -> Option<(u64, u64)> {
        self.slots().range(address)
    }

    /// Bytes free and in all.
    pub fn memory_info(&self) -> (u64, u64) {
        self.slots().info()
    }

    /// What the card claims to be.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Parses and decodes; `name` is what messages call the file.
    pub fn load(&self, name: &str, ptx: &str) -> Result<Arc<Module>, ParseError> {
        let loaded = module::load(&self.limits, &self.slots, name, ptx);
        loaded.map(Arc::new).map_err(|bad| ParseError { file: name.to_string(), line: bad.line, message: bad.message })
    }

    /// Runs a grid to its end. `params` is the kernel's parameter block, laid out as the PTX declares it.
    pub fn launch(&self, kernel: &Kernel, shape: LaunchShape, params: &[u8]) -> Result<(), Fault> {
        launch::check(&self.limits, kernel, &shape, params.len())?;
        let mut done = Counters { launches: 1, ..Counters::default() };
        let result = launch::run(&self.limits, &self.options, &self.slots(), kernel, &shape, params, &mut done);
        if self.options.counters {
            let mut all = self.counters.lock().unwrap_or_else(|e| e.into_inner());
            all.entry(kernel.name().to_string()).or_default().add(&done);
        }
        result
    }

    /// Counters by kernel since the last reset.
    pub fn counters(&self) -> BTreeMap<String, Counters> {
        self.counters.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Forgets the counters.
    pub fn reset_counters(&self) {
        self.counters.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }
}

/// f16 bits of a number, to nearest even.
pub fn f16_from_f32(x: f32) -> u16 {
    exec::rounding::f16_bits(x)
}

/// The number that f16 bits stand for.
pub fn f32_from_f16(bits: u16) -> f32 {
    exec::rounding::f16_value(bits as u32)
}

impl Counters {
    /// Adds another launch's counts.
    fn add(&mut self, other: &Counters) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.warp_instructions += other.warp_instructions;
        for (opcode, n) in &other.opcodes {
            *self.opcodes.entry(opcode.clone()).or_default() += n;
        }
        self.global_read_bytes += other.global_read_bytes;
        self.global_read_sectors += other.global_read_sectors;
        self.global_write_bytes += other.global_write_bytes;
        self.global_write_sectors += other.global_write_sectors;
        self.shared_requests += other.shared_requests;
        self.bank_conflicts += other.bank_conflicts;
        self.mma_macs += other.mma_macs;
        self.fma_lanes += other.fma_lanes;
        for (line, counts) in &other.by_line {
            let sum = self.by_line.entry(*line).or_default();
            sum.requests += counts.requests;
            sum.excess_passes += counts.excess_passes;
            sum.excess_sectors += counts.excess_sectors;
        }
    }
}
