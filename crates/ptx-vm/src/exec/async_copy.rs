//! `cp.async`: issued now, carried out as late as a wait allows.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::Env;
use super::block::Block;
use super::lanes::{bits, each};
use super::memory::{addresses, shared_at, watch};
use super::span::{Span, Spans};
use super::warp::{Copy, Warp};
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::counters::{passes, sectors};
use crate::inst::{CpBytes, Inst};
use crate::memory::global_shadow::How;
use crate::memory::shadow::{By, Touch};
use crate::memory::slots::{Buffer, describe};
use crate::simd::Path;

pub fn issue(
    path: impl Path,
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    mask: u32,
    how: (u8, CpBytes, i32, i32),
) -> Checked {
    path.run(
        #[inline(always)]
        || note(env, block, warp, inst, mask, how),
    )
}

#[inline(always)]
fn note(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    mask: u32,
    (size, bytes, offset_to, offset_from): (u8, CpBytes, i32, i32),
) -> Checked {
    let to = addresses(warp, inst.s[0], offset_to);
    let from = addresses(warp, inst.s[1], offset_from);
    let mut copy = Copy { pc: warp.pc, mask, to: [0; 32], from, size, bytes: [size; 32], group: None };
    match bytes {
        CpBytes::All => {}
        CpBytes::Size => {
            let sizes = warp.r32[inst.s[2].index()];
            for lane in each(mask) {
                if sizes[lane] > size as u32 {
                    let what = format!("a source of {} bytes for a copy of {size}", sizes[lane]);
                    return Err(Problem::new(FaultKind::OutOfBounds, lane, what));
                }
                copy.bytes[lane] = sizes[lane] as u8;
            }
        }
        CpBytes::Ignore => {
            let ignored = warp.p[inst.s[2].index()];
            each(mask & ignored).for_each(|lane| copy.bytes[lane] = 0);
        }
    }
    if env.counters {
        block.tally.shared(warp.pc, passes(Spans::new(&to, mask, size as u32)));
        let reading = bits(|lane| copy.bytes[lane] != 0) & mask;
        if reading != 0 {
            let spans = Spans::new(&from, reading, size as u32);
            block.tally.global(warp.pc, size as u32 * reading.count_ones(), sectors(spans), false);
        }
    }
    let by = By { pc: warp.pc, warp: warp.id, touch: Touch::Async };
    for lane in each(mask) {
        let at = shared_at(block, to[lane], size as u32, lane, "copies to")?;
        copy.to[lane] = at;
        if from[lane] & (size as u64 - 1) != 0 {
            let what = format!("copies {size} bytes from {:#x}: not a multiple of {size}", from[lane]);
            return Err(Problem::new(FaultKind::Misaligned, lane, what));
        }
        if env.checks
            && let Some(earlier) = block.shadow.issue(at, size as u32, by, lane as u32)
        {
            return Err(Problem::race(earlier, lane, at, size as u32, "copies to"));
        }
    }
    warp.copies.push(copy);
    Ok(())
}

/// Lanes whose copies were not of one mind get records of their own.
fn part(copies: &mut Vec<Copy>, index: usize, mask: u32) {
    let copy = &mut copies[index];
    if copy.mask & !mask != 0 && copy.mask & mask != 0 {
        let mut rest = copy.clone();
        rest.mask &= !mask;
        copy.mask &= mask;
        copies.push(rest);
    }
}

/// The open copies of these lanes become a group.
pub fn commit(warp: &mut Warp, mask: u32) {
    let mut i = 0;
    while i < warp.copies.len() {
        if warp.copies[i].group.is_none() && warp.copies[i].mask & mask != 0 {
            part(&mut warp.copies, i, mask);
            // Lanes that committed differently often are told apart by number.
            let number = warp.committed[super::first(warp.copies[i].mask)];
            let alike = bits(|lane| warp.committed[lane] == number) & warp.copies[i].mask;
            part(&mut warp.copies, i, alike);
            warp.copies[i].group = Some(number);
        }
        i += 1;
    }
    each(mask).for_each(|lane| warp.committed[lane] += 1);
}

