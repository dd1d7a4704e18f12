//! One instruction at a time, against the words of the PTX ISA.
#![forbid(unsafe_code)]

mod common;

use common::{eval, run};

const NAN32: u64 = 0x7fff_ffff;
const INF: u64 = 0x7f80_0000;
const NEG_INF: u64 = 0xff80_0000;

fn f(x: f32) -> u64 {
    x.to_bits() as u64
}

fn g(x: f64) -> u64 {
    x.to_bits()
}

/// Each case: instruction, file of the result, operands, what it must give.
#[track_caller]
fn check(cases: &[(&str, char, [u64; 3], u64)]) {
    for (code, to, operands, want) in cases {
        let got = eval(code, *to, &[*operands])[0];
        assert_eq!(got, *want, "{code} of {operands:x?}: {got:#x}, not {want:#x}");
    }
}

#[test]
fn integers() {
    let low = 0x8000_0000;
    check(&[
        ("add.s32 %r0, %r1, %r2;", 'r', [0xffff_ffff, 2, 0], 1),
        ("sub.s32 %r0, %r1, %r2;", 'r', [0, 1, 0], 0xffff_ffff),
        ("add.sat.s32 %r0, %r1, %r2;", 'r', [0x7fff_ffff, 1, 0], 0x7fff_ffff),
        ("sub.sat.s32 %r0, %r1, %r2;", 'r', [low, 1, 0], low),
        ("add.u16 %h0, %h1, %h2;", 'h', [0xffff, 2, 0], 1),
        ("mul.lo.s32 %r0, %r1, %r2;", 'r', [0x10001, 0x10001, 0], 0x20001),
        ("mul.hi.s32 %r0, %r1, %r2;", 'r', [0xffff_ffff, 2, 0], 0xffff_ffff),
        ("mul.hi.u32 %r0, %r1, %r2;", 'r', [0xffff_ffff, 2, 0], 1),
        ("mul.wide.s32 %rd0, %r1, %r2;", 'd', [0xffff_ffff, 3, 0], (-3i64) as u64),
        ("mul.wide.u32 %rd0, %r1, %r2;", 'd', [0xffff_ffff, 3, 0], 0x2_ffff_fffd),
        ("mul.wide.s16 %r0, %h1, %h2;", 'r', [0xffff, 3, 0], (-3i32) as u32 as u64),
        ("mul.hi.u16 %h0, %h1, %h2;", 'h', [0xffff, 0xffff, 0], 0xfffe),
        ("mul.hi.s16 %h0, %h1, %h2;", 'h', [0xffff, 2, 0], 0xffff),
        ("mul.hi.u64 %rd0, %rd1, %rd2;", 'd', [u64::MAX, 4, 0], 3),
        ("mul.hi.s64 %rd0, %rd1, %rd2;", 'd', [u64::MAX, 4, 0], u64::MAX),
        ("mad.lo.s32 %r0, %r1, %r2, %r3;", 'r', [3, 4, 5], 17),
        ("mad.hi.u32 %r0, %r1, %r2, %r3;", 'r', [0xffff_ffff, 0xffff_ffff, 1], 0xffff_ffff),
        ("mad.wide.u32 %rd0, %r1, %r2, %rd3;", 'd', [0xffff_ffff, 2, 10], 0x2_0000_0008),
        ("mad.wide.s32 %rd0, %r1, %r2, %rd3;", 'd', [0xffff_ffff, 2, 1], u64::MAX),
        ("mul24.lo.s32 %r0, %r1, %r2;", 'r', [0xff_ffff, 5, 0], (-5i32) as u32 as u64),
        ("div.s32 %r0, %r1, %r2;", 'r', [(-7i32) as u32 as u64, 2, 0], (-3i32) as u32 as u64),
        ("rem.s32 %r0, %r1, %r2;", 'r', [(-7i32) as u32 as u64, 2, 0], (-1i32) as u32 as u64),
        ("div.u32 %r0, %r1, %r2;", 'r', [7, 0, 0], 0xffff_ffff),
        ("div.u64 %rd0, %rd1, %rd2;", 'd', [u64::MAX, 10, 0], u64::MAX / 10),
        ("abs.s32 %r0, %r1;", 'r', [low, 0, 0], low),
        ("neg.s32 %r0, %r1;", 'r', [low, 0, 0], low),
        ("min.s32 %r0, %r1, %r2;", 'r', [low, 1, 0], low),
        ("min.u32 %r0, %r1, %r2;", 'r', [low, 1, 0], 1),
        ("max.s64 %rd0, %rd1, %rd2;", 'd', [u64::MAX, 1, 0], 1),
        ("min.s16 %h0, %h1, %h2;", 'h', [0x8000, 1, 0], 0x8000),
        ("sad.u32 %r0, %r1, %r2, %r3;", 'r', [3, 10, 5], 12),
        ("dp4a.u32.u32 %r0, %r1, %r2, %r3;", 'r', [0x0102_0304, 0x0101_0101, 5], 15),
        ("dp4a.s32.s32 %r0, %r1, %r2, %r3;", 'r', [0xff, 2, 0], (-2i32) as u32 as u64),
        ("add.cc.u32 %r0, %r1, %r2; addc.u32 %r0, %r3, 0;", 'r', [0xffff_ffff, 1, 7], 8),
        ("sub.cc.u32 %r0, %r1, %r2; subc.u32 %r0, %r3, 0;", 'r', [0, 1, 7], 6),
        ("popc.b32 %r0, %r1;", 'r', [0xf0f0, 0, 0], 8),
        ("popc.b64 %r0, %rd1;", 'r', [u64::MAX, 0, 0], 64),
        ("clz.b32 %r0, %r1;", 'r', [0, 0, 0], 32),
        ("clz.b64 %r0, %rd1;", 'r', [1, 0, 0], 63),
        ("brev.b32 %r0, %r1;", 'r', [1, 0, 0], low),
        ("bfind.u32 %r0, %r1;", 'r', [0x100, 0, 0], 8),
        ("bfind.s32 %r0, %r1;", 'r', [0xffff_fffe, 0, 0], 0),
        ("bfind.u32 %r0, %r1;", 'r', [0, 0, 0], 0xffff_ffff),
        ("bfind.shiftamt.u32 %r0, %r1;", 'r', [1, 0, 0], 31),
    ]);
}

