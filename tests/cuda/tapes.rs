//! Ops on a tape of the card beside the same tape on the CPU: outputs and gradients.
#![forbid(unsafe_code)]

use super::support::*;
use dynavit::device::cuda::{Gpu, Store};
use dynavit::error::Result;
use dynavit::ops::{assemble, cross_entropy, drop_path, gather, layer_norm, layer_scale, patchify, residual};
use dynavit::rng::{Purpose, Stream};
use dynavit::tape::{ParamArena, ParamId, Tape, Var};
use dynavit::tensor::Tensor;
use std::sync::Arc;

/// An op: its first `activations` inputs are stored as the card computes, the rest are parameters of f32.
struct Case<'a> {
    what: String,
    inputs: Vec<Vec<usize>>,
    activations: usize,
    run: &'a dyn Fn(&mut Tape, &[Var]) -> Result<Var>,
    /// Values that an element of a result is a sum of, at most.
    terms: usize,
}

/// Output and flat gradient, on the host.
fn both(case: &Case, gpu: Option<&Arc<Gpu>>) -> (Vec<f32>, Vec<f32>) {
    let specs: Vec<_> =
        case.inputs.iter().enumerate().map(|(i, shape)| (format!("input {i}"), shape.clone())).collect();
    let mut params = ParamArena::new(&specs);
    for (i, shape) in case.inputs.iter().enumerate() {
        // Eighths below 2 are exact in every type, so that both devices see the same.
        let eighths = values(shape.iter().product(), i as u32).into_iter().map(|v| (v * 16.0).round() / 8.0);
        params.values_mut(ParamId(i)).copy_from_slice(&eighths.collect::<Vec<_>>());
    }
    let mut flat = Tensor::zeros(&[params.flat().len()]);
    if let Some(gpu) = gpu {
        params.move_to(gpu).unwrap();
        flat = flat.to_card(gpu).unwrap();
    }
    let mut tape = Tape::new();
    let vars: Vec<Var> = (0..case.inputs.len())
        .map(|i| {
            let mut var = params.var(ParamId(i));
            if i < case.activations {
                var.value = var.compute().clone().into_unique().unwrap();
            }
            var
        })
        .collect();
    let y = (case.run)(&mut tape, &vars).unwrap();
    let mut stream = Stream::new(3, Purpose::Fixture, 9, 9);
    let dy = (0..y.value.len()).map(|_| f32::from(stream.below(33) as u16) / 8.0 - 2.0).collect();
    let mut dy = Tensor::from_vec(dy, y.shape());
    if let Some(gpu) = gpu {
        dy = dy.to_card(gpu).unwrap();
        // The loss stays in f32, and so does what comes back to it.
        if y.value.values().store() == gpu.compute() {
            dy = dy.narrowed().unwrap();
        }
    }
    tape.backward(&y, dy, &params, &mut flat).unwrap();
    (y.value.to_host().unwrap().data().to_vec(), flat.to_host().unwrap().data().to_vec())
}

fn compare(gpu: &Arc<Gpu>, case: Case) {
    let ((y, grads), (host_y, host_grads)) = (both(&case, Some(gpu)), both(&case, None));
    let unit = gpu.compute().half().map_or(UNIT, unit);
    for (name, got, want) in [("", y, host_y), ("gradient of ", grads, host_grads)] {
        let want = f64s(&want);
        // A sum rounds in f32 once a term, each term below 4; the result rounds once when it is stored.
        let bound = |i: usize| unit * want[i].abs() * 1.01 + 8.0 * (case.terms * case.terms) as f64 * UNIT;
        close(&format!("{name}{} in {:?}", case.what, gpu.compute()), &f64s(&got), &want, bound);
    }
}

fn indices(n: usize, below: usize, first: usize) -> Arc<[u32]> {
    (0..n).map(|i| (first + (i * 7 + i / below) % below) as u32).collect()
}

