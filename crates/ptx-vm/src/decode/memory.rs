//! Loads, stores, atomics and asynchronous copies.
#![forbid(unsafe_code)]

use super::Decoder;
use super::mods::Mods;
use super::operands::Width::{AtLeast, Exact};
use crate::inst::{Access, Atom, AtomOp, AtomType, CpBytes, Fill, Op, Reg, Un32, Wide};
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Operand, Space, Ty};

/// Modifiers that say how caches are to be used; they change no result.
const CACHE: [&str; 4] = ["L1::", "L2::", "level::", "unified"];

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn memory(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        match m.root {
            "ld" | "ldu" => self.load(inst, m)?,
            "st" => self.store(inst, m)?,
            "atom" | "red" => self.atomic(inst, m)?,
            "cp" => self.cp_async(inst, m)?,
            "prefetch" | "prefetchu" | "applypriority" => {
                m.take_prefixed(&CACHE);
                m.one_of(&["global", "local"]);
                m.one_of(&["L1", "L2"]);
                let taken = self.address(inst.operands.first().unwrap_or(&Operand::Sink), Space::Generic);
                taken.map(|_| self.push(Op::Nop, &[], &[]))?;
            }
            "createpolicy" => {
                m.take_prefixed(&["fractional", "range", "cvt", "L2", "b64", "global"]);
                let Some(first) = inst.operands.first() else { return self.bad("`createpolicy` lacks operands") };
                let d = self.dst(first, Ty::B64, Exact)?;
                let zero = self.constant(0, true);
                self.push(Op::Int64(crate::inst::Int64::Mov), &[d], &[zero]);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn space(&self, m: &mut Mods<'a>) -> Space {
        match m.one_of(&["global", "shared", "shared::cta", "local", "const", "param", "param::entry", "param::func"]) {
            Some("global") => Space::Global,
            Some("shared" | "shared::cta") => Space::Shared,
            Some("local") => Space::Local,
            Some("const") => Space::Const,
            Some(_) => Space::Param,
            None => Space::Generic,
        }
    }

    /// `.volatile`, `.relaxed.scope`, …: strong, and whether they order.
    fn semantics(&self, m: &mut Mods<'a>) -> (bool, bool) {
        let word = m.one_of(&["weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"]);
        m.one_of(&["cta", "cluster", "gpu", "sys"]);
        (!matches!(word, None | Some("weak")), matches!(word, Some("acquire" | "release" | "acq_rel")))
    }

    /// Claims cache operators and eviction hints; true if a policy operand follows.
    fn cache(&self, m: &mut Mods<'a>) -> bool {
        m.one_of(&["ca", "cg", "cs", "lu", "cv", "wb", "wt"]);
        let hint = m.take("L2::cache_hint");
        m.take_prefixed(&CACHE);
        hint
    }

    fn access(&self, m: &mut Mods<'a>) -> Result<(Access, Ty, bool), Bad> {
        let (strong, ordering) = self.semantics(m);
        let space = self.space(m);
        let constant = m.root != "st" && m.take("nc");
        let hint = self.cache(m);
        let count = match m.one_of(&["v2", "v4"]) {
            Some("v2") => 2,
            Some(_) => 4,
            None => 1,
        };
        let ty = m.ty()?;
        if ty.bytes() == 0 || ty.bytes() * count as u32 > 16 {
            return Err(m.wrong_type());
        }
        let fill = if ty.signed() { Fill::Sign } else { Fill::Zero };
        let access = Access { space, width: ty.bytes() as u8, count, fill, strong, ordering, constant, offset: 0 };
        Ok((access, ty, hint))
    }

    fn elements<'o>(&self, operand: &'o Operand<'a>, count: u8) -> Result<&'o [Operand<'a>], Bad> {
        match operand {
            Operand::Vector(inner) if inner.len() == count as usize => Ok(inner),
            Operand::Vector(inner) => self.bad(format!("{count} elements are moved, {} are named", inner.len())),
            _ if count == 1 => Ok(std::slice::from_ref(operand)),
            _ => self.bad(format!("{count} elements stand in braces")),
        }
    }

    fn load(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let (mut access, ty, hint) = self.access(m)?;
        self.need_operands(inst, &[if hint { 3 } else { 2 }])?;
        let mut d = Vec::new();
        let mut declared = ty.bits();
        for operand in self.elements(&inst.operands[0], access.count)? {
            d.push(self.dst(operand, ty, AtLeast)?);
            if let Operand::Name(name, _) = operand {
                declared = self.register(name)?.1.bits();
            }
        }
        // A register as wide as the value holds it as it is.
        if declared == ty.bits() && declared < 32 {
            access.fill = Fill::Zero;
        }
        let (base, offset, space) = self.address(&inst.operands[1], access.space)?;
        (access.offset, access.space) = (offset, space);
        if space == Space::Param && base.is_none() {
            let offset = u32::try_from(offset).or_else(|_| self.bad("the offset lies before the parameters"))?;
            let (width, count, fill) = (access.width, access.count, access.fill);
            self.push(Op::LdParam { offset, width, count, fill }, &d, &[]);
        } else {
            self.push(Op::Ld(access), &d, &[base]);
        }
        if declared == 16 && access.fill == Fill::Sign {
            for reg in d {
                self.push(Op::Un32(Un32::Low16), &[reg], &[reg]);
            }
        }
        Ok(())
    }

    fn store(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let (mut access, ty, hint) = self.access(m)?;
        if access.space == Space::Const {
            return self.bad("constant memory is not written");
        }
        self.need_operands(inst, &[if hint { 3 } else { 2 }])?;
        let (base, offset, space) = self.address(&inst.operands[0], access.space)?;
        (access.offset, access.space) = (offset, space);
        if space == Space::Param {
            return self.bad("a kernel's parameters are not written");
        }
        let mut s = vec![base];
        for operand in self.elements(&inst.operands[1], access.count)? {
            let reg = self.src(operand, ty, AtLeast)?;
            if reg.is_64() && access.width < 8 {
                let t = self.temporary(32);
                self.push(Op::Wide(Wide::Trunc), &[t], &[reg]);
                s.push(t);
            } else {
                s.push(reg);
            }
        }
        self.push(Op::St(access), &[], &s);
        Ok(())
    }

    fn atomic(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let returns = m.root == "atom";
        let (_, ordering) = self.semantics(m);
        let space = self.space(m);
        if !matches!(space, Space::Global | Space::Shared | Space::Generic) {
            return self.bad("atomics work on global and shared memory");
        }
        let op = match m.need_one(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"])? {
            "add" => AtomOp::Add,
            "min" => AtomOp::Min,
            "max" => AtomOp::Max,
            "and" => AtomOp::And,
            "or" => AtomOp::Or,
            "xor" => AtomOp::Xor,
            "exch" => AtomOp::Exch,
            "cas" => AtomOp::Cas,
            "inc" => AtomOp::Inc,
            _ => AtomOp::Dec,
        };
        m.take("noftz");
        // The scope may stand after the space.
        m.one_of(&["cta", "cluster", "gpu", "sys"]);
        let hint = self.cache(m);
        if m.one_of(&["v2", "v4", "v8"]).is_some() {
            return self.bad("vector atomics are not supported");
        }
        let ty = m.ty()?;
        let kind = match (ty, op) {
            (Ty::B16, AtomOp::Cas | AtomOp::Exch) => AtomType::B16,
            (Ty::F16, AtomOp::Add) => AtomType::F16,
            (Ty::F16x2, AtomOp::Add) => AtomType::F16x2,
            (Ty::Bf16, AtomOp::Add) => AtomType::Bf16,
            (Ty::Bf16x2, AtomOp::Add) => AtomType::Bf16x2,
            // Sums of atomics on global memory flush subnormals on a card; in shared memory they do not.
            (Ty::F32, AtomOp::Add) if space == Space::Global => AtomType::F32Ftz,
            (Ty::F32, AtomOp::Add) => AtomType::F32,
            (Ty::F64, AtomOp::Add) => AtomType::F64,
            (Ty::S32, AtomOp::Add | AtomOp::Min | AtomOp::Max) => AtomType::S32,
            (Ty::U32, AtomOp::Add | AtomOp::Min | AtomOp::Max | AtomOp::Inc | AtomOp::Dec) => AtomType::U32,
            (Ty::S64, AtomOp::Add | AtomOp::Min | AtomOp::Max) => AtomType::S64,
            (Ty::U64, AtomOp::Add | AtomOp::Min | AtomOp::Max) => AtomType::U64,
            (Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32, AtomOp::Exch) => AtomType::U32,
            (Ty::B64 | Ty::U64 | Ty::S64, AtomOp::Exch | AtomOp::Cas) => AtomType::U64,
            (Ty::B32 | Ty::U32 | Ty::S32, AtomOp::Cas | AtomOp::And | AtomOp::Or | AtomOp::Xor) => AtomType::U32,
            (Ty::B64 | Ty::U64 | Ty::S64, AtomOp::And | AtomOp::Or | AtomOp::Xor) => AtomType::U64,
            _ => return Err(m.wrong_type()),
        };
        let values = if op == AtomOp::Cas { 2 } else { 1 };
        let at = usize::from(returns);
        self.need_operands(inst, &[at + 1 + values + usize::from(hint)])?;
        let d = if returns { self.dst(&inst.operands[0], ty, Exact)? } else { Reg::NONE };
        let (base, offset, space) = self.address(&inst.operands[at], space)?;
        let mut s = vec![base];
        for operand in &inst.operands[at + 1..at + 1 + values] {
            s.push(self.src(operand, ty, Exact)?);
        }
        let (width, fill) = (ty.bytes() as u8, Fill::Zero);
        let access = Access { space, width, count: 1, fill, strong: true, ordering, constant: false, offset };
        self.push(Op::Atom(Atom { access, op, ty: kind }), &[d], &s);
        Ok(())
    }

    fn cp_async(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        m.need("async")?;
        if m.take("commit_group") {
            self.need_operands(inst, &[0])?;
            self.push(Op::CpCommit, &[], &[]);
            return Ok(());
        }
        if m.take("wait_all") {
            self.need_operands(inst, &[0])?;
            self.push(Op::CpCommit, &[], &[]);
            self.push(Op::CpWait(0), &[], &[]);
            return Ok(());
        }
        if m.take("wait_group") {
            self.need_operands(inst, &[1])?;
            let Operand::Int(n @ 0..=0xffff) = inst.operands[0] else {
                return self.bad("`cp.async.wait_group` takes a small number");
            };
            self.push(Op::CpWait(n as u32), &[], &[]);
            return Ok(());
        }
        let cache = m.need_one(&["ca", "cg"])?;
        m.one_of(&["shared", "shared::cta"]).map_or_else(|| self.bad("`cp.async` writes to `.shared`"), |_| Ok(()))?;
        m.need("global")?;
        let hint = m.take("L2::cache_hint");
        m.take_prefixed(&CACHE);
        let n = inst.operands.len() - usize::from(hint).min(inst.operands.len());
        if !(3..=4).contains(&n) {
            return self.bad("`cp.async` takes a destination, a source, a size and perhaps the source's size");
        }
        let (to, offset_to, _) = self.address(&inst.operands[0], Space::Shared)?;
        let (from, offset_from, _) = self.address(&inst.operands[1], Space::Global)?;
        let size = match inst.operands[2] {
            Operand::Int(16) => 16,
            Operand::Int(size @ (4 | 8)) if cache == "ca" => size as u8,
            _ => return self.bad("`cp.async` copies 16 bytes, or with .ca 4, 8 or 16"),
        };
        let mut s = vec![to, from];
        let mut bytes = CpBytes::All;
        if n == 4 {
            let operand = &inst.operands[3];
            let predicate = match operand {
                Operand::Not(_) => true,
                Operand::Name(name, _) => self.register(name)?.1 == Ty::Pred,
                _ => false,
            };
            if predicate {
                bytes = CpBytes::Ignore;
                s.push(self.plain_predicate(operand)?);
            } else {
                bytes = CpBytes::Size;
                s.push(self.src(operand, Ty::B32, Exact)?);
            }
        }
        self.push(Op::CpAsync { size, bytes, offset_to, offset_from }, &[], &s);
        Ok(())
    }
}
