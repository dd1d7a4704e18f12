//! Integer arithmetic.
#![forbid(unsafe_code)]

use super::Decoder;
use super::mods::Mods;
use super::operands::Width::Exact;
use crate::exec::scalar;
use crate::inst::{Bin32, Int64, LaneFn, Op, Reg, Tri32, Un32, Wide};
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Ty};

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn arith(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        if m.peek_ty().is_none_or(|ty| ty.float() || ty == Ty::Pred) {
            return Ok(false);
        }
        match m.root {
            "add" | "sub" | "min" | "max" | "div" | "rem" => self.int_binary(inst, m)?,
            "mul" => self.int_mul(inst, m)?,
            "mad" => self.int_mad(inst, m)?,
            "mul24" | "mad24" => self.int24(inst, m)?,
            "neg" | "abs" => self.int_unary(inst, m)?,
            "addc" | "subc" | "madc" => self.carry_chain(inst, m)?,
            "sad" => {
                let ty = m.ty()?;
                let f: LaneFn = if ty.signed() { scalar::sad_s } else { scalar::sad_u };
                self.lane(inst, ty, &[ty, ty, ty], f, ty.bits())?;
            }
            "dp4a" => {
                let (a, b) = self.dot_types(m)?;
                self.lane(inst, Ty::B32, &[Ty::B32; 3], scalar::dp4a, a.signed() as u32 | (b.signed() as u32) << 1)?;
            }
            "dp2a" => {
                let high = m.need_one(&["lo", "hi"])? == "hi";
                let (a, b) = self.dot_types(m)?;
                let x = a.signed() as u32 | (b.signed() as u32) << 1 | (high as u32) << 2;
                self.lane(inst, Ty::B32, &[Ty::B32; 3], scalar::dp2a, x)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn dot_types(&self, m: &mut Mods<'a>) -> Result<(Ty, Ty), Bad> {
        match (m.ty()?, m.ty()?) {
            (a @ (Ty::U32 | Ty::S32), b @ (Ty::U32 | Ty::S32)) => Ok((a, b)),
            _ => Err(m.wrong_type()),
        }
    }

    /// A rare instruction: one function of a lane, its sources of these types.
    pub(super) fn lane(&mut self, inst: &Instruction<'a>, to: Ty, from: &[Ty], f: LaneFn, x: u32) -> Result<(), Bad> {
        self.need_operands(inst, &[from.len() + 1])?;
        let d = self.dst(&inst.operands[0], to, Exact)?;
        let mut s = Vec::new();
        for (operand, ty) in inst.operands[1..].iter().zip(from) {
            s.push(self.src(operand, *ty, Exact)?);
        }
        self.push(Op::Lane(f, x), &[d], &s);
        Ok(())
    }

    /// The sources of an instruction, all of one type.
    pub(super) fn sources(&mut self, inst: &Instruction<'a>, ty: Ty, n: usize) -> Result<Vec<Reg>, Bad> {
        self.need_operands(inst, &[n + 1])?;
        inst.operands[1..].iter().map(|o| self.src(o, ty, Exact)).collect()
    }

    /// A 16-bit value as 32 bits with its sign.
    pub(super) fn extended(&mut self, reg: Reg, ty: Ty) -> Reg {
        let op = match ty {
            Ty::S16 => Un32::Sext16,
            Ty::S8 => Un32::Sext8,
            _ => return reg,
        };
        let wide = self.temporary(32);
        self.push(Op::Un32(op), &[wide], &[reg]);
        wide
    }

    /// Runs a 32-bit operation on 16-bit values.
    pub(super) fn binary16(&mut self, ty: Ty, op: Bin32, d: Reg, a: Reg, b: Reg) {
        let (a, b) = (self.extended(a, ty), self.extended(b, ty));
        let wide = self.temporary(32);
        self.push(Op::Bin32(op), &[wide], &[a, b]);
        self.push(Op::Un32(Un32::Low16), &[d], &[wide]);
    }

    fn int_binary(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let root = m.root;
        let carry = matches!(root, "add" | "sub") && m.take("cc");
        let saturate = matches!(root, "add" | "sub") && m.take("sat");
        let relu = matches!(root, "min" | "max") && m.take("relu");
        let ty = m.ty()?;
        let signed = ty.signed();
        let s = self.sources(inst, ty, 2)?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        if carry {
            if ty.bits() < 32 {
                return Err(m.wrong_type());
            }
            self.carry(root == "sub", false, true, d, s[0], s[1]);
            return Ok(());
        }
        if saturate {
            if ty != Ty::S32 {
                return Err(m.wrong_type());
            }
            let f: LaneFn = if root == "add" { scalar::add_sat } else { scalar::sub_sat };
            self.push(Op::Lane(f, 0), &[d], &s);
            return Ok(());
        }
        let pick = match (root, signed) {
            ("add", _) => (Bin32::Add, Int64::Add),
            ("sub", _) => (Bin32::Sub, Int64::Sub),
            ("min", true) => (Bin32::MinS, Int64::MinS),
            ("min", false) => (Bin32::MinU, Int64::MinU),
            ("max", true) => (Bin32::MaxS, Int64::MaxS),
            ("max", false) => (Bin32::MaxU, Int64::MaxU),
            ("div", true) => (Bin32::DivS, Int64::DivS),
            ("div", false) => (Bin32::DivU, Int64::DivU),
            ("rem", true) => (Bin32::RemS, Int64::RemS),
            _ => (Bin32::RemU, Int64::RemU),
        };
        match ty {
            Ty::S32 if relu => {
                let t = self.temporary(32);
                self.push(Op::Bin32(pick.0), &[t], &s);
                let zero = self.constant(0, false);
                self.push(Op::Bin32(Bin32::MaxS), &[d], &[t, zero]);
            }
            _ if relu => return Err(m.wrong_type()),
            Ty::U16 | Ty::S16 => self.binary16(ty, pick.0, d, s[0], s[1]),
            Ty::U32 | Ty::S32 => self.push(Op::Bin32(pick.0), &[d], &s),
            Ty::U64 | Ty::S64 => self.push(Op::Int64(pick.1), &[d], &s),
            _ => return Err(m.wrong_type()),
        }
        Ok(())
    }

    fn int_mul(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let part = m.need_one(&["lo", "hi", "wide"])?;
        let ty = m.ty()?;
        let s = self.sources(inst, ty, 2)?;
        let to = if part == "wide" { twice(ty).ok_or_else(|| m.wrong_type())? } else { ty };
        let d = self.dst(&inst.operands[0], to, Exact)?;
        self.product(part, ty, d, s[0], s[1]).ok_or_else(|| m.wrong_type())
    }

    /// `mul.lo`, `mul.hi` or `mul.wide`.
    fn product(&mut self, part: &str, ty: Ty, d: Reg, a: Reg, b: Reg) -> Option<()> {
        let signed = ty.signed();
        match (part, ty) {
            ("lo", Ty::U16 | Ty::S16) => self.binary16(ty, Bin32::Mul, d, a, b),
            ("lo", Ty::U32 | Ty::S32) => self.push(Op::Bin32(Bin32::Mul), &[d], &[a, b]),
            ("lo", Ty::U64 | Ty::S64) => self.push(Op::Int64(Int64::Mul), &[d], &[a, b]),
            ("hi", Ty::U16 | Ty::S16) => {
                let (a, b) = (self.extended(a, ty), self.extended(b, ty));
                let wide = self.temporary(32);
                self.push(Op::Bin32(Bin32::Mul), &[wide], &[a, b]);
                self.push(Op::Un32(Un32::High16), &[d], &[wide]);
            }
            ("hi", Ty::U32 | Ty::S32) => {
                let op = if signed { Bin32::MulHiS } else { Bin32::MulHiU };
                self.push(Op::Bin32(op), &[d], &[a, b]);
            }
            ("hi", Ty::U64 | Ty::S64) => {
                let op = if signed { Int64::MulHiS } else { Int64::MulHiU };
                self.push(Op::Int64(op), &[d], &[a, b]);
            }
            ("wide", Ty::U16 | Ty::S16) => {
                let (a, b) = (self.extended(a, ty), self.extended(b, ty));
                self.push(Op::Bin32(Bin32::Mul), &[d], &[a, b]);
            }
            ("wide", Ty::U32 | Ty::S32) => {
                let op = if signed { Wide::MulS } else { Wide::MulU };
                self.push(Op::Wide(op), &[d], &[a, b]);
            }
            _ => return None,
        }
        Some(())
    }

    fn int_mad(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let part = m.need_one(&["lo", "hi", "wide"])?;
        let carry = part != "wide" && m.take("cc");
        let saturate = part == "hi" && m.take("sat");
        let ty = m.ty()?;
        let to = if part == "wide" { twice(ty).ok_or_else(|| m.wrong_type())? } else { ty };
        self.need_operands(inst, &[4])?;
        let d = self.dst(&inst.operands[0], to, Exact)?;
        let a = self.src(&inst.operands[1], ty, Exact)?;
        let b = self.src(&inst.operands[2], ty, Exact)?;
        let c = self.src(&inst.operands[3], to, Exact)?;
        match (part, ty) {
            _ if carry || saturate => {
                if ty.bits() < 32 || saturate && ty != Ty::S32 {
                    return Err(m.wrong_type());
                }
                let t = self.temporary(ty.bits());
                self.product(part, ty, t, a, b).ok_or_else(|| m.wrong_type())?;
                if carry {
                    self.carry(false, false, true, d, t, c);
                } else {
                    self.push(Op::Lane(scalar::add_sat, 0), &[d], &[t, c]);
                }
            }
            ("lo", Ty::U32 | Ty::S32) => self.push(Op::Tri32(Tri32::MadLo), &[d], &[a, b, c]),
            ("lo", Ty::U64 | Ty::S64) => self.push(Op::Int64(Int64::MadLo), &[d], &[a, b, c]),
            ("wide", Ty::U32 | Ty::S32) => {
                let op = if ty.signed() { Wide::MadS } else { Wide::MadU };
                self.push(Op::Wide(op), &[d], &[a, b, c]);
            }
            _ => {
                let t = self.temporary(to.bits());
                self.product(part, ty, t, a, b).ok_or_else(|| m.wrong_type())?;
                match to.bits() {
                    64 => self.push(Op::Int64(Int64::Add), &[d], &[t, c]),
                    32 => self.push(Op::Bin32(Bin32::Add), &[d], &[t, c]),
                    _ => self.binary16(Ty::U16, Bin32::Add, d, t, c),
                }
            }
        }
        Ok(())
    }

    fn int24(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let high = m.need_one(&["lo", "hi"])? == "hi";
        let ty = m.ty()?;
        if !matches!(ty, Ty::U32 | Ty::S32) {
            return Err(m.wrong_type());
        }
        let x = high as u32 | (ty.signed() as u32) << 1;
        let n = if m.root == "mul24" { 2 } else { 3 };
        self.lane(inst, ty, &[ty; 3][..n], scalar::mad24, x)
    }

    fn int_unary(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let negate = m.root == "neg";
        let ty = m.ty()?;
        let s = self.sources(inst, ty, 1)?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        let op = if negate { Un32::Neg } else { Un32::Abs };
        match ty {
            Ty::S16 => {
                let wide = self.extended(s[0], ty);
                let t = self.temporary(32);
                self.push(Op::Un32(op), &[t], &[wide]);
                self.push(Op::Un32(Un32::Low16), &[d], &[t]);
            }
            Ty::S32 => self.push(Op::Un32(op), &[d], &s),
            Ty::S64 => self.push(Op::Int64(if negate { Int64::Neg } else { Int64::Abs }), &[d], &s),
            _ => return Err(m.wrong_type()),
        }
        Ok(())
    }

    fn carry(&mut self, subtract: bool, carry_in: bool, carry_out: bool, d: Reg, a: Reg, b: Reg) {
        let flag = match self.carry {
            Some(flag) => flag,
            None => {
                let flag = self.temporary(1);
                self.carry = Some(flag);
                flag
            }
        };
        let out = if carry_out { flag } else { Reg::NONE };
        self.push(Op::Carry { subtract, carry_in, carry_out }, &[d, out], &[a, b, flag]);
    }

    fn carry_chain(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let part = if m.root == "madc" { m.need_one(&["lo", "hi"])? } else { "" };
        let out = m.take("cc");
        let ty = m.ty()?;
        if ty.bits() < 32 {
            return Err(m.wrong_type());
        }
        let d = self.dst(inst.operands.first().unwrap_or(&crate::parse::ast::Operand::Sink), ty, Exact)?;
        if m.root == "madc" {
            let s = self.sources(inst, ty, 3)?;
            let t = self.temporary(ty.bits());
            self.product(part, ty, t, s[0], s[1]).ok_or_else(|| m.wrong_type())?;
            self.carry(false, true, out, d, t, s[2]);
        } else {
            let s = self.sources(inst, ty, 2)?;
            self.carry(m.root == "subc", true, out, d, s[0], s[1]);
        }
        Ok(())
    }
}

/// The type of twice the width.
fn twice(ty: Ty) -> Option<Ty> {
    Some(match ty {
        Ty::U16 => Ty::U32,
        Ty::S16 => Ty::S32,
        Ty::U32 => Ty::U64,
        Ty::S32 => Ty::S64,
        _ => return None,
    })
}
