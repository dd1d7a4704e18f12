//! Loads and stores of a warp in every space, with the checks that go with them.
#![forbid(unsafe_code)]

mod global;
mod local;
mod shared;

use super::Env;
use super::block::Block;
use super::lanes::{V64, bits};
use super::span::Spans;
use super::warp::Warp;
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::inst::{Access, Fill, Inst, Reg};
use crate::memory::{space_of, window};
use crate::parse::ast::Space;
use crate::simd::Path;

pub use global::{locate, watch};
pub use local::load_param;
pub use shared::{shared_at, shared_unwritten};

/// Every lane's address.
#[inline(always)]
pub fn addresses(warp: &Warp, base: Reg, offset: i32) -> V64 {
    if base.is_none() {
        [offset as u32 as u64; 32]
    } else if base.is_64() {
        let r = &warp.r64[base.index()];
        std::array::from_fn(|i| r[i].wrapping_add(offset as i64 as u64))
    } else {
        let r = &warp.r32[base.index()];
        std::array::from_fn(|i| r[i].wrapping_add(offset as u32) as u64)
    }
}

/// The lanes of `left` whose generic addresses lie in the space of the first, that space, and their addresses in it.
#[inline(always)]
pub fn in_one_space(space: Space, addresses: &V64, left: u32) -> (Space, V64, u32) {
    if space != Space::Generic {
        return (space, *addresses, left);
    }
    let found = space_of(addresses[super::first(left)]);
    let part = bits(|lane| space_of(addresses[lane]) == found) & left;
    (found, std::array::from_fn(|lane| addresses[lane].wrapping_sub(window(found))), part)
}

#[cold]
fn misaligned(lane: usize, doing: &str, bytes: u32, at: String) -> Box<Problem> {
    Problem::new(FaultKind::Misaligned, lane, format!("{doing} {bytes} bytes at {at}: not a multiple of {bytes}"))
}

#[inline(always)]
fn fill(value: u64, width: u8, fill: Fill) -> u64 {
    if fill == Fill::Zero || width == 8 {
        return value;
    }
    let shift = 64 - 8 * width as u32;
    (((value << shift) as i64) >> shift) as u64
}

#[inline(always)]
pub fn put(warp: &mut Warp, d: Reg, lane: usize, value: u64) {
    if d.is_none() {
    } else if d.is_64() {
        warp.r64[d.index()][lane] = value;
    } else {
        warp.r32[d.index()][lane] = value as u32;
    }
}

/// Whether elements are whole 32-bit registers, which move without further thought.
#[inline(always)]
fn is_words(access: &Access, reg: Reg) -> bool {
    access.width == 4 && !reg.is_64()
}

pub fn load(
    path: impl Path,
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    mask: u32,
) -> Checked {
    path.run(
        #[inline(always)]
        || {
            let addresses = addresses(warp, inst.s[0], access.offset);
            let bytes = access.width as u32 * access.count as u32;
            let mut left = mask;
            while left != 0 {
                let (space, at, mask) = in_one_space(access.space, &addresses, left);
                match space {
                    Space::Shared => shared::load(env, block, warp, inst, access, Spans::new(&at, mask, bytes))?,
                    Space::Local => local::load(env, warp, inst, access, &at, mask)?,
                    Space::Param => local::load_param_at(env, warp, inst, access, &at, mask)?,
                    _ => {
                        order(env, block, access);
                        global::load(env, block, warp, inst, access, Spans::new(&at, mask, bytes))?;
                    }
                }
                left &= !mask;
            }
            Ok(())
        },
    )
}

/// An acquiring or releasing access counts as an atomic for the order of blocks.
fn order(env: &Env, block: &mut Block, access: &Access) {
    if let (Some(shadow), true) = (&env.global_shadow, access.ordering) {
        block.view.fenced = true;
        shadow.atomic(block.index, &mut block.view);
    }
}

/// The value that a store takes from a lane's register.
#[inline(always)]
fn value_of(warp: &Warp, reg: Reg, lane: usize) -> u64 {
    if reg.is_64() { warp.r64[reg.index()][lane] } else { warp.r32[reg.index()][lane] as u64 }
}

/// The registers of the elements of a store: sources beyond four lie apart.
#[inline(always)]
fn stored(inst: &Inst) -> [Reg; 4] {
    let last = inst.more.as_ref().map_or(Reg::NONE, |m| m[0]);
    [inst.s[1], inst.s[2], inst.s[3], last]
}

pub fn store(
    path: impl Path,
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    mask: u32,
) -> Checked {
    path.run(
        #[inline(always)]
        || {
            let addresses = addresses(warp, inst.s[0], access.offset);
            let bytes = access.width as u32 * access.count as u32;
            let mut left = mask;
            while left != 0 {
                let (space, at, mask) = in_one_space(access.space, &addresses, left);
                match space {
                    Space::Shared => shared::store(env, block, warp, inst, access, Spans::new(&at, mask, bytes))?,
                    Space::Local => local::store(env, warp, inst, access, &at, mask)?,
                    Space::Param => {
                        let what = "writes to the kernel's parameters".into();
                        return Err(Problem::new(FaultKind::OutOfBounds, super::first(mask), what));
                    }
                    _ => {
                        order(env, block, access);
                        global::store(env, block, warp, inst, access, Spans::new(&at, mask, bytes))?;
                    }
                }
                left &= !mask;
            }
            Ok(())
        },
    )
}
