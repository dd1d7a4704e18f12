//! `cp.async`: issued now, carried out as late as a wait allows.
#![forbid(unsafe_code)]

use super::Env;
use super::block::Block;
use super::lanes::each;
use super::memory::{addresses, shared_at, watch};
use super::warp::{Copy, Warp};
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::inst::{CpBytes, Inst};
use crate::memory::slots::describe;

pub fn issue(
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
        block.tally.shared(warp.pc, &to, mask, size as u32);
        let reading = each(mask).filter(|l| copy.bytes[*l] != 0).fold(0, |m, l| m | 1 << l);
        block.tally.global(warp.pc, &from, reading, size as u32, false);
    }
    for lane in each(mask) {
        let at = shared_at(block, to[lane], size as u32, lane, "copies to")?;
        copy.to[lane] = at;
        if from[lane] & (size as u64 - 1) != 0 {
            let what = format!("copies {size} bytes from {:#x}: not a multiple of {size}", from[lane]);
            return Err(Problem::new(FaultKind::Misaligned, lane, what));
        }
        if env.checks
            && let Some(earlier) = block.shadow.issue(at, size as u32, warp.pc, warp.id, lane as u32)
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
            let alike = each(warp.copies[i].mask).filter(|l| warp.committed[*l] == number).fold(0, |m, l| m | 1 << l);
            part(&mut warp.copies, i, alike);
            warp.copies[i].group = Some(number);
        }
        i += 1;
    }
    each(mask).for_each(|lane| warp.committed[lane] += 1);
}

/// Carries out all groups of these lanes but the last `left`.
pub fn wait(env: &Env, block: &mut Block, warp: &mut Warp, mask: u32, left: u32) -> Checked {
    let mut i = 0;
    while i < warp.copies.len() {
        let copy = &warp.copies[i];
        let due = match copy.group {
            Some(group) => {
                each(copy.mask & mask).filter(|l| group + left < warp.committed[*l]).fold(0, |m, l| m | 1 << l)
            }
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
        carry_out(env, block, warp.id, &copy)?;
    }
    Ok(())
}

fn carry_out(env: &Env, block: &mut Block, warp: u32, copy: &Copy) -> Checked {
    let size = copy.size as u32;
    for lane in each(copy.mask) {
        let (at, bytes) = (copy.to[lane], copy.bytes[lane] as u32);
        let mut words = [0u32; 4];
        if bytes != 0 {
            let address = copy.from[lane];
            let found = env.slots.find(address, bytes as u64);
            let (buffer, offset) = found.map_err(|trouble| {
                let (kind, why) = describe(trouble);
                let what = format!(
                    "the copy issued at line {} reads {bytes} bytes at {address:#x}: {why}",
                    env.program.origins[copy.pc as usize].line
                );
                Problem::new(kind, lane, what)
            })?;
            if env.checks
                && !buffer.is_whole()
                && let Some(first) = buffer.unwritten(offset, bytes as u64)
            {
                let what = format!(
                    "the copy issued at line {} reads {bytes} bytes at {address:#x} (offset {offset}): the byte at offset {first} was never written",
                    env.program.origins[copy.pc as usize].line
                );
                return Err(Problem::new(FaultKind::Uninitialised, lane, what));
            }
            watch(env, block, buffer, (offset, bytes), copy.pc, lane, (false, false))?;
            let first = (offset / 4) as usize;
            for (k, word) in words.iter_mut().enumerate().take(bytes.div_ceil(4) as usize) {
                *word = buffer.word(first + k).load(std::sync::atomic::Ordering::Relaxed);
            }
            if bytes % 4 != 0 {
                words[(bytes / 4) as usize] &= (1 << (bytes % 4 * 8)) - 1;
            }
        }
        for k in 0..size / 4 {
            block.shared.store(at + 4 * k, 4, words[k as usize] as u64);
        }
        block.shared.mark(at, size);
        if env.checks {
            block.shadow.complete(at, size, copy.pc, warp, lane as u32);
        }
    }
    Ok(())
}