#[test]
fn shifts_are_clamped_and_bits_move() {
    check(&[
        ("shl.b32 %r0, %r1, %r2;", 'r', [1, 32, 0], 0),
        ("shl.b32 %r0, %r1, %r2;", 'r', [1, 0x1_0000, 0], 0),
        ("shl.b32 %r0, %r1, %r2;", 'r', [3, 31, 0], 0x8000_0000),
        ("shr.u32 %r0, %r1, %r2;", 'r', [0x8000_0000, 40, 0], 0),
        ("shr.s32 %r0, %r1, %r2;", 'r', [0x8000_0000, 40, 0], 0xffff_ffff),
        ("shr.s64 %rd0, %rd1, %r2;", 'd', [1 << 63, 100, 0], u64::MAX),
        ("shl.b64 %rd0, %rd1, %r2;", 'd', [1, 64, 0], 0),
        ("shl.b16 %h0, %h1, %r2;", 'h', [0xffff, 4, 0], 0xfff0),
        ("shr.s16 %h0, %h1, %r2;", 'h', [0x8000, 20, 0], 0xffff),
        ("shf.l.wrap.b32 %r0, %r1, %r2, %r3;", 'r', [0x8000_0000, 1, 33], 3),
        ("shf.l.clamp.b32 %r0, %r1, %r2, %r3;", 'r', [0xdead_beef, 1, 99], 0xdead_beef),
        ("shf.r.wrap.b32 %r0, %r1, %r2, %r3;", 'r', [0, 1, 1], 0x8000_0000),
        ("shf.r.clamp.b32 %r0, %r1, %r2, %r3;", 'r', [0, 0xabcd, 32], 0xabcd),
        ("prmt.b32 %r0, %r1, %r2, 0x7610;", 'r', [0x3322_1100, 0x7766_5544, 0], 0x7766_1100),
        ("prmt.b32 %r0, %r1, %r2, 0x8;", 'r', [0x80, 0, 0], 0x8080_80ff),
        ("prmt.b32.rc8 %r0, %r1, %r2, %r3;", 'r', [0x3322_1100, 0, 2], 0x2222_2222),
        ("bfe.u32 %r0, %r1, 4, 8;", 'r', [0xabcd_ef12, 0, 0], 0xf1),
        ("bfe.s32 %r0, %r1, 4, 8;", 'r', [0xabcd_ef12, 0, 0], 0xffff_fff1),
        ("bfe.s32 %r0, %r1, 28, 16;", 'r', [0x8000_0000, 0, 0], 0xffff_fff8),
        ("bfe.u32 %r0, %r1, 4, 0;", 'r', [0xffff_ffff, 0, 0], 0),
        ("bfi.b32 %r0, %r1, %r2, 8, 8;", 'r', [0xff, 0, 0], 0xff00),
        ("bfi.b32 %r0, %r1, %r2, 40, 8;", 'r', [0xff, 7, 0], 7),
        ("bfi.b64 %rd0, %rd1, %rd2, 32, 32;", 'd', [5, 6, 0], 5 << 32 | 6),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0x96;", 'r', [0xf0, 0xcc, 0xaa], 0xf0 ^ 0xcc ^ 0xaa),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0xe8;", 'r', [0xf0, 0xcc, 0xaa], 0xe8),
        ("not.b16 %h0, %h1;", 'h', [0x00ff, 0, 0], 0xff00),
        ("cnot.b32 %r0, %r1;", 'r', [0, 0, 0], 1),
        ("bmsk.clamp.b32 %r0, %r1, %r2;", 'r', [4, 8, 0], 0xff0),
        ("szext.clamp.s32 %r0, %r1, %r2;", 'r', [0x80, 8, 0], 0xffff_ff80),
        ("fns.b32 %r0, %r1, 0, 2;", 'r', [0b1010, 0, 0], 3),
        ("{ .reg .b16 a, b; mov.b32 {a, b}, %r1; mov.b32 %r0, {b, a}; }", 'r', [0x1234_5678, 0, 0], 0x5678_1234),
        ("{ .reg .b32 a, b; mov.b64 {a, b}, %rd1; mov.b64 %rd0, {b, a}; }", 'd', [1 << 32 | 2, 0, 0], 2 << 32 | 1),
        ("mov.pred %p0, -1;", 'p', [0; 3], 1),
    ]);
}

