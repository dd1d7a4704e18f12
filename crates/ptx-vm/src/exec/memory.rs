//! Loads and stores of a warp in every space, with the checks that go with them.
#![forbid(unsafe_code)]

use super::Env;
use super::block::Block;
use super::lanes::{V64, each};
use super::warp::Warp;
use crate::FaultKind;
use crate::check::{Checked, Other, Problem};
use crate::inst::{Access, Fill, Inst, Reg};
use crate::memory::shadow::Touch;
use crate::memory::slots::{Buffer, Slots, describe};
use crate::memory::{space_of, window};
use crate::parse::ast::Space;
use crate::simd::wide;

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

/// Runs `each_part` for the lanes of each space that generic addresses turn out to lie in.
pub fn by_space(
    space: Space,
    addresses: &mut V64,
    mask: u32,
    mut each_part: impl FnMut(Space, &V64, u32) -> Checked,
) -> Checked {
    if space != Space::Generic {
        return each_part(space, addresses, mask);
    }
    let mut left = mask;
    while left != 0 {
        let found = space_of(addresses[super::first(left)]);
        let part = each(left).filter(|l| space_of(addresses[*l]) == found).fold(0, |m, l| m | 1 << l);
        let mut local = *addresses;
        for lane in each(part) {
            local[lane] -= window(found);
        }
        each_part(found, &local, part)?;
        left &= !part;
    }
    Ok(())
}

#[cold]
fn misaligned(lane: usize, doing: &str, bytes: u32, at: String) -> Box<Problem> {
    Problem::new(FaultKind::Misaligned, lane, format!("{doing} {bytes} bytes at {at}: not a multiple of {bytes}"))
}

/// The allocation that holds an access of a lane, and where.
#[inline(always)]
fn locate<'s>(slots: &'s Slots, address: u64, bytes: u32, lane: usize, doing: &str) -> Checked<(&'s Buffer, u64)> {
    match slots.find(address, bytes as u64) {
        Ok(found) if address & (bytes as u64 - 1) == 0 => Ok(found),
        Ok(_) => Err(misaligned(lane, doing, bytes, format!("{address:#x}"))),
        Err(trouble) => {
            let (kind, why) = describe(trouble);
            Err(Problem::new(kind, lane, format!("{doing} {bytes} bytes at {address:#x}: {why}")))
        }
    }
}

#[cold]
fn unwritten_global(buffer: &Buffer, at: u64, bytes: u32, lane: usize) -> Box<Problem> {
    let first = buffer.unwritten(at, bytes as u64).unwrap_or(at);
    let what = format!(
        "reads {bytes} bytes at {:#x} (offset {at} of an allocation of {} bytes): the byte at offset {first} was never written",
        buffer.base + at,
        buffer.size
    );
    Problem::new(FaultKind::Uninitialised, lane, what)
}

