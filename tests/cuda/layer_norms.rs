//! Layer norm.
#![forbid(unsafe_code)]

use super::support::*;
use dynavit::device::cpu::gemm::Write;
use dynavit::device::cuda::{Arena, Gpu, Half, Values};
use dynavit::ops::layer_norm;

pub fn check(gpu: &Gpu, half: Half) {
    for (rows, d) in [(1, 8), (7, 128), (60, 192), (3, 768), (138, 384), (5, 1024)] {
        let arena = Arena::new(gpu, BYTES).unwrap();
        let n = rows * d;
        let (x, dy) = (bits(half, &values(n, 7)), bits(half, &values(n, 8)));
        let (weight, bias) = (values(d, 9), values(d, 10));
        let (x_card, weight_card) = (arena.upload(&x).unwrap(), arena.upload(&weight).unwrap());
        let (y, mean, rstd) = (arena.alloc(n).unwrap(), arena.alloc(rows).unwrap(), arena.alloc(rows).unwrap());
        let bias_card = arena.upload(&bias).unwrap();
        let card = |slice| Values::Half(half, slice);
        let x_values = card(x_card);
        layer_norm::cuda::forward(gpu, x_values, weight_card, bias_card, 1e-6, card(y), mean, rstd).unwrap();
        let dy_card = arena.upload(&dy).unwrap();
        let others = bits(half, &values(n, 11));
        let backward = |dx, write| {
            let partial = arena.alloc(layer_norm::cuda::partial_len(rows, d).unwrap()).unwrap();
            let (dweight, dbias) = (arena.zeros(d).unwrap(), arena.zeros(d).unwrap());
            layer_norm::cuda::backward(
                gpu,
                card(dy_card),
                x_values,
                weight_card,
                mean,
                rstd,
                card(dx),
                write,
                partial,
                dweight,
                dbias,
            )
            .unwrap();
            (dx, dweight, dbias)
        };
        let (sum, _, _) = backward(arena.upload(&others).unwrap(), Write::Add);
        let (dx, dweight, dbias) = backward(arena.alloc(n).unwrap(), Write::Set);
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
        let others = wide(half, &others);
        let expected: Vec<f64> = edx.iter().zip(&others).map(|(dx, other)| dx + other).collect();
        let got = wide(half, &gpu.stream().download(sum).unwrap());
        close(&format!("dx added in {what}"), &got, &expected, |i| unit(half) * expected[i].abs() + 32.0 * few + UNIT);
        for (name, slice, expected) in [("dweight", dweight, edweight), ("dbias", dbias, edbias)] {
            let got = f64s(&gpu.stream().download(slice).unwrap());
            close(&format!("{name} of {what}"), &got, &expected, |_| 8.0 * rows as f64 * (few + rows as f64 * UNIT));
        }
    }
}