#[test]
fn comparison_and_selection() {
    let nan = NAN32;
    check(&[
        ("setp.lt.s32 %p0, %r1, %r2;", 'p', [0xffff_ffff, 0, 0], 1),
        ("setp.lo.u32 %p0, %r1, %r2;", 'p', [0xffff_ffff, 0, 0], 0),
        ("setp.lt.s16 %p0, %h1, %h2;", 'p', [0xffff, 0, 0], 1),
        ("setp.lt.s64 %p0, %rd1, %rd2;", 'p', [u64::MAX, 0, 0], 1),
        ("setp.lt.f32 %p0, %f1, %f2;", 'p', [nan, f(1.0), 0], 0),
        ("setp.ltu.f32 %p0, %f1, %f2;", 'p', [nan, f(1.0), 0], 1),
        ("setp.ne.f32 %p0, %f1, %f2;", 'p', [nan, f(1.0), 0], 0),
        ("setp.neu.f32 %p0, %f1, %f2;", 'p', [nan, f(1.0), 0], 1),
        ("setp.equ.f32 %p0, %f1, %f2;", 'p', [nan, f(1.0), 0], 1),
        ("setp.num.f32 %p0, %f1, %f2;", 'p', [nan, f(1.0), 0], 0),
        ("setp.nan.f32 %p0, %f1, %f2;", 'p', [nan, f(1.0), 0], 1),
        ("setp.eq.f32 %p0, %f1, %f2;", 'p', [f(0.0), f(-0.0), 0], 1),
        ("setp.eq.ftz.f32 %p0, %f1, %f2;", 'p', [1, 0, 0], 1),
        ("setp.gt.f16 %p0, %h1, %h2;", 'p', [0x3c00, 0xbc00, 0], 1),
        ("setp.ge.f64 %p0, %g1, %g2;", 'p', [g(2.0), g(2.0), 0], 1),
        ("setp.eq.s32 %p1, %r1, %r1; setp.lt.and.s32 %p0, %r1, %r2, !%p1;", 'p', [0, 1, 0], 0),
        ("setp.eq.s32 %p1, %r1, %r1; setp.lt.xor.s32 %p0|%p2, %r1, %r2, %p1;", 'p', [0, 1, 0], 0),
        ("setp.lt.s32 %p1|%p0, %r1, %r2;", 'p', [0, 1, 0], 0),
        ("set.lt.u32.f32 %r0, %f1, %f2;", 'r', [f(1.0), f(2.0), 0], 0xffff_ffff),
        ("set.lt.f32.f32 %f0, %f1, %f2;", 'f', [f(1.0), f(2.0), 0], f(1.0)),
        ("slct.b32.f32 %r0, %r1, %r2, %f3;", 'r', [1, 2, f(-0.0)], 1),
        ("slct.b32.s32 %r0, %r1, %r2, %r3;", 'r', [1, 2, 0xffff_ffff], 2),
        ("testp.subnormal.f32 %p0, %f1;", 'p', [1, 0, 0], 1),
    ]);
}

