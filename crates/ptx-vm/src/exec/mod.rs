//! Runs warps: one loop over decoded instructions, whose families live in the modules beside it.
#![forbid(unsafe_code)]

mod async_copy;
mod atomic;
pub mod block;
pub mod convert;
pub mod float;
mod int;
pub mod lanes;
mod matrix;
mod meet;
mod memory;
mod mma;
pub mod rounding;
pub mod scalar;
pub mod span;
pub mod warp;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::inst::{Class, Float, Inst, LaneFn, Op, Program, Special};
use crate::memory::global_shadow::GlobalShadow;
use crate::memory::slots::Slots;
use crate::simd::{Path, Plain, Wide as WidePath};
use block::Block;
use lanes::each;
use warp::{State, Warp};

/// What all blocks of a launch share.
pub struct Env<'l> {
    pub program: &'l Program,
    pub params: &'l [u8],
    pub slots: &'l Slots,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub threads: u32,
    pub dynamic_shared: u32,
    pub multiprocessors: u32,
    pub checks: bool,
    pub counters: bool,
    pub seed: u64,
    /// Warp instructions that the launch may execute, and those that it has.
    pub max_instructions: u64,
    pub executed: AtomicU64,
    pub global_shadow: Option<GlobalShadow>,
    /// Smallest access of shared memory, and whether barriers may be for some of the warps.
    pub cell: u32,
    pub partial_barriers: bool,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop {
    Barrier,
    Done,
    /// It ran long; others get a turn.
    Turn,
}

/// Backward branches before another warp gets a turn.
const QUANTUM: u32 = 20_000;

/// Runs a warp until it waits or ends.
pub fn run(env: &Env, block: &mut Block, warp: &mut Warp) -> Checked<Stop> {
    block.steps = 0;
    block.allowed = env.max_instructions.saturating_sub(env.executed.load(Relaxed));
    let stop = match WidePath::find() {
        Some(path) => path.run(
            #[inline(always)]
            || interpret(path, env, block, warp),
        ),
        None => interpret(Plain, env, block, warp),
    };
    env.executed.fetch_add(block.steps, Relaxed);
    if block.steps > block.allowed && stop.is_ok() {
        let what = format!("the launch has executed more than {} warp instructions", env.max_instructions);
        return Err(Problem::warp(FaultKind::TooLong, what));
    }
    stop
}

