//! The memories of the card: allocations in slots of addresses, shared memory with its shadow, local memory.
#![forbid(unsafe_code)]

pub mod global_shadow;
pub mod shadow;
pub mod shared;
pub mod slots;

use crate::parse::ast::Space;

/// Base of a space's window among generic addresses; global memory has none, its addresses are generic already.
pub fn window(space: Space) -> u64 {
    match space {
        Space::Shared => 1 << 32,
        Space::Local => 2 << 32,
        Space::Param => 3 << 32,
        _ => 0,
    }
}

/// The space whose window holds a generic address.
#[inline(always)]
pub fn space_of(address: u64) -> Space {
    match address >> 32 {
        1 => Space::Shared,
        2 => Space::Local,
        3 => Space::Param,
        _ => Space::Global,
    }
}