#[test]
fn f32_arithmetic() {
    let sub = 1u64;
    check(&[
        ("add.f32 %f0, %f1, %f2;", 'f', [INF, NEG_INF, 0], NAN32),
        ("add.f32 %f0, %f1, %f2;", 'f', [f(1.0), f(2f32.powi(-24)), 0], f(1.0)),
        ("add.rp.f32 %f0, %f1, %f2;", 'f', [f(1.0), f(2f32.powi(-60)), 0], f(1.0) + 1),
        ("add.rm.f32 %f0, %f1, %f2;", 'f', [f(1.0), f(-1.0), 0], f(-0.0)),
        ("add.rz.f32 %f0, %f1, %f2;", 'f', [f(-1.0), f(-(2f32.powi(-40))), 0], f(-1.0)),
        ("add.ftz.f32 %f0, %f1, %f2;", 'f', [sub, sub, 0], 0),
        ("add.f32 %f0, %f1, %f2;", 'f', [sub, sub, 0], 2),
        ("add.sat.f32 %f0, %f1, %f2;", 'f', [f(3.0), f(2.0), 0], f(1.0)),
        ("add.sat.f32 %f0, %f1, %f2;", 'f', [NAN32, f(2.0), 0], 0),
        ("mul.f32 %f0, %f1, %f2;", 'f', [f(-0.0), f(5.0), 0], f(-0.0)),
        ("mul.rz.f32 %f0, %f1, %f2;", 'f', [f(1.0) + 1, f(1.0) + 1, 0], f(1.0) + 2),
        ("mul.rp.f32 %f0, %f1, %f2;", 'f', [f(1.0) + 1, f(1.0) + 1, 0], f(1.0) + 3),
        ("mul.rz.f32 %f0, %f1, %f2;", 'f', [f(f32::MAX), f(2.0), 0], f(f32::MAX)),
        ("fma.rn.f32 %f0, %f1, %f2, %f3;", 'f', [f(1.0) + 1, f(1.0) + 1, f(-1.0)], {
            let x = f32::from_bits(0x3f80_0001);
            f(x.mul_add(x, -1.0))
        }),
        ("fma.rm.f32 %f0, %f1, %f2, %f3;", 'f', [f(1.0), f(1.0), f(2f32.powi(-70))], f(1.0)),
        ("div.rn.f32 %f0, %f1, %f2;", 'f', [f(1.0), 0, 0], INF),
        ("div.rz.f32 %f0, %f1, %f2;", 'f', [f(2.0), f(3.0), 0], f(2.0 / 3.0) - 1),
        ("rcp.rn.f32 %f0, %f1;", 'f', [f(-0.0), 0, 0], NEG_INF),
        ("sqrt.rn.f32 %f0, %f1;", 'f', [f(-1.0), 0, 0], NAN32),
        ("sqrt.rn.f32 %f0, %f1;", 'f', [f(-0.0), 0, 0], f(-0.0)),
        ("rsqrt.approx.f32 %f0, %f1;", 'f', [f(4.0), 0, 0], f(0.5)),
        ("rsqrt.approx.f32 %f0, %f1;", 'f', [0, 0, 0], INF),
        ("ex2.approx.f32 %f0, %f1;", 'f', [f(10.0), 0, 0], f(1024.0)),
        ("ex2.approx.f32 %f0, %f1;", 'f', [NEG_INF, 0, 0], 0),
        ("ex2.approx.f32 %f0, %f1;", 'f', [INF, 0, 0], INF),
        ("ex2.approx.ftz.f32 %f0, %f1;", 'f', [f(-140.0), 0, 0], 0),
        ("ex2.approx.f32 %f0, %f1;", 'f', [f(0.3), 0, 0], f((2f64.powf(0.3f32 as f64)) as f32)),
        ("ex2.approx.f32 %f0, %f1;", 'f', [f(-127.5), 0, 0], f((2f64.powf(-127.5)) as f32)),
        ("lg2.approx.f32 %f0, %f1;", 'f', [f(8.0), 0, 0], f(3.0)),
        ("lg2.approx.f32 %f0, %f1;", 'f', [0, 0, 0], NEG_INF),
        ("tanh.approx.f32 %f0, %f1;", 'f', [f(0.5), 0, 0], f((0.5f64).tanh() as f32)),
        ("sin.approx.f32 %f0, %f1;", 'f', [f(-0.0), 0, 0], f(-0.0)),
        ("neg.f32 %f0, %f1;", 'f', [f(0.0), 0, 0], f(-0.0)),
        ("abs.f32 %f0, %f1;", 'f', [f(-3.0), 0, 0], f(3.0)),
        ("copysign.f32 %f0, %f1, %f2;", 'f', [f(-1.0), f(5.0), 0], f(-5.0)),
        ("min.f32 %f0, %f1, %f2;", 'f', [NAN32, f(5.0), 0], f(5.0)),
        ("min.NaN.f32 %f0, %f1, %f2;", 'f', [NAN32, f(5.0), 0], NAN32),
        ("max.f32 %f0, %f1, %f2;", 'f', [NAN32, NAN32, 0], NAN32),
        ("min.f32 %f0, %f1, %f2;", 'f', [f(0.0), f(-0.0), 0], f(-0.0)),
        ("max.f32 %f0, %f1, %f2;", 'f', [f(-0.0), f(0.0), 0], f(0.0)),
        ("add.f64 %g0, %g1, %g2;", 'g', [g(1.0), g(2.0), 0], g(3.0)),
        ("add.rp.f64 %g0, %g1, %g2;", 'g', [g(1.0), g(1e-30), 0], g(1.0) + 1),
        ("fma.rn.f64 %g0, %g1, %g2, %g3;", 'g', [g(3.0), g(4.0), g(5.0)], g(17.0)),
        ("div.rn.f64 %g0, %g1, %g2;", 'g', [g(1.0), g(3.0), 0], g(1.0 / 3.0)),
        ("min.f64 %g0, %g1, %g2;", 'g', [g(f64::NAN), g(3.0), 0], g(3.0)),
    ]);
}

