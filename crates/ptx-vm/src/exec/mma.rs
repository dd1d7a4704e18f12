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
        let (even, odd): ([f32; 32], [f32; 32]) = if kind.half_in {
            let c = &r[source(6 + half)];
            (std::array::from_fn(|i| f16_value(c[i])), std::array::from_fn(|i| f16_value(c[i] >> 16)))
        } else {
            let (x, y) = (&r[source(6 + 2 * half)], &r[source(7 + 2 * half)]);
            (x.map(f32::from_bits), y.map(f32::from_bits))
        };
        for (g, row) in sums.iter_mut().enumerate() {
            row[..4].copy_from_slice(&even[4 * g..4 * g + 4]);
            row[4..].copy_from_slice(&odd[4 * g..4 * g + 4]);
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
        let mut parts = [[0f32; 32]; 2];
        for (g, row) in sums.iter().enumerate() {
            parts[0][4 * g..4 * g + 4].copy_from_slice(&row[..4]);
            parts[1][4 * g..4 * g + 4].copy_from_slice(&row[4..]);
        }
        if kind.half_out {
            if !inst.d[half].is_none() {
                let d = &mut r[inst.d[half].index()];
                for (lane, d) in d.iter_mut().enumerate() {
                    *d = f16_bits(parts[0][lane]) as u32 | (f16_bits(parts[1][lane]) as u32) << 16;
                }
            }
        } else {
            for (part, reg) in parts.iter().zip(&inst.d[2 * half..]).filter(|(_, reg)| !reg.is_none()) {
                for (d, x) in r[reg.index()].iter_mut().zip(part) {
                    *d = if x.is_nan() { super::float::NAN } else { x.to_bits() };
                }
            }
        }
    }
}
