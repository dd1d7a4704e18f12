//! Rare instructions, one lane at a time: three operands and a word that says which form is meant.
#![forbid(unsafe_code)]

use super::rounding::{self, NEAREST};

type Args = [u64; 3];

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

/// The value of the low `bits`, signed or not.
fn value(x: u64, bits: u32, signed: bool) -> i128 {
    let shift = 128 - bits;
    if signed { ((x as i128) << shift) >> shift } else { (((x as u128) << shift) >> shift) as i128 }
}

pub fn sad_s([a, b, c]: Args, bits: u32) -> u64 {
    let gap = (value(a, bits, true) - value(b, bits, true)).unsigned_abs();
    value(c.wrapping_add(gap as u64), bits, false) as u64
}

pub fn sad_u([a, b, c]: Args, bits: u32) -> u64 {
    let gap = (value(a, bits, false) - value(b, bits, false)).unsigned_abs();
    value(c.wrapping_add(gap as u64), bits, false) as u64
}

pub fn dp4a([a, b, c]: Args, x: u32) -> u64 {
    let part = |v: u64, i: u32, signed| value(v >> (8 * i), 8, signed);
    let sum: i128 = (0..4).map(|i| part(a, i, x & 1 != 0) * part(b, i, x & 2 != 0)).sum();
    (c as u32).wrapping_add(sum as u32) as u64
}

pub fn dp2a([a, b, c]: Args, x: u32) -> u64 {
    let from = if x & 4 != 0 { 2 } else { 0 };
    let sum: i128 =
        (0..2).map(|i| value(a >> (16 * i), 16, x & 1 != 0) * value(b >> (8 * (i + from)), 8, x & 2 != 0)).sum();
    (c as u32).wrapping_add(sum as u32) as u64
}

pub fn add_sat([a, b, _]: Args, _: u32) -> u64 {
    (a as i32).saturating_add(b as i32) as u32 as u64
}

pub fn sub_sat([a, b, _]: Args, _: u32) -> u64 {
    (a as i32).saturating_sub(b as i32) as u32 as u64
}

pub fn mad24([a, b, c]: Args, x: u32) -> u64 {
    let signed = x & 2 != 0;
    let product = value(a, 24, signed) * value(b, 24, signed);
    let part = if x & 1 != 0 { product >> 16 } else { product };
    (part as u32).wrapping_add(c as u32) as u64
}

pub fn testp([a, _, _]: Args, x: u32) -> u64 {
    use std::num::FpCategory::*;
    let class = if x >> 8 == 64 { d(a).classify() } else { f(a).classify() };
    (match x & 0xff {
        0 => !matches!(class, Nan | Infinite),
        1 => class == Infinite,
        2 => class != Nan,
        3 => class == Nan,
        4 => class == Normal,
        _ => class == Subnormal,
    }) as u64
}

pub fn bfe([a, b, c]: Args, x: u32) -> u64 {
    let (bits, signed) = (x & 0xff, x & 0x100 != 0);
    let (at, len) = (b as u32 & 0xff, c as u32 & 0xff);
    let top = bits - 1;
    let sign_at = (at + len).saturating_sub(1).min(top);
    let sign = signed && len != 0 && a >> sign_at & 1 != 0;
    let mut out = 0;
    for i in 0..bits {
        let bit = if i < len && at + i <= top { a >> (at + i) & 1 != 0 } else { sign };
        out |= (bit as u64) << i;
    }
    out
}

/// `a` into `b`; position and length are the halves of the third operand.
pub fn bfi64([a, b, both]: Args, _: u32) -> u64 {
    let (at, len) = (both as u32 & 0xff, (both >> 32) as u32 & 0xff);
    let mut out = b;
    for i in 0..len.min(64) {
        if at + i <= 63 {
            out = out & !(1 << (at + i)) | (a >> i & 1) << (at + i);
        }
    }
    out
}