#[test]
fn halves() {
    check(&[
        ("add.f16 %h0, %h1, %h2;", 'h', [0x3c00, 0x3c00, 0], 0x4000),
        // 1 + 2^-11 is halfway between two f16; the even one wins.
        ("add.f16 %h0, %h1, %h2;", 'h', [0x3c00, 0x1000, 0], 0x3c00),
        ("add.f16 %h0, %h1, %h2;", 'h', [0x3c01, 0x1000, 0], 0x3c02),
        ("add.f16 %h0, %h1, %h2;", 'h', [0x7bff, 0x7bff, 0], 0x7c00),
        ("add.f16 %h0, %h1, %h2;", 'h', [0x7c00, 0xfc00, 0], 0x7fff),
        ("mul.f16 %h0, %h1, %h2;", 'h', [0x0001, 0x3800, 0], 0x0000),
        ("mul.f16 %h0, %h1, %h2;", 'h', [0x0003, 0x3800, 0], 0x0002),
        ("sub.sat.f16 %h0, %h1, %h2;", 'h', [0x3c00, 0x4000, 0], 0x0000),
        ("fma.rn.f16 %h0, %h1, %h2, %h3;", 'h', [0x3c01, 0x3c01, 0xbc00], 0x1800),
        ("fma.rn.relu.f16 %h0, %h1, %h2, %h3;", 'h', [0x3c00, 0xbc00, 0], 0x0000),
        ("add.f16x2 %r0, %r1, %r2;", 'r', [0x3c00_4000, 0x3c00_3c00, 0], 0x4000_4200),
        ("neg.f16x2 %r0, %r1;", 'r', [0x3c00_0000, 0, 0], 0xbc00_8000),
        ("max.f16x2 %r0, %r1, %r2;", 'r', [0x7e00_0000, 0x3c00_8000, 0], 0x3c00_0000),
        ("max.NaN.f16 %h0, %h1, %h2;", 'h', [0x7e00, 0x3c00, 0], 0x7fff),
        ("fma.rn.bf16 %h0, %h1, %h2, %h3;", 'h', [0x3f80, 0x3f80, 0x3f80], 0x4000),
        // The product is halfway between two bf16; a tiny addend breaks the tie.
        ("fma.rn.bf16 %h0, %h1, %h2, %h3;", 'h', [0x3f88, 0x3f88, 0x0080], 0x3f91),
        ("fma.rn.bf16x2 %r0, %r1, %r2, %r3;", 'r', [0x3f80_4000, 0x3f80_4000, 0x3f80_0000], 0x4000_4080),
        ("ex2.approx.f16 %h0, %h1;", 'h', [0x4200, 0, 0], 0x4800),
        ("tanh.approx.f16 %h0, %h1;", 'h', [0x0000, 0, 0], 0x0000),
    ]);
}

