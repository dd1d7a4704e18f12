//! What a launch did: counted by instruction while it runs, summed by kernel and line when it is done.
#![forbid(unsafe_code)]

use crate::exec::lanes::each;
use crate::exec::span::{Span, Spans};
use crate::inst::{Op, Program};
use crate::{Counters, LineCounters};

/// A worker's counts.
pub struct Tally {
    /// Executions of each instruction.
    pub counts: Vec<u64>,
    lines: Vec<LineCounters>,
    pub fma_lanes: u64,
    pub blocks: u64,
    read: (u64, u64),
    write: (u64, u64),
    requests: u64,
    conflicts: u64,
}

/// Passes that a shared-memory request takes, and the least it could: 32 banks of 4 bytes serve one word each a pass,
/// lanes that want the same word share it, and requests of 8 and 16 bytes a lane go by halves and quarters of a warp.
#[inline(always)]
pub fn passes(spans: Spans) -> (u64, u64) {
    let lanes = match spans.each {
        8 => 16,
        16 => 8,
        _ => 32,
    };
    let single = spans.is_single();
    let (mut taken, mut least) = (0, 0);
    for from in (0..32).step_by(lanes) {
        let part = spans.mask >> from & (u32::MAX >> (32 - lanes));
        if part != 0 {
            least += 1;
            // 128 bytes side by side lie in all banks once.
            taken += if single { 1 } else { part_passes(&spans.at[from..from + lanes], part, spans.each) };
        }
    }
    (taken, least)
}

/// The same for a span of the whole warp: its words lie in all banks once, or are one word.
#[inline(always)]
pub fn passes_of_one(span: &Span) -> (u64, u64) {
    let parts = (span.each as u64 / 4).max(1);
    (parts, parts)
}

#[inline(always)]
fn part_passes(at: &[u64], part: u32, bytes: u32) -> u64 {
    // Most requests ask for a different place of the 128 bytes with every lane, and are done.
    let unit = bytes.max(4).trailing_zeros();
    let mut seen = 0u32;
    for (lane, address) in at.iter().enumerate() {
        let asks = part >> lane & 1;
        seen |= asks << ((address & 127) >> unit);
    }
    if seen.count_ones() == part.count_ones() {
        return 1;
    }
    shared_banks(at, part, bytes)
}

#[cold]
fn shared_banks(at: &[u64], part: u32, bytes: u32) -> u64 {
    let words = bytes.div_ceil(4) as u64;
    // A word of each bank that was asked for; most requests never ask for a second.
    let mut first = [u64::MAX; 32];
    let mut others: Vec<u64> = Vec::new();
    for (lane, address) in at.iter().enumerate() {
        if part >> lane & 1 == 0 {
            continue;
        }
        for k in 0..words {
            let word = address / 4 + k;
            let held = &mut first[(word % 32) as usize];
            if *held == u64::MAX {
                *held = word;
            } else if *held != word && !others.contains(&word) {
                others.push(word);
            }
        }
    }
    if others.is_empty() {
        return 1;
    }
    let mut load = [1u64; 32];
    others.iter().for_each(|word| load[(word % 32) as usize] += 1);
    load.into_iter().max().unwrap_or(1)
}

/// 32-byte sectors that a request touches, and the least that its distinct bytes would fill.
#[inline(always)]
pub fn sectors(spans: Spans) -> (u64, u64) {
    let (mut sectors, mut distinct) = (0, 0);
    let mut last = None;
    for span in spans {
        let end = span.at.wrapping_add((span.lanes as u64 - 1) * span.step);
        if end < span.at || last.is_some_and(|last| span.at < last) {
            return sectors_of_all(spans);
        }
        distinct += if span.step == 0 { 1 } else { span.lanes as u64 };
        distinct -= (last == Some(span.at)) as u64;
        sectors += end / 32 - span.at / 32 + 1;
        sectors -= last.is_some_and(|last| last / 32 == span.at / 32) as u64;
        last = Some(end);
    }
    (sectors, (distinct * spans.each as u64).div_ceil(32))
}

/// The same for one span.
#[inline(always)]
pub fn sectors_of_one(span: &Span) -> (u64, u64) {
    let touched = span.at.wrapping_add(span.bytes() - 1) / 32 - span.at / 32 + 1;
    (touched, span.bytes().div_ceil(32))
}

/// The same for addresses that do not rise from lane to lane.
#[cold]
fn sectors_of_all(spans: Spans) -> (u64, u64) {
    let mut all: Vec<u64> = each(spans.mask).map(|lane| spans.at[lane]).collect();
    all.sort_unstable();
    all.dedup();
    let distinct = all.len() as u64;
    all.iter_mut().for_each(|a| *a /= 32);
    all.dedup();
    (all.len() as u64, (distinct * spans.each as u64).div_ceil(32))
}

impl Tally {
    pub fn new(instructions: usize) -> Self {
        Self {
            counts: vec![0; instructions],
            lines: vec![LineCounters::default(); instructions],
            fma_lanes: 0,
            blocks: 0,
            read: (0, 0),
            write: (0, 0),
            requests: 0,
            conflicts: 0,
        }
    }

    /// A request to shared memory: what `passes` says of it.
    #[inline(always)]
    pub fn shared(&mut self, pc: u32, (taken, least): (u64, u64)) {
        self.requests += 1;
        self.conflicts += taken - least;
        let line = &mut self.lines[pc as usize];
        line.requests += 1;
        line.excess_passes += taken - least;
    }

    /// A request to global memory: the bytes that lanes ask for, and what `sectors` says of it.
    #[inline(always)]
    pub fn global(&mut self, pc: u32, bytes: u32, (touched, least): (u64, u64), write: bool) {
        let side = if write { &mut self.write } else { &mut self.read };
        side.0 += bytes as u64;
        side.1 += touched;
        let line = &mut self.lines[pc as usize];
        line.requests += 1;
        line.excess_sectors += touched.saturating_sub(least);
    }

    /// Adds this worker's counts to a kernel's.
    pub fn add_to(&self, total: &mut Counters, program: &Program) {
        total.blocks += self.blocks;
        total.fma_lanes += self.fma_lanes;
        total.global_read_bytes += self.read.0;
        total.global_read_sectors += self.read.1;
        total.global_write_bytes += self.write.0;
        total.global_write_sectors += self.write.1;
        total.shared_requests += self.requests;
        total.bank_conflicts += self.conflicts;
        for (pc, (count, origin)) in self.counts.iter().zip(&program.origins).enumerate() {
            if *count == 0 {
                continue;
            }
            if let Op::Mma(kind) = &program.code[pc].op {
                total.mma_macs += count * 16 * 8 * kind.k as u64;
            }
            if let Some(id) = origin.opcode {
                total.warp_instructions += count;
                *total.opcodes.entry(program.opcodes[id as usize].clone()).or_default() += count;
            }
        }
        for (line, origin) in self.lines.iter().zip(&program.origins) {
            if line.requests != 0 {
                let sum = total.by_line.entry(origin.line).or_default();
                sum.requests += line.requests;
                sum.excess_passes += line.excess_passes;
                sum.excess_sectors += line.excess_sectors;
            }
        }
    }
}
