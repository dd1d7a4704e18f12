//! Launches as data: the arguments of an entry, the values for them, the geometry.
#![forbid(unsafe_code)]

use super::{Element, Slice};
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::fmt;

/// Shared memory that a block gets without an attribute set, in bytes.
pub const SHARED_UNASKED: u32 = 48 << 10;

/// The largest count that a kernel takes: what is added to it for rounding still fits a u32.
pub const LARGEST: usize = i32::MAX as usize;

/// The type of a kernel's parameter. Pointers are u64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U64,
    U32,
    F32,
}

impl Kind {
    /// The type as PTX writes it.
    pub fn ptx(self) -> &'static str {
        match self {
            Kind::U64 => "u64",
            Kind::U32 => "u32",
            Kind::F32 => "f32",
        }
    }
}

/// An entry of a PTX file: its name, its parameters in order (their names are for messages), and the first chip (as 75)
/// whose PTX has it.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    pub args: &'static [(&'static str, Kind)],
    pub since: u32,
}

/// A 16-bit type that the matrix units multiply; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    F16,
    /// From sm_80 on.
    Bf16,
}

impl Half {
    /// As the names of entries end.
    pub fn name(self) -> &'static str {
        Store::from(self).name()
    }
}

/// A type that kernels store; the arithmetic is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    F32,
    F16,
    /// From sm_80 on.
    Bf16,
}

impl Store {
    /// As the names of entries end.
    pub fn name(self) -> &'static str {
        match self {
            Store::F32 => "f32",
            Store::F16 => "f16",
            Store::Bf16 => "bf16",
        }
    }

    /// The type for the matrix units, which take no f32.
    pub fn half(self) -> Option<Half> {
        match self {
            Store::F32 => None,
            Store::F16 => Some(Half::F16),
            Store::Bf16 => Some(Half::Bf16),
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        if self == Store::F32 { 4 } else { 2 }
    }
}

impl From<Half> for Store {
    fn from(half: Half) -> Self {
        match half {
            Half::F16 => Store::F16,
            Half::Bf16 => Store::Bf16,
        }
    }
}

/// An error of `op` unless each buffer has its length: (name, elements, elements wanted).
pub fn lengths(op: &'static str, buffers: &[(&str, usize, usize)]) -> Result<()> {
    match buffers.iter().find(|(_, len, wanted)| len != wanted) {
        None => Ok(()),
        Some((name, len, wanted)) => Err(Error::shape(op, format!("{name} has {len} elements, not {wanted}"))),
    }
}

/// Counts as a kernel takes them. An error of `op` when one is beyond `LARGEST`.
pub fn counts<const N: usize>(op: &'static str, sizes: [usize; N]) -> Result<[u32; N]> {
    if let Some(size) = sizes.iter().find(|&&size| size > LARGEST) {
        return Err(Error::shape(op, format!("a size of {size}; kernels count to {LARGEST}")));
    }
    Ok(sizes.map(|size| size as u32))
}

/// A value for a parameter: made with `into` from a slice, a u32 or an f32.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// The address of a buffer, and the bytes that it has there.
    Pointer(u64, usize),
    U32(u32),
    F32(f32),
}

/// Grid and block in x, y, z, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

impl Geometry {
    /// A row of blocks with `shared` bytes of dynamic shared memory. An error of `op` when there are none, or more than
    /// a grid may have.
    pub fn row(op: &'static str, blocks: usize, threads: u32, shared: u32) -> Result<Self> {
        if blocks == 0 || blocks > LARGEST {
            return Err(Error::shape(op, format!("{blocks} blocks are no grid; 1 to {LARGEST} are")));
        }
        Ok(Geometry { grid: [blocks as u32, 1, 1], block: [threads, 1, 1], shared })
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ([gx, gy, gz], [bx, by, bz]) = (self.grid, self.block);
        write!(f, "grid {gx}x{gy}x{gz} block {bx}x{by}x{bz} shared {}", self.shared)
    }
}

impl Arg {
    /// No buffer, where a kernel's contract allows that.
    pub const NULL: Arg = Arg::Pointer(0, 0);

    fn kind(&self) -> Kind {
        match self {
            Arg::Pointer(..) => Kind::U64,
            Arg::U32(_) => Kind::U32,
            Arg::F32(_) => Kind::F32,
        }
    }

    /// Where the value stands, as a launch wants it.
    pub(super) fn pointer(&self) -> *mut c_void {
        match self {
            Arg::Pointer(address, _) => (&raw const *address).cast_mut().cast(),
            Arg::U32(value) => (&raw const *value).cast_mut().cast(),
            Arg::F32(value) => (&raw const *value).cast_mut().cast(),
        }
    }
}

impl<T: Element> From<Slice<'_, T>> for Arg {
    fn from(slice: Slice<T>) -> Self {
        Arg::Pointer(slice.address(), slice.bytes())
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Arg::U32(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Arg::F32(value)
    }
}

impl Entry {
    /// The entry of that name in an op's table. Panics when there is none: names are written in the code.
    pub fn named(entries: &'static [Entry], name: &str) -> &'static Entry {
        entries.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
    }

    /// Whether `args` are values for the parameters.
    pub(super) fn check(&self, args: &[Arg]) -> Result<()> {
        if args.len() != self.args.len() {
            let reason = format!("{} arguments for {} parameters", args.len(), self.args.len());
            return Err(Error::gpu(self.name, reason));
        }
        let uneven = |(arg, _): &(&Arg, _)| matches!(arg, Arg::Pointer(address, _) if !address.is_multiple_of(16));
        if let Some((_, (name, _))) = args.iter().zip(self.args).find(uneven) {
            return Err(Error::gpu(self.name, format!("{name} is not aligned to 16 bytes")));
        }
        match args.iter().zip(self.args).find(|(arg, (_, kind))| arg.kind() != *kind) {
            None => Ok(()),
            Some((arg, (name, kind))) => Err(Error::gpu(self.name, format!("{arg:?} for {name}, which is {kind:?}"))),
        }
    }
}
