//! Lanes that meet: who takes part in a `.sync`, and the instructions that pass values among them.
#![forbid(unsafe_code)]

use super::lanes::{each, set};
use super::warp::Warp;
use super::{Env, first};
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::inst::{Bar, BarKind, Inst, Op, Redux, Reg, Shfl, Vote};

fn shown(mask: u32) -> String {
    format!("{mask:#010x}")
}

/// Nobody can come any more: says who waits where.
#[cold]
fn stuck(warp: &Warp, need: u32, mask: u32) -> Box<Problem> {
    let missing = need & !mask;
    let ended = missing & !warp.live;
    let mut what = format!("lanes {} are here, lanes {} are missing", shown(mask), shown(missing));
    if ended != 0 {
        what += &format!(": lanes {} have ended", shown(ended));
    }
    let elsewhere: Vec<String> = warp
        .groups
        .iter()
        .filter(|g| g.mask & missing != 0)
        .map(|g| format!("lanes {} wait elsewhere", shown(g.mask & missing)))
        .collect();
    if !elsewhere.is_empty() {
        what += &format!(": {}", elsewhere.join(", "));
    }
    Problem::warp(FaultKind::Divergence, what)
}

/// Whether all needed lanes are here. If not, those that are wait, and the caller runs who else can; with nobody
/// left to run it is a fault.
#[inline(always)]
pub fn together(warp: &mut Warp, mask: u32, need: u32) -> Checked<bool> {
    if mask & need == need {
        return Ok(true);
    }
    wait(warp, mask, need)
}

/// The guard keeps lanes of this very group away: they go on and the rest waits.
fn let_go(warp: &mut Warp, mask: u32) {
    if mask != warp.mask {
        let rest = warp.mask & !mask;
        let pc = warp.pc + 1;
        warp.mask = mask;
        warp.join_group(super::warp::Group { pc, mask: rest, parked: false });
    }
}

/// Whether every lane that has not ended has come to this barrier, which is not `.aligned`: they may come to it at
/// different instructions. If not, those that are here wait.
pub fn at_barrier(env: &Env, warp: &mut Warp, inst: &Inst, bar: &Bar, mask: u32) -> Checked<bool> {
    if mask == warp.live {
        return Ok(true);
    }
    let_go(warp, mask);
    let waiting = |group: &super::warp::Group| match &env.program.code[group.pc as usize] {
        there @ Inst { op: Op::Bar(bar), .. } if group.parked && !bar.aligned => Some((there, bar)),
        _ => None,
    };
    if !warp.groups.iter().all(|group| waiting(group).is_some()) {
        return wait(warp, mask, warp.live);
    }
    let named = |inst: &Inst, lane: usize| {
        [inst.s[0], inst.s[1]].map(|reg| (!reg.is_none()).then(|| warp.r32[reg.index()][lane]))
    };
    let here = named(inst, first(mask));
    for group in &warp.groups {
        let Some((there, other)) = waiting(group) else { continue };
        if *other != *bar || each(group.mask).any(|lane| named(there, lane) != here) {
            let what = format!("lanes {} wait for another barrier of the block", shown(group.mask));
            return Err(Problem::warp(FaultKind::Divergence, what));
        }
        if !matches!(bar.kind, BarKind::Sync | BarKind::Arrive) {
            let what = "a reduction to which the lanes of a warp come at different instructions".into();
            return Err(Problem::warp(FaultKind::Unsupported, what));
        }
    }
    for group in std::mem::take(&mut warp.groups) {
        warp.join_group(super::warp::Group { pc: group.pc + 1, mask: group.mask, parked: false });
    }
    warp.look_ahead();
    Ok(true)
}

#[cold]
fn wait(warp: &mut Warp, mask: u32, need: u32) -> Checked<bool> {
    let_go(warp, mask);
    if need & !warp.live != 0 {
        return Err(stuck(warp, need, mask));
    }
    let pc = warp.pc;
    if warp.park() {
        return Ok(false);
    }
    // The report names the instruction where the lowest group waits.
    let lowest = warp.groups.iter().map(|g| g.pc).min().unwrap_or(pc);
    warp.pc = lowest;
    let here = warp.groups.iter().filter(|g| g.pc == lowest).map(|g| g.mask).fold(0, |a, b| a | b);
    Err(stuck(warp, need, here))
}

/// The lanes that take part now in an instruction with a membermask: all whose mask is complete here. The others
/// wait at it. None: nobody can go on yet.
#[inline(always)]
pub fn members(env: &Env, warp: &mut Warp, reg: Reg, mask: u32) -> Checked<Option<u32>> {
    let masks = &warp.r32[reg.index()];
    let given = masks[first(mask)];
    if given & warp.live == mask && masks.iter().all(|m| *m == given) {
        return Ok(Some(mask));
    }
    uneven_members(env, warp, reg, mask)
}

