//! `atom` and `red`: read, change and write as one.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::Env;
use super::block::Block;
use super::lanes::{V64, each};
use super::memory::{addresses, in_one_space, locate, put, shared_at, shared_unwritten, watch};
use super::rounding::{self, bf16_bits, bf16_value, f16_bits, f16_value, flush};
use super::span::{Span, Spans};
use super::warp::Warp;
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::counters::{passes, sectors};
use crate::inst::{Atom, AtomOp, AtomType, Inst, Reg};
use crate::memory::global_shadow::How;
use crate::memory::shadow::{By, Touch};
use crate::parse::ast::Space;

/// What memory holds afterwards.
fn change(atom: &Atom, old: u64, b: u64, c: u64) -> u64 {
    use AtomType::*;
    let float = |x: u64| f32::from_bits(x as u32);
    match (atom.op, atom.ty) {
        (AtomOp::Add, F32) => (float(old) + float(b)).to_bits() as u64,
        (AtomOp::Add, F32Ftz) => flush(flush(float(old)) + flush(float(b))).to_bits() as u64,
        (AtomOp::Add, F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomOp::Add, F16) => add_half(old as u32, b as u32, false) as u64,
        (AtomOp::Add, Bf16) => add_half(old as u32, b as u32, true) as u64,
        (AtomOp::Add, F16x2 | Bf16x2) => {
            let bf16 = atom.ty == Bf16x2;
            let low = add_half(old as u32 & 0xffff, b as u32 & 0xffff, bf16);
            let high = add_half((old >> 16) as u32 & 0xffff, (b >> 16) as u32 & 0xffff, bf16);
            (low | high << 16) as u64
        }
        (AtomOp::Add, _) => old.wrapping_add(b),
        (AtomOp::Min, S32) => (old as i32).min(b as i32) as u32 as u64,
        (AtomOp::Max, S32) => (old as i32).max(b as i32) as u32 as u64,
        (AtomOp::Min, S64) => (old as i64).min(b as i64) as u64,
        (AtomOp::Max, S64) => (old as i64).max(b as i64) as u64,
        (AtomOp::Min, _) => old.min(b),
        (AtomOp::Max, _) => old.max(b),
        (AtomOp::And, _) => old & b,
        (AtomOp::Or, _) => old | b,
        (AtomOp::Xor, _) => old ^ b,
        (AtomOp::Exch, _) => b,
        (AtomOp::Cas, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (AtomOp::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (AtomOp::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

fn add_half(a: u32, b: u32, bf16: bool) -> u32 {
    if bf16 {
        bf16_bits(bf16_value(a) + bf16_value(b)) as u32
    } else {
        let sum = f16_value(a) + f16_value(b);
        if sum.is_nan() { rounding::to_f16(f64::NAN, 0) as u32 } else { f16_bits(sum) as u32 }
    }
}

fn operand(warp: &Warp, reg: Reg, lane: usize) -> u64 {
    if reg.is_none() {
        0
    } else if reg.is_64() {
        warp.r64[reg.index()][lane]
    } else {
        warp.r32[reg.index()][lane] as u64
    }
}

pub fn atomic(env: &Env, block: &mut Block, warp: &mut Warp, inst: &Inst, atom: &Atom, mask: u32) -> Checked {
    let at = addresses(warp, inst.s[0], atom.access.offset);
    let mut left = mask;
    while left != 0 {
        let (space, at, mask) = in_one_space(atom.access.space, &at, left);
        match space {
            Space::Shared => in_shared(env, block, warp, inst, atom, &at, mask)?,
            Space::Global => in_global(env, block, warp, inst, atom, &at, mask)?,
            _ => {
                let what = "an atomic on local memory or parameters".to_string();
                return Err(Problem::new(FaultKind::OutOfBounds, super::first(mask), what));
            }
        }
        left &= !mask;
    }
    Ok(())
}

fn in_shared(env: &Env, block: &mut Block, warp: &mut Warp, inst: &Inst, atom: &Atom, at: &V64, mask: u32) -> Checked {
    let bytes = atom.access.width as u32;
    if env.counters {
        block.tally.shared(warp.pc, passes(Spans::new(at, mask, bytes)));
    }
    for lane in each(mask) {
        let offset = shared_at(block, at[lane], bytes, lane, "changes")?;
        if env.checks {
            if !block.shared.is_written(offset, bytes) && atom.op != AtomOp::Exch {
                return Err(shared_unwritten(offset, bytes, lane));
            }
            let by = By { pc: warp.pc, warp: warp.id, touch: Touch::Atomic };
            let found = block.shadow.write(offset, bytes, by, lane as u32, false);
            if let Some(earlier) = found {
                return Err(Problem::race(earlier, lane, offset, bytes, "changes"));
            }
        }
        let old = block.shared.load(offset, bytes);
        let new = change(atom, old, operand(warp, inst.s[1], lane), operand(warp, inst.s[2], lane));
        block.shared.store(offset, bytes, new);
        block.shared.mark(offset, bytes);
        put(warp, inst.d[0], lane, old);
    }
    Ok(())
}

fn in_global(env: &Env, block: &mut Block, warp: &mut Warp, inst: &Inst, atom: &Atom, at: &V64, mask: u32) -> Checked {
    let bytes = atom.access.width as u32;
    if env.counters {
        block.tally.global(warp.pc, bytes * mask.count_ones(), sectors(Spans::new(at, mask, bytes)), true);
    }
    if let Some(shadow) = &env.global_shadow {
        shadow.atomic(block.index, &mut block.view);
    }
    for lane in each(mask) {
        let address = at[lane];
        let span = Span::one(lane, address, bytes);
        let (buffer, offset) = locate(env.slots, &span, "changes")?;
        if env.checks && atom.op != AtomOp::Exch && !buffer.is_whole() && !buffer.is_written(offset, bytes) {
            let what = format!("changes {bytes} bytes at {address:#x} (offset {offset}) that were never written");
            return Err(Problem::new(FaultKind::Uninitialised, lane, what));
        }
        watch(env, block, (buffer, offset), &span, warp.pc, How::Write { atomic: true })?;
        let (b, c) = (operand(warp, inst.s[1], lane), operand(warp, inst.s[2], lane));
        let old = if bytes == 8 {
            let _held = buffer.wide.lock().unwrap_or_else(|e| e.into_inner());
            let old = buffer.load(offset, 8);
            buffer.store(offset, 8, change(atom, old, b, c));
            old
        } else {
            let shift = (offset % 4 * 8) as u32;
            let bits = if bytes == 4 { u32::MAX } else { 0xffff << shift };
            let word = buffer.word((offset / 4) as usize);
            let updated = word.fetch_update(Relaxed, Relaxed, |old| {
                let part = (old & bits) >> shift;
                let new = change(atom, part as u64, b, c) as u32;
                Some(old & !bits | new << shift & bits)
            });
            let (Ok(old) | Err(old)) = updated;
            ((old & bits) >> shift) as u64
        };
        buffer.mark(offset, bytes as u64);
        put(warp, inst.d[0], lane, old);
    }
    Ok(())
}
