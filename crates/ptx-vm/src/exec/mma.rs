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

/// The columns of a tile of B and of the sums in the order that they are held in: a lane's even ones, then its odd.
const COLUMNS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Rows of sums that are made at once: enough chains of additions for the processor to have one ready at any time.
const ROWS: usize = 4;

/// Adds eight k of one half of A (rows 0..8 or 8..16) times B to eight rows of sums.
#[inline(always)]
fn add(sums: &mut [[f32; 8]; 8], a: &[[f32; 32]; 2], b: &[[f32; 8]; 8]) {
    for from in (0..8).step_by(ROWS) {
        let mut rows: [[f32; 8]; ROWS] = std::array::from_fn(|r| sums[from + r]);
        for (k, b) in b.iter().enumerate() {
            for (r, row) in rows.iter_mut().enumerate() {
                let x = a[k % 2][4 * (from + r) + k / 2];
                for (sum, b) in row.iter_mut().zip(b) {
                    *sum = x.mul_add(*b, *sum);
                }
            }
        }
        sums[from..from + ROWS].copy_from_slice(&rows);
    }
}

/// A tile of B for eight k: `out[k]` holds its columns.
#[inline(always)]
fn columns(b: &V32, bf16: bool) -> [[f32; 8]; 8] {
    let mut turned = [0; 32];
    for (at, word) in turned.iter_mut().enumerate() {
        *word = b[4 * COLUMNS[at % 8] + at / 8];
    }
    let [even, odd] = widen(&turned, bf16);
    std::array::from_fn(|k| {
        let of = if k % 2 == 0 { &even } else { &odd };
        std::array::from_fn(|n| of[8 * (k / 2) + n])
    })
}

#[inline(always)]
pub fn mma(kind: Mma, r: &mut [V32], inst: &Inst) {
    let more = inst.more.as_deref().unwrap_or(&[]);
    let source = |i: usize| if i < 4 { inst.s[i].index() } else { more[i - 4].index() };
    // Accumulators of each half, rows of eight: lane 4g + t holds columns 2t and 2t + 1 of row g.
    let mut sums = [[[0f32; 8]; 8]; 2];
    for (half, sums) in sums.iter_mut().enumerate() {
        if kind.half_in {
            let c = &r[source(6 + half)];
            for (row, c) in sums.iter_mut().zip(c.as_chunks::<4>().0) {
                for t in 0..4 {
                    (row[t], row[4 + t]) = (f16_value(c[t]), f16_value(c[t] >> 16));
                }
            }
        } else {
            let (even, odd) = (&r[source(6 + 2 * half)], &r[source(7 + 2 * half)]);
            let quads = even.as_chunks::<4>().0.iter().zip(odd.as_chunks::<4>().0);
            for (row, (even, odd)) in sums.iter_mut().zip(quads) {
                for t in 0..4 {
                    (row[t], row[4 + t]) = (f32::from_bits(even[t]), f32::from_bits(odd[t]));
                }
            }
        }
    }
    for step in 0..kind.k as usize / 8 {
        let b = columns(&r[source(4 + step)], kind.bf16);
        for (half, sums) in sums.iter_mut().enumerate() {
            let a = widen(&r[source(2 * step + half)], kind.bf16);
            add(sums, &a, &b);
        }
    }
    for (half, sums) in sums.iter().enumerate() {
        if kind.half_out {
            if !inst.d[half].is_none() {
                let d = r[inst.d[half].index()].as_chunks_mut::<4>().0;
                for (d, row) in d.iter_mut().zip(sums) {
                    for t in 0..4 {
                        d[t] = f16_bits(row[t]) as u32 | (f16_bits(row[4 + t]) as u32) << 16;
                    }
                }
            }
            continue;
        }
        for (part, reg) in inst.d[2 * half..].iter().take(2).enumerate().filter(|(_, reg)| !reg.is_none()) {
            let d = r[reg.index()].as_chunks_mut::<4>().0;
            for (d, row) in d.iter_mut().zip(sums) {
                for t in 0..4 {
                    let x = row[4 * part + t];
                    d[t] = if x.is_nan() { super::float::NAN } else { x.to_bits() };
                }
            }
        }
    }
}
