//! `cvt`, `cvta` and `cvt.pack`.
#![forbid(unsafe_code)]

use super::Decoder;
use super::mods::Mods;
use super::operands::Width::{AtLeast, Exact};
use crate::exec::{convert, rounding};
use crate::inst::{Bin32, Int64, Op, Reg, Un32, Wide};
use crate::memory::window;
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Operand, Space, Ty};

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn convert(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        match m.root {
            "cvt" => self.cvt(inst, m)?,
            "cvta" => self.cvta(inst, m)?,
            "isspacep" => {
                let space = m.need_one(&["global", "const", "shared", "local", "param", "shared::cta"])?;
                let kind = match space {
                    "shared" | "shared::cta" => 1,
                    "local" => 2,
                    "param" => 3,
                    _ => 16,
                };
                self.lane(inst, Ty::Pred, &[Ty::U64], convert::in_window, kind)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Addresses of windows in the generic space; global ones are the same in both.
    fn cvta(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let to = m.take("to");
        let word = m.need_one(&["global", "const", "shared", "local", "param", "shared::cta", "param::entry"])?;
        let ty = m.ty()?;
        if ty.bits() != 64 {
            return Err(m.wrong_type());
        }
        let base = match word {
            "shared" | "shared::cta" => window(Space::Shared),
            "local" => window(Space::Local),
            "param" | "param::entry" => window(Space::Param),
            _ => 0,
        };
        let s = self.sources(inst, ty, 1)?;
        let d = self.dst(&inst.operands[0], ty, Exact)?;
        if base == 0 {
            self.push(Op::Int64(Int64::Mov), &[d], &s);
        } else {
            let base = self.constant(base, true);
            self.push(Op::Int64(if to { Int64::Sub } else { Int64::Add }), &[d], &[s[0], base]);
        }
        Ok(())
    }

    fn cvt(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        if m.take("pack") {
            return self.cvt_pack(inst, m);
        }
        let round = m.one_of(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna"]);
        let ftz = m.take("ftz");
        let sat = m.take("sat");
        if m.take("satfinite") {
            return self.bad("`.satfinite` is not supported");
        }
        let relu = m.take("relu");
        if m.take("tf32") {
            let from = m.ty()?;
            if from != Ty::F32 {
                return Err(m.wrong_type());
            }
            if ftz || sat || relu || !matches!(round, Some("rna" | "rn")) {
                return self.bad("a conversion to tf32 has `.rna` or `.rn`, and nothing else is supported");
            }
            return self.lane(inst, Ty::B32, &[from], convert::tf32, (round == Some("rna")) as u32);
        }
        let (to, from) = (m.ty()?, m.ty()?);
        if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
            return self.cvt_pair(inst, m, to, from, round, sat, relu);
        }
        self.need_operands(inst, &[2])?;
        let d = self.dst(&inst.operands[0], to, AtLeast)?;
        let s = self.src(&inst.operands[1], from, AtLeast)?;
        // Registers wider than the type are cut or filled.
        let s = self.cut(s, from);
        let declared = match &inst.operands[0] {
            Operand::Name(name, _) => self.register(name)?.1.bits(),
            _ => to.bits(),
        };
        let fills = to.bits() < declared && (to.signed() || declared == 64);
        let narrow = if fills { self.temporary(32) } else { d };
        self.cvt_one(m, narrow, s, to, from, round, ftz, sat, relu)?;
        if fills {
            let wide = self.extended(narrow, to);
            match declared {
                64 => self.push(Op::Wide(if to.signed() { Wide::Sext } else { Wide::Zext }), &[d], &[wide]),
                32 => self.push(Op::Un32(Un32::Mov), &[d], &[wide]),
                _ => self.push(Op::Un32(Un32::Low16), &[d], &[wide]),
            }
        }
        Ok(())
    }

    /// The low part of a 64-bit register that holds a narrower value.
    fn cut(&mut self, s: Reg, ty: Ty) -> Reg {
        if ty.bits() < 64 && s.is_64() {
            let t = self.temporary(32);
            self.push(Op::Wide(Wide::Trunc), &[t], &[s]);
            return t;
        }
        s
    }

    #[allow(clippy::too_many_arguments)]
    fn cvt_one(
        &mut self,
        m: &Mods<'a>,
        d: Reg,
        s: Reg,
        to: Ty,
        from: Ty,
        round: Option<&str>,
        ftz: bool,
        sat: bool,
        relu: bool,
    ) -> Result<(), Bad> {
        use Ty::*;
        let plain = !ftz && !sat && !relu;
        let nearest = matches!(round, None | Some("rn"));
        // What kernels do all the time has a warp-wide form.
        let quick = match (to, from) {
            (F32, F16) if plain && round.is_none() => Some(Un32::F32FromF16),
            (F16, F32) if plain && round == Some("rn") => Some(Un32::F16FromF32),
            (F32, Bf16) if plain => Some(Un32::F32FromBf16),
            (Bf16, F32) if plain && round == Some("rn") => Some(Un32::Bf16FromF32),
            (F32, S32) if plain && nearest => Some(Un32::F32FromS32),
            (F32, U32 | U16) if plain && nearest => Some(Un32::F32FromU32),
            (U32 | S32, U16 | U32 | S32) if plain => Some(Un32::Mov),
            (U32 | S32, S16) if plain => Some(Un32::Sext16),
            (U32 | S32 | U16, U8) if plain => Some(Un32::Low8),
            (U32 | S32, S8) if plain => Some(Un32::Sext8),
            (U16 | S16, U16 | S16 | U32 | S32) if plain => Some(Un32::Low16),
            _ => None,
        };
        if let Some(op) = quick {
            self.push(Op::Un32(op), &[d], &[s]);
            return Ok(());
        }
        let plain_int = plain && to.integer() && from.integer();
        if plain_int && matches!(to, U64 | S64) && from.bits() <= 32 {
            let wide = if from == U8 {
                let t = self.temporary(32);
                self.push(Op::Un32(Un32::Low8), &[t], &[s]);
                t
            } else {
                self.extended(s, from)
            };
            self.push(Op::Wide(if from.signed() { Wide::Sext } else { Wide::Zext }), &[d], &[wide]);
            return Ok(());
        }
        if plain_int && from.bits() == 64 && to.bits() == 32 {
            self.push(Op::Wide(Wide::Trunc), &[d], &[s]);
            return Ok(());
        }
        if plain_int && from.bits() == 64 && to.bits() == 64 {
            self.push(Op::Int64(Int64::Mov), &[d], &[s]);
            return Ok(());
        }
        let (Some(a), Some(b)) = (convert::code(to), convert::code(from)) else { return Err(m.wrong_type()) };
        let integral = matches!(round, Some("rni" | "rzi" | "rmi" | "rpi"));
        let float_int = from.float() && to.integer();
        if float_int && !integral {
            return self.bad("a conversion from float to integer needs .rni, .rzi, .rmi or .rpi");
        }
        if !from.float() && to.float() && !matches!(round, Some("rn" | "rz" | "rm" | "rp")) {
            return self.bad("a conversion from integer to float needs a rounding mode");
        }
        if from.float() && to.float() && to.bits() < from.bits() && round.is_none() {
            return self.bad("a conversion to a smaller float needs a rounding mode");
        }
        if !from.float() && !to.float() && round.is_some() {
            return self.bad("a conversion between integers has no rounding mode");
        }
        let mode = match round {
            Some("rz" | "rzi") => rounding::ZERO,
            Some("rm" | "rmi") => rounding::DOWN,
            Some("rp" | "rpi") => rounding::UP,
            _ => rounding::NEAREST,
        };
        let x = convert::Spec { to: a, from: b, mode, integral, sat, ftz, relu }.word();
        self.push(Op::Lane(convert::convert, x), &[d], &[s]);
        Ok(())
    }

    /// `cvt.rn.f16x2.f32 d, a, b`.
    #[allow(clippy::too_many_arguments)]
    fn cvt_pair(
        &mut self,
        inst: &Instruction<'a>,
        m: &Mods<'a>,
        to: Ty,
        from: Ty,
        round: Option<&str>,
        sat: bool,
        relu: bool,
    ) -> Result<(), Bad> {
        if from != Ty::F32 || sat || !matches!(round, Some("rn" | "rz")) {
            return Err(m.wrong_type());
        }
        let s = self.sources(inst, from, 2)?;
        let d = self.dst(&inst.operands[0], to, Exact)?;
        if round == Some("rn") && !relu {
            let op = if to == Ty::F16x2 { Bin32::F16x2FromF32 } else { Bin32::Bf16x2FromF32 };
            self.push(Op::Bin32(op), &[d], &s);
            return Ok(());
        }
        let half = if to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
        let (high, low) = (self.temporary(32), self.temporary(32));
        let spec = convert::Spec {
            to: convert::code(half).unwrap_or(0),
            from: convert::code(Ty::F32).unwrap_or(0),
            mode: if round == Some("rz") { rounding::ZERO } else { rounding::NEAREST },
            integral: false,
            sat,
            ftz: false,
            relu,
        };
        self.push(Op::Lane(convert::convert, spec.word()), &[high], &s[..1]);
        self.push(Op::Lane(convert::convert, spec.word()), &[low], &s[1..]);
        self.push(Op::Bin32(Bin32::Pack16), &[d], &[low, high]);
        Ok(())
    }

    /// `cvt.pack.sat.u8.s32.b32 d, a, b, c` and its kin.
    fn cvt_pack(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        m.need("sat")?;
        let (to, from) = (m.ty()?, m.ty()?);
        let appended = m.maybe_ty().is_some();
        let bits = to.bits();
        if from != Ty::S32 || bits > 16 || appended != (bits == 8) {
            return Err(m.wrong_type());
        }
        let x = bits | (to.signed() as u32) << 8;
        let n = if appended { 3 } else { 2 };
        self.lane(inst, Ty::B32, &[Ty::B32; 3][..n], convert::pack, x)
    }
}
