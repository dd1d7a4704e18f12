//! `ldmatrix`, `stmatrix` and `movmatrix`: 8×8 tiles of 16-bit elements, a row of 16 bytes from each of eight lanes.
#![forbid(unsafe_code)]

use super::Env;
use super::block::Block;
use super::lanes::V64;
use super::memory::{addresses, shared_at, shared_unwritten};
use super::span::Spans;
use super::warp::Warp;
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::counters::passes;
use crate::inst::{Access, Inst, Reg};
use crate::memory::shadow::{By, Touch};
use crate::memory::window;
use crate::parse::ast::Space;
use crate::simd::Path;

/// Shared offsets of the rows; generic addresses must lie in the shared window.
#[inline(always)]
fn rows(warp: &Warp, base: Reg, access: &Access, used: u32) -> Checked<V64> {
    let mut at = addresses(warp, base, access.offset);
    if access.space == Space::Generic {
        for lane in super::each(used) {
            if at[lane] >> 32 != window(Space::Shared) >> 32 {
                let what = format!("a matrix row at {:#x}, which is not shared memory", at[lane]);
                return Err(Problem::new(FaultKind::OutOfBounds, lane, what));
            }
            at[lane] -= window(Space::Shared);
        }
    }
    Ok(at)
}

/// Where the rows lie that the lanes name, their request counted.
fn counted_rows(
    path: impl Path,
    env: &Env,
    block: &mut Block,
    warp: &Warp,
    base: Reg,
    count: u8,
    access: &Access,
) -> Checked<V64> {
    let used = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
    if used & !warp.lanes != 0 {
        return Err(Problem::warp(FaultKind::Divergence, "the warp has too few threads to name the rows".into()));
    }
    path.run(
        #[inline(always)]
        || {
            let at = rows(warp, base, access, used)?;
            if env.counters {
                block.tally.shared(warp.pc, passes(Spans::new(&at, used, 16)));
            }
            Ok(at)
        },
    )
}

pub fn load(
    path: impl Path,
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    (count, transposed): (u8, bool),
    access: &Access,
) -> Checked {
    let at = counted_rows(path, env, block, warp, inst.s[0], count, access)?;
    path.run(
        #[inline(always)]
        || load_rows(env, block, warp, inst, count, transposed, &at),
    )
}

/// The rows of a tile where nothing is wrong with any, their reads noted: one decision for all of them.
#[inline(always)]
fn settled(env: &Env, block: &mut Block, at: [u64; 8], lane: u32, by: By) -> Option<[u32; 8]> {
    let size = block.shared.size as u64;
    let misplaced = at.iter().fold(false, |bad, at| bad | (*at & 15 != 0) | (*at >= size));
    // With a size that is no multiple of 16 the last row may be cut short.
    if misplaced || !size.is_multiple_of(16) {
        return None;
    }
    let rows = at.map(|at| at as u32);
    if env.checks {
        let missing = rows.iter().fold(false, |missing, at| missing | !block.shared.is_written(*at, 16));
        if missing || !block.shadow.read_rows(&rows, by, lane) {
            return None;
        }
    }
    Some(rows)
}

#[inline(always)]
fn load_rows(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    count: u8,
    transposed: bool,
    at: &V64,
) -> Checked {
    let by = By { pc: warp.pc, warp: warp.id, touch: Touch::Plain };
    for i in 0..count as usize {
        let mut tile = [[0u32; 4]; 8];
        let rows = std::array::from_fn(|r| at[8 * i + r]);
        if let Some(rows) = settled(env, block, rows, 8 * i as u32, by) {
            for (row, offset) in tile.iter_mut().zip(rows) {
                *row = block.shared.row(offset);
            }
        } else {
            for (r, row) in tile.iter_mut().enumerate() {
                let lane = 8 * i + r;
                let offset = shared_at(block, at[lane], 16, lane, "reads")?;
                if env.checks {
                    // The row is read for all lanes, by whoever; the lane that names it answers for it.
                    if let Some(earlier) = block.shadow.read(offset, 16, by, lane as u32) {
                        return Err(Problem::race(earlier, lane, offset, 16, "reads"));
                    }
                    if !block.shared.is_written(offset, 16) {
                        return Err(shared_unwritten(offset, 16, lane));
                    }
                }
                *row = block.shared.row(offset);
            }
        }
        if inst.d[i].is_none() {
            continue;
        }
        let d = &mut warp.r32[inst.d[i].index()];
        if transposed {
            scatter_transposed(&tile, d);
        } else {
            for (lane, d) in d.iter_mut().enumerate() {
                *d = tile[lane / 4][lane % 4];
            }
        }
    }
    Ok(())
}

/// Lane l gets elements (2(l mod 4), l / 4) and (2(l mod 4) + 1, l / 4).
#[inline(always)]
fn scatter_transposed(tile: &[[u32; 4]; 8], d: &mut [u32; 32]) {
    for t in 0..4 {
        let (even, odd) = (tile[2 * t], tile[2 * t + 1]);
        for pair in 0..4 {
            let (x, y) = (even[pair], odd[pair]);
            d[8 * pair + t] = x & 0xffff | y << 16;
            d[8 * pair + 4 + t] = x >> 16 | y & 0xffff_0000;
        }
    }
}

pub fn store(
    path: impl Path,
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    (count, transposed): (u8, bool),
    access: &Access,
) -> Checked {
    let at = counted_rows(path, env, block, warp, inst.s[0], count, access)?;
    let by = By { pc: warp.pc, warp: warp.id, touch: Touch::Plain };
    for i in 0..count as usize {
        let reg = if i < 3 { inst.s[i + 1] } else { inst.more.as_ref().map_or(Reg::NONE, |m| m[0]) };
        let mut values = warp.r32[reg.index()];
        if transposed {
            values = turned(&values);
        }
        for r in 0..8 {
            let lane = 8 * i + r;
            let offset = shared_at(block, at[lane], 16, lane, "writes")?;
            if env.checks
                && let Some(earlier) = block.shadow.write(offset, 16, by, lane as u32, false)
            {
                return Err(Problem::race(earlier, lane, offset, 16, "writes"));
            }
            for t in 0..4 {
                block.shared.store(offset + 4 * t, 4, values[4 * r + t as usize] as u64);
            }
            block.shared.mark(offset, 16);
        }
    }
    Ok(())
}

fn turned(a: &[u32; 32]) -> [u32; 32] {
    let tile: [[u32; 4]; 8] = std::array::from_fn(|r| std::array::from_fn(|t| a[4 * r + t]));
    let mut out = [0; 32];
    scatter_transposed(&tile, &mut out);
    out
}

/// `movmatrix`: the tile of a fragment, transposed.
pub fn transpose(warp: &mut Warp, inst: &Inst) {
    let out = turned(&warp.r32[inst.s[0].index()]);
    warp.r32[inst.d[0].index()] = out;
}
