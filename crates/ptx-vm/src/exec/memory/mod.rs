//! Loads and stores of a warp in every space, with the checks that go with them.
#![forbid(unsafe_code)]

mod global;
mod local;
mod shared;

use super::Env;
use super::block::Block;
use super::lanes::{FULL, V64, bits};
use super::span::{Span, Spans, step_of};
use super::warp::Warp;
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::counters::{passes, passes_of_one, sectors, sectors_of_one};
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

/// The span that all lanes ask for together, and its space: what most accesses are, seen without a copy of the
/// addresses.
#[inline(always)]
fn one_span(warp: &Warp, base: Reg, access: &Access, mask: u32) -> Option<(Space, Span)> {
    if mask != FULL || base.is_none() {
        return None;
    }
    let bytes = access.width as u32 * access.count as u32;
    let (at, step) = if base.is_64() {
        let r = &warp.r64[base.index()];
        (r[0].wrapping_add(access.offset as i64 as u64), step_of(|lane| r[lane], bytes)?)
    } else {
        let r = &warp.r32[base.index()];
        (r[0].wrapping_add(access.offset as u32) as u64, step_of(|lane| r[lane] as u64, bytes)?)
    };
    let span = Span { lane: 0, lanes: 32, at, step, each: bytes };
    if access.space != Space::Generic {
        return Some((access.space, span));
    }
    let space = space_of(at);
    let last = at.wrapping_add(span.bytes());
    (space_of(last) == space).then(|| (space, Span { at: at.wrapping_sub(window(space)), ..span }))
}

/// A load, or with `WRITE` a store.
pub fn reach<const WRITE: bool>(
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
        || match one_span(warp, inst.s[0], access, mask) {
            Some((Space::Shared, span)) => {
                if env.counters {
                    block.tally.shared(warp.pc, passes_of_one(&span));
                }
                shared::reach::<WRITE>(env, block, warp, inst, access, span)
            }
            Some((Space::Global | Space::Const, span)) => {
                if env.counters {
                    block.tally.global(warp.pc, span.each * 32, sectors_of_one(&span), WRITE);
                }
                order(env, block, access);
                global::reach::<WRITE>(env, block, warp, inst, access, span)
            }
            _ => reach_apart::<WRITE>(path, env, block, warp, inst, access, mask),
        },
    )
}

/// An access that falls apart into spans, spaces or lanes.
#[inline(never)]
fn reach_apart<const WRITE: bool>(
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
                    Space::Shared => {
                        let spans = Spans::new(&at, mask, bytes);
                        if env.counters {
                            block.tally.shared(warp.pc, passes(spans));
                        }
                        for span in spans {
                            shared::reach::<WRITE>(env, block, warp, inst, access, span)?;
                        }
                    }
                    Space::Local if WRITE => local::store(env, warp, inst, access, &at, mask)?,
                    Space::Local => local::load(env, warp, inst, access, &at, mask)?,
                    Space::Param if WRITE => {
                        let what = "writes to the kernel's parameters".into();
                        return Err(Problem::new(FaultKind::OutOfBounds, super::first(mask), what));
                    }
                    Space::Param => local::load_param_at(env, warp, inst, access, &at, mask)?,
                    _ => {
                        let spans = Spans::new(&at, mask, bytes);
                        if env.counters && mask != 0 {
                            block.tally.global(warp.pc, bytes * mask.count_ones(), sectors(spans), WRITE);
                        }
                        order(env, block, access);
                        for span in spans {
                            global::reach::<WRITE>(env, block, warp, inst, access, span)?;
                        }
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
