//! Shared memory.
#![forbid(unsafe_code)]

use super::super::Env;
use super::super::block::Block;
use super::super::span::Span;
use super::super::warp::Warp;
use super::{fill, is_words, misaligned, put, stored, value_of};
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::inst::{Access, Inst, Reg};
use crate::memory::shadow::{By, Touch};
use crate::memory::window;
use crate::parse::ast::Space;

#[cold]
fn beyond(block: &Block, at: u64, bytes: u32, lane: usize, doing: &str) -> Box<Problem> {
    let what = format!(
        "{doing} {bytes} bytes of shared memory at offset {at} (address {:#x}): the block has {} bytes",
        window(Space::Shared).wrapping_add(at),
        block.shared.size
    );
    Problem::new(FaultKind::OutOfBounds, lane, what)
}

#[cold]
pub fn shared_unwritten(at: u32, bytes: u32, lane: usize) -> Box<Problem> {
    let what = format!("reads {bytes} bytes of shared memory at offset {at}, which were not all written");
    Problem::new(FaultKind::Uninitialised, lane, what)
}

/// The offset of a lane's access that is within bounds and aligned.
#[inline(always)]
pub fn shared_at(block: &Block, at: u64, bytes: u32, lane: usize, doing: &str) -> Checked<u32> {
    shared_span(block, &Span::one(lane, at, bytes), doing)
}

/// The offset of a span that is within bounds and aligned.
#[inline(always)]
pub fn shared_span(block: &Block, span: &Span, doing: &str) -> Checked<u32> {
    let size = block.shared.size as u64;
    if span.at > size || span.at + span.bytes() > size || span.at as u32 & (span.each - 1) != 0 {
        return Err(misplaced(block, span, doing));
    }
    Ok(span.at as u32)
}

#[cold]
fn misplaced(block: &Block, span: &Span, doing: &str) -> Box<Problem> {
    let size = block.shared.size as u64;
    for lane in span.range() {
        let at = span.at.wrapping_add(span.offset_of(lane));
        if at > size || at + span.each as u64 > size {
            return beyond(block, at, span.each, lane, doing);
        }
    }
    misaligned(span.lane, doing, span.each, format!("shared offset {}", span.at))
}

/// The lanes of a span load, or with `WRITE` store.
#[inline(always)]
pub fn reach<const WRITE: bool>(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    span: Span,
) -> Checked {
    let from = shared_span(block, &span, if WRITE { "writes" } else { "reads" })?;
    let touch = if access.strong { Touch::Atomic } else { Touch::Plain };
    let by = By { pc: warp.pc, warp: warp.id, touch };
    if WRITE {
        store(env, block, warp, inst, access, (from, &span), by)
    } else {
        load(env, block, warp, inst, access, (from, &span), by)
    }
}

#[inline(always)]
fn load(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    (from, span): (u32, &Span),
    by: By,
) -> Checked {
    let (width, count) = (access.width as u32, access.count as usize);
    if env.checks {
        if let Some((lane, earlier)) = block.shadow.read_span(from, span, by) {
            return Err(Problem::race(earlier, lane, from + span.offset_of(lane) as u32, span.each, "reads"));
        }
        if !block.shared.all_written(from, span.bytes() as u32) {
            let lanes = span.range().map(|lane| (lane, from + span.offset_of(lane) as u32));
            let mut missing = lanes.filter(|(_, at)| !block.shared.is_written(*at, span.each));
            let (lane, at) = missing.next().unwrap_or((span.lane, from));
            return Err(shared_unwritten(at, span.each, lane));
        }
    }
    if !is_words(access, inst.d[0]) {
        for lane in span.range() {
            for k in 0..count {
                let value = block.shared.load(from + span.offset_of(lane) as u32 + k as u32 * width, width);
                put(warp, inst.d[k], lane, fill(value, access.width, access.fill));
            }
        }
        return Ok(());
    }
    let words = block.shared.words(from, span.bytes() as u32);
    for (k, d) in inst.d.iter().enumerate().take(count).filter(|(_, d)| !d.is_none()) {
        let out = &mut warp.r32[d.index()][span.range()];
        if span.step == 0 {
            out.fill(u32::from_le_bytes(words[k]));
        } else if count == 1 {
            out.iter_mut().zip(words).for_each(|(out, word)| *out = u32::from_le_bytes(*word));
        } else {
            let words = words[k..].iter().step_by(count);
            out.iter_mut().zip(words).for_each(|(out, word)| *out = u32::from_le_bytes(*word));
        }
    }
    Ok(())
}

/// Whether shared memory holds what a lane is about to store there.
fn holds(block: &Block, warp: &Warp, regs: &[Reg], lane: usize, at: u32, width: u32) -> bool {
    let cut = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
    block.shared.is_written(at, width * regs.len() as u32)
        && regs
            .iter()
            .enumerate()
            .all(|(k, reg)| block.shared.load(at + k as u32 * width, width) == value_of(warp, *reg, lane) & cut)
}

#[inline(always)]
fn store(
    env: &Env,
    block: &mut Block,
    warp: &Warp,
    inst: &Inst,
    access: &Access,
    (from, span): (u32, &Span),
    by: By,
) -> Checked {
    let width = access.width as u32;
    let regs = &stored(inst)[..access.count as usize];
    let free = !env.checks || block.shadow.write_fresh(from, span, by);
    for lane in span.range() {
        let at = from + span.offset_of(lane) as u32;
        if !free {
            let same = holds(block, warp, regs, lane, at, width);
            if let Some(earlier) = block.shadow.write(at, span.each, by, lane as u32, same) {
                return Err(Problem::race(earlier, lane, at, span.each, "writes"));
            }
            block.shared.mark(at, span.each);
        }
        for (k, reg) in regs.iter().enumerate() {
            block.shared.store(at + k as u32 * width, width, value_of(warp, *reg, lane));
        }
    }
    block.shared.mark_span(from, span.bytes() as u32);
    Ok(())
}
