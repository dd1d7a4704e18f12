//! Matrix fragments: `mma`, `ldmatrix`, `stmatrix`, `movmatrix`.
#![forbid(unsafe_code)]

use super::Decoder;
use super::mods::Mods;
use super::operands::Width::Exact;
use crate::inst::{Access, Fill, Mma, Op, Reg};
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Operand, Space, Ty};

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn tensor(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        match m.root {
            "mma" => self.mma(inst, m)?,
            "ldmatrix" | "stmatrix" => self.matrix_move(inst, m)?,
            "movmatrix" => {
                m.need("sync")?;
                m.need("aligned")?;
                m.need("m8n8")?;
                m.need("trans")?;
                if m.ty()? != Ty::B16 {
                    return Err(m.wrong_type());
                }
                let s = self.sources(inst, Ty::B32, 1)?;
                let d = self.dst(&inst.operands[0], Ty::B32, Exact)?;
                self.push(Op::Movmatrix, &[d], &s);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn fragment(&mut self, operand: &Operand<'a>, ty: Ty, n: usize) -> Result<Vec<Reg>, Bad> {
        let inner = match operand {
            Operand::Vector(inner) => inner.as_slice(),
            other => std::slice::from_ref(other),
        };
        if inner.len() != n {
            return self.bad(format!("this fragment has {n} registers, not {}", inner.len()));
        }
        inner.iter().map(|o| self.src(o, ty, Exact)).collect()
    }

    fn results(&self, operand: &Operand<'a>, ty: Ty, n: usize) -> Result<Vec<Reg>, Bad> {
        let inner = match operand {
            Operand::Vector(inner) => inner.as_slice(),
            other => std::slice::from_ref(other),
        };
        if inner.len() != n {
            return self.bad(format!("this fragment has {n} registers, not {}", inner.len()));
        }
        inner.iter().map(|o| self.dst(o, ty, Exact)).collect()
    }

    fn mma(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        m.need("sync")?;
        m.need("aligned")?;
        let k = match m.need_one(&["m16n8k8", "m16n8k16"])? {
            "m16n8k8" => 8,
            _ => 16,
        };
        m.need("row")?;
        m.need("col")?;
        if !inst.opcode.contains(".row.col.") {
            return self.bad("`mma` takes its first matrix by rows and its second by columns");
        }
        let (d_ty, a_ty, b_ty, c_ty) = (m.ty()?, m.ty()?, m.ty()?, m.ty()?);
        let bf16 = a_ty == Ty::Bf16;
        let known = a_ty == b_ty
            && matches!(a_ty, Ty::F16 | Ty::Bf16)
            && matches!(d_ty, Ty::F16 | Ty::F32)
            && matches!(c_ty, Ty::F16 | Ty::F32)
            && !(bf16 && (d_ty == Ty::F16 || c_ty == Ty::F16));
        if !known {
            return Err(m.wrong_type());
        }
        self.need_operands(inst, &[4])?;
        let (half_in, half_out) = (c_ty == Ty::F16, d_ty == Ty::F16);
        let part = |half: bool| if half { (Ty::B32, 2) } else { (Ty::F32, 4) };
        let (ty, n) = part(half_out);
        let d = self.results(&inst.operands[0], ty, n)?;
        let a = self.fragment(&inst.operands[1], Ty::B32, k / 4)?;
        let b = self.fragment(&inst.operands[2], Ty::B32, k / 8)?;
        let (ty, n) = part(half_in);
        let c = self.fragment(&inst.operands[3], ty, n)?;
        // Always A in 0..4, B in 4..6, C in 6..10, whatever the depth.
        let mut s = vec![Reg::NONE; 10];
        s[..a.len()].copy_from_slice(&a);
        s[4..4 + b.len()].copy_from_slice(&b);
        s[6..6 + c.len()].copy_from_slice(&c);
        self.push(Op::Mma(Mma { k: k as u8, bf16, half_in, half_out }), &d, &s);
        Ok(())
    }

    fn matrix_move(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let load = m.root == "ldmatrix";
        m.need("sync")?;
        m.need("aligned")?;
        m.need("m8n8")?;
        let count = match m.need_one(&["x1", "x2", "x4"])? {
            "x1" => 1,
            "x2" => 2,
            _ => 4,
        };
        let transposed = m.take("trans");
        let shared = m.one_of(&["shared", "shared::cta"]).is_some();
        if m.ty()? != Ty::B16 {
            return Err(m.wrong_type());
        }
        self.need_operands(inst, &[2])?;
        let (at, values) = if load { (1, 0) } else { (0, 1) };
        let space = if shared { Space::Shared } else { Space::Generic };
        let (base, offset, space) = self.address(&inst.operands[at], space)?;
        let (fill, strong, ordering, constant) = (Fill::Zero, false, false, false);
        let access = Access { space, width: 16, count: 1, fill, strong, ordering, constant, offset };
        if load {
            let fragment = self.results(&inst.operands[values], Ty::B32, count)?;
            let count = count as u8;
            self.push(Op::Ldmatrix { count, transposed, access }, &fragment, &[base]);
        } else {
            let mut s = vec![base];
            s.extend(self.fragment(&inst.operands[values], Ty::B32, count)?);
            let count = count as u8;
            self.push(Op::Stmatrix { count, transposed, access }, &[], &s);
        }
        Ok(())
    }
}