pub fn check(gpu: &Arc<Gpu>) {
    for (b, n, k, d) in [(1, 1, 1, 4), (2, 5, 3, 8), (3, 7, 7, 132), (1, 60, 41, 64), (5, 3, 1, 192), (2, 9, 4, 516)] {
        let kept = indices(b * k, n, 0);
        compare(
            gpu,
            Case {
                what: format!("gather {b} x {n} x {k} x {d}"),
                inputs: vec![vec![b, n, d]],
                activations: 1,
                run: &|tape, v| gather::forward(Some(tape), &v[0], &kept, k),
                terms: k,
            },
        );
        let rows = indices(b * k, n, 1);
        compare(
            gpu,
            Case {
                what: format!("assemble {b} x {n} x {k} x {d}"),
                inputs: vec![vec![b, k, d], vec![1, 1, d], vec![1, n + 1, d]],
                activations: 1,
                run: &|tape, v| assemble::forward(Some(tape), &v[0], &v[1], &v[2], &rows),
                terms: b * k,
            },
        );
        compare(
            gpu,
            Case {
                what: format!("residual {b} x {k} x {d}"),
                inputs: vec![vec![b, k, d], vec![b, k, d]],
                activations: 2,
                run: &|tape, v| residual::forward(Some(tape), &v[0], &v[1]),
                terms: 2,
            },
        );
    }
    for (rows, d) in [(1, 64), (7, 128), (60, 192), (3, 768), (138, 384), (5, 1024), (2, 100), (129, 64)] {
        compare(
            gpu,
            Case {
                what: format!("layer norm {rows} x {d}"),
                inputs: vec![vec![rows, d], vec![d], vec![d]],
                activations: 1,
                run: &|tape, v| layer_norm::forward(Some(tape), &v[0], &v[1], &v[2], 1e-6),
                terms: rows.max(32),
            },
        );
        // The gradient of a residual is there before that of the layer norm, which adds to it. In f32, where what is stored
        // between the ops is rounded as their sums are.
        if gpu.compute() == Store::F32 {
            compare(
                gpu,
                Case {
                    what: format!("layer norm {rows} x {d} and a residual"),
                    inputs: vec![vec![rows, d], vec![d], vec![d]],
                    activations: 1,
                    run: &|tape, v| {
                        let twice = residual::forward(Some(tape), &v[0], &v[0])?;
                        let normal = layer_norm::forward(Some(tape), &twice, &v[1], &v[2], 1e-6)?;
                        residual::forward(Some(tape), &twice, &normal)
                    },
                    terms: rows.max(32),
                },
            );
        }
    }
    for (b, n, d) in
        [(1, 1, 4), (2, 3, 8), (3, 7, 132), (5, 1, 192), (1, 60, 64), (2, 9, 516), (4, 2, 1028), (7, 5, 12)]
    {
        compare(
            gpu,
            Case {
                what: format!("layer scale {b} x {n} x {d}"),
                inputs: vec![vec![b, n, d], vec![d]],
                activations: 1,
                run: &|tape, v| layer_scale::forward(Some(tape), &v[0], &v[1]),
                terms: b * n,
            },
        );
        // Left out, or kept with more weight.
        let scales: Arc<[f32]> = (0..b).map(|image| [1.5, 0.0, 4.0][image % 3]).collect();
        compare(
            gpu,
            Case {
                what: format!("drop path {b} x {n} x {d}"),
                inputs: vec![vec![b, n, d], vec![b, n, d]],
                activations: 2,
                run: &|tape, v| drop_path::forward(Some(tape), &v[0], &v[1], &scales),
                terms: 2,
            },
        );
    }
    for (b, classes) in [(1, 1), (1, 2), (3, 5), (7, 31), (33, 100), (4, 33), (5, 200), (130, 7)] {
        for smoothing in [0.0, 0.1] {
            let labels: Vec<usize> = (0..b).map(|i| (i * 7 + 3) % classes).collect();
            compare(
                gpu,
                Case {
                    what: format!("cross entropy {b} x {classes}, smoothing {smoothing}"),
                    inputs: vec![vec![b, classes]],
                    activations: 1,
                    run: &|tape, v| cross_entropy::forward(Some(tape), &v[0], &labels, smoothing),
                    terms: 8,
                },
            );
            let mixed = cross_entropy::Mixed { others: labels.iter().rev().copied().collect(), weight: 0.3 };
            let both = cross_entropy::Labels { own: &labels, mixed: Some(&mixed) };
            compare(
                gpu,
                Case {
                    what: format!("mixed cross entropy {b} x {classes}, smoothing {smoothing}"),
                    inputs: vec![vec![b, classes]],
                    activations: 1,
                    run: &|tape, v| cross_entropy::forward(Some(tape), &v[0], both, smoothing),
                    terms: 8,
                },
            );
        }
    }
    for (b, c, h, w, p, kept) in [
        (1, 1, 2, 2, 2, vec![0]),
        (2, 3, 8, 12, 4, vec![0, 5, 2, 3]),
        (1, 3, 28, 28, 14, vec![3, 1]),
        (2, 3, 64, 48, 16, (0..12).chain(0..12).collect()),
    ] {
        let images = Tensor::from_vec(
            values(b * c * h * w, 3).iter().map(|v| (v * 16.0).round() / 8.0).collect(),
            &[b, c, h, w],
        );
        let k = kept.len() / b;
        let host = patchify::forward(&images, &kept, k, p).unwrap();
        let card = patchify::forward(&images.to_card(gpu).unwrap(), &kept, k, p).unwrap();
        assert_eq!(card.value.to_host().unwrap().data(), host.value.data(), "patchify {b} x {c} x {h} x {w}");
    }
}
