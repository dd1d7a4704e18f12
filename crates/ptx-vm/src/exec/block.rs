//! A block: its warps take turns, meet at barriers, and share memory.
#![forbid(unsafe_code)]

use super::lanes::set;
use super::warp::{State, Warp};
use super::{Env, Stop};
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::counters::Tally;
use crate::inst::{Bar, BarKind, Inst, Reg};
use crate::memory::global_shadow::View;
use crate::memory::shadow::Shadow;
use crate::memory::shared::Shared;

/// A warp that came to a barrier.
#[derive(Clone, Copy)]
struct Arrival {
    warp: u32,
    /// When, for the shadow.
    time: u32,
    waits: bool,
    result: Reg,
    pc: u32,
}

#[derive(Clone, Default)]
struct Barrier {
    arrived: u32,
    expected: u32,
    arrivals: Vec<Arrival>,
    and: bool,
    or: bool,
    count: u32,
    kind: Option<BarKind>,
}

/// The state of the block that a worker runs now; kept from block to block for its memory.
pub struct Block {
    pub index: u64,
    pub at: [u32; 3],
    pub shared: Shared,
    pub shadow: Shadow,
    pub tally: Tally,
    pub view: View,
    pub clock: u64,
    /// Instructions that the warp has executed in this turn, and may.
    pub steps: u64,
    pub allowed: u64,
    barriers: Vec<Barrier>,
    /// Warps that a barrier let go, with what a reduction gave each.
    released: Vec<(u32, Reg, BarKind, u32)>,
}

/// A fault with the place where it happened.
pub struct Failure {
    pub problem: Box<Problem>,
    pub pc: u32,
    pub warp: u32,
    pub block: u64,
}

/// The order in which things are taken: a permutation that a seed gives.
pub fn shuffled(n: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut state = seed;
    for i in (1..n).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        order.swap(i, ((z ^ z >> 31) % (i as u64 + 1)) as usize);
    }
    order
}

impl Block {
    pub fn new(instructions: usize) -> Self {
        Self {
            index: 0,
            at: [0; 3],
            shared: Shared::new(),
            shadow: Shadow::new(),
            tally: Tally::new(instructions),
            view: View::default(),
            clock: 0,
            steps: 0,
            allowed: u64::MAX,
            barriers: vec![Barrier::default(); 16],
            released: Vec::new(),
        }
    }

    /// Runs one block from its start to its end.
    pub fn run(&mut self, env: &Env, warps: &mut Vec<Warp>, index: u64) -> Result<(), Failure> {
        let count = env.threads.div_ceil(32);
        self.index = index;
        self.at = crate::check::coordinates(index, env.grid);
        self.view = View::default();
        let bytes = env.program.static_shared + env.dynamic_shared;
        self.shared.reset(bytes);
        if env.checks {
            self.shadow.reset(bytes, env.cell, count as usize, env.partial_barriers);
        } else {
            self.shadow.reset(0, 16, count as usize, env.partial_barriers);
        }
        self.barriers.iter_mut().for_each(|b| *b = Barrier::default());
        self.tally.blocks += 1;
        warps.resize_with(count as usize, Warp::new);
        for (id, warp) in warps.iter_mut().enumerate() {
            warp.reset(id as u32, (env.threads - 32 * id as u32).min(32), env.program);
        }
        let mut order = shuffled(count as usize, env.seed ^ index.wrapping_mul(0xd6e8_feb8_6659_fd93));
        loop {
            let mut moved = false;
            for id in &order {
                let warp = &mut warps[*id as usize];
                if warp.state != State::Ready {
                    continue;
                }
                moved = true;
                match super::run(env, self, warp) {
                    Ok(Stop::Barrier | Stop::Done | Stop::Turn) => {}
                    Err(problem) => return Err(Failure { problem, pc: warp.pc, warp: *id, block: index }),
                }
                self.release(warps);
            }
            if warps.iter().all(|w| w.state == State::Done) {
                return Ok(());
            }
            if !moved {
                return Err(self.deadlock(env, warps, index));
            }
            order.rotate_left(1);
        }
    }

    /// Warps that a barrier let go run again.
    fn release(&mut self, warps: &mut [Warp]) {
        for (id, result, kind, value) in self.released.drain(..) {
            let warp = &mut warps[id as usize];
            warp.state = State::Ready;
            give_result(warp, result, kind, value);
        }
    }

