//! A virtual GPU: executes PTX on the CPU and checks what no card checks.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Whether global memory is watched for races between blocks.
    pub global_races: bool,
    /// Whether counters are kept.
    pub counters: bool,
    /// Shuffles the order of blocks and of warps.
    pub seed: u64,
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
    Divergence,
    MissingWait,
    Deadlock,
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

/// A loaded module.
pub struct Module;

/// A kernel of a module, with the attributes of `cuFuncGetAttribute`.
pub struct Kernel;

/// The virtual card. All methods may be called from any thread; a launch returns when the grid is done.
pub struct Card;

impl Card {
    /// A card with these limits.
    pub fn new(limits: Limits, options: Options) -> Self {
        let _ = (limits, options);
        todo!()
    }

    /// New memory in a slot of its own of 4 GiB of addresses, 256-byte aligned, uninitialised; the slot is never reused.
    pub fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        let _ = bytes;
        todo!()
    }

    /// Ends an allocation; `address` must be what `alloc` returned.
    pub fn free(&self, address: u64) -> Result<(), Fault> {
        let _ = address;
        todo!()
    }

    /// Host to device.
    pub fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        let _ = (to, bytes);
        todo!()
    }

    /// Device to host; reading what was never written is a fault.
    pub fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let _ = (from, bytes);
        todo!()
    }

    /// Device to device; what is uninitialised stays so.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        let _ = (to, from, bytes);
        todo!()
    }

    /// Repeats `pattern` (1, 2 or 4 bytes) `count` times.
    pub fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        let _ = (to, pattern, count);
        todo!()
    }

    /// The allocation that holds `address`: its base and its size.
    pub fn range(&self, address: u64) -> Option<(u64, u64)> {
        let _ = address;
        todo!()
    }

    /// Bytes free and in all.
    pub fn memory_info(&self) -> (u64, u64) {
        todo!()
    }

    /// Parses and decodes; `name` is what messages call the file.
    pub fn load(&self, name: &str, ptx: &str) -> Result<Arc<Module>, ParseError> {
        let _ = (name, ptx);
        todo!()
    }

    /// Runs a grid to its end. `params` is the kernel's parameter block, laid out as the PTX declares it.
    pub fn launch(&self, kernel: &Kernel, shape: LaunchShape, params: &[u8]) -> Result<(), Fault> {
        let _ = (kernel, shape, params);
        todo!()
    }

    /// Counters by kernel since the last reset.
    pub fn counters(&self) -> BTreeMap<String, Counters> {
        todo!()
    }

    /// Forgets the counters.
    pub fn reset_counters(&self) {
        todo!()
    }
}

impl Module {
    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        let _ = name;
        todo!()
    }

    /// Names of all kernels.
    pub fn kernels(&self) -> Vec<String> {
        todo!()
    }

    /// Address and size of a module-scope variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        let _ = name;
        todo!()
    }
}

impl Kernel {
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Offset and size in bytes of each parameter.
    pub fn params(&self) -> &[(u32, u32)] {
        todo!()
    }

    /// Bytes of the parameter block.
    pub fn param_bytes(&self) -> u32 {
        todo!()
    }

    /// Registers a thread takes: from the file's `// resources` header, else estimated.
    pub fn registers(&self) -> u32 {
        todo!()
    }

    /// Bytes of static shared memory and of local memory.
    pub fn static_shared(&self) -> u32 {
        todo!()
    }

    pub fn local_bytes(&self) -> u32 {
        todo!()
    }

    /// Threads a block may have: from `.maxntid`, else the card's limit.
    pub fn threads_per_block(&self) -> u32 {
        todo!()
    }

    /// As `cuFuncSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)`.
    pub fn set_dynamic_shared_limit(&self, bytes: u32) -> Result<(), Fault> {
        let _ = bytes;
        todo!()
    }
}
