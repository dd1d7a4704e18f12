//! Races between blocks in global memory: who of the running launch last wrote and read each cell.
//!
//! Blocks are unordered unless one publishes (a fence that reaches beyond the block, then an atomic) and the other
//! takes note (an atomic, after which it reads). Which atomic is not looked at, so a wrong pairing is not seen.
//!
//! What `.nc` loads read may not change while the kernel runs, whoever writes it and in whatever order.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Packed record: block + 1 in the upper 32 bits, then instruction (20), kind (2: atomic, constant). Zero: nobody.
struct Cells {
    writes: Box<[AtomicU64]>,
    reads: Box<[AtomicU64]>,
}

/// Cells that come into being together, as a power of two: a launch that touches a corner of a large allocation pays for
/// the corner.
const CHUNK: u32 = 12;

/// The records of an allocation, chunk by chunk.
type Chunks = Box<[OnceLock<Cells>]>;

/// The records of one launch.
pub struct GlobalShadow {
    buffers: Vec<OnceLock<Chunks>>,
    shift: u32,
    clock: AtomicU64,
    /// When each block last published and last took note.
    published: Box<[AtomicU64]>,
}

/// One block's view.
#[derive(Clone, Copy, Default)]
pub struct View {
    pub fenced: bool,
    pub noted: u64,
}

const MANY: u64 = u32::MAX as u64;
const ATOMIC: u64 = 1;
/// Of a reader: somebody took the cell for constant.
const CONSTANT: u64 = 2;

/// How a cell is touched.
#[derive(Clone, Copy, PartialEq)]
pub enum How {
    Read { atomic: bool, constant: bool },
    Write { atomic: bool },
}

fn zeroed(n: usize) -> Box<[AtomicU64]> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

/// Another block's access.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    pub pc: u32,
    pub block: Option<u64>,
    pub write: bool,
    pub atomic: bool,
    /// One of the two took the memory for constant.
    pub constant: bool,
}

impl GlobalShadow {
    /// `cell` is the smallest access of the kernel.
    pub fn new(slots: usize, cell: u32, blocks: u64) -> Self {
        Self {
            buffers: (0..slots).map(|_| OnceLock::new()).collect(),
            shift: cell.trailing_zeros(),
            clock: AtomicU64::new(1),
            published: zeroed(blocks as usize),
        }
    }

    #[inline(always)]
    fn chunks(&self, slot: usize, size: u64) -> &Chunks {
        self.buffers[slot].get_or_init(|| {
            let cells = size.div_ceil(1 << self.shift) + 1;
            (0..cells.div_ceil(1 << CHUNK)).map(|_| OnceLock::new()).collect()
        })
    }

    /// An atomic: publishes what a fence made ready, and takes note of what others published.
    pub fn atomic(&self, block: u64, view: &mut View) {
        if view.fenced {
            self.published[block as usize].store(self.clock.fetch_add(1, Relaxed), Relaxed);
        }
        view.noted = self.clock.load(Relaxed);
    }

    #[cold]
    fn ordered(&self, record: u64, block: u64, view: &View) -> bool {
        let by = record >> 32;
        if record == 0 || by == block + 1 {
            return true;
        }
        if by == MANY {
            return false;
        }
        let published = self.published[(by - 1) as usize].load(Relaxed);
        published != 0 && published < view.noted
    }

    /// An instruction of a block, with the block's view, touches bytes of an allocation; the access of another block
    /// that nothing orders before it, if any, and the offset of the first byte that both may have touched.
    #[inline(always)]
    pub fn touch(
        &self,
        slot: usize,
        size: u64,
        (at, bytes): (u64, u64),
        (pc, block, view): (u32, u64, &View),
        how: How,
    ) -> Option<(u64, Other)> {
        let chunks = self.chunks(slot, size);
        let (write, kind) = match how {
            How::Read { atomic, constant } => (false, atomic as u64 | (constant as u64) << 1),
            How::Write { atomic } => (true, atomic as u64),
        };
        let new = (block + 1) << 32 | (pc as u64) << 2 | kind;
        let own = |record: u64| record == 0 || record >> 32 == block + 1;
        let fine = |record: u64| own(record) || kind & record & ATOMIC != 0 || self.ordered(record, block, view);
        let (mut cell, end) = ((at >> self.shift) as usize, ((at + bytes - 1) >> self.shift) as usize + 1);
        while cell < end {
            let cells =
                chunks[cell >> CHUNK].get_or_init(|| Cells { writes: zeroed(1 << CHUNK), reads: zeroed(1 << CHUNK) });
            let stop = end.min(((cell >> CHUNK) + 1) << CHUNK);
            let within = |cell: usize| cell & ((1 << CHUNK) - 1);
            let run = within(cell)..within(stop - 1) + 1;
            for (at, (writer, reader)) in (cell..).zip(cells.writes[run.clone()].iter().zip(&cells.reads[run])) {
                let earlier = if write { writer.swap(new, Relaxed) } else { writer.load(Relaxed) };
                let read = reader.load(Relaxed);
                let place = (at as u64) << self.shift;
                if kind & CONSTANT != 0 && earlier != 0 {
                    return Some((place, Other { constant: true, ..seen(earlier, true) }));
                }
                if !fine(earlier) {
                    return Some((place, seen(earlier, true)));
                }
                if !write {
                    let record = if own(read) { new } else { MANY << 32 | new & 0xffff_ffff & (read | !ATOMIC) };
                    reader.store(record | read & CONSTANT, Relaxed);
                } else if read & CONSTANT != 0 || !fine(read) {
                    return Some((place, seen(read, false)));
                }
            }
            cell = stop;
        }
        None
    }
}

#[cold]
fn seen(record: u64, write: bool) -> Other {
    Other {
        pc: (record as u32) >> 2,
        block: (record >> 32 != MANY).then(|| (record >> 32) - 1),
        write,
        atomic: record & ATOMIC != 0,
        constant: !write && record & CONSTANT != 0,
    }
}