    /// A warp comes to a barrier; true if it must wait.
    pub fn arrive(&mut self, env: &Env, warp: &mut Warp, inst: &Inst, bar: &Bar, mask: u32) -> Checked<bool> {
        let lane = super::first(mask);
        // Lanes that ended count as arrived where the instruction is not `.aligned`, as the PTX ISA has it.
        if bar.aligned && warp.live != warp.lanes {
            let what = format!(
                "lanes {:#010x} of the warp ended before this barrier (at line {})",
                warp.lanes & !warp.live,
                env.program.origins[warp.ended_at as usize].line
            );
            return Err(Problem::warp(FaultKind::Divergence, what));
        }
        let uniform = |reg: Reg| {
            let values = &warp.r32[reg.index()];
            super::each(mask).all(|l| values[l] == values[lane]).then_some(values[lane])
        };
        let Some(number) = uniform(inst.s[0]) else {
            return Err(Problem::warp(FaultKind::Divergence, "lanes name different barriers".into()));
        };
        if number > 15 {
            let what = format!("barrier {number}: there are 16");
            return Err(Problem::warp(FaultKind::Deadlock, what));
        }
        let whole = env.threads.div_ceil(32) * 32;
        let expected = if bar.counted {
            let Some(count) = uniform(inst.s[1]) else {
                return Err(Problem::warp(FaultKind::Divergence, "lanes give different counts of threads".into()));
            };
            if count % 32 != 0 || count == 0 || count > whole {
                let what = format!("a barrier of {count} threads: not a multiple of 32 from 32 to {whole}");
                return Err(Problem::warp(FaultKind::Deadlock, what));
            }
            count
        } else {
            whole
        };
        let partial = expected != whole || bar.kind == BarKind::Arrive;
        let time = if partial && env.checks { self.shadow.arrive() } else { 0 };
        let predicate = if inst.s[2].is_none() {
            0
        } else {
            let p = warp.p[inst.s[2].index()];
            (if bar.negated { !p } else { p }) & mask
        };
        let barrier = &mut self.barriers[number as usize];
        if barrier.arrived == 0 {
            *barrier = Barrier { expected, and: true, ..Barrier::default() };
        }
        let reduces = |kind| !matches!(kind, BarKind::Sync | BarKind::Arrive);
        let mixed = barrier.kind.is_some_and(|kind| kind != bar.kind && (reduces(kind) || reduces(bar.kind)));
        if barrier.expected != expected || mixed {
            let what = format!(
                "barrier {number} is used here for {expected} threads, but warps wait at it for {} or for another operation",
                barrier.expected
            );
            return Err(Problem::warp(FaultKind::Deadlock, what));
        }
        barrier.kind = Some(bar.kind);
        barrier.arrived += 32;
        barrier.and &= predicate == mask;
        barrier.or |= predicate != 0;
        barrier.count += predicate.count_ones();
        let waits = bar.kind != BarKind::Arrive;
        barrier.arrivals.push(Arrival { warp: warp.id, time, waits, result: inst.d[0], pc: warp.pc });
        if barrier.arrived < expected {
            return Ok(waits);
        }
        let done = std::mem::take(barrier);
        if env.checks {
            let everybody = done.arrivals.len() as u32 * 32 == whole && done.arrivals.iter().all(|a| a.waits);
            if everybody {
                self.shadow.barrier();
            } else {
                let arrivals: Vec<_> = done.arrivals.iter().map(|a| (a.warp, a.time, a.waits)).collect();
                self.shadow.meet(&arrivals);
            }
        }
        let value = match bar.kind {
            BarKind::RedAnd => done.and as u32,
            BarKind::RedOr => done.or as u32,
            _ => done.count,
        };
        for arrival in done.arrivals.iter().filter(|a| a.waits && a.warp != warp.id) {
            self.released.push((arrival.warp, arrival.result, bar.kind, value));
        }
        give_result(warp, inst.d[0], bar.kind, value);
        Ok(false)
    }

    /// Every warp that has not ended waits: says for what.
    #[cold]
    fn deadlock(&self, env: &Env, warps: &[Warp], index: u64) -> Failure {
        let mut parts = Vec::new();
        let mut place = (0, 0);
        for (number, barrier) in self.barriers.iter().enumerate().filter(|(_, b)| b.arrived > 0) {
            let waiting: Vec<String> =
                barrier.arrivals.iter().filter(|a| a.waits).map(|a| a.warp.to_string()).collect();
            if let Some(first) = barrier.arrivals.iter().find(|a| a.waits) {
                place = (first.pc, first.warp);
            }
            let shown = |threads: u32| threads.min(env.threads.max(1));
            parts.push(format!(
                "barrier {number} has {} of {} threads (warps {} wait)",
                shown(barrier.arrived),
                shown(barrier.expected),
                waiting.join(", ")
            ));
        }
        let ended: Vec<&Warp> = warps.iter().filter(|w| w.state == State::Done).collect();
        if let Some(first) = ended.first() {
            parts.push(format!(
                "{} of {} warps have ended (the first at line {})",
                ended.len(),
                warps.len(),
                env.program.origins[first.ended_at as usize].line
            ));
        }
        let problem = Problem::warp(FaultKind::Deadlock, format!("no warp can go on: {}", parts.join("; ")));
        Failure { problem, pc: place.0, warp: place.1, block: index }
    }
}

fn give_result(warp: &mut Warp, result: Reg, kind: BarKind, value: u32) {
    if result.is_none() {
        return;
    }
    let live = warp.live;
    match kind {
        BarKind::RedPopc => set(&mut warp.r32[result.index()], live, |_| value),
        _ => warp.put_pred(result, live, if value != 0 { u32::MAX } else { 0 }),
    }
}