#[cold]
fn uneven_members(_env: &Env, warp: &mut Warp, reg: Reg, mask: u32) -> Checked<Option<u32>> {
    let masks = warp.r32[reg.index()];
    let mut ready = 0;
    for lane in each(mask) {
        let given = masks[lane];
        if given >> lane & 1 == 0 {
            let what = format!("the membermask {} does not name lane {lane}, which executes it", shown(given));
            return Err(Problem::new(FaultKind::Divergence, lane, what));
        }
        let same = each(mask).filter(|l| masks[*l] == given).fold(0, |m, l| m | 1 << l);
        if given & warp.live & !same == 0 {
            ready |= 1 << lane;
        }
    }
    if ready == mask {
        return Ok(Some(mask));
    }
    if ready != 0 {
        // Those that are complete go first; the rest come back to this instruction.
        let late = super::warp::Group { pc: warp.pc, mask: mask & !ready, parked: true };
        let skipped = warp.mask & !mask;
        let pc = warp.pc;
        warp.groups.push(late);
        if skipped != 0 {
            warp.join_group(super::warp::Group { pc: pc + 1, mask: skipped, parked: false });
        }
        warp.mask = ready;
        warp.next = pc + 1;
        return Ok(Some(ready));
    }
    let need = each(mask).fold(0, |m, l| m | masks[l]) & warp.live;
    wait(warp, mask, need)?;
    Ok(None)
}

/// Values of the lanes that the masks of a shuffle name, one call for all lanes of `part`.
pub fn shuffle(env: &Env, warp: &mut Warp, inst: &Inst, mode: Shfl, part: u32) -> Checked {
    let [a, b, c, m] = inst.s.map(|r| warp.r32[r.index()]);
    let mut valid = 0u32;
    let mut out = a;
    for lane in each(part) {
        let (bval, cval) = (b[lane] & 31, c[lane]);
        let segment = cval >> 8 & 31;
        let clamp = cval & 31;
        let at = lane as u32;
        let max = (at & segment) | (clamp & !segment);
        let min = at & segment;
        let (from, ok) = match mode {
            Shfl::Up => (at.wrapping_sub(bval), at as i32 - bval as i32 >= max as i32),
            Shfl::Down => (at + bval, at + bval <= max),
            Shfl::Bfly => (at ^ bval, at ^ bval <= max),
            Shfl::Idx => (min | (bval & !segment), min | (bval & !segment) <= max),
        };
        let from = if ok { from & 31 } else { at };
        if env.checks && (part >> from & 1 == 0 || m[lane] >> from & 1 == 0) {
            let what = format!("reads lane {from}, which takes no part (membermask {})", shown(m[lane]));
            return Err(Problem::new(FaultKind::Divergence, lane, what));
        }
        out[lane] = a[from as usize];
        valid |= (ok as u32) << lane;
    }
    if !inst.d[0].is_none() {
        set(&mut warp.r32[inst.d[0].index()], part, |i| out[i]);
    }
    if !inst.d[1].is_none() {
        warp.put_pred(inst.d[1], part, valid);
    }
    Ok(())
}

/// Calls `each_group` with every set of lanes that share a membermask.
fn by_mask(masks: &[u32; 32], part: u32, mut each_group: impl FnMut(u32)) {
    let mut left = part;
    while left != 0 {
        let given = masks[first(left)];
        let group = each(left).filter(|l| masks[*l] == given).fold(0, |m, l| m | 1 << l);
        each_group(group);
        left &= !group;
    }
}

pub fn vote(warp: &mut Warp, inst: &Inst, mode: Vote, negated: bool, part: u32) {
    let p = warp.p[inst.s[0].index()];
    let p = if negated { !p } else { p };
    let masks = warp.r32[inst.s[1].index()];
    by_mask(&masks, part, |group| {
        let yes = p & group;
        match mode {
            Vote::Ballot => set(&mut warp.r32[inst.d[0].index()], group, |_| yes),
            _ => {
                let result = match mode {
                    Vote::All => yes == group,
                    Vote::Any => yes != 0,
                    _ => yes == group || yes == 0,
                };
                warp.put_pred(inst.d[0], group, if result { u32::MAX } else { 0 });
            }
        }
    });
}

pub fn matching(warp: &mut Warp, inst: &Inst, all: bool, part: u32) {
    let a = inst.s[0];
    let values: [u64; 32] =
        std::array::from_fn(|i| if a.is_64() { warp.r64[a.index()][i] } else { warp.r32[a.index()][i] as u64 });
    let masks = warp.r32[inst.s[1].index()];
    by_mask(&masks, part, |group| {
        for lane in each(group) {
            let same = each(group).filter(|l| values[*l] == values[lane]).fold(0, |m, l| m | 1 << l);
            let result = if all && same != group { 0 } else { same };
            if !inst.d[0].is_none() {
                warp.r32[inst.d[0].index()][lane] = result;
            }
            if all && !inst.d[1].is_none() {
                warp.put_pred(inst.d[1], 1 << lane, if same == group { u32::MAX } else { 0 });
            }
        }
    });
}

pub fn redux(warp: &mut Warp, inst: &Inst, op: Redux, part: u32) {
    let a = warp.r32[inst.s[0].index()];
    let masks = warp.r32[inst.s[1].index()];
    by_mask(&masks, part, |group| {
        let total = each(group).map(|l| a[l]).reduce(|x, y| match op {
            Redux::Add => x.wrapping_add(y),
            Redux::MinS => (x as i32).min(y as i32) as u32,
            Redux::MaxS => (x as i32).max(y as i32) as u32,
            Redux::MinU => x.min(y),
            Redux::MaxU => x.max(y),
            Redux::And => x & y,
            Redux::Or => x | y,
            Redux::Xor => x ^ y,
        });
        set(&mut warp.r32[inst.d[0].index()], group, |_| total.unwrap_or(0));
    });
}
