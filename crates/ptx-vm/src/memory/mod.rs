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

/// Calls `each` with every 32-byte line of a range and the bytes of it; stops when it says so.
#[inline(always)]
pub fn for_lines(from: u64, bytes: u64, mut each: impl FnMut(usize, u32) -> bool) {
    let (mut at, end) = (from, from + bytes);
    while at < end {
        let stop = (at / 32 * 32 + 32).min(end);
        let mask = (((1u64 << (stop - at)) - 1) as u32) << (at % 32);
        if !each((at / 32) as usize, mask) {
            return;
        }
        at = stop;
    }
}
