//! Attention.
#![forbid(unsafe_code)]

use super::support::*;
use dynavit::device::cuda::{Arena, Gpu, Half};
use dynavit::ops::attention;
use dynavit::ops::attention::reference::Sizes;

pub fn check(gpu: &Gpu, half: Half) {
    for (b, s, heads) in [(3, 1, 2), (5, 7, 1), (1, 60, 3), (1, 138, 2), (1, 197, 1), (1, 300, 1)] {
        let arena = Arena::new(gpu, BYTES).unwrap();
        let d = 64 * heads;
        let qkv = bits(half, &values(b * s * 3 * d, 6).iter().map(|v| 2.0 * v).collect::<Vec<_>>());
        let (y, lse) = (arena.alloc(b * s * d).unwrap(), arena.alloc(b * s * heads).unwrap());
        attention::cuda::forward(gpu, half, arena.upload(&qkv).unwrap(), b, s, heads, y, lse).unwrap();
        let got = wide(half, &gpu.stream().download(y).unwrap());
        let qkv = wide(half, &qkv);
        let part =
            |i: usize| -> Vec<f64> { qkv.chunks(3 * d).flat_map(|row| row[i * d..(i + 1) * d].to_vec()).collect() };
        let sizes = Sizes { b, queries: s, keys: s, heads, head_width: 64 };
        let expected = attention::reference::forward(&part(0), &part(1), &part(2), sizes);
        // The weights are rounded to the type before their product with v, whose values are below 2; the scores' rounding
        // in f32 (64 products below 4 each) moves a weight by as many units, relatively.
        let bound = |i: usize| unit(half) * (2.1 + expected[i].abs()) + 2.0 * (66.0 * 256.0 + s as f64) * UNIT;
        close(&format!("attention {half:?} {b} x {s} x {heads}"), &got, &expected, bound);
        assert!(gpu.stream().download(lse).unwrap().iter().all(|v| v.is_finite()));
    }
}
