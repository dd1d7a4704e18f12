//! What a kernel is told and how it is launched, as plain data: the op folders fill it in, the driver's side reads it.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// The type of a kernel's argument: an address, a count, a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    U64,
    U32,
    F32,
}

impl Arg {
    /// The type as PTX writes it.
    pub fn ptx(self) -> &'static str {
        match self {
            Arg::U64 => "u64",
            Arg::U32 => "u32",
            Arg::F32 => "f32",
        }
    }

    /// Bytes in the parameter block, where it is aligned to as many.
    pub fn bytes(self) -> usize {
        match self {
            Arg::U64 => 8,
            Arg::U32 | Arg::F32 => 4,
        }
    }
}

/// A kernel: its name in the PTX, its arguments in their order, and the first chip (as 75) whose PTX has it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub name: &'static str,
    pub args: &'static [(&'static str, Arg)],
    pub since: u32,
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes.
    pub dynamic_shared: u32,
}

/// Shared memory that a block gets without an attribute set, in bytes.
pub const SHARED_UNASKED: u32 = 48 << 10;

/// The largest count that a kernel takes: what is added to it for rounding still fits a u32.
pub const LARGEST: usize = i32::MAX as usize;

impl LaunchShape {
    /// A row of blocks. An error of `op` when there are none, or more than a grid may have.
    pub fn row(op: &'static str, blocks: usize, threads: u32, dynamic_shared: u32) -> Result<Self> {
        if blocks == 0 || blocks > LARGEST {
            return Err(Error::shape(op, format!("{blocks} blocks are no grid; 1 to {LARGEST} are")));
        }
        Ok(LaunchShape { grid: [blocks as u32, 1, 1], block: [threads, 1, 1], dynamic_shared })
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

/// Counts as a kernel takes them. An error of `op` when one is beyond `LARGEST`.
pub fn counts<const N: usize>(op: &'static str, sizes: [usize; N]) -> Result<[u32; N]> {
    if let Some(size) = sizes.iter().find(|&&size| size > LARGEST) {
        return Err(Error::shape(op, format!("a size of {size}; kernels count to {LARGEST}")));
    }
    Ok(sizes.map(|size| size as u32))
}
