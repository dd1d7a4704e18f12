//! What operands mean: registers, constants, addresses.
#![forbid(unsafe_code)]

use super::{Binding, Decoder};
use crate::inst::{Class, Op, Reg, Special};
use crate::memory::window;
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Operand, Space, Ty};

/// How strictly a register's width must match.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Width {
    Exact,
    /// Loads, stores and conversions may use wider registers.
    AtLeast,
}

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn need_operands(&self, inst: &Instruction<'a>, counts: &[usize]) -> Result<(), Bad> {
        if counts.contains(&inst.operands.len()) {
            return Ok(());
        }
        let wanted: Vec<String> = counts.iter().map(usize::to_string).collect();
        self.bad(format!("`{}` takes {} operands, not {}", inst.opcode, wanted.join(" or "), inst.operands.len()))
    }

    /// The register a name stands for.
    pub(super) fn register(&self, name: &str) -> Result<(Reg, Ty), Bad> {
        match self.lookup(name) {
            Some(Binding::Register(reg, ty)) => Ok((reg, ty)),
            Some(_) => self.bad(format!("`{name}` is no register")),
            None => self.bad(format!("`{name}` is not declared")),
        }
    }

    fn check_width(&self, name: &str, declared: Ty, ty: Ty, width: Width) -> Result<(), Bad> {
        let fits = match (declared, ty) {
            (Ty::Pred, _) | (_, Ty::Pred) => declared == ty,
            _ if width == Width::AtLeast => declared.bits() >= ty.bits(),
            _ => declared.bits() == ty.bits(),
        };
        if fits {
            return Ok(());
        }
        let shown = |ty: Ty| if ty == Ty::Pred { "a predicate".into() } else { format!("{} bits wide", ty.bits()) };
        self.bad(format!("`{name}` is {}, the instruction works on {}", shown(declared), shown(ty)))
    }

    /// A destination register; `_` gives none.
    pub(super) fn dst(&self, operand: &Operand<'a>, ty: Ty, width: Width) -> Result<Reg, Bad> {
        match operand {
            Operand::Name(name, 0) => {
                let (reg, declared) = self.register(name)?;
                self.check_width(name, declared, ty, width)?;
                Ok(reg)
            }
            Operand::Sink => Ok(Reg::NONE),
            _ => self.bad("the destination is no register"),
        }
    }

    /// A source: a register, a number, a special register or a variable's address.
    pub(super) fn src(&mut self, operand: &Operand<'a>, ty: Ty, width: Width) -> Result<Reg, Bad> {
        let wide = ty.bits() == 64;
        match operand {
            Operand::Name(name, offset) => match self.lookup(name) {
                Some(Binding::Register(reg, declared)) => {
                    self.check_width(name, declared, ty, width)?;
                    if *offset != 0 {
                        return self.bad(format!("a number cannot be added to register `{name}` here"));
                    }
                    Ok(reg)
                }
                Some(Binding::Label(_) | Binding::Targets(_)) => self.bad(format!("label `{name}` is no value")),
                Some(Binding::Param(at)) => Ok(self.constant((at as i64).wrapping_add(*offset) as u64, wide)),
                Some(Binding::Place(_, at)) => Ok(self.constant((at as i64).wrapping_add(*offset) as u64, wide)),
                Some(Binding::Family(..)) | None => {
                    if *name == "WARP_SZ" {
                        return Ok(self.constant(32, wide));
                    }
                    if let Some(address) = self.addresses.get(name) {
                        if !wide {
                            return self.bad(format!("the address of `{name}` needs 64 bits"));
                        }
                        return Ok(self.constant(address.wrapping_add(*offset as u64), true));
                    }
                    match special(name) {
                        Some((_, bits)) if ty.bits() < bits && *name != "%clock64" => {
                            self.bad(format!("`{name}` is {bits} bits wide, the instruction works on {}", ty.bits()))
                        }
                        Some((special, _)) => {
                            let value = self.temporary(if wide { 64 } else { 32 });
                            self.push(Op::Special(special), &[value], &[]);
                            Ok(value)
                        }
                        None if name.starts_with('%') && name.contains('.') => {
                            self.bad(format!("unknown special register `{name}`"))
                        }
                        None => self.bad(format!("`{name}` is not declared")),
                    }
                }
            },
            Operand::Int(v) => {
                if ty == Ty::Pred {
                    let p = self.temporary(1);
                    let one = self.constant(*v as u64, false);
                    let zero = self.constant(0, false);
                    let op = Op::Setp(crate::inst::Cmp::Ne, crate::inst::CmpType::U32, None, false);
                    self.push(op, &[p], &[one, zero]);
                    return Ok(p);
                }
                let value = match ty {
                    Ty::F32 => (*v as f32).to_bits() as u64,
                    Ty::F64 => (*v as f64).to_bits(),
                    _ => *v as u64,
                };
                let value = if ty.bits() < 32 { value & ((1 << ty.bits()) - 1) } else { value };
                Ok(self.constant(value, wide))
            }
            Operand::F32(bits) if matches!(ty, Ty::F32 | Ty::B32 | Ty::F16x2 | Ty::Bf16x2) => {
                Ok(self.constant(*bits as u64, false))
            }
            Operand::F32(bits) if ty == Ty::F64 => Ok(self.constant((f32::from_bits(*bits) as f64).to_bits(), true)),
            Operand::F64(v) if matches!(ty, Ty::F64 | Ty::B64) => Ok(self.constant(v.to_bits(), true)),
            Operand::F64(v) if ty == Ty::F32 => Ok(self.constant((*v as f32).to_bits() as u64, false)),
            Operand::Not(_) => self.bad("`!` stands before a predicate only"),
            _ => self.bad("malformed source operand"),
        }
    }

    /// A predicate that may be negated.
    pub(super) fn predicate(&mut self, operand: &Operand<'a>) -> Result<(Reg, bool), Bad> {
        match operand {
            Operand::Not(name) => Ok((self.src(&Operand::Name(name, 0), Ty::Pred, Width::Exact)?, true)),
            _ => Ok((self.src(operand, Ty::Pred, Width::Exact)?, false)),
        }
    }

    /// A predicate with its negation carried out.
    pub(super) fn plain_predicate(&mut self, operand: &Operand<'a>) -> Result<Reg, Bad> {
        let (reg, negated) = self.predicate(operand)?;
        if !negated {
            return Ok(reg);
        }
        let inverse = self.temporary(1);
        self.push(Op::PredNot, &[inverse], &[reg]);
        Ok(inverse)
    }

    /// `d` or `d|p`.
    pub(super) fn pair(&self, operand: &Operand<'a>, first: Ty, second: Ty) -> Result<(Reg, Reg), Bad> {
        match operand {
            Operand::Pair(a, b) => {
                let one = |name: &'a str, ty| match name {
                    "_" => Ok(Reg::NONE),
                    _ => self.dst(&Operand::Name(name, 0), ty, Width::Exact),
                };
                Ok((one(a, first)?, one(b, second)?))
            }
            _ => Ok((self.dst(operand, first, Width::Exact)?, Reg::NONE)),
        }
    }

    /// An address: its register, if any, what is added to it, and the space it turned out to be in.
    pub(super) fn address(&mut self, operand: &Operand<'a>, space: Space) -> Result<(Reg, i32, Space), Bad> {
        let (base, offset) = match operand {
            Operand::Memory(base, offset) => (*base, *offset),
            _ => return self.bad("an address stands in brackets"),
        };
        let narrow = |decoder: &Self, v: i64| match i32::try_from(v) {
            Ok(v) => Ok(v),
            Err(_) => decoder.bad(format!("offset {v} does not fit 32 bits")),
        };
        let Some(name) = base else {
            if matches!(space, Space::Global | Space::Const | Space::Generic) {
                return Ok((self.constant(offset as u64, true), 0, space));
            }
            return Ok((Reg::NONE, narrow(self, offset)?, space));
        };
        match self.lookup(name) {
            Some(Binding::Register(reg, ty)) => {
                let needs_64 = matches!(space, Space::Global | Space::Const | Space::Generic);
                match reg.class() {
                    Class::R64 => {}
                    Class::R32 if !needs_64 && ty.bits() == 32 => {}
                    _ => return self.bad(format!("`{name}` cannot hold this address")),
                }
                Ok((reg, narrow(self, offset)?, space))
            }
            Some(Binding::Param(at)) if space == Space::Param => {
                Ok((Reg::NONE, narrow(self, (at as i64).saturating_add(offset))?, space))
            }
            Some(Binding::Place(place, at)) => match (space, place) {
                (Space::Shared, Space::Shared) | (Space::Local | Space::Param, Space::Local) => {
                    Ok((Reg::NONE, narrow(self, (at as i64).saturating_add(offset))?, place))
                }
                (Space::Generic, _) => {
                    let address = window(place).wrapping_add(at).wrapping_add(offset as u64);
                    Ok((self.constant(address, true), 0, Space::Generic))
                }
                _ => self.bad(format!("`{name}` is not in the space that the instruction names")),
            },
            Some(_) => self.bad(format!("`{name}` is no address")),
            None => match self.addresses.get(name) {
                Some(address) if matches!(space, Space::Global | Space::Const | Space::Generic) => {
                    Ok((self.constant(address.wrapping_add(offset as u64), true), 0, space))
                }
                Some(_) => self.bad(format!("`{name}` is not in the space that the instruction names")),
                None => self.bad(format!("`{name}` is not declared")),
            },
        }
    }
}