/// Carries out all groups of these lanes but the last `left`.
pub fn wait(path: impl Path, env: &Env, block: &mut Block, warp: &mut Warp, mask: u32, left: u32) -> Checked {
    let mut i = 0;
    while i < warp.copies.len() {
        let copy = &warp.copies[i];
        let due = match copy.group {
            Some(group) => bits(|lane| group + left < warp.committed[lane]) & copy.mask & mask,
            None => 0,
        };
        if due == 0 {
            if copy.mask == 0 {
                warp.copies.remove(i);
            } else {
                i += 1;
            }
            continue;
        }
        part(&mut warp.copies, i, due);
        let copy = warp.copies.remove(i);
        path.run(
            #[inline(always)]
            || carry_out(env, block, warp.id, &copy),
        )?;
    }
    Ok(())
}

#[inline(always)]
fn carry_out(env: &Env, block: &mut Block, warp: u32, copy: &Copy) -> Checked {
    let whole = bits(|lane| copy.bytes[lane] == copy.size) & copy.mask;
    for span in Spans::new(&copy.from, whole, copy.size as u32) {
        copy_span(env, block, warp, copy, &span)?;
    }
    for lane in each(copy.mask & !whole) {
        copy_span(env, block, warp, copy, &Span::one(lane, copy.from[lane], copy.bytes[lane] as u32))?;
    }
    Ok(())
}

/// Copies for lanes whose sources lie side by side; each has `span.each` bytes of source, and zeros after them.
#[inline(always)]
fn copy_span(env: &Env, block: &mut Block, warp: u32, copy: &Copy, span: &Span) -> Checked {
    let bytes = span.each;
    let source = if bytes == 0 { None } else { Some(read_source(env, block, copy, span)?) };
    let by = By { pc: copy.pc, warp, touch: Touch::Async };
    let size = copy.size as u32;
    for lane in span.range() {
        let mut words = [0u32; 4];
        if let Some((buffer, from)) = source {
            let first = ((from + span.offset_of(lane)) / 4) as usize;
            let there = &buffer.words()[first..first + bytes.div_ceil(4) as usize];
            words.iter_mut().zip(there).for_each(|(word, there)| *word = there.load(Relaxed));
            if !bytes.is_multiple_of(4) {
                words[(bytes / 4) as usize] &= (1 << (bytes % 4 * 8)) - 1;
            }
        }
        let at = copy.to[lane];
        for k in 0..size / 4 {
            block.shared.store(at + 4 * k, 4, words[k as usize] as u64);
        }
        block.shared.mark(at, size);
        if env.checks {
            block.shadow.complete(at, size, by, lane as u32);
        }
    }
    Ok(())
}

/// The allocation that the sources of a span lie in, all checks made, and where.
#[inline(always)]
fn read_source<'l>(env: &Env<'l>, block: &mut Block, copy: &Copy, span: &Span) -> Checked<(&'l Buffer, u64)> {
    let Ok((buffer, from)) = env.slots.find(span.at, span.bytes()) else {
        return Err(misplaced(env, copy, span));
    };
    if env.checks
        && !buffer.is_whole()
        && let Some(first) = buffer.unwritten(from, span.bytes())
    {
        let lane = span.lane_of(first - from);
        let (address, offset) = (span.at + span.offset_of(lane), from + span.offset_of(lane));
        let what = format!(
            "the copy issued at line {} reads {} bytes at {address:#x} (offset {offset}): the byte at offset {first} was never written",
            env.program.origins[copy.pc as usize].line, span.each
        );
        return Err(Problem::new(FaultKind::Uninitialised, lane, what));
    }
    watch(env, block, (buffer, from), span, copy.pc, How::Read { atomic: false, constant: false })?;
    Ok((buffer, from))
}

#[cold]
fn misplaced(env: &Env, copy: &Copy, span: &Span) -> Box<Problem> {
    let reads = |address: u64| {
        format!(
            "the copy issued at line {} reads {} bytes at {address:#x}",
            env.program.origins[copy.pc as usize].line, span.each
        )
    };
    for lane in span.range() {
        let address = span.at.wrapping_add(span.offset_of(lane));
        if let Err(trouble) = env.slots.find(address, span.each as u64) {
            let (kind, why) = describe(trouble);
            return Problem::new(kind, lane, format!("{}: {why}", reads(address)));
        }
    }
    Problem::new(FaultKind::OutOfBounds, span.lane, format!("{}: it crosses an allocation's end", reads(span.at)))
}
