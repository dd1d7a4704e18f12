//! The linear layer.
#![forbid(unsafe_code)]

use super::support::*;
use dynavit::device::cuda::{Arena, Gpu, Half};
use dynavit::ops::matmul::cuda::Fused;
use dynavit::ops::{gelu, matmul};

pub fn check(gpu: &Gpu, half: Half) {
    for (m, n, k) in [(1, 5, 8), (7, 64, 192), (60, 130, 64), (138, 192, 72), (3 * 197, 40, 64)] {
        let arena = Arena::new(gpu, BYTES).unwrap();
        let (x, w) = (bits(half, &values(m * k, 1)), bits(half, &values(n * k, 2)));
        let (b, r) = (values(n, 3), bits(half, &values(m * n, 4)));
        let (dx, dw) = (arena.upload(&x).unwrap(), arena.upload(&w).unwrap());
        let (db, dr) = (arena.upload(&b).unwrap(), arena.upload(&r).unwrap());
        let (x, w, b, r) = (wide(half, &x), wide(half, &w), f64s(&b), wide(half, &r));
        let pre = matmul::reference::forward(&x, &w, &b, k);
        // k products and as many sums in f32, each off by a unit of the sum of magnitudes, which is below k + 1.
        let sum = (k + 2) as f64 * UNIT * (k + 1) as f64;
        for fused in ["bias", "gelu", "residual"] {
            let (y, kept) = (arena.alloc(m * n).unwrap(), arena.alloc(m * n).unwrap());
            let (epilogue, expected) = match fused {
                "bias" => (Fused::Bias, pre.clone()),
                "gelu" => (Fused::BiasGelu { pre: kept }, gelu::reference::forward(&pre)),
                _ => (Fused::BiasResidual { residual: dr }, pre.iter().zip(&r).map(|(y, r)| y + r).collect()),
            };
            matmul::cuda::forward(gpu, half, dx, dw, db, epilogue, y).unwrap();
            let got = wide(half, &gpu.stream().download(y).unwrap());
            // GELU's slope is below 1.13, and it rounds a few times in f32 itself.
            let bound = |i: usize| unit(half) * expected[i].abs() * 1.01 + 1.2 * sum + 8.0 * UNIT;
            close(&format!("matmul {fused} {half:?} {m} x {n} x {k}"), &got, &expected, bound);
            if fused == "gelu" {
                let got = wide(half, &gpu.stream().download(kept).unwrap());
                close("its pre-activation", &got, &pre, |i| unit(half) * pre[i].abs() * 1.01 + sum);
            }
        }
    }
}
