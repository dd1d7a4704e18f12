//! Who last touched each piece of a block's shared memory, and whether anything orders the next access after it.
//!
//! Time is a counter of the block. Every barrier of the whole block starts a new phase: what was done before it is
//! ordered before everything after it. `bar.warp.sync` orders the lanes of one warp. Nothing else orders lanes:
//! neither `shfl`, `vote`, `mma` nor `ldmatrix`, since none of them promises memory ordering to anyone.
//! Barriers with a count order those that take part; that is kept as one time for each pair of warps.
#![forbid(unsafe_code)]

use crate::exec::span::Span;

/// Packed record: time in the upper 24 bits, then instruction (20), warp (6), lane (6), kind (2); 6 bits are free.
type Record = u64;

const TIME: u32 = 40;
const WARP: u32 = 14;
const LANE: u32 = 8;
const MANY: u32 = 63;
const LAST_TIME: u32 = (1 << 24) - 2;
/// The time of writes that are still under way: later than everything.
const PENDING_TIME: u32 = (1 << 24) - 1;

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Plain = 0,
    /// Atomics and strong accesses: no race with each other.
    Atomic = 1,
    /// A `cp.async`.
    Async = 2,
}

/// Who touches memory: an instruction of a warp.
#[derive(Clone, Copy)]
pub struct By {
    pub pc: u32,
    pub warp: u32,
    pub touch: Touch,
}

impl By {
    #[inline(always)]
    fn record(self, time: u32, lane: u32) -> Record {
        (time as u64) << TIME
            | (self.pc as u64 & 0xf_ffff) << 20
            | (self.warp as u64) << WARP
            | (lane as u64) << LANE
            | (self.touch as u64) << 6
    }
}

/// An earlier access, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Earlier {
    pub pc: u32,
    /// None: more than one.
    pub warp: Option<u32>,
    pub lane: Option<u32>,
    pub write: bool,
    pub touch: Touch,
    pub pending: bool,
}

fn unpack(record: Record, write: bool) -> Earlier {
    let (warp, lane) = ((record >> WARP) as u32 & 63, (record >> LANE) as u32 & 63);
    Earlier {
        pc: (record >> 20) as u32 & 0xf_ffff,
        warp: (warp != MANY).then_some(warp),
        lane: (lane != MANY).then_some(lane),
        write,
        touch: [Touch::Plain, Touch::Atomic, Touch::Async, Touch::Async][(record >> 6) as usize & 3],
        pending: (record >> TIME) as u32 == PENDING_TIME,
    }
}

pub struct Shadow {
    writes: Vec<Record>,
    reads: Vec<Record>,
    /// Bytes of a cell as a shift.
    shift: u32,
    now: u32,
    /// Start of the phase.
    phase: u32,
    /// Start of each warp's interval.
    synced: Vec<u32>,
    /// `seen[w * warps + u]`: what warp `u` did before this time is ordered before what `w` does now.
    seen: Vec<u32>,
    /// Last read of each cell by each warp; kept only where barriers of some of the warps make it necessary.
    read_times: Vec<u32>,
    partial: bool,
    warps: usize,
}

/// The record after another read of a cell, by a warp that last met at `synced`.
#[inline(always)]
fn merge(synced: u32, old: Record, new: Record) -> Record {
    const WHO: Record = (MANY as u64) << LANE;
    const BY: Record = (MANY as u64) << WARP;
    let apart = (old ^ new) & WHO != 0 && old >= (synced as u64) << TIME;
    let several = if apart { WHO } else { 0 };
    new | if (old ^ new) & BY != 0 { WHO | BY } else { several }
}

impl Shadow {
    pub fn new() -> Self {
        Self {
            writes: Vec::new(),
            reads: Vec::new(),
            shift: 2,
            now: 1,
            phase: 1,
            synced: Vec::new(),
            seen: Vec::new(),
            read_times: Vec::new(),
            partial: false,
            warps: 0,
        }
    }

    /// Starts a block. Cells are as large as the smallest access of the kernel; `partial` says that some of its
    /// barriers may be for some of the warps only.
    pub fn reset(&mut self, bytes: u32, cell: u32, warps: usize, partial: bool) {
        self.shift = cell.trailing_zeros();
        let cells = (bytes as usize).div_ceil(cell as usize) + 1;
        self.partial = partial;
        self.warps = warps;
        // Records of an earlier block are older than its phase if time goes on.
        if self.writes.len() != cells || self.now > LAST_TIME / 2 || partial {
            self.writes.clear();
            self.writes.resize(cells, 0);
            self.reads.clear();
            self.reads.resize(cells, 0);
            self.now = 0;
        }
        self.read_times.clear();
        if partial {
            self.read_times.resize(cells * warps, 0);
        }
        self.now += 1;
        self.phase = self.now;
        self.synced.clear();
        self.synced.resize(warps, self.now);
        self.seen.clear();
        self.seen.resize(warps * warps, self.now);
    }

