//! A warp's state: registers, which lanes run where, and how they come together again.
#![forbid(unsafe_code)]

use super::lanes::{FULL, V32, V64};
use crate::inst::{Program, Reg};

/// Lanes that stand at one instruction while others run.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub pc: u32,
    pub mask: u32,
    /// Waits for other lanes to come to the same instruction.
    pub parked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Ready,
    AtBarrier,
    Done,
}

/// One asynchronous copy that was issued and not carried out.
#[derive(Clone)]
pub struct Copy {
    pub pc: u32,
    pub mask: u32,
    pub to: [u32; 32],
    pub from: V64,
    pub size: u8,
    /// Bytes that come from the source, a lane.
    pub bytes: [u8; 32],
    /// The group it was committed to; none yet.
    pub group: Option<u32>,
}

pub struct Warp {
    pub id: u32,
    pub r32: Vec<V32>,
    pub r64: Vec<V64>,
    pub p: Vec<u32>,
    pub pc: u32,
    /// Lanes that run now.
    pub mask: u32,
    /// Lanes that exist, and those of them that have not ended.
    pub lanes: u32,
    pub live: u32,
    pub groups: Vec<Group>,
    /// The nearest instruction ahead where other lanes stand.
    pub next: u32,
    pub state: State,
    pub local: Vec<u8>,
    /// For each byte of a thread's frame the lanes that wrote theirs.
    pub local_written: Vec<u32>,
    pub copies: Vec<Copy>,
    /// Groups of copies that each lane committed.
    pub committed: [u32; 32],
    /// Backward branches taken while lanes stood elsewhere.
    pub turns: u32,
    /// Where lanes ended, for messages.
    pub ended_at: u32,
}

impl Warp {
    pub fn new() -> Self {
        Self {
            id: 0,
            r32: Vec::new(),
            r64: Vec::new(),
            p: Vec::new(),
            pc: 0,
            mask: 0,
            lanes: 0,
            live: 0,
            groups: Vec::new(),
            next: u32::MAX,
            state: State::Ready,
            local: Vec::new(),
            local_written: Vec::new(),
            copies: Vec::new(),
            committed: [0; 32],
            turns: 0,
            ended_at: 0,
        }
    }

    /// Ready to run a program from its start with `threads` lanes.
    pub fn reset(&mut self, id: u32, threads: u32, program: &Program) {
        self.id = id;
        self.lanes = if threads >= 32 { FULL } else { (1 << threads) - 1 };
        self.live = self.lanes;
        self.mask = self.lanes;
        self.pc = 0;
        self.groups.clear();
        self.next = u32::MAX;
        self.state = State::Ready;
        self.copies.clear();
        self.committed = [0; 32];
        self.turns = 0;
        self.r32.clear();
        self.r32.resize(program.count32, [0; 32]);
        self.r32.extend(program.constants32.iter().map(|c| [*c; 32]));
        self.r64.clear();
        self.r64.resize(program.count64, [0; 32]);
        self.r64.extend(program.constants64.iter().map(|c| [*c; 32]));
        self.p.clear();
        self.p.resize(program.count_pred, 0);
        self.local.clear();
        self.local.resize(program.local_bytes as usize * 32, 0);
        self.local_written.clear();
        self.local_written.resize(program.local_bytes as usize, 0);
    }

    #[inline(always)]
    pub fn put_pred(&mut self, reg: Reg, mask: u32, value: u32) {
        let p = &mut self.p[reg.index()];
        *p = *p & !mask | value & mask;
    }

    /// Lanes go two ways.
    pub fn split(&mut self, taken: u32, to: u32) {
        let rest = self.mask & !taken;
        self.join_group(Group { pc: self.pc + 1, mask: rest, parked: false });
        self.mask = taken;
        self.pc = to;
        self.regroup();
    }

    pub fn join_group(&mut self, group: Group) {
        match self.groups.iter_mut().find(|g| g.pc == group.pc) {
            Some(old) => {
                old.mask |= group.mask;
                old.parked = false;
            }
            None => self.groups.push(group),
        }
    }

    /// The lanes that run and those elsewhere meet or change turns; the lowest instruction runs first.
    pub fn regroup(&mut self) {
        if self.mask != 0 {
            self.join_group(Group { pc: self.pc, mask: self.mask, parked: false });
            self.mask = 0;
        }
        self.pick();
    }

    /// Runs the lowest group that may run; false if there is none.
    pub fn pick(&mut self) -> bool {
        let lowest = (0..self.groups.len()).filter(|i| !self.groups[*i].parked).min_by_key(|i| self.groups[*i].pc);
        let Some(index) = lowest else {
            self.mask = 0;
            return false;
        };
        self.run_group(index);
        true
    }

    fn run_group(&mut self, index: usize) {
        let group = self.groups.swap_remove(index);
        (self.pc, self.mask) = (group.pc, group.mask);
        self.look_ahead();
    }

    #[inline(always)]
    pub fn look_ahead(&mut self) {
        if !self.groups.is_empty() {
            self.next = self.groups.iter().map(|g| g.pc).filter(|pc| *pc >= self.pc).min().unwrap_or(u32::MAX);
        } else {
            self.next = u32::MAX;
        }
    }

    /// A backward jump while lanes stand elsewhere: from time to time the others get a turn, since what they do
    /// may be what these lanes wait for.
    pub fn turn(&mut self) {
        self.turns += 1;
        if self.turns.is_multiple_of(512) {
            let others = (0..self.groups.len()).filter(|i| !self.groups[*i].parked);
            if let Some(index) = others.max_by_key(|i| self.groups[*i].pc) {
                let (pc, mask) = (self.pc, self.mask);
                self.run_group(index);
                self.join_group(Group { pc, mask, parked: false });
                self.look_ahead();
                return;
            }
        }
        self.look_ahead();
    }

    /// The running lanes wait where they are; false if nobody else can run.
    pub fn park(&mut self) -> bool {
        self.groups.push(Group { pc: self.pc, mask: self.mask, parked: true });
        self.mask = 0;
        self.pick()
    }
}
