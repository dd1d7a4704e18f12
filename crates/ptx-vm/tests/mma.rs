//! Products of fragments against exact f64 sums, and the ways fragments are moved.
#![forbid(unsafe_code)]

mod common;

use common::{Arg, card, get_u32, launch, load, put};

type Narrow = fn(f32) -> u16;
type Wide = fn(u16) -> f32;

fn rng(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Runs one `mma` with fragments loaded word by word: registers of A, B and C in that order, 32 words each.
fn mma(name: &str, a: usize, b: usize, c: usize, words: &[u32]) -> Vec<u32> {
    let list = |p: &str, from: usize, n: usize| {
        let regs: Vec<String> = (from..from + n).map(|i| format!("{p}{i}")).collect();
        format!("{{{}}}", regs.join(", "))
    };
    let loads: String = (0..a + b + c).map(|i| format!("ld.global.b32 %r{}, [%rd3+{}];\n", 10 + i, 128 * i)).collect();
    let stores: String = (0..c).map(|i| format!("st.global.b32 [%rd4+{}], %r{};\n", 128 * i, 10 + a + b + i)).collect();
    let sums = list("%r", 10 + a + b, c);
    let ptx = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry t(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .b32 %r<64>;\n.reg .b64 %rd<8>;\nld.param.u64 %rd1, [in];\nld.param.u64 %rd2, [out];\n\
         mov.u32 %r1, %tid.x;\nmad.wide.u32 %rd3, %r1, 4, %rd1;\nmad.wide.u32 %rd4, %r1, 4, %rd2;\n{loads}\
         mma.sync.aligned.{name} {sums}, {}, {}, {sums};\n{stores}ret;\n}}\n",
        list("%r", 10, a),
        list("%r", 10 + a, b),
    );
    let card = card();
    let module = load(&card, &ptx);
    let input = put(&card, words, u32::to_le_bytes);
    let output = card.alloc(128 * c as u64).unwrap();
    launch(&card, &module, "t", 1, 32, &[Arg::U64(input), Arg::U64(output)]).unwrap();
    get_u32(&card, output, 32 * c)
}

#[test]
fn products_are_close_to_exact_sums() {
    for (k, bf16, half) in [
        (8, false, false),
        (16, false, false),
        (8, true, false),
        (16, true, false),
        (8, false, true),
        (16, false, true),
    ] {
        let mut next = rng(k as u64 * 7 + bf16 as u64);
        let (narrow, wide): (Narrow, Wide) = if bf16 {
            (|x| (x.to_bits() >> 16) as u16, |h| f32::from_bits((h as u32) << 16))
        } else {
            (ptx_vm::f16_from_f32, ptx_vm::f32_from_f16)
        };
        let a: Vec<u16> = (0..16 * k).map(|_| narrow(next())).collect();
        let b: Vec<u16> = (0..8 * k).map(|_| narrow(next())).collect();
        let c: Vec<f32> = (0..128).map(|_| ptx_vm::f32_from_f16(ptx_vm::f16_from_f32(next()))).collect();
        let pair = |lo: u16, hi: u16| lo as u32 | (hi as u32) << 16;
        let mut words = Vec::new();
        // A: registers by (row half, k half), a lane holding row lane/4 and columns 2(lane mod 4) and the next.
        for step in 0..k / 8 {
            for rows in 0..2 {
                for lane in 0..32 {
                    let at = (lane / 4 + 8 * rows) * k + 8 * step + 2 * (lane % 4);
                    words.push(pair(a[at], a[at + 1]));
                }
            }
        }
        for step in 0..k / 8 {
            for lane in 0..32 {
                let at = (lane / 4) * k + 8 * step + 2 * (lane % 4);
                words.push(pair(b[at], b[at + 1]));
            }
        }
        for rows in 0..2 {
            if half {
                for lane in 0..32 {
                    let at = (lane / 4 + 8 * rows) * 8 + 2 * (lane % 4);
                    words.push(pair(ptx_vm::f16_from_f32(c[at]), ptx_vm::f16_from_f32(c[at + 1])));
                }
            } else {
                for odd in 0..2 {
                    for lane in 0..32 {
                        words.push(c[(lane / 4 + 8 * rows) * 8 + 2 * (lane % 4) + odd].to_bits());
                    }
                }
            }
        }
        let kind = if bf16 { "bf16" } else { "f16" };
        let sum = if half { "f16" } else { "f32" };
        let name = format!("m16n8k{k}.row.col.{sum}.{kind}.{kind}.{sum}");
        let got = mma(&name, k / 4, k / 8, if half { 2 } else { 4 }, &words);
        for row in 0..16 {
            for col in 0..8 {
                let exact: f64 = (0..k).map(|i| wide(a[row * k + i]) as f64 * wide(b[col * k + i]) as f64).sum();
                let exact = exact + c[row * 8 + col] as f64;
                let lane = row % 8 * 4 + col / 2;
                let value = if half {
                    ptx_vm::f32_from_f16((got[row / 8 * 32 + lane] >> (col % 2 * 16)) as u16)
                } else {
                    f32::from_bits(got[(row / 8 * 2 + col % 2) * 32 + lane])
                };
                let roundings = if half { 2f64.powi(-11) } else { k as f64 * 2f64.powi(-24) };
                let bound = roundings * (exact.abs() + k as f64);
                assert!((value as f64 - exact).abs() <= bound, "{name} ({row},{col}): {value} for {exact}");
            }
        }
    }
}

#[test]
fn infinities_and_nan_stay_in_their_rows() {
    let mut words = vec![0x3c00_3c00u32; 32 * 2];
    words.extend([0x3c00_3c00; 32]);
    words.extend([0u32; 128]);
    words[0] = 0x7c00; // (0, 0) is infinite, (0, 1) zero.
    words[4] = 0x7e00; // (1, 0) is NaN.
    let got = mma("m16n8k8.row.col.f32.f16.f16.f32", 2, 1, 4, &words);
    assert_eq!(f32::from_bits(got[0]), f32::INFINITY);
    assert_eq!(got[4], 0x7fff_ffff);
    assert_eq!(f32::from_bits(got[8]), 8.0);
}

#[test]
fn matrices_load_store_and_turn() {
    let body = |load: &str| {
        format!(
            "mov.u32 %r2, s;\nshl.b32 %r3, %r1, 2;\nadd.u32 %r4, %r2, %r3;\nshl.b32 %r5, %r1, 1;\nadd.u32 %r6, %r5, 1;\n\
             shl.b32 %r6, %r6, 16;\nor.b32 %r5, %r5, %r6;\nst.shared.b32 [%r4], %r5;\nbar.sync 0;\n\
             shl.b32 %r7, %r1, 4;\nand.b32 %r7, %r7, 127;\nadd.u32 %r7, %r7, %r2;\n{load}\n\
             mad.wide.u32 %rd2, %r1, 4, %rd1;\nst.global.u32 [%rd2], %r8;"
        )
    };
    // Element (r, c) of the tile is 8r + c.
    let plain = common::run(&body("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r8}, [%r7];"), 32).unwrap();
    assert_eq!((plain[0], plain[5]), (0x0001_0000, 0x000b_000a));
    let turned = common::run(&body("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r8}, [%r7];"), 32).unwrap();
    // Lane 5 holds column 1, rows 2 and 3.
    assert_eq!((turned[0], turned[5]), (0x0008_0000, 0x0019_0011));
    let moved = common::run(
        &body(
            "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [%r7];\nmovmatrix.sync.aligned.m8n8.trans.b16 %r8, %r9;",
        ),
        32,
    )
    .unwrap();
    assert_eq!(moved[..32], turned[..32]);
}
