//! Gives registers that never live at the same time the same place, so that a warp's state stays in cache.
#![forbid(unsafe_code)]

use crate::inst::{Class, Inst, Op, Reg};

/// What allocation found.
pub struct Allocation {
    pub count32: usize,
    pub count64: usize,
    pub count_pred: usize,
    /// Most 32-bit words alive at one instruction.
    pub pressure: u32,
}

/// Virtual registers of each file; constants are not among them.
pub struct Virtual {
    pub n32: usize,
    pub n64: usize,
    pub n_pred: usize,
}

const NEVER: u32 = u32::MAX;

/// A live interval over instruction indices, widened over every loop that it enters alive.
#[derive(Clone, Copy)]
struct Interval {
    first: u32,
    last: u32,
}

/// Renames the registers of `code` in place; constants follow the renamed registers of their file.
///
/// A lane is a thread of its own: it reads and writes only its element of a register, so what does not interfere
/// for one thread does not interfere for a warp, however its lanes diverge.
pub fn allocate(code: &mut [Inst], files: &Virtual) -> Allocation {
    let base = [0, files.n32, files.n32 + files.n64];
    let total = files.n32 + files.n64 + files.n_pred;
    let flat = |reg: Reg| -> Option<usize> {
        let (file, size) = match reg.class() {
            Class::None => return None,
            Class::R32 => (0, files.n32),
            Class::R64 => (1, files.n64),
            Class::Pred => (2, files.n_pred),
        };
        (reg.index() < size).then(|| base[file] + reg.index())
    };
    let intervals = intervals(code, total, &flat);
    let mut order: Vec<u32> = (0..total as u32).filter(|r| intervals[*r as usize].first != NEVER).collect();
    order.sort_by_key(|r| intervals[*r as usize].first);
    let mut places = vec![0u32; total];
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut used = [0u32; 3];
    let mut active: std::collections::BinaryHeap<(std::cmp::Reverse<u32>, u32)> = Default::default();
    let (mut words, mut pressure) = (0u32, 0u32);
    let file_of = |r: u32| usize::from(r as usize >= base[1]) + usize::from(r as usize >= base[2]);
    for r in order {
        let interval = intervals[r as usize];
        while let Some((std::cmp::Reverse(last), old)) = active.peek().copied() {
            if last >= interval.first {
                break;
            }
            active.pop();
            let file = file_of(old);
            words -= [1, 2, 0][file];
            free[file].push(places[old as usize]);
        }
        let file = file_of(r);
        places[r as usize] = free[file].pop().unwrap_or_else(|| {
            used[file] += 1;
            used[file] - 1
        });
        words += [1, 2, 0][file];
        pressure = pressure.max(words);
        active.push((std::cmp::Reverse(interval.last), r));
    }
    let rename = |reg: &mut Reg| {
        *reg = match (reg.class(), flat(*reg)) {
            (Class::None, _) => *reg,
            (class, Some(r)) => Reg::new(class, places[r]),
            (Class::R32, None) => Reg::new(Class::R32, used[0] + (reg.index() - files.n32) as u32),
            (Class::R64, None) => Reg::new(Class::R64, used[1] + (reg.index() - files.n64) as u32),
            (Class::Pred, None) => Reg::new(Class::Pred, used[2] + (reg.index() - files.n_pred) as u32),
        };
    };
    for inst in code.iter_mut() {
        rename(&mut inst.guard);
        inst.d.iter_mut().chain(inst.s.iter_mut()).for_each(rename);
        inst.more.iter_mut().flat_map(|m| m.iter_mut()).for_each(rename);
    }
    Allocation { count32: used[0] as usize, count64: used[1] as usize, count_pred: used[2] as usize, pressure }
}

fn sources(inst: &Inst) -> impl Iterator<Item = Reg> + '_ {
    inst.s.iter().copied().chain(inst.more.iter().flat_map(|m| m.iter().copied())).chain([inst.guard])
}