#[test]
fn conversions() {
    check(&[
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [f(65504.0), 0, 0], 0x7bff),
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [f(65520.0), 0, 0], 0x7c00),
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [f(65519.9), 0, 0], 0x7bff),
        ("cvt.rz.f16.f32 %h0, %f1;", 'h', [f(1e9), 0, 0], 0x7bff),
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [f(2f32.powi(-24)), 0, 0], 1),
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [f(2f32.powi(-25)), 0, 0], 0),
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [f(2f32.powi(-25)) + 1, 0, 0], 1),
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [NAN32, 0, 0], 0x7fff),
        ("cvt.rn.f16.f32 %h0, %f1;", 'h', [f(-0.0), 0, 0], 0x8000),
        ("cvt.rp.f16.f32 %h0, %f1;", 'h', [f(1.0001), 0, 0], 0x3c01),
        ("cvt.f32.f16 %f0, %h1;", 'f', [1, 0, 0], f(2f32.powi(-24))),
        ("cvt.f32.f16 %f0, %h1;", 'f', [0xfc00, 0, 0], NEG_INF),
        ("cvt.f32.f16 %f0, %h1;", 'f', [0x3555, 0, 0], f(0.333_251_95)),
        ("cvt.rn.bf16.f32 %h0, %f1;", 'h', [0x3f80_8000, 0, 0], 0x3f80),
        ("cvt.rn.bf16.f32 %h0, %f1;", 'h', [0x3f81_8000, 0, 0], 0x3f82),
        ("cvt.rz.bf16.f32 %h0, %f1;", 'h', [0x3f81_ffff, 0, 0], 0x3f81),
        ("cvt.rn.bf16.f32 %h0, %f1;", 'h', [0x7fc0_0000, 0, 0], 0x7fff),
        ("cvt.rn.f16x2.f32 %r0, %f1, %f2;", 'r', [f(1.0), f(2.0), 0], 0x3c00_4000),
        ("cvt.rn.relu.f16x2.f32 %r0, %f1, %f2;", 'r', [f(-1.0), f(2.0), 0], 0x4000),
        ("cvt.rn.bf16x2.f32 %r0, %f1, %f2;", 'r', [f(1.0), f(2.0), 0], 0x3f80_4000),
        ("cvt.rzi.s32.f32 %r0, %f1;", 'r', [f(-1.9), 0, 0], (-1i32) as u32 as u64),
        ("cvt.rni.s32.f32 %r0, %f1;", 'r', [f(2.5), 0, 0], 2),
        ("cvt.rmi.s32.f32 %r0, %f1;", 'r', [f(-1.1), 0, 0], (-2i32) as u32 as u64),
        ("cvt.rpi.s32.f32 %r0, %f1;", 'r', [f(1.1), 0, 0], 2),
        ("cvt.rzi.s32.f32 %r0, %f1;", 'r', [f(1e20), 0, 0], 0x7fff_ffff),
        ("cvt.rzi.u32.f32 %r0, %f1;", 'r', [f(-5.0), 0, 0], 0),
        ("cvt.rzi.u32.f32 %r0, %f1;", 'r', [NAN32, 0, 0], 0),
        ("cvt.rzi.s64.f32 %rd0, %f1;", 'd', [f(-1e10), 0, 0], (-10_000_000_000i64) as u64),
        ("cvt.rn.f32.s32 %f0, %r1;", 'f', [16_777_217, 0, 0], f(16_777_216.0)),
        ("cvt.rz.f32.s32 %f0, %r1;", 'f', [33_554_435, 0, 0], f(33_554_432.0)),
        ("cvt.rn.f32.u64 %f0, %rd1;", 'f', [u64::MAX, 0, 0], f(1.844_674_4e19)),
        ("cvt.rz.f64.u64 %g0, %rd1;", 'g', [u64::MAX, 0, 0], g(18_446_744_073_709_549_568.0)),
        ("cvt.f64.f32 %g0, %f1;", 'g', [f(0.1), 0, 0], g(0.1f32 as f64)),
        ("cvt.rn.f32.f64 %f0, %g1;", 'f', [g(0.1), 0, 0], f(0.1)),
        ("cvt.rm.f32.f64 %f0, %g1;", 'f', [g(0.1), 0, 0], f(0.1) - 1),
        ("cvt.sat.f32.f32 %f0, %f1;", 'f', [f(7.0), 0, 0], f(1.0)),
        ("cvt.rni.f32.f32 %f0, %f1;", 'f', [f(0.5), 0, 0], f(0.0)),
        ("cvt.rpi.f32.f32 %f0, %f1;", 'f', [f(-0.5), 0, 0], f(-0.0)),
        ("cvt.ftz.f64.f32 %g0, %f1;", 'g', [1, 0, 0], 0),
        ("cvt.s32.s16 %r0, %h1;", 'r', [0x8000, 0, 0], 0xffff_8000),
        ("cvt.s32.s8 %r0, %r1;", 'r', [0x1ff, 0, 0], 0xffff_ffff),
        ("cvt.u32.u8 %r0, %r1;", 'r', [0x1ff, 0, 0], 0xff),
        ("cvt.s64.s32 %rd0, %r1;", 'd', [0x8000_0000, 0, 0], 0xffff_ffff_8000_0000),
        ("cvt.u32.u64 %r0, %rd1;", 'r', [0x1_0000_0002, 0, 0], 2),
        ("cvt.sat.u8.s32 %r0, %r1;", 'r', [300, 0, 0], 255),
        ("cvt.sat.s8.s32 %r0, %r1;", 'r', [(-300i32) as u32 as u64, 0, 0], 0xffff_ff80),
        ("cvt.pack.sat.u8.s32.b32 %r0, %r1, %r2, %r3;", 'r', [300, 0xffff_ffff, 0x1234], 0x1234_ff00),
        ("cvt.rna.tf32.f32 %r0, %f1;", 'r', [0x3f80_1000, 0, 0], 0x3f80_2000),
    ]);
}

