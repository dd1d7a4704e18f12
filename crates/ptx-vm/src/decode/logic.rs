//! Logic, shifts, bit fields, comparison, selection and moves.
#![forbid(unsafe_code)]

use super::Decoder;
use super::mods::Mods;
use super::operands::Width::Exact;
use crate::exec::scalar;
use crate::inst::{Bin32, Bool, Cmp, CmpType, Int64, Op, Reg, Tri32, Un32, Wide};
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Operand, Ty};

/// How and with which predicate, perhaps negated, the result of a comparison is combined.
type Combined = Option<(Bool, Reg, bool)>;

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn logic(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        match m.root {
            "and" | "or" | "xor" | "not" | "cnot" => self.bitwise(inst, m)?,
            "shl" | "shr" => self.shift(inst, m)?,
            "shf" => self.funnel(inst, m)?,
            "mov" => self.mov(inst, m)?,
            "setp" => self.setp(inst, m)?,
            "set" => self.set(inst, m)?,
            "selp" => {
                let ty = m.ty()?;
                self.need_operands(inst, &[4])?;
                let d = self.dst(&inst.operands[0], ty, Exact)?;
                let a = self.src(&inst.operands[1], ty, Exact)?;
                let b = self.src(&inst.operands[2], ty, Exact)?;
                let (p, negated) = self.predicate(&inst.operands[3])?;
                let (a, b) = if negated { (b, a) } else { (a, b) };
                if ty == Ty::Pred {
                    return Err(m.wrong_type());
                }
                self.push(Op::Select, &[d], &[a, b, p]);
            }
            "slct" => self.slct(inst, m)?,
            "testp" => {
                let test = m.need_one(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])?;
                let ty = m.ty()?;
                if !matches!(ty, Ty::F32 | Ty::F64) {
                    return Err(m.wrong_type());
                }
                let kinds = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
                let kind = kinds.iter().position(|k| *k == test).unwrap_or(0) as u32;
                self.lane(inst, Ty::Pred, &[ty], scalar::testp, kind | ty.bits() << 8)?;
            }
            "popc" | "clz" | "brev" | "bfind" | "fns" | "bmsk" | "szext" => self.bit_counts(inst, m)?,
            "bfe" => {
                let ty = m.ty()?;
                if ty.bits() < 32 || ty.float() {
                    return Err(m.wrong_type());
                }
                let x = ty.bits() | (ty.signed() as u32) << 8;
                self.lane(inst, ty, &[ty, Ty::U32, Ty::U32], scalar::bfe, x)?;
            }
            "bfi" => {
                let ty = m.ty()?;
                self.need_operands(inst, &[5])?;
                let d = self.dst(&inst.operands[0], ty, Exact)?;
                let a = self.src(&inst.operands[1], ty, Exact)?;
                let b = self.src(&inst.operands[2], ty, Exact)?;
                let at = self.src(&inst.operands[3], Ty::U32, Exact)?;
                let len = self.src(&inst.operands[4], Ty::U32, Exact)?;
                match ty {
                    Ty::B32 => self.push(Op::Tri32(Tri32::Bfi), &[d], &[a, b, at, len]),
                    Ty::B64 => {
                        // Three sources fit a lane's function: position and length share one.
                        let both = self.temporary(64);
                        self.push(Op::Wide(Wide::Pack), &[both], &[at, len]);
                        self.push(Op::Lane(scalar::bfi64, 0), &[d], &[a, b, both]);
                    }
                    _ => return Err(m.wrong_type()),
                }
            }
            "prmt" => {
                m.ty()?;
                match m.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
                    None => {
                        let s = self.sources(inst, Ty::B32, 3)?;
                        let d = self.dst(&inst.operands[0], Ty::B32, Exact)?;
                        self.push(Op::Tri32(Tri32::Prmt), &[d], &s);
                    }
                    Some(mode) => {
                        let modes = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
                        let mode = modes.iter().position(|k| *k == mode).unwrap_or(0) as u32;
                        self.lane(inst, Ty::B32, &[Ty::B32; 3], scalar::prmt_mode, mode)?;
                    }
                }
            }
            "lop3" => {
                if m.one_of(&["or", "and"]).is_some() {
                    return self.bad("`lop3` with a predicate result is not supported");
                }
                m.ty()?;
                self.need_operands(inst, &[5])?;
                let d = self.dst(&inst.operands[0], Ty::B32, Exact)?;
                let a = self.src(&inst.operands[1], Ty::B32, Exact)?;
                let b = self.src(&inst.operands[2], Ty::B32, Exact)?;
                let c = self.src(&inst.operands[3], Ty::B32, Exact)?;
                let Operand::Int(table @ 0..=255) = inst.operands[4] else {
                    return self.bad("the truth table of `lop3` is a number from 0 to 255");
                };
                self.push(Op::Tri32(Tri32::Lop3(table as u8)), &[d], &[a, b, c]);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn bitwise(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let ty = m.ty()?;
        let unary = matches!(m.root, "not" | "cnot");
        if ty == Ty::Pred {
            self.need_operands(inst, &[if unary { 2 } else { 3 }])?;
            let d = self.dst(&inst.operands[0], ty, Exact)?;
            let a = self.plain_predicate(&inst.operands[1])?;
            match m.root {
                "not" => self.push(Op::PredNot, &[d], &[a]),
                "cnot" => return Err(m.wrong_type()),
                root => {
                    let b = self.plain_predicate(&inst.operands[2])?;
                    let op = match root {
                        "and" => Op::PredAnd,
                        "or" => Op::PredOr,
                        _ => Op::PredXor,
                    };
                    self.push(op, &[d], &[a, b]);
                }
            }
            return Ok(());
        }
        let s = self.sources(inst, ty, if unary { 1 } else { 2 })?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        match (m.root, ty.bits()) {
            ("cnot", bits) => self.push(Op::Lane(scalar::cnot, bits), &[d], &s),
            ("not", 64) => self.push(Op::Int64(Int64::Not), &[d], &s),
            ("not", 32) => self.push(Op::Un32(Un32::Not), &[d], &s),
            ("not", _) => {
                let t = self.temporary(32);
                self.push(Op::Un32(Un32::Not), &[t], &s);
                self.push(Op::Un32(Un32::Low16), &[d], &[t]);
            }
            ("and", 64) => self.push(Op::Int64(Int64::And), &[d], &s),
            ("or", 64) => self.push(Op::Int64(Int64::Or), &[d], &s),
            (_, 64) => self.push(Op::Int64(Int64::Xor), &[d], &s),
            ("and", _) => self.push(Op::Bin32(Bin32::And), &[d], &s),
            ("or", _) => self.push(Op::Bin32(Bin32::Or), &[d], &s),
            _ => self.push(Op::Bin32(Bin32::Xor), &[d], &s),
        }
        Ok(())
    }

    fn shift(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let left = m.root == "shl";
        let ty = m.ty()?;
        self.need_operands(inst, &[3])?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        let a = self.src(&inst.operands[1], ty, Exact)?;
        let n = self.src(&inst.operands[2], Ty::U32, Exact)?;
        let signed = ty.signed();
        let (op32, op64) = match (left, signed) {
            (true, _) => (Bin32::Shl, Int64::Shl),
            (false, true) => (Bin32::ShrS, Int64::ShrS),
            (false, false) => (Bin32::ShrU, Int64::ShrU),
        };
        match ty.bits() {
            64 => self.push(Op::Int64(op64), &[d], &[a, n]),
            32 => self.push(Op::Bin32(op32), &[d], &[a, n]),
            16 => {
                let wide = self.extended(a, ty);
                let t = self.temporary(32);
                self.push(Op::Bin32(op32), &[t], &[wide, n]);
                self.push(Op::Un32(Un32::Low16), &[d], &[t]);
            }
            _ => return Err(m.wrong_type()),
        }
        Ok(())
    }

    fn funnel(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let left = m.need_one(&["l", "r"])? == "l";
        let wrap = m.need_one(&["wrap", "clamp"])? == "wrap";
        m.ty()?;
        let mut s = self.sources(inst, Ty::B32, 3)?;
        let d = self.dst(&inst.operands[0], Ty::B32, Exact)?;
        let (limit, op) = if wrap { (31, Bin32::And) } else { (32, Bin32::MinU) };
        let n = self.temporary(32);
        let limit = self.constant(limit, false);
        self.push(Op::Bin32(op), &[n], &[s[2], limit]);
        s[2] = n;
        self.push(Op::Tri32(if left { Tri32::ShfL } else { Tri32::ShfR }), &[d], &s);
        Ok(())
    }

    fn bit_counts(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let root = m.root;
        match root {
            "bfind" => {
                let shift = m.take("shiftamt");
                let ty = m.ty()?;
                let x = ty.bits() | (ty.signed() as u32) << 8 | (shift as u32) << 9;
                return self.lane(inst, Ty::U32, &[ty], scalar::bfind, x);
            }
            "fns" => {
                m.ty()?;
                return self.lane(inst, Ty::B32, &[Ty::B32; 3], scalar::fns, 0);
            }
            "bmsk" => {
                let clamp = m.need_one(&["clamp", "wrap"])? == "clamp";
                m.ty()?;
                return self.lane(inst, Ty::B32, &[Ty::B32; 2], scalar::bmsk, clamp as u32);
            }
            "szext" => {
                let clamp = m.need_one(&["clamp", "wrap"])? == "clamp";
                let ty = m.ty()?;
                let x = clamp as u32 | (ty.signed() as u32) << 1;
                return self.lane(inst, ty, &[ty, Ty::B32], scalar::szext, x);
            }
            _ => {}
        }
        let ty = m.ty()?;
        let s = self.sources(inst, ty, 1)?;
        let to = if root == "brev" { ty } else { Ty::U32 };
        let d = self.dst(&inst.operands[0], to, Exact)?;
        match (root, ty.bits()) {
            ("popc", 32) => self.push(Op::Un32(Un32::Popc), &[d], &s),
            ("clz", 32) => self.push(Op::Un32(Un32::Clz), &[d], &s),
            ("brev", 32) => self.push(Op::Un32(Un32::Brev), &[d], &s),
            ("popc", 64) => self.push(Op::Lane(scalar::popc64, 0), &[d], &s),
            ("clz", 64) => self.push(Op::Lane(scalar::clz64, 0), &[d], &s),
            ("brev", 64) => self.push(Op::Lane(scalar::brev64, 0), &[d], &s),
            _ => return Err(m.wrong_type()),
        }
        Ok(())
    }

    fn mov(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let ty = m.ty()?;
        self.need_operands(inst, &[2])?;
        match (&inst.operands[0], &inst.operands[1]) {
            (d, Operand::Vector(parts)) => {
                let d = self.dst(d, ty, Exact)?;
                self.pack(ty, d, parts)
            }
            (Operand::Vector(parts), s) => {
                let s = self.src(s, ty, Exact)?;
                self.unpack(ty, parts, s)
            }
            (d, s) => {
                let d = self.dst(d, ty, Exact)?;
                if ty == Ty::Pred {
                    let s = self.plain_predicate(s)?;
                    self.push(Op::PredMov, &[d], &[s]);
                    return Ok(());
                }
                let s = self.src(s, ty, Exact)?;
                // A special register was just read into a temporary: read it into its destination instead.
                if let (Operand::Name(name, _), Some(last)) = (&inst.operands[1], self.code.last_mut())
                    && name.starts_with('%')
                    && matches!(last.op, Op::Special(_))
                    && last.d[0] == s
                {
                    last.d[0] = d;
                    return Ok(());
                }
                self.push(if ty.bits() == 64 { Op::Int64(Int64::Mov) } else { Op::Un32(Un32::Mov) }, &[d], &[s]);
                Ok(())
            }
        }
    }

    fn part_type(&self, ty: Ty, parts: &[Operand<'a>]) -> Result<Ty, Bad> {
        Ok(match (ty.bits(), parts.len()) {
            (64, 2) => Ty::B32,
            (64, 4) | (32, 2) => Ty::B16,
            (32, 4) | (16, 2) => Ty::B8,
            (bits, n) => return self.bad(format!("{bits} bits do not split into {n} parts")),
        })
    }

    fn pack(&mut self, ty: Ty, d: Reg, parts: &[Operand<'a>]) -> Result<(), Bad> {
        let part = self.part_type(ty, parts)?;
        let mut s = Vec::new();
        for operand in parts {
            let reg = self.src(operand, if part == Ty::B8 { Ty::B16 } else { part }, Exact)?;
            s.push(reg);
        }
        match (ty.bits(), part) {
            (64, Ty::B32) => self.push(Op::Wide(Wide::Pack), &[d], &s),
            (64, _) => {
                let (lo, hi) = (self.temporary(32), self.temporary(32));
                self.push(Op::Bin32(Bin32::Pack16), &[lo], &s[..2]);
                self.push(Op::Bin32(Bin32::Pack16), &[hi], &s[2..]);
                self.push(Op::Wide(Wide::Pack), &[d], &[lo, hi]);
            }
            (32, Ty::B16) => self.push(Op::Bin32(Bin32::Pack16), &[d], &s),
            _ => {
                let mut sum = self.constant(0, false);
                for (i, reg) in s.iter().enumerate() {
                    let last = i + 1 == s.len();
                    let (low, up) = (self.temporary(32), self.temporary(32));
                    self.push(Op::Un32(Un32::Low8), &[low], &[*reg]);
                    let n = self.constant(8 * i as u64, false);
                    self.push(Op::Bin32(Bin32::Shl), &[up], &[low, n]);
                    let to = if last { d } else { self.temporary(32) };
                    self.push(Op::Bin32(Bin32::Or), &[to], &[sum, up]);
                    sum = to;
                }
            }
        }
        Ok(())
    }

    fn unpack(&mut self, ty: Ty, parts: &[Operand<'a>], s: Reg) -> Result<(), Bad> {
        let part = self.part_type(ty, parts)?;
        let mut d = Vec::new();
        for operand in parts {
            d.push(self.dst(operand, if part == Ty::B8 { Ty::B16 } else { part }, Exact)?);
        }
        match (ty.bits(), part) {
            (64, Ty::B32) => self.push(Op::Wide(Wide::Unpack), &d, &[s]),
            (64, _) => {
                let (lo, hi) = (self.temporary(32), self.temporary(32));
                self.push(Op::Wide(Wide::Unpack), &[lo, hi], &[s]);
                for (i, half) in [lo, hi].into_iter().enumerate() {
                    self.push(Op::Un32(Un32::Low16), &d[2 * i..2 * i + 1], &[half]);
                    self.push(Op::Un32(Un32::High16), &d[2 * i + 1..2 * i + 2], &[half]);
                }
            }
            (32, Ty::B16) => {
                // The source may be one of the destinations.
                let copy = self.temporary(32);
                self.push(Op::Un32(Un32::Mov), &[copy], &[s]);
                self.push(Op::Un32(Un32::Low16), &d[..1], &[copy]);
                self.push(Op::Un32(Un32::High16), &d[1..2], &[copy]);
            }
            _ => {
                let copy = self.temporary(32);
                self.push(Op::Un32(Un32::Mov), &[copy], &[s]);
                for (i, to) in d.iter().enumerate() {
                    let n = self.constant(8 * i as u64, false);
                    let t = self.temporary(32);
                    self.push(Op::Bin32(Bin32::ShrU), &[t], &[copy, n]);
                    self.push(Op::Un32(Un32::Low8), &[*to], &[t]);
                }
            }
        }
        Ok(())
    }

    /// A comparison and what it compares, from the modifiers.
    fn comparison(&mut self, m: &mut Mods<'a>) -> Result<(Cmp, Option<Bool>, bool), Bad> {
        let word = m.need_one(&[
            "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu",
            "num", "nan",
        ])?;
        let cmp = match word {
            "eq" => Cmp::Eq,
            "ne" => Cmp::Ne,
            "lt" | "lo" => Cmp::Lt,
            "le" | "ls" => Cmp::Le,
            "gt" | "hi" => Cmp::Gt,
            "ge" | "hs" => Cmp::Ge,
            "equ" => Cmp::Equ,
            "neu" => Cmp::Neu,
            "ltu" => Cmp::Ltu,
            "leu" => Cmp::Leu,
            "gtu" => Cmp::Gtu,
            "geu" => Cmp::Geu,
            "num" => Cmp::Num,
            _ => Cmp::Nan,
        };
        let combine = match m.one_of(&["and", "or", "xor"]) {
            Some("and") => Some(Bool::And),
            Some("or") => Some(Bool::Or),
            Some(_) => Some(Bool::Xor),
            None => None,
        };
        Ok((cmp, combine, m.take("ftz")))
    }

    /// Emits the comparison of two operands into predicates.
    #[allow(clippy::too_many_arguments)]
    fn compare(
        &mut self,
        m: &Mods<'a>,
        ty: Ty,
        cmp: Cmp,
        ftz: bool,
        d: &[Reg],
        a: Reg,
        b: Reg,
        c: Combined,
    ) -> Result<(), Bad> {
        let float_only = !matches!(cmp, Cmp::Eq | Cmp::Ne | Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge);
        if float_only && !ty.float() {
            return self.bad("this comparison is for floats only");
        }
        let kind = match ty {
            Ty::S16 => CmpType::S16,
            Ty::B16 | Ty::U16 | Ty::B32 | Ty::U32 => CmpType::U32,
            Ty::S32 => CmpType::S32,
            Ty::B64 | Ty::U64 => CmpType::U64,
            Ty::S64 => CmpType::S64,
            Ty::F32 if ftz => CmpType::F32Ftz,
            Ty::F32 => CmpType::F32,
            Ty::F64 => CmpType::F64,
            Ty::F16 => CmpType::F16,
            Ty::Bf16 => CmpType::Bf16,
            _ => return Err(m.wrong_type()),
        };
        match c {
            None => self.push(Op::Setp(cmp, kind, None, false), d, &[a, b]),
            Some((op, p, negated)) => self.push(Op::Setp(cmp, kind, Some(op), negated), d, &[a, b, p]),
        }
        Ok(())
    }

    /// The two operands of a comparison, and the predicate that its result is combined with.
    fn compared(&mut self, inst: &Instruction<'a>, ty: Ty, combine: Option<Bool>) -> Result<(Reg, Reg, Combined), Bad> {
        let a = self.src(&inst.operands[1], ty, Exact)?;
        let b = self.src(&inst.operands[2], ty, Exact)?;
        let Some(op) = combine else { return Ok((a, b, None)) };
        let (reg, negated) = self.predicate(&inst.operands[3])?;
        Ok((a, b, Some((op, reg, negated))))
    }

    fn setp(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let (cmp, combine, ftz) = self.comparison(m)?;
        let ty = m.ty()?;
        self.need_operands(inst, &[if combine.is_some() { 4 } else { 3 }])?;
        let (p, q) = self.pair(&inst.operands[0], Ty::Pred, Ty::Pred)?;
        let (a, b, c) = self.compared(inst, ty, combine)?;
        if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            // Two comparisons: the lower halves give `p`, the upper ones `q`.
            let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            let halves: Vec<Reg> = [(Un32::Low16, a), (Un32::Low16, b), (Un32::High16, a), (Un32::High16, b)]
                .into_iter()
                .map(|(op, from)| {
                    let t = self.temporary(32);
                    self.push(Op::Un32(op), &[t], &[from]);
                    t
                })
                .collect();
            self.compare(m, half, cmp, ftz, &[p], halves[0], halves[1], c)?;
            return self.compare(m, half, cmp, ftz, &[q], halves[2], halves[3], c);
        }
        self.compare(m, ty, cmp, ftz, &[p, q], a, b, c)
    }

    /// `set`: all ones or zero, or 1.0 or 0.0.
    fn set(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let (cmp, combine, ftz) = self.comparison(m)?;
        let (to, ty) = (m.ty()?, m.ty()?);
        self.need_operands(inst, &[if combine.is_some() { 4 } else { 3 }])?;
        let packed = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        let d = self.dst(&inst.operands[0], to, Exact)?;
        let (a, b, c) = self.compared(inst, ty, combine)?;
        let one = match to {
            Ty::F32 => 0x3f80_0000,
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
            Ty::U32 | Ty::S32 | Ty::B32 if packed => 0xffff,
            Ty::U32 | Ty::S32 | Ty::B32 => 0xffff_ffff,
            Ty::U16 | Ty::S16 | Ty::B16 => 0xffff,
            _ => return Err(m.wrong_type()),
        };
        let (yes, no) = (self.constant(one, false), self.constant(0, false));
        if !packed {
            let p = self.temporary(1);
            self.compare(m, ty, cmp, ftz, &[p], a, b, c)?;
            self.push(Op::Select, &[d], &[yes, no, p]);
            return Ok(());
        }
        let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
        let mut results = Vec::new();
        for op in [Un32::Low16, Un32::High16] {
            let (x, y, p, r) = (self.temporary(32), self.temporary(32), self.temporary(1), self.temporary(32));
            self.push(Op::Un32(op), &[x], &[a]);
            self.push(Op::Un32(op), &[y], &[b]);
            self.compare(m, half, cmp, ftz, &[p], x, y, c)?;
            self.push(Op::Select, &[r], &[yes, no, p]);
            results.push(r);
        }
        self.push(Op::Bin32(Bin32::Pack16), &[d], &results);
        Ok(())
    }

    fn slct(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let ftz = m.take("ftz");
        let (ty, by) = (m.ty()?, m.ty()?);
        self.need_operands(inst, &[4])?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        let a = self.src(&inst.operands[1], ty, Exact)?;
        let b = self.src(&inst.operands[2], ty, Exact)?;
        let c = self.src(&inst.operands[3], by, Exact)?;
        if !matches!(by, Ty::S32 | Ty::F32) {
            return Err(m.wrong_type());
        }
        let p = self.temporary(1);
        let zero = self.constant(0, false);
        self.compare(m, by, Cmp::Ge, ftz, &[p], c, zero, None)?;
        self.push(Op::Select, &[d], &[a, b, p]);
        Ok(())
    }
}