    fn tick(&mut self) {
        self.now += 1;
        if self.now >= LAST_TIME {
            // Forgetting loses races across this moment, after sixteen million synchronisations.
            self.writes.iter_mut().filter(|r| (**r >> TIME) as u32 != PENDING_TIME).for_each(|r| *r = 0);
            self.reads.fill(0);
            self.read_times.fill(0);
            self.now = 1;
            self.phase = 1;
            self.synced.fill(1);
            self.seen.fill(1);
        }
    }

    /// Every warp of the block came to one barrier.
    pub fn barrier(&mut self) {
        self.tick();
        self.phase = self.now;
        self.synced.fill(self.now);
        self.seen.fill(self.now);
    }

    /// A warp arrives at a barrier of some warps: what it did so far lies before the time given back.
    pub fn arrive(&mut self) -> u32 {
        self.tick();
        self.now
    }

    /// Some warps met: each with the time of its arrival, and whether it waited.
    pub fn meet(&mut self, arrivals: &[(u32, u32, bool)]) {
        let warps = self.warps;
        let mut joined = vec![0; warps];
        for (warp, time, _) in arrivals {
            for (u, joined) in joined.iter_mut().enumerate() {
                *joined = (*joined).max(self.seen[*warp as usize * warps + u]);
            }
            joined[*warp as usize] = joined[*warp as usize].max(*time);
        }
        for (warp, _, waited) in arrivals {
            if *waited {
                let row = &mut self.seen[*warp as usize * warps..][..warps];
                row.iter_mut().zip(&joined).for_each(|(s, j)| *s = (*s).max(*j));
                self.synced[*warp as usize] = self.now;
            }
        }
    }

    /// `bar.warp.sync`.
    pub fn warp_sync(&mut self, warp: u32) {
        self.tick();
        self.synced[warp as usize] = self.now;
    }

    #[inline(always)]
    fn floor(&self) -> Record {
        (self.phase as u64) << TIME
    }

    #[inline(always)]
    fn cells(&self, at: u32, bytes: u32) -> std::ops::Range<usize> {
        (at >> self.shift) as usize..((at + bytes - 1) >> self.shift) as usize + 1
    }

    /// Whether nothing orders an earlier record before what this lane does now.
    #[cold]
    fn unordered(&self, record: Record, warp: u32, lane: u32) -> bool {
        let time = (record >> TIME) as u32;
        let (by, who) = ((record >> WARP) as u32 & 63, (record >> LANE) as u32 & 63);
        if time == PENDING_TIME {
            return true;
        }
        if by == warp {
            return who != lane && time >= self.synced[warp as usize];
        }
        if time < self.phase {
            return false;
        }
        if !self.partial {
            return true;
        }
        let row = &self.seen[warp as usize * self.warps..][..self.warps];
        if by == MANY { row.iter().any(|s| *s <= time) } else { row[by as usize] <= time }
    }

    /// A lane reads; the race it is part of, if any.
    #[inline(always)]
    pub fn read(&mut self, at: u32, bytes: u32, by: By, lane: u32) -> Option<Earlier> {
        let new = by.record(self.now, lane);
        let floor = self.floor();
        for cell in self.cells(at, bytes) {
            let write = self.writes[cell];
            if write >= floor && self.unordered(write, by.warp, lane) {
                let earlier = unpack(write, true);
                if earlier.pending || by.touch == Touch::Plain || earlier.touch != Touch::Atomic {
                    return Some(earlier);
                }
            }
            if by.touch == Touch::Atomic {
                continue;
            }
            let read = self.reads[cell];
            self.reads[cell] = if read < floor { new } else { merge(self.synced[by.warp as usize], read, new) };
            if self.partial {
                self.read_times[cell * self.warps + by.warp as usize] = self.now;
            }
        }
        None
    }

    /// The lanes of a span read; the race they are part of, if any, and the lane.
    #[inline(always)]
    pub fn read_span(&mut self, at: u32, span: &Span, by: By) -> Option<(usize, Earlier)> {
        let floor = self.floor();
        let cells = self.cells(at, span.bytes() as u32);
        let fresh = self.writes[cells.clone()].iter().fold(true, |fresh, write| fresh & (*write < floor));
        if !fresh || self.partial || by.touch == Touch::Atomic {
            return span.range().find_map(|lane| {
                let at = at + span.offset_of(lane) as u32;
                self.read(at, span.each, by, lane as u32).map(|earlier| (lane, earlier))
            });
        }
        // Nothing was written in this phase, so that nothing conflicts: what remains is to note the reads.
        let synced = self.synced[by.warp as usize];
        let per_lane = (span.each >> self.shift).trailing_zeros();
        let shared = span.step == 0 && span.lanes > 1;
        let (first, shift) = if shared { (MANY, 31) } else { (span.lane as u32, per_lane) };
        let first = by.record(self.now, first);
        for (cell, read) in (0u32..).zip(&mut self.reads[cells]) {
            let new = first + ((cell as u64 >> shift) << LANE);
            *read = if *read < floor { new } else { merge(synced, *read, new) };
        }
        None
    }