#[inline(always)]
fn interpret(path: impl Path, env: &Env, block: &mut Block, warp: &mut Warp) -> Checked<Stop> {
    let code = env.program.code.as_slice();
    let mut budget = QUANTUM;
    loop {
        if warp.pc >= warp.next {
            warp.regroup();
        }
        let pc = warp.pc as usize;
        let inst = &code[pc];
        block.tally.counts[pc] += 1;
        block.steps += 1;
        let mut mask = warp.mask;
        if !inst.guard.is_none() {
            let guard = warp.p[inst.guard.index()];
            mask &= if inst.negated { !guard } else { guard };
            if mask == 0 {
                warp.pc += 1;
                continue;
            }
        }
        match &inst.op {
            Op::Nop => {}
            Op::Un32(op) => path.run(
                #[inline(always)]
                || int::unary(*op, &mut warp.r32, inst, mask),
            ),
            Op::Bin32(op) => path.run(
                #[inline(always)]
                || int::binary(*op, &mut warp.r32, inst, mask),
            ),
            Op::Tri32(op) => path.run(
                #[inline(always)]
                || int::ternary(*op, &mut warp.r32, inst, mask),
            ),
            Op::Float(op, ftz) => {
                if *op == Float::Fma {
                    block.tally.fma_lanes += mask.count_ones() as u64;
                }
                path.run(
                    #[inline(always)]
                    || float::float(*op, *ftz, &mut warp.r32, inst, mask),
                );
            }
            Op::Double(op) => path.run(
                #[inline(always)]
                || float::double(*op, &mut warp.r64, inst, mask),
            ),
            Op::Int64(op) => path.run(
                #[inline(always)]
                || int::int64(*op, &mut warp.r64, &warp.r32, inst, mask),
            ),
            Op::Wide(op) => path.run(
                #[inline(always)]
                || int::wide(*op, &mut warp.r32, &mut warp.r64, inst, mask),
            ),
            Op::Half(half) => path.run(
                #[inline(always)]
                || float::half(half, &mut warp.r32, inst, mask),
            ),
            Op::Lane(f, x) => by_lane(*f, *x, warp, inst, mask),
            Op::Setp(cmp, ty, op, negated) => {
                let plain = path.run(
                    #[inline(always)]
                    || int::setp(*cmp, *ty, &warp.r32, &warp.r64, inst),
                );
                let c = if op.is_some() { warp.p[inst.s[2].index()] } else { 0 };
                let c = if *negated { !c } else { c };
                if !inst.d[0].is_none() {
                    warp.put_pred(inst.d[0], mask, int::combine(plain, *op, c));
                }
                if !inst.d[1].is_none() {
                    warp.put_pred(inst.d[1], mask, int::combine(!plain, *op, c));
                }
            }
            Op::Select => {
                let choose = warp.p[inst.s[2].index()];
                let (d, a, b) = (inst.d[0].index(), inst.s[0].index(), inst.s[1].index());
                if inst.d[0].is_64() {
                    path.run(
                        #[inline(always)]
                        || select(&mut warp.r64, d, a, b, mask, choose),
                    );
                } else {
                    path.run(
                        #[inline(always)]
                        || select(&mut warp.r32, d, a, b, mask, choose),
                    );
                }
            }
            Op::PredAnd => warp.put_pred(inst.d[0], mask, warp.p[inst.s[0].index()] & warp.p[inst.s[1].index()]),
            Op::PredOr => warp.put_pred(inst.d[0], mask, warp.p[inst.s[0].index()] | warp.p[inst.s[1].index()]),
            Op::PredXor => warp.put_pred(inst.d[0], mask, warp.p[inst.s[0].index()] ^ warp.p[inst.s[1].index()]),
            Op::PredNot => warp.put_pred(inst.d[0], mask, !warp.p[inst.s[0].index()]),
            Op::PredMov => warp.put_pred(inst.d[0], mask, warp.p[inst.s[0].index()]),
            Op::Carry { subtract, carry_in, carry_out } => {
                carry(warp, inst, mask, *subtract, *carry_in, *carry_out);
            }
            Op::Special(special) => read_special(env, block, warp, inst, *special, mask),
            Op::Ld(access) => memory::reach::<false>(path, env, block, warp, inst, access, mask)?,
            Op::LdParam { offset, width, count, fill } => {
                memory::load_param(env, warp, inst, mask, (*offset, *width, *count, *fill))?;
            }
            Op::St(access) => memory::reach::<true>(path, env, block, warp, inst, access, mask)?,
            Op::Atom(atom) => atomic::atomic(env, block, warp, inst, atom, mask)?,
            Op::CpAsync { size, bytes, offset_to, offset_from } => {
                async_copy::issue(path, env, block, warp, inst, mask, (*size, *bytes, *offset_to, *offset_from))?;
            }
            Op::CpCommit => async_copy::commit(warp, mask),
            Op::CpWait(left) => async_copy::wait(path, env, block, warp, mask, *left)?,
            Op::Bra(to) => {
                let back = *to <= warp.pc;
                if mask == warp.mask {
                    warp.pc = *to;
                    if back && !warp.groups.is_empty() {
                        warp.turn();
                    }
                } else {
                    warp.split(mask, *to);
                }
                if back {
                    budget -= 1;
                    if budget == 0 || block.steps > block.allowed {
                        return Ok(Stop::Turn);
                    }
                }
                continue;
            }
            Op::Brx(targets) => {
                indexed_branch(warp, inst, mask, targets)?;
                budget -= 1;
                if budget == 0 || block.steps > block.allowed {
                    return Ok(Stop::Turn);
                }
                continue;
            }
            Op::Exit => {
                warp.live &= !mask;
                warp.mask &= !mask;
                warp.ended_at = warp.pc;
                warp.copies.iter_mut().for_each(|c| c.mask &= !mask);
                if warp.mask != 0 {
                    warp.pc += 1;
                    continue;
                }
                if warp.live == 0 {
                    warp.state = State::Done;
                    return Ok(Stop::Done);
                }
                // Those that waited for lanes which are gone look again.
                warp.groups.iter_mut().for_each(|g| g.parked = false);
                warp.pick();
                continue;
            }
            Op::Trap => return Err(Problem::new(FaultKind::Trap, first(mask), "the kernel executed trap".into())),
            Op::Bar(bar) => {
                let all_here = match bar.aligned {
                    true => meet::together(warp, mask, warp.live)?,
                    false => meet::at_barrier(env, warp, inst, bar, mask)?,
                };
                if !all_here {
                    continue;
                }
                if block.arrive(env, warp, inst, bar, mask)? {
                    warp.state = State::AtBarrier;
                    warp.pc += 1;
                    return Ok(Stop::Barrier);
                }
            }
            Op::BarWarp => {
                let Some(mask) = meet::members(env, warp, inst.s[0], mask)? else { continue };
                let _ = mask;
                block.shadow.warp_sync(warp.id);
            }
            Op::Fence(beyond) => block.view.fenced |= *beyond,
            Op::Shfl(mode) => {
                let Some(part) = meet::members(env, warp, inst.s[3], mask)? else { continue };
                meet::shuffle(env, warp, inst, *mode, part)?;
            }
            Op::Vote(mode, negated) => {
                let Some(part) = meet::members(env, warp, inst.s[1], mask)? else { continue };
                meet::vote(warp, inst, *mode, *negated, part);
            }
            Op::Match(all) => {
                let Some(part) = meet::members(env, warp, inst.s[1], mask)? else { continue };
                meet::matching(warp, inst, *all, part);
            }
            Op::Redux(op) => {
                let Some(part) = meet::members(env, warp, inst.s[1], mask)? else { continue };
                meet::redux(warp, inst, *op, part);
            }
            Op::ActiveMask => lanes::set(&mut warp.r32[inst.d[0].index()], mask, |_| mask),
            Op::Ldmatrix { count, transposed, access } => {
                if !meet::together(warp, mask, warp.lanes)? {
                    continue;
                }
                matrix::load(path, env, block, warp, inst, (*count, *transposed), access)?;
            }
            Op::Stmatrix { count, transposed, access } => {
                if !meet::together(warp, mask, warp.lanes)? {
                    continue;
                }
                matrix::store(path, env, block, warp, inst, (*count, *transposed), access)?;
            }
            Op::Movmatrix => {
                if !meet::together(warp, mask, warp.lanes)? {
                    continue;
                }
                matrix::transpose(warp, inst);
            }
            Op::Mma(kind) => {
                if !meet::together(warp, mask, warp.lanes)? {
                    continue;
                }
                path.run(
                    #[inline(always)]
                    || mma::mma(*kind, &mut warp.r32, inst),
                );
            }
            Op::Unsupported(why) => return Err(Problem::new(FaultKind::Unsupported, first(mask), why.to_string())),
        }
        warp.pc += 1;
    }
}

