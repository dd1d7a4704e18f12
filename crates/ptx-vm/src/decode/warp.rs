//! Instructions in which the lanes of a warp meet.
#![forbid(unsafe_code)]

use super::Decoder;
use super::mods::Mods;
use super::operands::Width::Exact;
use crate::inst::{Op, Redux, Reg, Shfl, Vote};
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Ty};

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn warp(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        match m.root {
            "shfl" => {
                m.need("sync")?;
                let mode = match m.need_one(&["up", "down", "bfly", "idx"])? {
                    "up" => Shfl::Up,
                    "down" => Shfl::Down,
                    "bfly" => Shfl::Bfly,
                    _ => Shfl::Idx,
                };
                let ty = m.ty()?;
                if ty.bits() != 32 {
                    return Err(m.wrong_type());
                }
                self.need_operands(inst, &[5])?;
                let (d, p) = self.pair(&inst.operands[0], Ty::B32, Ty::Pred)?;
                let s = self.words(inst, 1)?;
                self.push(Op::Shfl(mode), &[d, p], &s);
            }
            "vote" => {
                m.need("sync")?;
                let mode = match m.need_one(&["all", "any", "uni", "ballot"])? {
                    "all" => Vote::All,
                    "any" => Vote::Any,
                    "uni" => Vote::Uni,
                    _ => Vote::Ballot,
                };
                let ty = m.ty()?;
                if (mode == Vote::Ballot) != (ty == Ty::B32) {
                    return Err(m.wrong_type());
                }
                self.need_operands(inst, &[3])?;
                let d = self.dst(&inst.operands[0], ty, Exact)?;
                let (p, negated) = self.predicate(&inst.operands[1])?;
                let mask = self.src(&inst.operands[2], Ty::B32, Exact)?;
                self.push(Op::Vote(mode, negated), &[d], &[p, mask]);
            }
            "match" => {
                let all = m.need_one(&["any", "all"])? == "all";
                m.need("sync")?;
                let ty = m.ty()?;
                self.need_operands(inst, &[3])?;
                let (d, p) = self.pair(&inst.operands[0], Ty::B32, Ty::Pred)?;
                let a = self.src(&inst.operands[1], ty, Exact)?;
                let mask = self.src(&inst.operands[2], Ty::B32, Exact)?;
                self.push(Op::Match(all), &[d, p], &[a, mask]);
            }
            "activemask" => {
                m.ty()?;
                self.need_operands(inst, &[1])?;
                let d = self.dst(&inst.operands[0], Ty::B32, Exact)?;
                self.push(Op::ActiveMask, &[d], &[]);
            }
            "redux" => {
                m.need("sync")?;
                let word = m.need_one(&["add", "min", "max", "and", "or", "xor"])?;
                let ty = m.ty()?;
                let op = match (word, ty) {
                    ("add", Ty::U32 | Ty::S32) => Redux::Add,
                    ("min", Ty::S32) => Redux::MinS,
                    ("max", Ty::S32) => Redux::MaxS,
                    ("min", Ty::U32) => Redux::MinU,
                    ("max", Ty::U32) => Redux::MaxU,
                    ("and", Ty::B32) => Redux::And,
                    ("or", Ty::B32) => Redux::Or,
                    ("xor", Ty::B32) => Redux::Xor,
                    _ => return Err(m.wrong_type()),
                };
                let s = self.sources(inst, Ty::B32, 2)?;
                let d = self.dst(&inst.operands[0], Ty::B32, Exact)?;
                self.push(Op::Redux(op), &[d], &s);
            }
            "elect" => return self.bad("`elect` is not supported"),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// All operands from this one on, as 32-bit sources.
    fn words(&mut self, inst: &Instruction<'a>, from: usize) -> Result<Vec<Reg>, Bad> {
        inst.operands[from..].iter().map(|o| self.src(o, Ty::B32, Exact)).collect()
    }
}