#[test]
fn every_f16_survives_a_round_trip() {
    let all: Vec<[u64; 3]> = (0..1024).map(|i| [i * 61 % 65536, 0, 0]).collect();
    let back = eval("cvt.f32.f16 %f0, %h1; cvt.rn.f16.f32 %h0, %f0;", 'h', &all);
    for (x, y) in all.iter().zip(back) {
        let nan = x[0] & 0x7fff > 0x7c00;
        assert_eq!(y, if nan { 0x7fff } else { x[0] });
    }
}

/// Words left by the lanes of one warp at 4 × lane.
fn lanes(code: &str) -> Vec<u32> {
    let body = format!("{code}\nmad.wide.u32 %rd2, %r1, 4, %rd1;\nst.global.u32 [%rd2], %r2;");
    run(&body, 32).unwrap()[..32].to_vec()
}

#[test]
fn lanes_pass_values() {
    let down = lanes("shfl.sync.down.b32 %r2|%p1, %r1, 4, 31, -1;\nselp.u32 %r3, 100, 0, %p1;\nadd.u32 %r2, %r2, %r3;");
    assert_eq!((down[0], down[27], down[28], down[31]), (104, 131, 28, 31));
    let up = lanes("shfl.sync.up.b32 %r2, %r1, 4, 0, -1;");
    assert_eq!((up[0], up[3], up[4], up[31]), (0, 3, 0, 27));
    let across = lanes("shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;");
    assert_eq!((across[0], across[16]), (16, 0));
    // Segments of eight: c = ((32 − 8) << 8) | 31.
    let picked = lanes("shfl.sync.idx.b32 %r2, %r1, 3, 6175, -1;");
    assert_eq!((picked[0], picked[9], picked[31]), (3, 11, 27));
    let ballot = lanes("and.b32 %r3, %r1, 1;\nsetp.eq.u32 %p1, %r3, 1;\nvote.sync.ballot.b32 %r2, %p1, -1;");
    assert!(ballot.iter().all(|b| *b == 0xaaaa_aaaa));
    let any = lanes("setp.eq.u32 %p1, %r1, 7;\nvote.sync.any.pred %p2, %p1, -1;\nselp.u32 %r2, 1, 0, %p2;");
    assert!(any.iter().all(|b| *b == 1));
    let uni = lanes("setp.lt.u32 %p1, %r1, 77;\nvote.sync.uni.pred %p2, %p1, -1;\nselp.u32 %r2, 1, 0, %p2;");
    assert!(uni.iter().all(|b| *b == 1));
    let same = lanes("and.b32 %r3, %r1, 3;\nmatch.any.sync.b32 %r2, %r3, -1;");
    assert_eq!(same[1], 0x2222_2222);
    let all = lanes("match.all.sync.b32 %r2|%p1, %r1, -1;");
    assert_eq!(all[5], 0);
    let total = lanes("redux.sync.add.s32 %r2, %r1, -1;");
    assert!(total.iter().all(|t| *t == 496));
    let least = lanes("sub.s32 %r3, %r1, 5;\nredux.sync.min.s32 %r2, %r3, -1;");
    assert_eq!(least[9], (-5i32) as u32);
    let halves = lanes(
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra LOW;\nshfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffff0000;\nbra END;\n\
         LOW: shfl.sync.bfly.b32 %r2, %r1, 2, 31, 0xffff;\nEND:",
    );
    assert_eq!((halves[0], halves[16]), (2, 17));
    let active = lanes("setp.lt.u32 %p1, %r1, 8;\nmov.u32 %r2, 0;\n@%p1 activemask.b32 %r2;");
    assert_eq!((active[0], active[8]), (0xff, 0));
    let masks = lanes("mov.u32 %r2, %lanemask_lt;");
    assert_eq!((masks[0], masks[31]), (0, 0x7fff_ffff));
}