/// The bytes of one access as its elements.
#[inline(always)]
fn element(words: &[u64; 4], k: usize) -> u64 {
    words[k]
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
fn put(warp: &mut Warp, d: Reg, lane: usize, value: u64) {
    if d.is_none() {
    } else if d.is_64() {
        warp.r64[d.index()][lane] = value;
    } else {
        warp.r32[d.index()][lane] = value as u32;
    }
}

/// Touches global memory in the shadow of races between blocks.
pub fn watch(
    env: &Env,
    block: &mut Block,
    buffer: &Buffer,
    (at, bytes): (u64, u32),
    pc: u32,
    lane: usize,
    (write, atomic): (bool, bool),
) -> Checked {
    let Some(shadow) = &env.global_shadow else { return Ok(()) };
    let slot = ((buffer.base >> 32) - crate::memory::slots::FIRST) as usize;
    let found = shadow.touch(slot, buffer.size, at, bytes as u64, pc, block.index, &block.view, write, atomic);
    let Some(other) = found else { return Ok(()) };
    let doing = if write { "writes" } else { "reads" };
    let what = format!(
        "{doing} {bytes} bytes at {:#x} (offset {at} of an allocation of {} bytes): another block's access is not ordered with it",
        buffer.base + at,
        buffer.size
    );
    let how = match (other.write, other.atomic) {
        (true, true) => "changed atomically",
        (true, false) => "written",
        _ => "read",
    };
    let other = Other { pc: other.pc, how, warp: None, lane: None, block: other.block, between_blocks: true };
    Err(Box::new(Problem { kind: FaultKind::GlobalRace, what, lane: Some(lane as u32), other: Some(other) }))
}

pub fn load(env: &Env, block: &mut Block, warp: &mut Warp, inst: &Inst, access: &Access, mask: u32) -> Checked {
    let mut at = addresses(warp, inst.s[0], access.offset);
    by_space(access.space, &mut at, mask, |space, at, mask| match space {
        Space::Shared => wide(|| load_shared(env, block, warp, inst, access, at, mask)),
        Space::Local => load_local(env, warp, inst, access, at, mask),
        Space::Param => {
            for lane in each(mask) {
                for k in 0..access.count as usize {
                    let offset = at[lane] + k as u64 * access.width as u64;
                    let value = param(env, offset, access.width, lane)?;
                    put(warp, inst.d[k], lane, fill(value, access.width, access.fill));
                }
            }
            Ok(())
        }
        _ => {
            if access.ordering && env.global_shadow.is_some() {
                note(env, block);
            }
            wide(|| load_global(env, block, warp, inst, access, at, mask))
        }
    })
}

/// An acquiring or releasing access counts as an atomic for the order of blocks.
fn note(env: &Env, block: &mut Block) {
    if let Some(shadow) = &env.global_shadow {
        block.view.fenced = true;
        shadow.atomic(block.index, &mut block.view);
    }
}

#[inline(always)]
fn load_global(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    at: &V64,
    mask: u32,
) -> Checked {
    let width = access.width as u32;
    let bytes = width * access.count as u32;
    if env.counters {
        block.tally.global(warp.pc, at, mask, bytes, false);
    }
    let plain = !env.checks;
    // Lanes mostly share one allocation: it is looked up once as long as they do.
    let mut slot = u64::MAX;
    let mut held: Option<&Buffer> = None;
    let mut whole = false;
    for lane in each(mask) {
        let address = at[lane];
        if address >> 32 != slot || held.is_none() {
            let (buffer, _) = locate(env.slots, address, bytes, lane, "reads")?;
            (slot, held) = (address >> 32, Some(buffer));
            whole = plain || buffer.is_whole();
        }
        let Some(buffer) = held else { continue };
        let offset = address & 0xffff_ffff;
        if offset + bytes as u64 > buffer.size || offset & (bytes as u64 - 1) != 0 {
            locate(env.slots, address, bytes, lane, "reads")?;
        }
        if !whole && !buffer.is_written(offset, bytes) {
            return Err(unwritten_global(buffer, offset, bytes, lane));
        }
        if env.global_shadow.is_some() {
            watch(env, block, buffer, (offset, bytes), warp.pc, lane, (false, access.strong))?;
        }
        if width == 4 && access.fill == Fill::Zero && !inst.d[0].is_64() {
            let first = (offset / 4) as usize;
            let words = &buffer.words()[first..first + access.count as usize];
            for (word, d) in words.iter().zip(inst.d) {
                if !d.is_none() {
                    warp.r32[d.index()][lane] = word.load(std::sync::atomic::Ordering::Relaxed);
                }
            }
            continue;
        }
        for k in 0..access.count as usize {
            let value = buffer.load(offset + k as u64 * width as u64, width);
            put(warp, inst.d[k], lane, fill(value, access.width, access.fill));
        }
    }
    Ok(())
}

#[cold]
pub fn shared_bounds(block: &Block, at: u64, bytes: u32, lane: usize, doing: &str) -> Box<Problem> {
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

/// The offset of a shared access that is within bounds and aligned.
#[inline(always)]
pub fn shared_at(block: &Block, at: u64, bytes: u32, lane: usize, doing: &str) -> Checked<u32> {
    if at + bytes as u64 > block.shared.size as u64 || at > u32::MAX as u64 {
        return Err(shared_bounds(block, at, bytes, lane, doing));
    }
    if at as u32 & (bytes - 1) != 0 {
        return Err(misaligned(lane, doing, bytes, format!("shared offset {at}")));
    }
    Ok(at as u32)
}

pub fn touch_of(strong: bool) -> Touch {
    if strong { Touch::Atomic } else { Touch::Plain }
}

#[inline(always)]
fn load_shared(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    at: &V64,
    mask: u32,
) -> Checked {
    let width = access.width as u32;
    let bytes = width * access.count as u32;
    if env.counters {
        block.tally.shared(warp.pc, at, mask, bytes);
    }
    for lane in each(mask) {
        let offset = shared_at(block, at[lane], bytes, lane, "reads")?;
        if env.checks {
            let found = block.shadow.read(offset, bytes, warp.pc, warp.id, lane as u32, touch_of(access.strong));
            if let Some(earlier) = found {
                return Err(Problem::race(earlier, lane, offset, bytes, "reads"));
            }
            if !block.shared.is_written(offset, bytes) {
                return Err(shared_unwritten(offset, bytes, lane));
            }
        }
        for k in 0..access.count as usize {
            let value = block.shared.load(offset + k as u32 * width, width);
            put(warp, inst.d[k], lane, fill(value, access.width, access.fill));
        }
    }
    Ok(())
}

/// Where a lane's local access lies in its warp's bytes.
fn local_at(env: &Env, at: u64, bytes: u32, lane: usize, doing: &str) -> Checked<usize> {
    let frame = env.program.local_bytes as u64;
    if at.checked_add(bytes as u64).is_none_or(|end| end > frame) {
        let what = format!("{doing} {bytes} bytes of local memory at offset {at}: a thread has {frame} bytes");
        return Err(Problem::new(FaultKind::OutOfBounds, lane, what));
    }
    if at & (bytes as u64 - 1) != 0 {
        return Err(misaligned(lane, doing, bytes, format!("local offset {at}")));
    }
    Ok(lane * frame as usize + at as usize)
}

fn load_local(env: &Env, warp: &mut Warp, inst: &Inst, access: &Access, at: &V64, mask: u32) -> Checked {
    let width = access.width as usize;
    let bytes = width * access.count as usize;
    for lane in each(mask) {
        let offset = local_at(env, at[lane], bytes as u32, lane, "reads")?;
        let mut words = [0u64; 4];
        for (k, word) in words.iter_mut().enumerate().take(access.count as usize) {
            let mut raw = [0u8; 8];
            raw[..width].copy_from_slice(&warp.local[offset + k * width..][..width]);
            *word = u64::from_le_bytes(raw);
        }
        for k in 0..access.count as usize {
            put(warp, inst.d[k], lane, fill(element(&words, k), access.width, access.fill));
        }
    }
    Ok(())
}

fn param(env: &Env, offset: u64, width: u8, lane: usize) -> Checked<u64> {
    let n = width as usize;
    let end = offset.checked_add(n as u64).filter(|e| *e <= env.params.len() as u64);
    if end.is_none() {
        let what = format!("reads parameter bytes {offset} on, of {} bytes of parameters", env.params.len());
        return Err(Problem::new(FaultKind::OutOfBounds, lane, what));
    }
    let mut raw = [0u8; 8];
    raw[..n].copy_from_slice(&env.params[offset as usize..][..n]);
    Ok(u64::from_le_bytes(raw))
}

/// A parameter at a fixed place: one value for all lanes.
pub fn load_param(
    env: &Env,
    warp: &mut Warp,
    inst: &Inst,
    mask: u32,
    (offset, width, count, how): (u32, u8, u8, Fill),
) -> Checked {
    for k in 0..count as usize {
        let value = param(env, offset as u64 + k as u64 * width as u64, width, super::first(mask))?;
        let value = fill(value, width, how);
        let d = inst.d[k];
        if d.is_none() {
        } else if d.is_64() {
            super::lanes::set(&mut warp.r64[d.index()], mask, |_| value);
        } else {
            super::lanes::set(&mut warp.r32[d.index()], mask, |_| value as u32);
        }
    }
    Ok(())
}

/// The value that a store takes from a lane's register.
#[inline(always)]
fn value_of(warp: &Warp, reg: Reg, lane: usize) -> u64 {
    if reg.is_64() { warp.r64[reg.index()][lane] } else { warp.r32[reg.index()][lane] as u64 }
}

/// The register of element `k`: sources beyond four lie apart.
#[inline(always)]
fn stored(inst: &Inst, k: usize) -> Reg {
    match inst.s.get(k + 1) {
        Some(reg) => *reg,
        None => inst.more.as_ref().map_or(Reg::NONE, |m| m[k - 3]),
    }
}

pub fn store(env: &Env, block: &mut Block, warp: &mut Warp, inst: &Inst, access: &Access, mask: u32) -> Checked {
    let mut at = addresses(warp, inst.s[0], access.offset);
    by_space(access.space, &mut at, mask, |space, at, mask| match space {
        Space::Shared => wide(|| store_shared(env, block, warp, inst, access, at, mask)),
        Space::Local => store_local(env, warp, inst, access, at, mask),
        Space::Param => {
            Err(Problem::new(FaultKind::OutOfBounds, super::first(mask), "writes to the kernel's parameters".into()))
        }
        _ => {
            if access.ordering && env.global_shadow.is_some() {
                note(env, block);
            }
            wide(|| store_global(env, block, warp, inst, access, at, mask))
        }
    })
}

#[inline(always)]
fn store_global(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    at: &V64,
    mask: u32,
) -> Checked {
    let width = access.width as u32;
    let bytes = width * access.count as u32;
    if env.counters {
        block.tally.global(warp.pc, at, mask, bytes, true);
    }
    let count = access.count as usize;
    let regs: [Reg; 4] = std::array::from_fn(|k| if k < count { stored(inst, k) } else { Reg::NONE });
    let mut slot = u64::MAX;
    let mut held: Option<&Buffer> = None;
    // Neighbouring lanes write parts of one word, and mark parts of one line: both are gathered.
    let mut word = (usize::MAX, 0u32, 0u32);
    let mut line = (usize::MAX, 0u32);
    for lane in each(mask) {
        let address = at[lane];
        if address >> 32 != slot || held.is_none() {
            let (buffer, _) = locate(env.slots, address, bytes, lane, "writes")?;
            if let Some(old) = held {
                flush(old, &mut word, &mut line);
            }
            (slot, held) = (address >> 32, Some(buffer));
        }
        let Some(buffer) = held else { continue };
        let offset = address & 0xffff_ffff;
        if offset + bytes as u64 > buffer.size || offset & (bytes as u64 - 1) != 0 {
            locate(env.slots, address, bytes, lane, "writes")?;
        }
        if env.global_shadow.is_some() {
            watch(env, block, buffer, (offset, bytes), warp.pc, lane, (true, access.strong))?;
        }
        for (k, reg) in regs.iter().enumerate().take(count) {
            let value = value_of(warp, *reg, lane);
            let place = offset + k as u64 * width as u64;
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
        let index = (offset / 32) as usize;
        if line.0 != index {
            if line.1 != 0 {
                buffer.mark(line.0, line.1);
            }
            line = (index, 0);
        }
        line.1 |= (((1u64 << bytes) - 1) as u32) << (offset % 32);
    }
    if let Some(buffer) = held {
        flush(buffer, &mut word, &mut line);
    }
    Ok(())
}

#[inline(always)]
fn flush(buffer: &Buffer, word: &mut (usize, u32, u32), line: &mut (usize, u32)) {
    if word.1 != 0 {
        buffer.merge(word.0, word.1, word.2);
    }
    if line.1 != 0 {
        buffer.mark(line.0, line.1);
    }
    *word = (usize::MAX, 0, 0);
    *line = (usize::MAX, 0);
}

#[inline(always)]
fn store_shared(
    env: &Env,
    block: &mut Block,
    warp: &mut Warp,
    inst: &Inst,
    access: &Access,
    at: &V64,
    mask: u32,
) -> Checked {
    let width = access.width as u32;
    let count = access.count as usize;
    let bytes = width * count as u32;
    if env.counters {
        block.tally.shared(warp.pc, at, mask, bytes);
    }
    let cut = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
    for lane in each(mask) {
        let offset = shared_at(block, at[lane], bytes, lane, "writes")?;
        if env.checks {
            let written = block.shared.is_written(offset, bytes);
            let mut same = written;
            if written {
                for k in 0..count {
                    let value = value_of(warp, stored(inst, k), lane) & cut;
                    same &= block.shared.load(offset + k as u32 * width, width) == value;
                }
            }
            let touch = touch_of(access.strong);
            let found = block.shadow.write(offset, bytes, warp.pc, warp.id, lane as u32, touch, same);
            if let Some(earlier) = found {
                return Err(Problem::race(earlier, lane, offset, bytes, "writes"));
            }
        }
        for k in 0..count {
            let value = value_of(warp, stored(inst, k), lane);
            block.shared.store(offset + k as u32 * width, width, value);
        }
        block.shared.mark(offset, bytes);
    }
    Ok(())
}

fn store_local(env: &Env, warp: &mut Warp, inst: &Inst, access: &Access, at: &V64, mask: u32) -> Checked {
    let width = access.width as usize;
    let count = access.count as usize;
    for lane in each(mask) {
        let offset = local_at(env, at[lane], (width * count) as u32, lane, "writes")?;
        for k in 0..count {
            let value = value_of(warp, stored(inst, k), lane).to_le_bytes();
            warp.local[offset + k * width..][..width].copy_from_slice(&value[..width]);
        }
    }
    Ok(())
}