pub fn first(mask: u32) -> usize {
    mask.trailing_zeros() as usize & 31
}

#[inline(always)]
fn select<T: Copy>(r: &mut [[T; 32]], d: usize, a: usize, b: usize, mask: u32, choose: u32) {
    let (x, y) = (r[a], r[b]);
    lanes::set(&mut r[d], mask, |i| if choose >> i & 1 != 0 { x[i] } else { y[i] });
}

/// An instruction that has no loop of its own.
fn by_lane(f: LaneFn, x: u32, warp: &mut Warp, inst: &Inst, mask: u32) {
    let d = inst.d[0];
    for lane in each(mask) {
        let mut args = [0u64; 3];
        for (arg, s) in args.iter_mut().zip(inst.s) {
            *arg = match s.class() {
                Class::None => 0,
                Class::R32 => warp.r32[s.index()][lane] as u64,
                Class::R64 => warp.r64[s.index()][lane],
                Class::Pred => (warp.p[s.index()] >> lane & 1) as u64,
            };
        }
        let value = f(args, x);
        match d.class() {
            Class::None => {}
            Class::R32 => warp.r32[d.index()][lane] = value as u32,
            Class::R64 => warp.r64[d.index()][lane] = value,
            Class::Pred => warp.put_pred(d, 1 << lane, (value as u32) << lane),
        }
    }
}

