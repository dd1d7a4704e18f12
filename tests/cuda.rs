//! The ops' CUDA launches through `cust` on ragged shapes, against their f64 references: the path that ships.
//!
//! The card is the virtual one with all checks on; with `DYNAVIT_REQUIRE_GPU=1` it is the machine's own.
#![forbid(unsafe_code)]

use dynavit::device::cuda::{Arena, Gpu, Half, Target};
use dynavit::ops::attention::reference::Sizes;
use dynavit::ops::matmul::cuda::Fused;
use dynavit::ops::{attention, gelu, layer_norm, matmul};
use dynavit::rng::{Purpose, Stream};
use half::{bf16, f16};
use std::process::Command;

/// Half a unit in the last place of f32 at 1.
const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Room for the buffers of one case.
const BYTES: u64 = 1 << 24;

fn values(len: usize, salt: u32) -> Vec<f32> {
    let mut stream = Stream::new(5, Purpose::Fixture, salt, 0);
    (0..len).map(|_| stream.uniform24() * 2.0 - 1.0).collect()
}

/// Half a unit in the last place of the type at 1.
fn unit(half: Half) -> f64 {
    match half {
        Half::F16 => f64::from(f16::EPSILON.to_f32()) / 2.0,
        Half::Bf16 => f64::from(bf16::EPSILON.to_f32()) / 2.0,
    }
}

fn bits(half: Half, values: &[f32]) -> Vec<u16> {
    let bits = |&v: &f32| match half {
        Half::F16 => f16::from_f32(v).to_bits(),
        Half::Bf16 => bf16::from_f32(v).to_bits(),
    };
    values.iter().map(bits).collect()
}

fn wide(half: Half, bits: &[u16]) -> Vec<f64> {
    let wide = |&b: &u16| match half {
        Half::F16 => f16::from_bits(b).to_f64(),
        Half::Bf16 => bf16::from_bits(b).to_f64(),
    };
    bits.iter().map(wide).collect()
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Each value within its bound of the reference.
#[track_caller]
fn close(what: &str, got: &[f64], reference: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), reference.len(), "{what}");
    for (i, (g, r)) in got.iter().zip(reference).enumerate() {
        assert!((g - r).abs() <= bound(i), "{what}[{i}] is {g}, not {r}: beyond {:e}", bound(i));
    }
}

/// Opens the card once: a process has one.
fn card() -> Gpu {
    let real = std::env::var("DYNAVIT_REQUIRE_GPU").is_ok_and(|v| v == "1");
    Gpu::open(if real { Target::Cuda } else { Target::PtxVm }).unwrap()
}

/// The types that the card's matrix units multiply.
fn halves(gpu: &Gpu) -> Vec<Half> {
    if gpu.capability() >= (8, 0) { vec![Half::F16, Half::Bf16] } else { vec![Half::F16] }
}

fn products(gpu: &Gpu, half: Half) {
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

fn attentions(gpu: &Gpu, half: Half) {
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

fn layer_norms(gpu: &Gpu, half: Half) {
    for (rows, d) in [(1, 8), (7, 128), (60, 192), (3, 768), (138, 384), (5, 1024)] {
        let arena = Arena::new(gpu, BYTES).unwrap();
        let n = rows * d;
        let (x, dy) = (bits(half, &values(n, 7)), bits(half, &values(n, 8)));
        let (weight, bias) = (values(d, 9), values(d, 10));
        let (x_card, weight_card) = (arena.upload(&x).unwrap(), arena.upload(&weight).unwrap());
        let (y, mean, rstd) = (arena.alloc(n).unwrap(), arena.alloc(rows).unwrap(), arena.alloc(rows).unwrap());
        let bias_card = arena.upload(&bias).unwrap();
        layer_norm::cuda::forward(gpu, half, x_card, weight_card, bias_card, 1e-6, y, mean, rstd).unwrap();
        let (dx, partial) =
            (arena.alloc(n).unwrap(), arena.alloc(layer_norm::cuda::partial_len(rows, d).unwrap()).unwrap());
        let (dweight, dbias) = (arena.zeros(d).unwrap(), arena.zeros(d).unwrap());
        let dy_card = arena.upload(&dy).unwrap();
        layer_norm::cuda::backward(gpu, half, dy_card, x_card, weight_card, mean, rstd, dx, partial, dweight, dbias)
            .unwrap();
        let (x, dy, weight, bias) = (wide(half, &x), wide(half, &dy), f64s(&weight), f64s(&bias));
        let what = format!("layer norm {half:?} {rows} x {d}");
        // Values below 1 about a mean near 0 normalise to below 4; the statistics of a row are sums of d of them. The factors
        // before `few` are chosen: they count the terms that a value is made of, not the worst case of each.
        let few = (d + 32) as f64 * UNIT;
        let expected = layer_norm::reference::forward(&x, &weight, &bias, 1e-6);
        let got = wide(half, &gpu.stream().download(y).unwrap());
        close(&what, &got, &expected, |i| unit(half) * expected[i].abs() + 8.0 * few);
        let (edx, edweight, edbias) = layer_norm::reference::backward(&x, &weight, &dy, 1e-6);
        let got = wide(half, &gpu.stream().download(dx).unwrap());
        close(&format!("dx of {what}"), &got, &edx, |i| unit(half) * edx[i].abs() + 32.0 * few);
        for (name, slice, expected) in [("dweight", dweight, edweight), ("dbias", dbias, edbias)] {
            let got = f64s(&gpu.stream().download(slice).unwrap());
            close(&format!("{name} of {what}"), &got, &expected, |_| 8.0 * rows as f64 * (few + rows as f64 * UNIT));
        }
    }
}

#[test]
fn ops_on_the_card_match_their_references() {
    let gpu = card();
    for half in halves(&gpu) {
        products(&gpu, half);
        attentions(&gpu, half);
        layer_norms(&gpu, half);
    }
    // Wrong lengths are refused before anything is launched.
    let arena = Arena::new(&gpu, BYTES).unwrap();
    let (x, f) = (arena.zeros::<u16>(64).unwrap(), arena.zeros::<f32>(8).unwrap());
    let error = layer_norm::cuda::forward(&gpu, Half::F16, x, f, f, 1e-6, x.window(0, 8), f, f).unwrap_err();
    assert!(error.to_string().contains("y has 8 elements, not 64"), "{error}");
}

/// A process has one card, so the older virtual one gets a process of its own.
#[test]
fn ops_on_the_older_virtual_card_match_too() {
    if std::env::var_os("DYNAVIT_PTX_VM").is_some() || std::env::var_os("DYNAVIT_REQUIRE_GPU").is_some() {
        println!("skipped: the variables name another card");
        return;
    }
    let outcome = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ops_on_the_card_match_their_references"])
        .env("DYNAVIT_PTX_VM", "sm_75")
        .output()
        .unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stdout));
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("1 passed"));
}
