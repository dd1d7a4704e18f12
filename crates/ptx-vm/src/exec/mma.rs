//! `mma.sync` m16n8k8 and m16n8k16: products of halves are exact in f32; sums are f32 fused multiply-adds, k ascending
//! from the accumulator. A card truncates inside the sum, so results agree within a tolerance and not bit for bit.
#![forbid(unsafe_code)]

use super::lanes::V32;
use super::rounding::{bf16_value, f16_bits, f16_value};
use crate::inst::{Inst, Mma};

#[inline(always)]
fn widen(regs: &V32, bf16: bool) -> [[f32; 32]; 2] {
    let mut out = [[0.0; 32]; 2];
    if bf16 {
        for i in 0..32 {
            out[0][i] = bf16_value(regs[i] & 0xffff);
            out[1][i] = f32::from_bits(regs[i] & 0xffff_0000);
        }
    } else {
        for i in 0..32 {
            out[0][i] = f16_value(regs[i]);
            out[1][i] = f16_value(regs[i] >> 16);
        }
    }
    out
}

/// Adds eight k of one half of A (rows 0..8 or 8..16) times B to eight rows of sums.
#[inline(always)]
fn add(sums: &mut [f32; 64], a: &[[f32; 32]; 2], b: &[[f32; 8]; 8]) {
    for (g, row) in sums.chunks_exact_mut(8).enumerate() {
        let mut sum = [0.0; 8];
        sum.copy_from_slice(row);
        for (k, b) in b.iter().enumerate() {
            let x = a[k % 2][4 * g + k / 2];
            for n in 0..8 {
                sum[n] = x.mul_add(b[n], sum[n]);
            }
        }
        row.copy_from_slice(&sum);
    }
}

/// Columns of B for eight k: `out[k][n]`.
#[inline(always)]
fn columns(b: &[[f32; 32]; 2]) -> [[f32; 8]; 8] {
    let mut out = [[0.0; 8]; 8];
    for t in 0..4 {
        for n in 0..8 {
            out[2 * t][n] = b[0][4 * n + t];
            out[2 * t + 1][n] = b[1][4 * n + t];
        }
    }
    out
}

#[inline(always)]
pub fn mma(kind: Mma, r: &mut [V32], inst: &Inst) {
    let more = inst.more.as_deref().unwrap_or(&[]);
    let source = |i: usize| if i < 4 { inst.s[i].index() } else { more[i - 4].index() };
    // Accumulators: element (g, n) of each half at 8g + n, so that a lane holds those at 2·lane and 2·lane + 1.
    let mut sums = [[0f32; 64]; 2];
    for (half, sums) in sums.iter_mut().enumerate() {
        if kind.half_in {
            let c = &r[source(6 + half)];
            for lane in 0..32 {
                sums[2 * lane] = f16_value(c[lane]);
                sums[2 * lane + 1] = f16_value(c[lane] >> 16);
            }
        } else {
            let (x, y) = (&r[source(6 + 2 * half)], &r[source(7 + 2 * half)]);
            for lane in 0..32 {
                sums[2 * lane] = f32::from_bits(x[lane]);
                sums[2 * lane + 1] = f32::from_bits(y[lane]);
            }
        }
    }
    for step in 0..kind.k as usize / 8 {
        let b = columns(&widen(&r[source(4 + step)], kind.bf16));
        for (half, sums) in sums.iter_mut().enumerate() {
            let a = widen(&r[source(2 * step + half)], kind.bf16);
            add(sums, &a, &b);
        }
    }
    for (half, sums) in sums.iter().enumerate() {
        let get = |lane: usize, odd: usize| sums[2 * lane + odd];
        let give = |x: f32| if x.is_nan() { super::float::NAN } else { x.to_bits() };
        if kind.half_out {
            if !inst.d[half].is_none() {
                let d = &mut r[inst.d[half].index()];
                for (lane, d) in d.iter_mut().enumerate() {
                    *d = f16_bits(get(lane, 0)) as u32 | (f16_bits(get(lane, 1)) as u32) << 16;
                }
            }
        } else {
            for odd in 0..2 {
                let reg = inst.d[2 * half + odd];
                if !reg.is_none() {
                    let d = &mut r[reg.index()];
                    for (lane, d) in d.iter_mut().enumerate() {
                        *d = give(get(lane, odd));
                    }
                }
            }
        }
    }
}