/// A special register and its width.
fn special(name: &str) -> Option<(Special, u32)> {
    let axis = |prefix: &str| match name.strip_prefix(prefix)? {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    if let Some(a) = axis("%tid") {
        return Some((Special::Tid(a), 32));
    }
    if let Some(a) = axis("%ntid") {
        return Some((Special::Ntid(a), 32));
    }
    if let Some(a) = axis("%ctaid") {
        return Some((Special::Ctaid(a), 32));
    }
    if let Some(a) = axis("%nctaid") {
        return Some((Special::Nctaid(a), 32));
    }
    Some(match name {
        "%laneid" => (Special::LaneId, 32),
        "%warpid" => (Special::WarpId, 32),
        "%nwarpid" => (Special::NWarpId, 32),
        "%smid" => (Special::SmId, 32),
        "%nsmid" => (Special::NSmId, 32),
        "%gridid" => (Special::GridId, 32),
        "%lanemask_eq" => (Special::LaneMaskEq, 32),
        "%lanemask_lt" => (Special::LaneMaskLt, 32),
        "%lanemask_le" => (Special::LaneMaskLe, 32),
        "%lanemask_gt" => (Special::LaneMaskGt, 32),
        "%lanemask_ge" => (Special::LaneMaskGe, 32),
        "%clock" | "%globaltimer_lo" => (Special::Clock, 32),
        "%clock64" | "%globaltimer" => (Special::Clock, 64),
        "%dynamic_smem_size" => (Special::DynamicShared, 32),
        "%total_smem_size" => (Special::TotalShared, 32),
        _ => return None,
    })
}
