//! Global memory.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::super::Env;
use super::super::block::Block;
use super::super::span::Span;
use super::super::warp::Warp;
use super::{fill, is_words, misaligned, put, stored, value_of};
use crate::FaultKind;
use crate::check::{Checked, Other, Problem};
use crate::inst::{Access, Inst};
use crate::memory::global_shadow::How;
use crate::memory::slots::{Buffer, Slots, describe};

/// The allocation that holds a span, and where in it the span begins.
#[inline(always)]
pub fn locate<'s>(slots: &'s Slots, span: &Span, doing: &str) -> Checked<(&'s Buffer, u64)> {
    match slots.find(span.at, span.bytes()) {
        Ok(found) if span.at & (span.each as u64 - 1) == 0 => Ok(found),
        _ => Err(misplaced(slots, span, doing)),
    }
}

#[cold]
fn misplaced(slots: &Slots, span: &Span, doing: &str) -> Box<Problem> {
    let bytes = span.each;
    for lane in span.range() {
        let address = span.at.wrapping_add(span.offset_of(lane));
        if let Err(trouble) = slots.find(address, bytes as u64) {
            let (kind, why) = describe(trouble);
            return Problem::new(kind, lane, format!("{doing} {bytes} bytes at {address:#x}: {why}"));
        }
    }
    misaligned(span.lane, doing, bytes, format!("{:#x}", span.at))
}

#[cold]
fn unwritten(buffer: &Buffer, span: &Span, from: u64, first: u64) -> Box<Problem> {
    let lane = span.lane_of(first - from);
    let at = from + span.offset_of(lane);
    let what = format!(
        "reads {} bytes at {:#x} (offset {at} of an allocation of {} bytes): the byte at offset {first} was never written",
        span.each,
        buffer.base + at,
        buffer.size
    );
    Problem::new(FaultKind::Uninitialised, lane, what)
}

/// Touches global memory, from offset `from` of the buffer on, in the shadow of races between blocks.
#[inline(always)]
pub fn watch(env: &Env, block: &mut Block, (buffer, from): (&Buffer, u64), span: &Span, pc: u32, how: How) -> Checked {
    let Some(shadow) = &env.global_shadow else { return Ok(()) };
    let slot = ((buffer.base >> 32) - crate::memory::slots::FIRST) as usize;
    let by = (pc, block.index, &block.view);
    let Some((first, other)) = shadow.touch(slot, buffer.size, (from, span.bytes()), by, how) else {
        return Ok(());
    };
    let lane = span.lane_of(first.saturating_sub(from));
    let at = from + span.offset_of(lane);
    let doing = if matches!(how, How::Write { .. }) { "writes" } else { "reads" };
    let (kind, why) = match other.constant {
        true => (FaultKind::NotConstant, "read as constant (`.nc`) and written by the same launch"),
        false => (FaultKind::GlobalRace, "another block's access is not ordered with it"),
    };
    let what = format!(
        "{doing} {} bytes at {:#x} (offset {at} of an allocation of {} bytes): {why}",
        span.each,
        buffer.base + at,
        buffer.size
    );
    let how = match (other.write, other.atomic) {
        (true, true) => "changed atomically",
        (true, false) => "written",
        _ => "read",
    };
    let other = Other { pc: other.pc, how, warp: None, lane: None, block: other.block, between_blocks: true };
    Err(Box::new(Problem { kind, what, lane: Some(lane as u32), other: Some(other) }))
}

/// Eight at a time, since loads of atomics do not become vector code.
#[inline(always)]
fn take(out: &mut [u32], words: &[AtomicU32]) {
    let ((outs, rest), (wholes, tail)) = (out.as_chunks_mut::<8>(), words.as_chunks::<8>());
    for (out, words) in outs.iter_mut().zip(wholes) {
        for i in 0..8 {
            out[i] = words[i].load(Relaxed);
        }
    }
    rest.iter_mut().zip(tail).for_each(|(out, word)| *out = word.load(Relaxed));
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
    let (buffer, from) = locate(env.slots, &span, if WRITE { "writes" } else { "reads" })?;
    if !WRITE
        && env.checks
        && let Some(first) = buffer.unwritten(from, span.bytes())
    {
        return Err(unwritten(buffer, &span, from, first));
    }
    let (atomic, constant) = (access.strong, access.constant);
    let how = if WRITE { How::Write { atomic } } else { How::Read { atomic, constant } };
    watch(env, block, (buffer, from), &span, warp.pc, how)?;
    if WRITE {
        store(buffer, from, warp, inst, access, &span);
    } else {
        load(buffer, from, warp, inst, access, &span);
    }
    Ok(())
}

#[inline(always)]
fn load(buffer: &Buffer, from: u64, warp: &mut Warp, inst: &Inst, access: &Access, span: &Span) {
    let (width, count) = (access.width as u32, access.count as usize);
    if !is_words(access, inst.d[0]) {
        for lane in span.range() {
            for k in 0..count {
                let value = buffer.load(from + span.offset_of(lane) + k as u64 * width as u64, width);
                put(warp, inst.d[k], lane, fill(value, access.width, access.fill));
            }
        }
        return;
    }
    let first = (from / 4) as usize;
    let words = &buffer.words()[first..first + span.bytes() as usize / 4];
    for (k, d) in inst.d.iter().enumerate().take(count).filter(|(_, d)| !d.is_none()) {
        let out = &mut warp.r32[d.index()][span.range()];
        if span.step == 0 {
            out.fill(words[k].load(Relaxed));
        } else if count == 1 {
            take(out, words);
        } else {
            let words = words[k..].iter().step_by(count);
            out.iter_mut().zip(words).for_each(|(out, word)| *out = word.load(Relaxed));
        }
    }
}

#[inline(always)]
fn store(buffer: &Buffer, from: u64, warp: &Warp, inst: &Inst, access: &Access, span: &Span) {
    let width = access.width as u32;
    let regs = &stored(inst)[..access.count as usize];
    // Neighbouring lanes write parts of one word, which are gathered.
    let mut word = (usize::MAX, 0u32, 0u32);
    for lane in span.range() {
        for (k, reg) in regs.iter().enumerate() {
            let value = value_of(warp, *reg, lane);
            let place = from + span.offset_of(lane) + k as u64 * width as u64;
            if width >= 4 {
                buffer.store(place, width, value);
                continue;
            }
            let index = (place / 4) as usize;
            let shift = (place % 4 * 8) as u32;
            let bits = ((1u32 << (8 * width)) - 1) << shift;
            if word.0 != index {
                if word.1 != 0 {
                    buffer.merge(word.0, word.1, word.2);
                }
                word = (index, 0, 0);
            }
            word.1 |= bits;
            word.2 = word.2 & !bits | (value as u32) << shift & bits;
        }
    }
    if word.1 != 0 {
        buffer.merge(word.0, word.1, word.2);
    }
    buffer.mark(from, span.bytes());
}
