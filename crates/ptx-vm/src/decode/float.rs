//! Floating-point arithmetic in f16, bf16, f32 and f64.
#![forbid(unsafe_code)]

use super::Decoder;
use super::mods::Mods;
use super::operands::Width::Exact;
use crate::exec::{rounding, scalar};
use crate::inst::{Double, Float, Half, HalfOp, Op, Reg};
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Ty};

/// Rounding modes as `rounding` numbers them.
pub(super) fn mode_of(word: Option<&str>) -> u32 {
    match word {
        Some("rz") => rounding::ZERO,
        Some("rm") => rounding::DOWN,
        Some("rp") => rounding::UP,
        _ => rounding::NEAREST,
    }
}

/// The operation as the functions of a lane number it, which round in any direction.
fn with_rounding(root: &str) -> u32 {
    match root {
        "add" => scalar::ADD,
        "sub" => scalar::SUB,
        "mul" => scalar::MUL,
        "fma" | "mad" => scalar::FMA,
        "div" => scalar::DIV,
        "sqrt" => scalar::SQRT,
        _ => scalar::RCP,
    }
}

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn float(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        let Some(ty) = m.peek_ty().filter(|ty| ty.float()) else { return Ok(false) };
        if !matches!(
            m.root,
            "add"
                | "sub"
                | "mul"
                | "fma"
                | "mad"
                | "div"
                | "min"
                | "max"
                | "neg"
                | "abs"
                | "copysign"
                | "sqrt"
                | "rcp"
                | "rsqrt"
                | "ex2"
                | "lg2"
                | "sin"
                | "cos"
                | "tanh"
        ) {
            return Ok(false);
        }
        match ty {
            Ty::F32 => self.float32(inst, m)?,
            Ty::F64 => self.float64(inst, m)?,
            _ => self.half(inst, m)?,
        }
        Ok(true)
    }

    fn float32(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let root = m.root;
        let approx = match root {
            "div" | "sqrt" | "rcp" => m.one_of(&["approx", "full"]).is_some(),
            "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
                m.need("approx")?;
                true
            }
            _ => false,
        };
        let rounds = matches!(root, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "sqrt" | "rcp") && !approx;
        let word = if rounds { m.one_of(&["rn", "rz", "rm", "rp"]) } else { None };
        if word.is_none() && rounds && matches!(root, "fma" | "div" | "sqrt" | "rcp") {
            return self.bad(format!("`{root}.f32` needs a rounding mode or .approx"));
        }
        let ftz = root != "copysign" && root != "tanh" && m.take("ftz");
        let sat = matches!(root, "add" | "sub" | "mul" | "fma" | "mad") && m.take("sat");
        let nan = matches!(root, "min" | "max") && m.take("NaN");
        let xor_sign = nan_xor(root, m);
        let ty = m.ty()?;
        let n = match root {
            "fma" | "mad" => 3,
            "add" | "sub" | "mul" | "div" | "copysign" => 2,
            "min" | "max" => inst.operands.len().saturating_sub(1).clamp(2, 3),
            _ => 1,
        };
        let s = self.sources(inst, ty, n)?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        let mode = mode_of(word);
        if (sat || mode != rounding::NEAREST) && root != "copysign" {
            let op = with_rounding(root);
            self.push(Op::Lane(scalar::float32, op | mode << 8 | (ftz as u32) << 12 | (sat as u32) << 13), &[d], &s);
            return Ok(());
        }
        let op = match root {
            "add" => Float::Add,
            "sub" => Float::Sub,
            "mul" => Float::Mul,
            "fma" | "mad" => Float::Fma,
            "div" => Float::Div,
            "min" => Float::Min,
            "max" => Float::Max,
            "neg" => Float::Neg,
            "abs" => Float::Abs,
            "copysign" => Float::CopySign,
            "sqrt" => Float::Sqrt,
            "rcp" => Float::Rcp,
            "rsqrt" => Float::Rsqrt,
            "ex2" => Float::Ex2,
            "lg2" => Float::Lg2,
            "sin" => Float::Sin,
            "cos" => Float::Cos,
            _ => Float::Tanh,
        };
        if nan || xor_sign || n == 3 && matches!(op, Float::Min | Float::Max) {
            let x = (op == Float::Max) as u32 | (nan as u32) << 1 | (xor_sign as u32) << 2 | (ftz as u32) << 3;
            if n == 3 {
                let t = self.temporary(32);
                self.push(Op::Lane(scalar::min_max, x), &[t], &s[..2]);
                self.push(Op::Lane(scalar::min_max, x), &[d], &[t, s[2]]);
            } else {
                self.push(Op::Lane(scalar::min_max, x), &[d], &s);
            }
            return Ok(());
        }
        self.push(Op::Float(op, ftz), &[d], &s);
        Ok(())
    }

    fn float64(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let root = m.root;
        let (op, n) = match root {
            "add" => (Double::Add, 2),
            "sub" => (Double::Sub, 2),
            "mul" => (Double::Mul, 2),
            "fma" | "mad" => (Double::Fma, 3),
            "div" => (Double::Div, 2),
            "min" => (Double::Min, 2),
            "max" => (Double::Max, 2),
            "neg" => (Double::Neg, 1),
            "abs" => (Double::Abs, 1),
            "copysign" => (Double::CopySign, 2),
            "sqrt" => (Double::Sqrt, 1),
            "rcp" => (Double::Rcp, 1),
            "rsqrt" => {
                m.need("approx")?;
                m.take("ftz");
                let ty = m.ty()?;
                return self.lane(inst, ty, &[ty], scalar::rsqrt64, 0);
            }
            _ => return Err(m.wrong_type()),
        };
        let rounds = !matches!(root, "min" | "max" | "neg" | "abs" | "copysign");
        let mut mode = rounding::NEAREST;
        if rounds {
            match m.one_of(&["rn", "rz", "rm", "rp"]) {
                None if root == "rcp" => {
                    m.need("approx")?;
                    m.need("ftz")?;
                }
                None if matches!(root, "fma" | "div" | "sqrt") => {
                    return self.bad(format!("`{root}.f64` needs a rounding mode"));
                }
                word => mode = mode_of(word),
            }
        }
        let ty = m.ty()?;
        let s = self.sources(inst, ty, n)?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        if mode == rounding::NEAREST {
            self.push(Op::Double(op), &[d], &s);
            return Ok(());
        }
        let op = with_rounding(root);
        self.push(Op::Lane(scalar::float64, op | mode << 8), &[d], &s);
        Ok(())
    }

    fn half(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let root = m.root;
        let (op, n) = match root {
            "add" => (HalfOp::Add, 2),
            "sub" => (HalfOp::Sub, 2),
            "mul" => (HalfOp::Mul, 2),
            "fma" => (HalfOp::Fma, 3),
            "min" => (HalfOp::Min, 2),
            "max" => (HalfOp::Max, 2),
            "neg" => (HalfOp::Neg, 1),
            "abs" => (HalfOp::Abs, 1),
            "ex2" => (HalfOp::Ex2, 1),
            "tanh" => (HalfOp::Tanh, 1),
            _ => return Err(m.wrong_type()),
        };
        let rounds = matches!(op, HalfOp::Add | HalfOp::Sub | HalfOp::Mul | HalfOp::Fma);
        if rounds {
            let rn = m.take("rn");
            if op == HalfOp::Fma && !rn {
                return self.bad("`fma` needs `.rn`");
            }
            // Nothing is fused here; the hint is kept by doing nothing.
            m.take("noftz");
        }
        if matches!(op, HalfOp::Ex2 | HalfOp::Tanh) {
            m.need("approx")?;
        }
        let ftz = m.take("ftz");
        let sat = rounds && m.take("sat");
        let relu = op == HalfOp::Fma && m.take("relu");
        let nan = matches!(op, HalfOp::Min | HalfOp::Max) && m.take("NaN");
        let xor_sign = nan_xor(root, m);
        if xor_sign {
            return self.bad("`.xorsign.abs` is supported for f32 only");
        }
        let ty = m.ty()?;
        let s: Vec<Reg> = self.sources(inst, ty, n)?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        let op = match (op, nan) {
            (HalfOp::Min, true) => HalfOp::MinNan,
            (HalfOp::Max, true) => HalfOp::MaxNan,
            (op, _) => op,
        };
        let bf16 = matches!(ty, Ty::Bf16 | Ty::Bf16x2);
        let packed = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        self.push(Op::Half(Half { op, bf16, packed, sat, relu, ftz: ftz && !bf16 }), &[d], &s);
        Ok(())
    }
}

/// `.xorsign.abs` of `min` and `max`.
fn nan_xor(root: &str, m: &mut Mods<'_>) -> bool {
    matches!(root, "min" | "max") && m.take("xorsign") && m.take("abs")
}