    /// The access before which `write` and `issue` must not come.
    #[inline(always)]
    fn conflict(&self, cell: usize, warp: u32, lane: u32, touch: Touch, same: bool) -> Option<Earlier> {
        let floor = self.floor();
        let write = self.writes[cell];
        if write >= floor && self.unordered(write, warp, lane) {
            let earlier = unpack(write, true);
            let both_atomic = earlier.touch == Touch::Atomic && touch == Touch::Atomic;
            let both_same = same && earlier.touch == Touch::Plain && touch == Touch::Plain;
            if earlier.pending || !both_atomic && !both_same {
                return Some(earlier);
            }
        }
        let read = self.reads[cell];
        if read >= floor && self.unordered_reads(cell, read, warp, lane) {
            return Some(unpack(read, false));
        }
        None
    }

    #[cold]
    fn unordered_reads(&self, cell: usize, read: Record, warp: u32, lane: u32) -> bool {
        if !self.partial {
            return self.unordered(read, warp, lane);
        }
        let times = &self.read_times[cell * self.warps..][..self.warps];
        let row = &self.seen[warp as usize * self.warps..][..self.warps];
        let others = (0..self.warps).any(|u| u != warp as usize && times[u] >= self.phase && row[u] <= times[u]);
        others || (read >> WARP) as u32 & 63 == warp && self.unordered(read, warp, lane)
    }

    /// Lanes from `lane` on read 16 bytes each at aligned offsets within bounds, where nobody wrote in this phase, so
    /// that nothing can conflict; false if somebody did, and nothing is noted.
    #[inline(always)]
    pub fn read_rows(&mut self, rows: &[u32; 8], by: By, lane: u32) -> bool {
        let floor = self.floor();
        let fresh = rows.iter().fold(true, |fresh, at| {
            self.writes[self.cells(*at, 16)].iter().fold(fresh, |fresh, write| fresh & (*write < floor))
        });
        if !fresh || self.partial {
            return false;
        }
        let synced = self.synced[by.warp as usize];
        for (lane, at) in (lane..).zip(rows) {
            let new = by.record(self.now, lane);
            let cells = self.cells(*at, 16);
            for read in &mut self.reads[cells] {
                *read = if *read < floor { new } else { merge(synced, *read, new) };
            }
        }
        true
    }

    /// A lane writes; `same` says that memory held that value already, which harms nobody.
    #[inline(always)]
    pub fn write(&mut self, at: u32, bytes: u32, by: By, lane: u32, same: bool) -> Option<Earlier> {
        let floor = self.floor();
        let new = by.record(self.now, lane);
        for cell in self.cells(at, bytes) {
            let found = self.conflict(cell, by.warp, lane, by.touch, same);
            if found.is_some() {
                return found;
            }
            let old = self.writes[cell];
            let both = by.touch == Touch::Atomic && old >= floor && unpack(old, true).touch == Touch::Atomic;
            self.writes[cell] = if both { merge(self.synced[by.warp as usize], old, new) } else { new };
        }
        None
    }

    /// Notes the writes of a span where nobody touched the cells in this phase, so that nothing can conflict; false
    /// if somebody did, and nothing is noted.
    #[inline(always)]
    pub fn write_fresh(&mut self, at: u32, span: &Span, by: By) -> bool {
        let floor = self.floor();
        let cells = self.cells(at, span.bytes() as u32);
        let touched = self.writes[cells.clone()].iter().zip(&self.reads[cells.clone()]);
        let fresh = touched.fold(true, |fresh, (write, read)| fresh & (*write < floor) & (*read < floor));
        if !fresh || span.step == 0 && span.lanes > 1 {
            return false;
        }
        let per_lane = (span.each >> self.shift).trailing_zeros();
        let first = by.record(self.now, span.lane as u32);
        for (cell, write) in (0u32..).zip(&mut self.writes[cells]) {
            *write = first + ((cell as u64 >> per_lane) << LANE);
        }
        true
    }

    /// A `cp.async` begins: until it is waited for, its destination belongs to nobody.
    #[inline(always)]
    pub fn issue(&mut self, at: u32, bytes: u32, by: By, lane: u32) -> Option<Earlier> {
        for cell in self.cells(at, bytes) {
            let found = self.conflict(cell, by.warp, lane, Touch::Async, false);
            if found.is_some() {
                return found;
            }
            self.writes[cell] = by.record(PENDING_TIME, lane);
        }
        None
    }

    /// A `cp.async` is done: a write of its lane at this time.
    #[inline(always)]
    pub fn complete(&mut self, at: u32, bytes: u32, by: By, lane: u32) {
        let record = by.record(self.now, lane);
        let cells = self.cells(at, bytes);
        self.writes[cells].fill(record);
    }
}
