//! The linear layer: its products there and back, on the matrix units where the sizes suit these, else without.
#![forbid(unsafe_code)]

use super::support::*;
use dynavit::device::cpu::gemm::Write;
use dynavit::device::cuda::{Arena, Gpu, Half, Slice, Store, Values};
use dynavit::ops::matmul::cuda::{self, Fused, GeluBackward, Sizes};
use dynavit::ops::{gelu, matmul};

/// Rows of multiples of 8 both ways, for the matrix units; the longest sums of dweight go in parts.
const EVEN: [(usize, usize, usize); 8] = [
    (1, 8, 8),
    (7, 64, 192),
    (60, 40, 64),
    (138, 192, 72),
    (197, 72, 384),
    (3 * 197, 40, 64),
    (60, 136, 8),
    (138, 8, 136),
];

/// Others: the head's classes, and rows along k that begin anywhere.
const UNEVEN: [(usize, usize, usize); 9] = [
    (1, 5, 8),
    (7, 100, 192),
    (1, 5, 5),
    (7, 33, 130),
    (60, 130, 20),
    (138, 100, 12),
    (197, 8, 5),
    (3 * 197, 5, 9),
    (64, 72, 100),
];

/// One large output each: y, dx and dweight whose 210 wide tiles give each multiprocessor of any card a block.
const LARGE: [(usize, usize, usize); 3] = [(1800, 1672, 24), (1800, 24, 1672), (24, 1800, 1672)];

fn unit_of(store: Store) -> f64 {
    store.half().map_or(UNIT, unit)
}

/// The values as the type keeps them, on the card and in f64.
fn given<'a>(arena: &'a Arena, store: Store, values: &[f32]) -> (Values<'a>, Vec<f64>) {
    match store.half() {
        None => (arena.upload(values).unwrap().into(), f64s(values)),
        Some(half) => {
            let bits = bits(half, values);
            (arena.upload(&bits).unwrap().values(half), wide(half, &bits))
        }
    }
}

fn got(gpu: &Gpu, values: Values) -> Vec<f64> {
    match values {
        Values::F32(slice) => f64s(&gpu.stream().download(slice).unwrap()),
        Values::Half(half, slice) => wide(half, &gpu.stream().download(slice).unwrap()),
    }
}

/// What a sum in f32 of `terms` products of values below 1 may be off: as many products and sums, each rounded by a unit
/// of the sum of magnitudes, which is below terms + 1.
fn sum(terms: usize) -> f64 {
    (terms + 2) as f64 * UNIT * (terms + 1) as f64
}

/// What the slope of GELU may be off in f32: erf and the exponential are good to two units, and about ten operations on
/// values below 2 surround them.
const SLOPE: f64 = 24.0 * UNIT;

pub fn check(gpu: &Gpu, half: Half) {
    for (m, n, k) in EVEN.into_iter().chain(UNEVEN) {
        products(gpu, half.into(), Sizes { m, n, k });
        sums(gpu, half.into(), m, n);
        // One card of the two types' runs takes f32 along.
        if half == Half::F16 {
            products(gpu, Store::F32, Sizes { m, n, k });
            sums(gpu, Store::F32, m, n);
        }
    }
    for (m, n, k) in LARGE {
        products(gpu, half.into(), Sizes { m, n, k });
    }
    refusals(gpu, half);
}