fn carry(warp: &mut Warp, inst: &Inst, mask: u32, subtract: bool, carry_in: bool, carry_out: bool) {
    let [a, b, flag, _] = inst.s;
    let old = warp.p[flag.index()];
    for lane in each(mask) {
        let c = if carry_in { (old >> lane & 1) as u128 } else { 0 };
        let (x, y, bits) = if a.is_64() {
            (warp.r64[a.index()][lane], warp.r64[b.index()][lane], 64)
        } else {
            (warp.r32[a.index()][lane] as u64, warp.r32[b.index()][lane] as u64, 32)
        };
        let sum =
            if subtract { (x as u128).wrapping_sub(y as u128).wrapping_sub(c) } else { x as u128 + y as u128 + c };
        let d = inst.d[0];
        if !d.is_none() {
            if d.is_64() {
                warp.r64[d.index()][lane] = sum as u64;
            } else {
                warp.r32[d.index()][lane] = sum as u32;
            }
        }
        if carry_out {
            warp.put_pred(flag, 1 << lane, ((sum >> bits & 1) as u32) << lane);
        }
    }
}

fn indexed_branch(warp: &mut Warp, inst: &Inst, mask: u32, targets: &[u32]) -> Checked {
    let index = warp.r32[inst.s[0].index()];
    let rest = warp.mask & !mask;
    let next = warp.pc + 1;
    for lane in each(mask) {
        let Some(to) = targets.get(index[lane] as usize) else {
            let what = format!("target {} of {} of an indexed branch", index[lane], targets.len());
            return Err(Problem::new(FaultKind::OutOfBounds, lane, what));
        };
        warp.join_group(warp::Group { pc: *to, mask: 1 << lane, parked: false });
    }
    if rest != 0 {
        warp.join_group(warp::Group { pc: next, mask: rest, parked: false });
    }
    warp.mask = 0;
    warp.pick();
    Ok(())
}

fn read_special(env: &Env, block: &mut Block, warp: &mut Warp, inst: &Inst, special: Special, mask: u32) {
    let first = warp.id * 32;
    let [bx, by, _] = env.block;
    let thread = |lane: usize, axis: u8| {
        let t = first + lane as u32;
        match axis {
            0 => t % bx,
            1 => t / bx % by,
            _ => t / bx / by,
        }
    };
    let clock = block.clock;
    let value = |lane: usize| match special {
        Special::Tid(axis) => thread(lane, axis),
        Special::Ntid(axis) => env.block[axis as usize],
        Special::Ctaid(axis) => block.at[axis as usize],
        Special::Nctaid(axis) => env.grid[axis as usize],
        Special::LaneId => lane as u32,
        Special::WarpId => warp.id,
        Special::NWarpId => env.threads.div_ceil(32),
        Special::SmId => (block.index % env.multiprocessors.max(1) as u64) as u32,
        Special::NSmId => env.multiprocessors,
        Special::GridId => 1,
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskLe => u32::MAX >> (31 - lane),
        Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
        Special::LaneMaskGe => !((1 << lane) - 1),
        Special::Clock => clock as u32,
        Special::DynamicShared => env.dynamic_shared,
        Special::TotalShared => env.program.static_shared + env.dynamic_shared,
    };
    let d = inst.d[0];
    if d.is_none() {
        return;
    }
    if d.is_64() {
        let wide = |lane| if special == Special::Clock { clock } else { value(lane) as u64 };
        lanes::set(&mut warp.r64[d.index()], mask, wide);
    } else {
        lanes::set(&mut warp.r32[d.index()], mask, value);
    }
    if special == Special::Clock {
        block.clock += 100;
    }
}
