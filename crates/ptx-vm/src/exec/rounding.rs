//! Rounding: directed modes, f16 and bf16, through values rounded to odd, which lose nothing that matters later.
#![forbid(unsafe_code)]

pub const NEAREST: u32 = 0;
pub const ZERO: u32 = 1;
pub const DOWN: u32 = 2;
pub const UP: u32 = 3;

/// Makes the last bit of an inexact result odd, on the side where the exact value lies; `error` is exact − value.
pub fn to_odd(value: f64, error: f64) -> f64 {
    if error == 0.0 || !value.is_finite() || error.is_nan() || value.to_bits() & 1 == 1 {
        return value;
    }
    if value == 0.0 {
        return f64::from_bits(1).copysign(error);
    }
    let away = (error > 0.0) == (value > 0.0);
    f64::from_bits(if away { value.to_bits() + 1 } else { value.to_bits() - 1 })
}

/// a + b, rounded to odd.
pub fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    to_odd(sum, error)
}

/// a × b + c for a and b whose product is exact in f64.
pub fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

pub fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || q == 0.0 || b == 0.0 {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b > 0.0 { rest } else { -rest })
}

pub fn sqrt_odd(a: f64) -> f64 {
    let root = a.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root;
    }
    to_odd(root, (-root).mul_add(root, a))
}

/// A format narrower than f64: bits of fraction, largest and smallest exponent.
struct Format {
    fraction: i32,
    largest: f64,
    low: i32,
}

const F32: Format = Format { fraction: 23, largest: f32::MAX as f64, low: -126 };
const F16: Format = Format { fraction: 10, largest: 65504.0, low: -14 };
const BF16: Format = Format { fraction: 7, largest: 3.389_531_389_251_535_5e38, low: -126 };

fn exponent(x: f64) -> i32 {
    (x.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

/// Rounds to a format; the result is a value of that format held in f64.
fn narrow(x: f64, mode: u32, format: &Format) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let step_exponent = exponent(x).max(format.low) - format.fraction;
    let step = f64::from_bits(((step_exponent + 1023) as u64) << 52);
    let scaled = x / step;
    let whole = match mode {
        NEAREST => scaled.round_ties_even(),
        ZERO => scaled.trunc(),
        DOWN => scaled.floor(),
        _ => scaled.ceil(),
    };
    let rounded = (whole * step).copysign(x);
    if rounded.abs() <= format.largest {
        return rounded;
    }
    let toward_zero = mode == ZERO || mode == DOWN && x > 0.0 || mode == UP && x < 0.0;
    if toward_zero { format.largest.copysign(x) } else { f64::INFINITY.copysign(x) }
}

/// f64 to f32 in any mode.
pub fn to_f32(x: f64, mode: u32) -> f32 {
    if x.is_nan() {
        return f32::from_bits(0x7fff_ffff);
    }
    if mode == NEAREST { x as f32 } else { narrow(x, mode, &F32) as f32 }
}

/// f64 to f16 bits in any mode; NaN becomes the canonical one.
pub fn to_f16(x: f64, mode: u32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    f16_bits(narrow(x, mode, &F16) as f32)
}

/// f64 to bf16 bits in any mode.
pub fn to_bf16(x: f64, mode: u32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    ((narrow(x, mode, &BF16) as f32).to_bits() >> 16) as u16
}

/// f16 bits of an f32, to nearest even. Branch-free, so that loops over it become vector code.
#[inline(always)]
pub fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14 the sum with 0.5 puts the bits of a subnormal where they belong.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_add(0xc800_0fff).wrapping_add(odd) >> 13;
    let large = if magnitude > 0x7f80_0000 { 0x7fff } else { 0x7c00 };
    let value = if magnitude < 0x3880_0000 { small } else { normal };
    let value = if magnitude >= 0x4780_0000 { large } else { value };
    let sign = if magnitude > 0x7f80_0000 { 0 } else { sign };
    (value | sign) as u16
}

/// f32 of f16 bits, exact.
#[inline(always)]
pub fn f16_value(h: u32) -> f32 {
    let shifted = (h & 0x7fff) << 13;
    let scaled = f32::from_bits(shifted) * f32::from_bits(0x7780_0000);
    let special = f32::from_bits(shifted | 0x7f80_0000);
    let magnitude = if shifted >= 0x0f80_0000 { special } else { scaled };
    f32::from_bits(magnitude.to_bits() | (h & 0x8000) << 16)
}

/// bf16 bits of an f32, to nearest even.
#[inline(always)]
pub fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1) >> 16;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }) as u16
}

#[inline(always)]
pub fn bf16_value(h: u32) -> f32 {
    f32::from_bits(h << 16)
}

/// Subnormals become zeros of their sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.to_bits() & 0x7f80_0000 == 0 { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}