#[test]
fn flow_and_barriers() {
    // Loops of different lengths, then a meeting.
    let sums = lanes(
        "mov.u32 %r2, 0;\nmov.u32 %r3, 0;\nL:\nsetp.ge.u32 %p1, %r3, %r1;\n@%p1 bra D;\nadd.u32 %r2, %r2, %r3;\nadd.u32 %r3, %r3, 1;\nbra L;\nD:\nbar.warp.sync -1;",
    );
    assert_eq!((sums[0], sums[10], sums[31]), (0, 45, 465));
    let table = lanes(
        "and.b32 %r3, %r1, 3;\nmov.u32 %r2, 0;\nT: .branchtargets A, B, C, A;\nbrx.idx %r3, T;\nA: mov.u32 %r2, 10; bra E;\nB: mov.u32 %r2, 20; bra E;\nC: mov.u32 %r2, 30;\nE:",
    );
    assert_eq!(table[..4], [10, 20, 30, 10]);
    let counts = run(
        "setp.lt.u32 %p1, %r1, 70;\nbar.red.popc.u32 %r2, 0, %p1;\nbar.red.or.pred %p2, 0, !%p1;\nselp.u32 %r3, 1000, 0, %p2;\nadd.u32 %r2, %r2, %r3;\nmad.wide.u32 %rd2, %r1, 4, %rd1;\nst.global.u32 [%rd2], %r2;",
        128,
    )
    .unwrap();
    assert!(counts[..128].iter().all(|c| *c == 1070));
}

#[test]
fn atomics() {
    let words = run(
        "atom.global.add.u32 %r2, [%rd1], %r1;\nred.global.max.s32 [%rd1+4], %r1;\nred.global.or.b32 [%rd1+8], %r1;\n\
         mov.f32 %f1, 0f3F000000;\nred.global.add.f32 [%rd1+12], %f1;\natom.global.inc.u32 %r3, [%rd1+16], 9;\n\
         atom.global.dec.u32 %r3, [%rd1+20], 5;\nmov.b32 %r4, 0x3c004000;\nred.global.add.noftz.f16x2 [%rd1+24], %r4;\n\
         atom.global.cas.b32 %r5, [%rd1+28], 0, %r1;\ncvt.u64.u32 %rd2, %r1;\nred.global.add.u64 [%rd1+32], %rd2;\n\
         setp.eq.u32 %p1, %r1, 3;\n@%p1 atom.global.exch.b32 %r6, [%rd1+40], 77;\nred.global.min.u32 [%rd1+44], %r1;",
        32,
    )
    .unwrap();
    assert_eq!(words[0], 496);
    assert_eq!(words[1], 31);
    assert_eq!(words[2], 31);
    assert_eq!(f32::from_bits(words[3]), 16.0);
    assert_eq!(words[4], 2);
    assert_eq!(words[6], 0x5000_5400);
    assert_eq!(words[8], 496);
    assert_eq!(words[10], 77);
}
