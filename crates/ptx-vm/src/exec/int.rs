//! Integers, moves, comparisons and conversions between the register files of a whole warp.
#![forbid(unsafe_code)]

use super::lanes::{V32, V64, bits, map1, map2, map3, set};
use super::rounding::{bf16_bits, bf16_value, f16_bits, f16_value, flush};
use crate::inst::{Bin32, Bool, Cmp, CmpType, Inst, Int64, Tri32, Un32, Wide};

#[inline(always)]
pub fn unary(op: Un32, r: &mut [V32], inst: &Inst, mask: u32) {
    let (d, a) = (inst.d[0].index(), inst.s[0].index());
    match op {
        Un32::Mov => map1(r, d, a, mask, |x| x),
        Un32::Not => map1(r, d, a, mask, |x| !x),
        Un32::Neg => map1(r, d, a, mask, |x: u32| x.wrapping_neg()),
        Un32::Abs => map1(r, d, a, mask, |x| (x as i32).wrapping_abs() as u32),
        Un32::Popc => map1(r, d, a, mask, |x: u32| x.count_ones()),
        Un32::Clz => map1(r, d, a, mask, |x: u32| x.leading_zeros()),
        Un32::Brev => map1(r, d, a, mask, |x: u32| x.reverse_bits()),
        Un32::Sext8 => map1(r, d, a, mask, |x| x as i8 as u32),
        Un32::Sext16 => map1(r, d, a, mask, |x| x as i16 as u32),
        Un32::Low8 => map1(r, d, a, mask, |x| x & 0xff),
        Un32::Low16 => map1(r, d, a, mask, |x| x & 0xffff),
        Un32::High16 => map1(r, d, a, mask, |x| x >> 16),
        Un32::F32FromF16 => map1(r, d, a, mask, |x| {
            let v = f16_value(x);
            if v.is_nan() { super::float::NAN } else { v.to_bits() }
        }),
        Un32::F16FromF32 => map1(r, d, a, mask, |x| f16_bits(f32::from_bits(x)) as u32),
        Un32::F32FromBf16 => map1(r, d, a, mask, |x| bf16_value(x).to_bits()),
        Un32::Bf16FromF32 => map1(r, d, a, mask, |x| bf16_bits(f32::from_bits(x)) as u32),
        Un32::F32FromS32 => map1(r, d, a, mask, |x| (x as i32 as f32).to_bits()),
        Un32::F32FromU32 => map1(r, d, a, mask, |x| (x as f32).to_bits()),
    }
}

#[inline(always)]
pub fn binary(op: Bin32, r: &mut [V32], inst: &Inst, mask: u32) {
    let (d, a, b) = (inst.d[0].index(), inst.s[0].index(), inst.s[1].index());
    let signed = |x: u32| x as i32;
    match op {
        Bin32::Add => map2(r, d, a, b, mask, u32::wrapping_add),
        Bin32::Sub => map2(r, d, a, b, mask, u32::wrapping_sub),
        Bin32::Mul => map2(r, d, a, b, mask, u32::wrapping_mul),
        Bin32::MulHiS => map2(r, d, a, b, mask, |x, y| ((signed(x) as i64 * signed(y) as i64) >> 32) as u32),
        Bin32::MulHiU => map2(r, d, a, b, mask, |x, y| ((x as u64 * y as u64) >> 32) as u32),
        Bin32::And => map2(r, d, a, b, mask, |x, y| x & y),
        Bin32::Or => map2(r, d, a, b, mask, |x, y| x | y),
        Bin32::Xor => map2(r, d, a, b, mask, |x, y| x ^ y),
        Bin32::Shl => map2(r, d, a, b, mask, |x, n| if n > 31 { 0 } else { x << (n & 31) }),
        Bin32::ShrU => map2(r, d, a, b, mask, |x, n| if n > 31 { 0 } else { x >> (n & 31) }),
        Bin32::ShrS => map2(r, d, a, b, mask, |x, n| (signed(x) >> n.min(31)) as u32),
        Bin32::MinS => map2(r, d, a, b, mask, |x, y| signed(x).min(signed(y)) as u32),
        Bin32::MaxS => map2(r, d, a, b, mask, |x, y| signed(x).max(signed(y)) as u32),
        Bin32::MinU => map2(r, d, a, b, mask, |x: u32, y| x.min(y)),
        Bin32::MaxU => map2(r, d, a, b, mask, |x: u32, y| x.max(y)),
        // A division by zero gives all ones, as cards do; PTX leaves it open.
        Bin32::DivS => map2(r, d, a, b, mask, |x, y| match y {
            0 => u32::MAX,
            _ => signed(x).wrapping_div(signed(y)) as u32,
        }),
        Bin32::DivU => map2(r, d, a, b, mask, |x: u32, y| x.checked_div(y).unwrap_or(u32::MAX)),
        Bin32::RemS => map2(r, d, a, b, mask, |x, y| match y {
            0 => x,
            _ => signed(x).wrapping_rem(signed(y)) as u32,
        }),
        Bin32::RemU => map2(r, d, a, b, mask, |x: u32, y| x.checked_rem(y).unwrap_or(x)),
        Bin32::Pack16 => map2(r, d, a, b, mask, |x, y| x & 0xffff | y << 16),
        Bin32::F16x2FromF32 => map2(r, d, a, b, mask, |x, y| {
            (f16_bits(f32::from_bits(x)) as u32) << 16 | f16_bits(f32::from_bits(y)) as u32
        }),
        Bin32::Bf16x2FromF32 => map2(r, d, a, b, mask, |x, y| {
            (bf16_bits(f32::from_bits(x)) as u32) << 16 | bf16_bits(f32::from_bits(y)) as u32
        }),
    }
}

fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let bytes = a as u64 | (b as u64) << 32;
    (0..4).fold(0, |out, i| {
        let pick = c >> (4 * i);
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        out | (byte as u32) << (8 * i)
    })
}

fn bfi(a: u32, b: u32, at: u32, len: u32) -> u32 {
    let (at, len) = (at & 0xff, len & 0xff);
    if at > 31 || len == 0 {
        return b;
    }
    let mask = (((1u64 << len.min(32)) - 1) << at) as u32;
    b & !mask | (a as u64).wrapping_shl(at) as u32 & mask
}

#[inline(always)]
pub fn ternary(op: Tri32, r: &mut [V32], inst: &Inst, mask: u32) {
    let s = [inst.s[0].index(), inst.s[1].index(), inst.s[2].index()];
    let d = inst.d[0].index();
    match op {
        Tri32::MadLo => map3(r, d, s, mask, |x: u32, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Tri32::Lop3(table) => map3(r, d, s, mask, |x, y, z| {
            let mut out = 0;
            for (i, term) in
                [!x & !y & !z, !x & !y & z, !x & y & !z, !x & y & z, x & !y & !z, x & !y & z, x & y & !z, x & y & z]
                    .into_iter()
                    .enumerate()
            {
                out |= term & if table >> i & 1 != 0 { u32::MAX } else { 0 };
            }
            out
        }),
        Tri32::Prmt => map3(r, d, s, mask, prmt),
        // The amount is within 0..=32: the decoder clamped or wrapped it.
        Tri32::ShfL => map3(r, d, s, mask, |lo, hi, n| ((((hi as u64) << 32 | lo as u64) << (n & 63)) >> 32) as u32),
        Tri32::ShfR => map3(r, d, s, mask, |lo, hi, n| (((hi as u64) << 32 | lo as u64) >> (n & 63)) as u32),
        Tri32::Bfi => {
            let (a, b, at, len) = (r[s[0]], r[s[1]], r[s[2]], r[inst.s[3].index()]);
            set(&mut r[d], mask, |i| bfi(a[i], b[i], at[i], len[i]));
        }
    }
}

#[inline(always)]
pub fn int64(op: Int64, r: &mut [V64], r32: &[V32], inst: &Inst, mask: u32) {
    let (d, a, b) = (inst.d[0].index(), inst.s[0].index(), inst.s[1].index());
    let signed = |x: u64| x as i64;
    match op {
        Int64::Mov => map1(r, d, a, mask, |x| x),
        Int64::Not => map1(r, d, a, mask, |x| !x),
        Int64::Neg => map1(r, d, a, mask, |x: u64| x.wrapping_neg()),
        Int64::Abs => map1(r, d, a, mask, |x| signed(x).wrapping_abs() as u64),
        Int64::Add => map2(r, d, a, b, mask, u64::wrapping_add),
        Int64::Sub => map2(r, d, a, b, mask, u64::wrapping_sub),
        Int64::Mul => map2(r, d, a, b, mask, u64::wrapping_mul),
        Int64::MulHiS => map2(r, d, a, b, mask, |x, y| ((signed(x) as i128 * signed(y) as i128) >> 64) as u64),
        Int64::MulHiU => map2(r, d, a, b, mask, |x, y| ((x as u128 * y as u128) >> 64) as u64),
        Int64::And => map2(r, d, a, b, mask, |x, y| x & y),
        Int64::Or => map2(r, d, a, b, mask, |x, y| x | y),
        Int64::Xor => map2(r, d, a, b, mask, |x, y| x ^ y),
        Int64::MinS => map2(r, d, a, b, mask, |x, y| signed(x).min(signed(y)) as u64),
        Int64::MaxS => map2(r, d, a, b, mask, |x, y| signed(x).max(signed(y)) as u64),
        Int64::MinU => map2(r, d, a, b, mask, |x: u64, y| x.min(y)),
        Int64::MaxU => map2(r, d, a, b, mask, |x: u64, y| x.max(y)),
        Int64::DivS => map2(r, d, a, b, mask, |x, y| match y {
            0 => u64::MAX,
            _ => signed(x).wrapping_div(signed(y)) as u64,
        }),
        Int64::DivU => map2(r, d, a, b, mask, |x: u64, y| x.checked_div(y).unwrap_or(u64::MAX)),
        Int64::RemS => map2(r, d, a, b, mask, |x, y| match y {
            0 => x,
            _ => signed(x).wrapping_rem(signed(y)) as u64,
        }),
        Int64::RemU => map2(r, d, a, b, mask, |x: u64, y| x.checked_rem(y).unwrap_or(x)),
        Int64::MadLo => map3(r, d, [a, b, inst.s[2].index()], mask, |x: u64, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Int64::Shl | Int64::ShrU | Int64::ShrS => {
            let (x, n) = (r[a], r32[b]);
            let out = &mut r[d];
            match op {
                Int64::Shl => set(out, mask, |i| if n[i] > 63 { 0 } else { x[i] << (n[i] & 63) }),
                Int64::ShrU => set(out, mask, |i| if n[i] > 63 { 0 } else { x[i] >> (n[i] & 63) }),
                _ => set(out, mask, |i| (signed(x[i]) >> n[i].min(63)) as u64),
            }
        }
    }
}

#[inline(always)]
pub fn wide(op: Wide, r32: &mut [V32], r64: &mut [V64], inst: &Inst, mask: u32) {
    let (d, a, b) = (inst.d[0].index(), inst.s[0].index(), inst.s[1].index());
    let signed = |x: u32| x as i32 as i64;
    match op {
        Wide::MulS => {
            let (x, y) = (&r32[a], &r32[b]);
            set(&mut r64[d], mask, |i| (signed(x[i]) * signed(y[i])) as u64);
        }
        Wide::MulU => {
            let (x, y) = (&r32[a], &r32[b]);
            set(&mut r64[d], mask, |i| x[i] as u64 * y[i] as u64);
        }
        Wide::MadS | Wide::MadU => {
            let (x, y, z) = (&r32[a], &r32[b], r64[inst.s[2].index()]);
            let out = &mut r64[d];
            if op == Wide::MadS {
                set(out, mask, |i| ((signed(x[i]) * signed(y[i])) as u64).wrapping_add(z[i]));
            } else {
                set(out, mask, |i| (x[i] as u64 * y[i] as u64).wrapping_add(z[i]));
            }
        }
        Wide::Sext => {
            let x = &r32[a];
            set(&mut r64[d], mask, |i| signed(x[i]) as u64);
        }
        Wide::Zext => {
            let x = &r32[a];
            set(&mut r64[d], mask, |i| x[i] as u64);
        }
        Wide::Trunc => {
            let x = &r64[a];
            set(&mut r32[d], mask, |i| x[i] as u32);
        }
        Wide::Pack => {
            let (x, y) = (&r32[a], &r32[b]);
            set(&mut r64[d], mask, |i| x[i] as u64 | (y[i] as u64) << 32);
        }
        Wide::Unpack => {
            let x = &r64[a];
            if !inst.d[0].is_none() {
                set(&mut r32[d], mask, |i| x[i] as u32);
            }
            if !inst.d[1].is_none() {
                set(&mut r32[inst.d[1].index()], mask, |i| (x[i] >> 32) as u32);
            }
        }
    }
}

/// Compares numbers of one type, given how each compares.
#[inline(always)]
fn compare<T: PartialOrd + Copy>(cmp: Cmp, get: impl Fn(usize) -> (T, T)) -> u32 {
    // Unordered forms hold exactly where the opposite ordered form does not.
    let (base, inverse) = match cmp {
        Cmp::Equ => (Cmp::Ne, true),
        Cmp::Neu => (Cmp::Eq, true),
        Cmp::Ltu => (Cmp::Ge, true),
        Cmp::Leu => (Cmp::Gt, true),
        Cmp::Gtu => (Cmp::Le, true),
        Cmp::Geu => (Cmp::Lt, true),
        Cmp::Nan => (Cmp::Num, true),
        other => (other, false),
    };
    let found = match base {
        Cmp::Eq => bits(|i| get(i).0 == get(i).1),
        Cmp::Ne => bits(|i| get(i).0 < get(i).1) | bits(|i| get(i).0 > get(i).1),
        Cmp::Lt => bits(|i| get(i).0 < get(i).1),
        Cmp::Le => bits(|i| get(i).0 <= get(i).1),
        Cmp::Gt => bits(|i| get(i).0 > get(i).1),
        Cmp::Ge => bits(|i| get(i).0 >= get(i).1),
        _ => bits(|i| get(i).0.partial_cmp(&get(i).1).is_some()),
    };
    if inverse { !found } else { found }
}

/// The plain comparison of a `setp`, a bit a lane.
#[inline(always)]
pub fn setp(cmp: Cmp, ty: CmpType, r32: &[V32], r64: &[V64], inst: &Inst) -> u32 {
    let (a, b) = (inst.s[0].index(), inst.s[1].index());
    let f = f32::from_bits;
    match ty {
        CmpType::U32 => {
            let (a, b) = (&r32[a], &r32[b]);
            compare(cmp, |i| (a[i], b[i]))
        }
        CmpType::S32 => {
            let (a, b) = (&r32[a], &r32[b]);
            compare(cmp, |i| (a[i] as i32, b[i] as i32))
        }
        CmpType::F32 => {
            let (a, b) = (&r32[a], &r32[b]);
            compare(cmp, |i| (f(a[i]), f(b[i])))
        }
        CmpType::F32Ftz => {
            let (a, b) = (&r32[a], &r32[b]);
            compare(cmp, |i| (flush(f(a[i])), flush(f(b[i]))))
        }
        CmpType::S16 => {
            let (a, b) = (&r32[a], &r32[b]);
            compare(cmp, |i| (a[i] as i16, b[i] as i16))
        }
        CmpType::F16 => {
            let (a, b) = (&r32[a], &r32[b]);
            compare(cmp, |i| (f16_value(a[i]), f16_value(b[i])))
        }
        CmpType::Bf16 => {
            let (a, b) = (&r32[a], &r32[b]);
            compare(cmp, |i| (bf16_value(a[i]), bf16_value(b[i])))
        }
        CmpType::U64 => {
            let (a, b) = (&r64[a], &r64[b]);
            compare(cmp, |i| (a[i], b[i]))
        }
        CmpType::S64 => {
            let (a, b) = (&r64[a], &r64[b]);
            compare(cmp, |i| (a[i] as i64, b[i] as i64))
        }
        CmpType::F64 => {
            let (a, b) = (&r64[a], &r64[b]);
            compare(cmp, |i| (f64::from_bits(a[i]), f64::from_bits(b[i])))
        }
    }
}

/// A comparison combined with another predicate.
#[inline(always)]
pub fn combine(result: u32, op: Option<Bool>, c: u32) -> u32 {
    match op {
        None => result,
        Some(Bool::And) => result & c,
        Some(Bool::Or) => result | c,
        Some(Bool::Xor) => result ^ c,
    }
}
