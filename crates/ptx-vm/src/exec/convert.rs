//! `cvt` in all its forms, one lane at a time; the common forms have warp-wide loops elsewhere.
#![forbid(unsafe_code)]

use super::rounding::{self, DOWN, UP, ZERO};
use crate::parse::ast::Ty;

/// A type as a small number, or none where `cvt` has no such type.
pub fn code(ty: Ty) -> Option<u32> {
    Some(match ty {
        Ty::U8 => 0,
        Ty::U16 => 1,
        Ty::U32 => 2,
        Ty::U64 => 3,
        Ty::S8 => 4,
        Ty::S16 => 5,
        Ty::S32 => 6,
        Ty::S64 => 7,
        Ty::F16 => 8,
        Ty::Bf16 => 9,
        Ty::F32 => 10,
        Ty::F64 => 11,
        _ => return None,
    })
}

/// What a conversion does, packed into a word of an instruction.
#[derive(Clone, Copy)]
pub struct Spec {
    pub to: u32,
    pub from: u32,
    pub mode: u32,
    /// `.rni` and its kin: to an integral value.
    pub integral: bool,
    pub sat: bool,
    pub ftz: bool,
    pub relu: bool,
}

impl Spec {
    pub fn word(self) -> u32 {
        let flags = self.integral as u32 | (self.sat as u32) << 1 | (self.ftz as u32) << 2 | (self.relu as u32) << 3;
        self.to | self.from << 4 | self.mode << 8 | flags << 12
    }

    fn from_word(x: u32) -> Self {
        let flag = |i: u32| x >> (12 + i) & 1 != 0;
        Self {
            to: x & 15,
            from: x >> 4 & 15,
            mode: x >> 8 & 15,
            integral: flag(0),
            sat: flag(1),
            ftz: flag(2),
            relu: flag(3),
        }
    }
}

fn int_bits(code: u32) -> (u32, bool) {
    (8 << (code & 3), code >= 4)
}

/// The range of an integer type.
fn range(code: u32) -> (i128, i128) {
    let (bits, signed) = int_bits(code);
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn round_integral(x: f64, mode: u32) -> f64 {
    match mode {
        ZERO => x.trunc(),
        DOWN => x.floor(),
        UP => x.ceil(),
        _ => x.round_ties_even(),
    }
}

/// The value of an integer rounded to odd as f64: 64 bits do not fit, but what is lost only breaks ties.
fn int_odd(v: i128) -> f64 {
    let near = v as f64;
    rounding::to_odd(near, (v - near as i128) as f64)
}

fn give_float(exact: f64, spec: &Spec) -> u64 {
    let mut x = exact;
    if spec.sat {
        x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 };
    }
    if spec.relu {
        x = if x.is_nan() { x } else { x.max(0.0) + 0.0 };
    }
    match spec.to {
        8 => rounding::to_f16(x, spec.mode) as u64,
        9 => rounding::to_bf16(x, spec.mode) as u64,
        10 => {
            let out = rounding::to_f32(x, spec.mode);
            (if spec.ftz { rounding::flush(out) } else { out }).to_bits() as u64
        }
        _ if x.is_nan() => 0x7fff_ffff_ffff_ffff,
        _ => x.to_bits(),
    }
}

pub fn convert([a, _, _]: [u64; 3], x: u32) -> u64 {
    let spec = Spec::from_word(x);
    if spec.from < 8 {
        let (bits, signed) = int_bits(spec.from);
        let shift = 128 - bits;
        let v = if signed { ((a as i128) << shift) >> shift } else { (((a as u128) << shift) >> shift) as i128 };
        if spec.to >= 8 {
            // An integer larger than 2^53 keeps 64 bits for f64 in directed modes.
            if spec.to == 11 && bits == 64 {
                return int_to_f64(v, spec.mode).to_bits();
            }
            return give_float(int_odd(v), &spec);
        }
        let (low, high) = range(spec.to);
        let v = if spec.sat { v.clamp(low, high) } else { v };
        return cut(v as u64, spec.to);
    }
    let value = match spec.from {
        8 => rounding::f16_value(a as u32) as f64,
        9 => rounding::bf16_value(a as u32) as f64,
        10 => {
            let v = f32::from_bits(a as u32);
            (if spec.ftz { rounding::flush(v) } else { v }) as f64
        }
        _ => f64::from_bits(a),
    };
    if spec.to >= 8 {
        let value = if spec.integral { round_integral(value, spec.mode) } else { value };
        return give_float(value, &spec);
    }
    // To integers every conversion saturates; NaN is zero, but for 64 bits the value hardware gives.
    let (low, high) = range(spec.to);
    if value.is_nan() {
        return if int_bits(spec.to).0 == 64 && spec.from >= 10 { 1 << 63 } else { 0 };
    }
    let whole = round_integral(value, spec.mode);
    let v = if whole <= low as f64 {
        low
    } else if whole >= high as f64 {
        high
    } else {
        whole as i128
    };
    cut(v as u64, spec.to)
}

fn int_to_f64(v: i128, mode: u32) -> f64 {
    let near = v as f64;
    let error = v - near as i128;
    match mode {
        UP if error > 0 => near.next_up(),
        DOWN if error < 0 => near.next_down(),
        ZERO if error < 0 && near > 0.0 => near.next_down(),
        ZERO if error > 0 && near < 0.0 => near.next_up(),
        _ => near,
    }
}

/// An integer as its register holds it: narrow signed values fill 32 bits with their sign when the register is wider,
/// which the decoder does; here only the type's bits stay.
fn cut(v: u64, to: u32) -> u64 {
    let (bits, _) = int_bits(to);
    if bits == 64 { v } else { v & ((1 << bits) - 1) }
}

/// f32 to the nearest TF32: ten bits of fraction.
pub fn tf32([a, _, _]: [u64; 3], away: u32) -> u64 {
    let bits = a as u32;
    if bits & 0x7f80_0000 == 0x7f80_0000 {
        return (bits & !0x1fff) as u64 | if bits & 0x1fff != 0 { 0x0040_0000 } else { 0 };
    }
    let half = if away != 0 { 0x1000 } else { 0xfff + (bits >> 13 & 1) };
    (bits.wrapping_add(half) & !0x1fff) as u64
}

/// `cvt.pack.sat`: `a` and `b` clamped, `b` lowest, then the third operand above for 8 bits.
pub fn pack([a, b, c]: [u64; 3], x: u32) -> u64 {
    let (bits, signed) = (x & 0xff, x & 0x100 != 0);
    let (low, high) = if signed { (-(1i64 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    let clamp = |v: u64| (v as i32 as i64).clamp(low, high) as u64 & ((1 << bits) - 1);
    let both = clamp(b) | clamp(a) << bits;
    (if bits == 8 { both | (c & 0xffff) << 16 } else { both }) & 0xffff_ffff
}

/// `isspacep`.
pub fn in_window([a, _, _]: [u64; 3], kind: u32) -> u64 {
    let slot = a >> 32;
    (if kind == 16 { slot >= 16 } else { slot == kind as u64 }) as u64
}
