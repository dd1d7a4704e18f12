//! Faults: what a check found, and the words that say where.
#![forbid(unsafe_code)]

use crate::inst::Program;
use crate::memory::shadow::{Earlier, Touch};
use crate::{Fault, FaultKind};

/// What a check found, before it is known where.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: FaultKind,
    pub what: String,
    pub lane: Option<u32>,
    /// The other access of a race.
    pub other: Option<Other>,
}

/// The other access of a race, as far as it is known.
#[derive(Clone, Debug)]
pub struct Other {
    pub pc: u32,
    pub how: &'static str,
    pub warp: Option<u32>,
    pub lane: Option<u32>,
    /// For races between blocks.
    pub block: Option<u64>,
    pub between_blocks: bool,
}

pub type Checked<T = ()> = Result<T, Box<Problem>>;

impl Problem {
    #[cold]
    pub fn new(kind: FaultKind, lane: usize, what: String) -> Box<Problem> {
        Box::new(Problem { kind, what, lane: Some(lane as u32), other: None })
    }

    /// Of a whole warp.
    #[cold]
    pub fn warp(kind: FaultKind, what: String) -> Box<Problem> {
        Box::new(Problem { kind, what, lane: None, other: None })
    }

    /// A shared-memory access that nothing orders after an earlier one.
    #[cold]
    pub fn race(earlier: Earlier, lane: usize, at: u32, bytes: u32, doing: &str) -> Box<Problem> {
        let how = match (earlier.write, earlier.touch) {
            (_, Touch::Async) => "copied to by cp.async",
            (true, Touch::Atomic) => "changed atomically",
            (true, Touch::Plain) => "written",
            (false, _) => "read",
        };
        let (kind, why) = if earlier.pending {
            (FaultKind::MissingWait, "the destination of a cp.async that was not waited for")
        } else if earlier.touch == Touch::Async {
            (FaultKind::MissingWait, "a cp.async of another thread with no barrier since its wait")
        } else {
            (FaultKind::SharedRace, "no barrier lies between this and another thread's access")
        };
        let other =
            Other { pc: earlier.pc, how, warp: earlier.warp, lane: earlier.lane, block: None, between_blocks: false };
        let what = format!("{doing} {bytes} bytes of shared memory at offset {at}: {why}");
        Box::new(Problem { kind, what, lane: Some(lane as u32), other: Some(other) })
    }
}

/// Names a kind of fault at the head of its report.
fn title(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::OutOfBounds => "out of bounds",
        FaultKind::UseAfterFree => "use after free",
        FaultKind::Misaligned => "misaligned",
        FaultKind::Uninitialised => "uninitialised",
        FaultKind::SharedRace => "shared-memory race",
        FaultKind::GlobalRace => "race between blocks",
        FaultKind::NotConstant => "not constant",
        FaultKind::Divergence => "divergence",
        FaultKind::MissingWait => "missing wait",
        FaultKind::Deadlock => "deadlock",
        FaultKind::TooLong => "too long",
        FaultKind::LaunchLimits => "launch refused",
        FaultKind::OutOfMemory => "out of memory",
        FaultKind::Unsupported => "unsupported",
        FaultKind::Trap => "trap",
    }
}

/// A kernel's names for messages.
pub struct Names<'a> {
    pub kernel: &'a str,
    pub file: &'a str,
    pub program: &'a Program,
    pub sources: &'a std::collections::BTreeMap<u32, String>,
    pub block: [u32; 3],
    pub grid: [u32; 3],
}

pub fn coordinates(index: u64, size: [u32; 3]) -> [u32; 3] {
    let (x, y) = (size[0] as u64, size[1] as u64);
    [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32]
}

fn shown([x, y, z]: [u32; 3]) -> String {
    format!("({x},{y},{z})")
}

impl Names<'_> {
    /// PTX line and text, and the source line where `.loc` gave one.
    pub fn place(&self, pc: u32) -> String {
        let Some(origin) = self.program.origins.get(pc as usize) else { return "an unknown line".into() };
        let text = self.program.texts.get(origin.text as usize).map_or("", |t| t.as_str());
        let mut place = format!("{}:{}: {text}", self.file, origin.line);
        if let Some((file, line)) = origin.source {
            let name = self.sources.get(&file).map_or("?", |n| n.as_str());
            place += &format!(" [{name}:{line}]");
        }
        place
    }

    fn thread(&self, warp: u32, lane: u32) -> String {
        shown(coordinates(warp as u64 * 32 + lane as u64, self.block))
    }

    /// The whole report.
    pub fn report(&self, problem: &Problem, pc: u32, block: u64, warp: u32) -> Fault {
        let mut text = format!("{}: {}", title(problem.kind), problem.what);
        text += &format!("\n  kernel {}, {}", self.kernel, self.place(pc));
        text += &format!("\n  block {}", shown(coordinates(block, self.grid)));
        match problem.lane {
            Some(lane) => text += &format!(", thread {}", self.thread(warp, lane)),
            None => text += &format!(", warp {warp}"),
        }
        if let Some(other) = &problem.other {
            text += &format!("\n  {} by {}", other.how, self.place(other.pc));
            text += "\n  ";
            text += &match (other.between_blocks, other.block, other.warp, other.lane) {
                (true, Some(block), ..) => format!("block {}", shown(coordinates(block, self.grid))),
                (true, None, ..) => "several blocks".into(),
                (_, _, Some(warp), Some(lane)) => format!("thread {} of the block", self.thread(warp, lane)),
                (_, _, Some(warp), None) => format!("several threads of warp {warp}"),
                _ => "threads of several warps".into(),
            };
        }
        Fault { kind: problem.kind, message: text }
    }
}

/// A fault of a launch that never began.
pub fn refused(kernel: &str, why: String) -> Fault {
    Fault { kind: FaultKind::LaunchLimits, message: format!("launch refused: kernel {kernel}: {why}") }
}