fn products(gpu: &Gpu, store: Store, sizes: Sizes) {
    let Sizes { m, n, k } = sizes;
    let what = format!("{store:?} {m} x {n} x {k}");
    let arena = Arena::new(gpu, BYTES).unwrap();
    let (x_card, x) = given(&arena, store, &values(m * k, 1));
    let (w_card, w) = given(&arena, store, &values(n * k, 2));
    let (r_card, r) = given(&arena, store, &values(m * n, 4));
    let b = values(n, 3);
    let (b_card, b) = (arena.upload(&b).unwrap(), f64s(&b));
    let pre = matmul::reference::forward(&x, &w, &b, k);
    let unit = unit_of(store);
    for fused in ["bias", "gelu", "residual"] {
        let (y, kept) = (arena.values(store, m * n).unwrap(), arena.values(store, m * n).unwrap());
        let (epilogue, expected) = match fused {
            "bias" => (Fused::Bias, pre.clone()),
            "gelu" => (Fused::BiasGelu { pre: Some(kept) }, gelu::reference::forward(&pre)),
            _ => (Fused::BiasResidual { residual: r_card }, pre.iter().zip(&r).map(|(y, r)| y + r).collect()),
        };
        cuda::forward(gpu, x_card, w_card, b_card, epilogue, y).unwrap();
        // GELU's slope is below 1.13, and it rounds a few times in f32 itself.
        let bound = |i: usize| unit * expected[i].abs() * 1.01 + 1.2 * sum(k) + 8.0 * UNIT;
        close(&format!("{fused} {what}"), &got(gpu, y), &expected, bound);
        if fused == "gelu" {
            close(&format!("pre of {what}"), &got(gpu, kept), &pre, |i| unit * pre[i].abs() * 1.01 + sum(k));
            let alone = arena.values(store, m * n).unwrap();
            cuda::forward(gpu, x_card, w_card, b_card, Fused::BiasGelu { pre: None }, alone).unwrap();
            assert_eq!(got(gpu, alone), got(gpu, y), "GELU whose input is not kept, {what}");
        }
    }

    let (g_card, g) = given(&arena, store, &values(m * n, 5));
    let (edx, edweight, _) = matmul::reference::backward(&x, &w, &g, n, k);
    let dx = arena.values(store, m * k).unwrap();
    cuda::backward_dx(gpu, sizes, g_card, w_card, None, dx).unwrap();
    close(&format!("dx of {what}"), &got(gpu, dx), &edx, |i| unit * edx[i].abs() * 1.01 + sum(n));

    // Times the slope, which is below 1.13 and itself off a little. Inputs to 3: there both of its parts matter.
    let (before_card, before) = given(&arena, store, &values(m * k, 6).iter().map(|v| 3.0 * v).collect::<Vec<_>>());
    let expected = gelu::reference::backward(&before, &edx);
    let dpre = arena.values(store, m * k).unwrap();
    let partial = arena.alloc(cuda::gelu_partial_len(sizes)).unwrap();
    let backward = Some(GeluBackward { pre: before_card, partial });
    cuda::backward_dx(gpu, sizes, g_card, w_card, backward, dpre).unwrap();
    let dbias = arena.alloc(k).unwrap();
    cuda::reduce_dbias(gpu, partial, dbias, Write::Set).unwrap();
    let columns: Vec<f64> = (0..k).map(|j| expected.iter().skip(j).step_by(k).sum()).collect();
    let each = 1.2 * sum(n) + SLOPE * (1.0 + sizes.n as f64);
    close(&format!("dbias with GELU of {what}"), &got(gpu, dbias.into()), &columns, |_| {
        m as f64 * (each + m as f64 * UNIT * 1.2 * n as f64)
    });
    // In the memory of its input it is the same.
    cuda::backward_dx(gpu, sizes, g_card, w_card, Some(GeluBackward { pre: before_card, partial }), before_card)
        .unwrap();
    assert_eq!(got(gpu, before_card), got(gpu, dpre), "in place: {what}");
    let bound = |i: usize| unit * expected[i].abs() * 1.01 + 1.2 * sum(n) + SLOPE * (edx[i].abs() + 1.0);
    close(&format!("dx with GELU of {what}"), &got(gpu, dpre), &expected, bound);

    let old = values(n * k, 7);
    for write in [Write::Set, Write::Add] {
        // What is set need not have been written before.
        let (dweight, base) = match write {
            Write::Set => (arena.alloc(n * k).unwrap(), vec![0.0; n * k]),
            Write::Add => (arena.upload(&old).unwrap(), f64s(&old)),
        };
        let workspace = arena.alloc(cuda::dweight_len(sizes, write)).unwrap();
        cuda::backward_dweight(gpu, sizes, g_card, x_card, workspace, dweight, write).unwrap();
        let expected: Vec<f64> = edweight.iter().zip(&base).map(|(d, b)| d + b).collect();
        // One more term where it is added to.
        close(&format!("dweight of {what}"), &got(gpu, dweight.into()), &expected, |_| sum(m + 1));
    }
}

/// dbias, set and added to.
fn sums(gpu: &Gpu, store: Store, m: usize, n: usize) {
    let arena = Arena::new(gpu, BYTES).unwrap();
    let what = format!("{store:?} {m} x {n}");
    let old = values(n, 9);
    for write in [Write::Set, Write::Add] {
        let (dy_card, dy) = given(&arena, store, &values(m * n, 10));
        let (dbias, base) = match write {
            Write::Set => (arena.alloc(n).unwrap(), vec![0.0; n]),
            Write::Add => (arena.upload(&old).unwrap(), f64s(&old)),
        };
        let workspace: Slice<f32> = arena.alloc(cuda::dbias_len(m, n)).unwrap();
        cuda::backward_dbias(gpu, dy_card, workspace, dbias, write).unwrap();
        let columns: Vec<f64> = (0..n).map(|j| base[j] + dy.iter().skip(j).step_by(n).sum::<f64>()).collect();
        close(&format!("dbias of {what}"), &got(gpu, dbias.into()), &columns, |_| sum(m + 1));
    }
}

/// What does not fit is refused before anything is launched.
fn refusals(gpu: &Gpu, half: Half) {
    let arena = Arena::new(gpu, BYTES).unwrap();
    let sizes = Sizes { m: 2, n: 8, k: 8 };
    let (few, many) = (arena.zeros::<u16>(16).unwrap().values(half), arena.zeros::<u16>(64).unwrap().values(half));
    let f32s: Values = arena.zeros::<f32>(16).unwrap().into();
    let error = cuda::backward_dx(gpu, sizes, few, many, None, f32s).unwrap_err().to_string();
    assert!(error.contains("beside f32"), "{error}");
    let error = cuda::backward_dx(gpu, sizes, few, few, None, few).unwrap_err().to_string();
    assert!(error.contains("weight has 16 elements, not 64"), "{error}");
    let (dweight, nothing) = (arena.zeros(64).unwrap(), arena.alloc(0).unwrap());
    let error = cuda::backward_dweight(gpu, sizes, few, few, nothing, dweight, Write::Add).unwrap_err().to_string();
    assert!(error.contains("workspace has 0 elements, not 64"), "{error}");
    cuda::backward_dweight(gpu, sizes, few, few, nothing, dweight, Write::Set).unwrap();
    gpu.stream().synchronise().unwrap();
}