/// Successors of an instruction in the flow of one thread.
fn successors(code: &[Inst], at: usize, mut visit: impl FnMut(usize)) {
    let inst = &code[at];
    match &inst.op {
        Op::Bra(to) => visit(*to as usize),
        Op::Brx(all) => all.iter().for_each(|to| visit(*to as usize)),
        Op::Exit => {}
        _ => {
            if at + 1 < code.len() {
                visit(at + 1);
            }
            return;
        }
    }
    if !inst.guard.is_none() && at + 1 < code.len() {
        visit(at + 1);
    }
}

fn intervals(code: &[Inst], total: usize, flat: &impl Fn(Reg) -> Option<usize>) -> Vec<Interval> {
    let starts = block_starts(code);
    let mut block_of = vec![0u32; code.len()];
    for (b, window) in starts.windows(2).enumerate() {
        block_of[window[0]..window[1]].fill(b as u32);
    }
    let blocks = starts.len() - 1;
    let words = total.div_ceil(64);
    // Upward-exposed uses and full definitions of each block.
    let mut exposed = vec![0u64; blocks * words];
    let mut killed = vec![0u64; blocks * words];
    for b in 0..blocks {
        for inst in &code[starts[b]..starts[b + 1]] {
            for r in sources(inst).filter_map(flat) {
                if killed[b * words + r / 64] >> (r % 64) & 1 == 0 {
                    exposed[b * words + r / 64] |= 1 << (r % 64);
                }
            }
            for r in inst.d.iter().copied().filter_map(flat) {
                // A guarded write keeps the old value where the guard is false.
                if inst.guard.is_none() {
                    killed[b * words + r / 64] |= 1 << (r % 64);
                } else if killed[b * words + r / 64] >> (r % 64) & 1 == 0 {
                    exposed[b * words + r / 64] |= 1 << (r % 64);
                }
            }
        }
    }
    let mut live_in = exposed.clone();
    let mut live_out = vec![0u64; blocks * words];
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..blocks).rev() {
            let last = starts[b + 1] - 1;
            successors(code, last, |next| {
                let n = block_of[next] as usize;
                for w in 0..words {
                    live_out[b * words + w] |= live_in[n * words + w];
                }
            });
            for w in b * words..(b + 1) * words {
                let value = exposed[w] | (live_out[w] & !killed[w]);
                if value != live_in[w] {
                    live_in[w] = value;
                    changed = true;
                }
            }
        }
    }
    let mut intervals = vec![Interval { first: NEVER, last: 0 }; total];
    let mut touch = |r: usize, at: usize| {
        let interval = &mut intervals[r];
        if interval.first == NEVER {
            *interval = Interval { first: at as u32, last: at as u32 };
        }
        interval.first = interval.first.min(at as u32);
        interval.last = interval.last.max(at as u32);
    };
    for b in 0..blocks {
        for (live, at) in [(&live_in, starts[b]), (&live_out, starts[b + 1] - 1)] {
            for w in 0..words {
                let mut bits = live[b * words + w];
                while bits != 0 {
                    touch(w * 64 + bits.trailing_zeros() as usize, at);
                    bits &= bits - 1;
                }
            }
        }
        for (step, inst) in code[starts[b]..starts[b + 1]].iter().enumerate() {
            for r in sources(inst).chain(inst.d).filter_map(flat) {
                touch(r, starts[b] + step);
            }
        }
    }
    intervals
}

/// First instruction of every basic block, and the end of the code.
fn block_starts(code: &[Inst]) -> Vec<usize> {
    let mut leader = vec![false; code.len() + 1];
    leader[0] = true;
    leader[code.len()] = true;
    for (at, inst) in code.iter().enumerate() {
        if matches!(inst.op, Op::Bra(_) | Op::Brx(_) | Op::Exit) {
            leader[at + 1] = true;
            successors(code, at, |to| leader[to] = true);
        }
    }
    (0..=code.len()).filter(|at| leader[*at]).collect()
}