/// `prmt` with a mode: `c` picks where it starts.
pub fn prmt_mode([a, b, c]: Args, mode: u32) -> u64 {
    let bytes = (a & 0xffff_ffff) | b << 32;
    let s = c as u32 & 3;
    let picks: [u32; 4] = match mode {
        0 => [s, s + 1, s + 2, s + 3],
        1 => [s, (s + 7) % 8, (s + 6) % 8, (s + 5) % 8],
        2 => [s; 4],
        3 => [s, 1.max(s), 2.max(s), 3],
        4 => [0, 1.min(s), 2.min(s), s],
        _ => {
            let from = (s & 1) * 2;
            [from, from + 1, from, from + 1]
        }
    };
    picks.iter().enumerate().map(|(i, p)| (bytes >> (8 * p) & 0xff) << (8 * i)).sum()
}

pub fn cnot([a, _, _]: Args, bits: u32) -> u64 {
    (value(a, bits, false) == 0) as u64
}

pub fn popc64([a, _, _]: Args, _: u32) -> u64 {
    a.count_ones() as u64
}

pub fn clz64([a, _, _]: Args, _: u32) -> u64 {
    a.leading_zeros() as u64
}

pub fn brev64([a, _, _]: Args, _: u32) -> u64 {
    a.reverse_bits()
}

pub fn bfind([a, _, _]: Args, x: u32) -> u64 {
    let (bits, signed, amount) = (x & 0xff, x & 0x100 != 0, x & 0x200 != 0);
    let v = value(a, bits, signed);
    let look = if v < 0 { !v } else { v } as u128;
    if look == 0 {
        return 0xffff_ffff;
    }
    let at = 127 - look.leading_zeros();
    (if amount { bits - 1 - at } else { at }) as u64
}

/// The position of the n-th set bit from a base.
pub fn fns([mask, base, offset]: Args, _: u32) -> u64 {
    let (mask, base, offset) = (mask as u32, base as u32 & 31, offset as i32);
    let place = |i: u32| mask >> i & 1 != 0;
    let found = match offset {
        0 => place(base).then_some(base),
        n if n > 0 => (base..32).filter(|i| place(*i)).nth(n as usize - 1),
        n => (0..=base).rev().filter(|i| place(*i)).nth(n.unsigned_abs() as usize - 1),
    };
    found.unwrap_or(u32::MAX) as u64
}

pub fn bmsk([a, b, _]: Args, clamp: u32) -> u64 {
    let (at, len) = (a as u32, b as u32);
    let (at, len) = if clamp != 0 { (at.min(32), len.min(32)) } else { (at & 31, len & 31) };
    ((((1u64 << len) - 1) << at) & 0xffff_ffff) as u32 as u64
}

pub fn szext([a, b, _]: Args, x: u32) -> u64 {
    let n = b as u32;
    let n = if x & 1 != 0 { n.min(32) } else { n & 31 };
    if n == 0 { 0 } else { value(a, n, x & 2 != 0) as u32 as u64 }
}

pub const ADD: u32 = 0;
pub const SUB: u32 = 1;
pub const MUL: u32 = 2;
pub const FMA: u32 = 3;
pub const DIV: u32 = 4;
pub const SQRT: u32 = 5;
pub const RCP: u32 = 6;

