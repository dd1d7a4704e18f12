//! f32, f64 and half arithmetic of a whole warp.
#![forbid(unsafe_code)]

use super::lanes::{V32, V64, map1, map2, map3};
use super::rounding::{self, bf16_bits, bf16_value, f16_bits, f16_value, flush};
use crate::inst::{Double, Float, Half, HalfOp, Inst};

/// The NaN that arithmetic gives.
pub const NAN: u32 = 0x7fff_ffff;

#[inline(always)]
fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// Bits of a result, with the one NaN that PTX arithmetic gives.
#[inline(always)]
fn give(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// The smaller or larger of two numbers; −0 is below +0.
#[inline(always)]
pub fn pick(a: f32, b: f32, max: bool) -> f32 {
    // Ordered as integers, floats of one sign compare as magnitudes do.
    let key = |x: f32| {
        let bits = x.to_bits() as i32;
        bits ^ ((bits >> 31) & 0x7fff_ffff)
    };
    if (key(a) < key(b)) != max { a } else { b }
}

#[inline(always)]
fn min_max(a: f32, b: f32, max: bool) -> u32 {
    let picked = pick(a, b, max).to_bits();
    let picked = if a.is_nan() { b.to_bits() } else { picked };
    let picked = if b.is_nan() { a.to_bits() } else { picked };
    if a.is_nan() && b.is_nan() { NAN } else { picked }
}

/// 2^x in f64 to about 45 bits, so that its f32 is the nearest value but for rare ties.
#[inline(always)]
fn exp2(x: f64) -> f64 {
    let x = x.clamp(-1100.0, 1100.0);
    let shift = 6_755_399_441_055_744.0;
    let whole = x + shift;
    let rest = (x - (whole - shift)) * std::f64::consts::LN_2;
    let mut sum = 1.0 / 39_916_800.0;
    for c in [
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * rest + c;
    }
    // Two factors keep the scale in range below 2^-1022.
    let n = whole.to_bits().wrapping_sub(shift.to_bits()) as i64;
    let half = n >> 1;
    let scale = |n: i64| f64::from_bits(((n + 1023) as u64) << 52);
    sum * scale(half) * scale(n - half)
}

#[inline(always)]
fn ex2(x: f32) -> f32 {
    let y = exp2(x as f64) as f32;
    if x.is_nan() { x } else { y }
}

/// One operation on f32 with subnormals treated as `z` does.
#[inline(always)]
fn run<const FTZ: bool>(op: Float, r: &mut [V32], d: usize, s: [usize; 3], mask: u32) {
    let z = |x: u32| if FTZ { flush(f(x)) } else { f(x) };
    let o = |x: f32| give(if FTZ { flush(x) } else { x });
    let [a, b, _] = s;
    match op {
        Float::Add => map2(r, d, a, b, mask, |x, y| o(z(x) + z(y))),
        Float::Sub => map2(r, d, a, b, mask, |x, y| o(z(x) - z(y))),
        Float::Mul => map2(r, d, a, b, mask, |x, y| o(z(x) * z(y))),
        Float::Div => map2(r, d, a, b, mask, |x, y| o(z(x) / z(y))),
        Float::Min => map2(r, d, a, b, mask, |x, y| min_max(z(x), z(y), false)),
        Float::Max => map2(r, d, a, b, mask, |x, y| min_max(z(x), z(y), true)),
        Float::Fma => map3(r, d, s, mask, |x, y, w| o(z(x).mul_add(z(y), z(w)))),
        Float::Neg => map1(r, d, a, mask, |x| z(x).to_bits() ^ 0x8000_0000),
        Float::Abs => map1(r, d, a, mask, |x| z(x).to_bits() & 0x7fff_ffff),
        // `copysign d, a, b` is the magnitude of `b` with the sign of `a`.
        Float::CopySign => map2(r, d, a, b, mask, |x, y| y & 0x7fff_ffff | x & 0x8000_0000),
        Float::Sqrt => map1(r, d, a, mask, |x| o(z(x).sqrt())),
        Float::Rcp => map1(r, d, a, mask, |x| o(1.0 / z(x))),
        Float::Rsqrt => map1(r, d, a, mask, |x| o((1.0 / (z(x) as f64).sqrt()) as f32)),
        Float::Ex2 => map1(r, d, a, mask, |x| o(ex2(z(x)))),
        Float::Lg2 => map1(r, d, a, mask, |x| o((z(x) as f64).log2() as f32)),
        Float::Sin => map1(r, d, a, mask, |x| o((z(x) as f64).sin() as f32)),
        Float::Cos => map1(r, d, a, mask, |x| o((z(x) as f64).cos() as f32)),
        Float::Tanh => map1(r, d, a, mask, |x| o((z(x) as f64).tanh() as f32)),
    }
}

#[inline(always)]
pub fn float(op: Float, ftz: bool, r: &mut [V32], inst: &Inst, mask: u32) {
    let s = [inst.s[0].index(), inst.s[1].index(), inst.s[2].index()];
    let d = inst.d[0].index();
    if ftz { run::<true>(op, r, d, s, mask) } else { run::<false>(op, r, d, s, mask) }
}

#[inline(always)]
pub fn double(op: Double, r: &mut [V64], inst: &Inst, mask: u32) {
    let f = f64::from_bits;
    let o = |x: f64| if x.is_nan() { 0x7fff_ffff_ffff_ffff } else { x.to_bits() };
    let (d, a, b) = (inst.d[0].index(), inst.s[0].index(), inst.s[1].index());
    let choose = |x: u64, y: u64, max: bool| {
        let key = |v: u64| v as i64 ^ ((v as i64 >> 63) & i64::MAX);
        let picked = if (key(x) < key(y)) != max { x } else { y };
        match (f(x).is_nan(), f(y).is_nan()) {
            (true, true) => 0x7fff_ffff_ffff_ffff,
            (true, false) => y,
            (false, true) => x,
            _ => picked,
        }
    };
    match op {
        Double::Add => map2(r, d, a, b, mask, |x, y| o(f(x) + f(y))),
        Double::Sub => map2(r, d, a, b, mask, |x, y| o(f(x) - f(y))),
        Double::Mul => map2(r, d, a, b, mask, |x, y| o(f(x) * f(y))),
        Double::Div => map2(r, d, a, b, mask, |x, y| o(f(x) / f(y))),
        Double::Min => map2(r, d, a, b, mask, |x, y| choose(x, y, false)),
        Double::Max => map2(r, d, a, b, mask, |x, y| choose(x, y, true)),
        Double::Fma => map3(r, d, [a, b, inst.s[2].index()], mask, |x, y, w| o(f(x).mul_add(f(y), f(w)))),
        Double::Neg => map1(r, d, a, mask, |x| x ^ 1 << 63),
        Double::Abs => map1(r, d, a, mask, |x| x & !(1 << 63)),
        Double::Sqrt => map1(r, d, a, mask, |x| o(f(x).sqrt())),
        Double::Rcp => map1(r, d, a, mask, |x| o(1.0 / f(x))),
        Double::CopySign => map2(r, d, a, b, mask, |x, y| y & !(1 << 63) | x & 1 << 63),
    }
}

/// bf16 product and sum rounded once: f64 holds the product, the sum is rounded to odd before it becomes bf16.
fn bf16_fma(a: f32, b: f32, c: f32) -> f32 {
    bf16_value(rounding::to_bf16(rounding::fma_odd(a as f64, b as f64, c as f64), rounding::NEAREST) as u32)
}

/// One half operation in f32; for sums and products of halves, rounding the f32 result rounds correctly.
#[inline(always)]
fn half_value(h: &Half, a: f32, b: f32, c: f32) -> f32 {
    match h.op {
        HalfOp::Add => a + b,
        HalfOp::Sub => a - b,
        HalfOp::Mul => a * b,
        HalfOp::Fma if h.bf16 => bf16_fma(a, b, c),
        // f64 holds every f16 sum of a product closely enough that one more rounding does no harm.
        HalfOp::Fma => {
            let exact = (a as f64).mul_add(b as f64, c as f64);
            return_f16(exact)
        }
        HalfOp::Min => f(min_max(a, b, false)),
        HalfOp::Max => f(min_max(a, b, true)),
        HalfOp::MinNan if a.is_nan() || b.is_nan() => f(NAN),
        HalfOp::MinNan => pick(a, b, false),
        HalfOp::MaxNan if a.is_nan() || b.is_nan() => f(NAN),
        HalfOp::MaxNan => pick(a, b, true),
        HalfOp::Neg => -a,
        HalfOp::Abs => a.abs(),
        HalfOp::Ex2 => ex2(a),
        HalfOp::Tanh => (a as f64).tanh() as f32,
    }
}

fn return_f16(exact: f64) -> f32 {
    f16_value(rounding::to_f16(exact, rounding::NEAREST) as u32)
}

#[inline(always)]
fn half_lane(h: &Half, a: u32, b: u32, c: u32) -> u32 {
    // Signs change without any look at the value.
    match h.op {
        HalfOp::Neg if !h.ftz => return (a ^ 0x8000) & 0xffff,
        HalfOp::Abs if !h.ftz => return a & 0x7fff,
        _ => {}
    }
    let get = |x: u32| {
        let x = x & 0xffff;
        if h.bf16 {
            return bf16_value(x);
        }
        f16_value(if h.ftz && x & 0x7c00 == 0 { x & 0x8000 } else { x })
    };
    let mut out = half_value(h, get(a), get(b), get(c));
    if h.sat {
        out = if out.is_nan() { 0.0 } else { out.clamp(0.0, 1.0) + 0.0 };
    }
    if h.relu && !out.is_nan() {
        out = out.max(0.0) + 0.0;
    }
    let bits = if h.bf16 { bf16_bits(out) } else { f16_bits(out) } as u32;
    if h.ftz && bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
}

#[inline(always)]
pub fn half(h: &Half, r: &mut [V32], inst: &Inst, mask: u32) {
    let operand = |i: usize| if inst.s[i].is_none() { inst.s[0].index() } else { inst.s[i].index() };
    let s = [operand(0), operand(1), operand(2)];
    let d = inst.d[0].index();
    if h.packed {
        map3(r, d, s, mask, |a, b, c| half_lane(h, a, b, c) | half_lane(h, a >> 16, b >> 16, c >> 16) << 16);
    } else {
        map3(r, d, s, mask, |a, b, c| half_lane(h, a, b, c));
    }
}