/// f32 arithmetic: operation, rounding mode at bit 8, ftz at 12, saturation at 13.
pub fn float32(args: Args, x: u32) -> u64 {
    let (mode, ftz, sat) = (x >> 8 & 15, x >> 12 & 1 != 0, x >> 13 & 1 != 0);
    let [a, b, c] = args.map(|v| {
        let v = f(v);
        (if ftz { rounding::flush(v) } else { v }) as f64
    });
    let exact = match x & 0xff {
        ADD => rounding::add_odd(a, b),
        SUB => rounding::add_odd(a, -b),
        MUL => a * b,
        FMA => rounding::fma_odd(a, b, c),
        DIV => rounding::div_odd(a, b),
        SQRT => rounding::sqrt_odd(a),
        _ => rounding::div_odd(1.0, a),
    };
    let mut out = rounding::to_f32(exact, mode);
    // An exact zero of a sum is negative when rounding down, unless both were the same zero.
    if exact == 0.0 && mode == rounding::DOWN && matches!(x & 0xff, ADD | SUB | FMA) {
        let (p, q) = match x & 0xff {
            ADD => (a, b),
            SUB => (a, -b),
            _ => (a * b, c),
        };
        out = if p == 0.0 && q == 0.0 && p.is_sign_positive() && q.is_sign_positive() { 0.0 } else { -0.0 };
    }
    if ftz {
        out = rounding::flush(out);
    }
    if sat {
        out = if out.is_nan() { 0.0 } else { out.clamp(0.0, 1.0) + 0.0 };
    }
    out.to_bits() as u64
}

/// f64 arithmetic in a directed mode: the nearest value, then one step back where it went too far.
pub fn float64(args: Args, x: u32) -> u64 {
    let [a, b, c] = args.map(d);
    let mode = x >> 8 & 15;
    let two_sum = |a: f64, b: f64| {
        let s = a + b;
        let t = s - a;
        (s, (a - (s - t)) + (b - t))
    };
    let (near, error) = match x & 0xff {
        ADD => two_sum(a, b),
        SUB => two_sum(a, -b),
        MUL => (a * b, a.mul_add(b, -(a * b))),
        FMA => {
            let near = a.mul_add(b, c);
            let product = a * b;
            let low = a.mul_add(b, -product);
            let (sum, rest) = two_sum(product, c);
            (near, (sum - near) + (rest + low))
        }
        DIV => (a / b, (-(a / b)).mul_add(b, a) / b),
        SQRT => (a.sqrt(), (-a.sqrt()).mul_add(a.sqrt(), a)),
        _ => (1.0 / a, (-(1.0 / a)).mul_add(a, 1.0) / a),
    };
    if near.is_nan() {
        return 0x7fff_ffff_ffff_ffff;
    }
    if mode == NEAREST || error == 0.0 || error.is_nan() || near.is_infinite() {
        return near.to_bits();
    }
    let up = match mode {
        rounding::UP => error > 0.0,
        rounding::DOWN => error < 0.0,
        _ => (error < 0.0) == (near > 0.0) && near != 0.0,
    };
    let moved = match mode {
        rounding::UP if up => near.next_up(),
        rounding::DOWN if up => near.next_down(),
        rounding::ZERO if up => {
            if near > 0.0 {
                near.next_down()
            } else {
                near.next_up()
            }
        }
        _ => near,
    };
    moved.to_bits()
}

pub fn rsqrt64([a, _, _]: Args, _: u32) -> u64 {
    (1.0 / d(a).sqrt()).to_bits()
}

/// `min` and `max` of f32 with their forms: max, NaN, xorsign.abs, ftz.
pub fn min_max([a, b, _]: Args, x: u32) -> u64 {
    let (max, nan, xor_sign, ftz) = (x & 1 != 0, x & 2 != 0, x & 4 != 0, x & 8 != 0);
    let read = |v: u64| if ftz { rounding::flush(f(v)) } else { f(v) };
    let (mut a, mut b) = (read(a), read(b));
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    if xor_sign {
        (a, b) = (a.abs(), b.abs());
    }
    let picked = if a.is_nan() || b.is_nan() {
        match (a.is_nan(), b.is_nan()) {
            (true, false) if !nan => b,
            (false, true) if !nan => a,
            _ => return 0x7fff_ffff,
        }
    } else {
        super::float::pick(a, b, max)
    };
    (if xor_sign { picked.to_bits() & 0x7fff_ffff | sign } else { picked.to_bits() }) as u64
}
