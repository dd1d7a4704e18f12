//! Layer norm on the CPU: rows over threads, weight and bias gradients through ordered partial sums.
#![forbid(unsafe_code)]

use crate::device::cpu::gemm::{Operands, Rows, Write};
use crate::device::cpu::vector::{self, Moments};
use rayon::prelude::*;

/// Rows a task works on; fixed, so that the order of the sums does not depend on the number of threads.
const ROWS: usize = 64;

/// Rows that stay in the first cache, about, until they are packed.
const ROWS_IN_CACHE: usize = 8;

/// How many rows ahead the processor is told which it will read.
const ROWS_AHEAD: usize = 2;

/// y and, for each row, mean and reciprocal deviation.
pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], rstd: &mut [f32]) {
    let d = weight.len();
    let statistics = mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS));
    let rows = y.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
    rows.zip(statistics).with_max_len(1).for_each(|((y, x), (mean, rstd))| {
        for (i, (y, x)) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).enumerate() {
            let row = moments(x, eps);
            (mean[i], rstd[i]) = (row.mean, row.rstd);
            vector::normalise(x, row, weight, bias, y);
        }
    });
}

/// y as the left operand of a product; for each row, mean and reciprocal deviation.
pub fn forward_rows(
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    eps: f32,
    operands: Operands,
    mean: &mut [f32],
    rstd: &mut [f32],
) -> Rows {
    let d = weight.len();
    let statistics = mean.chunks_mut(ROWS_IN_CACHE).zip(rstd.chunks_mut(ROWS_IN_CACHE));
    let firsts = (0..x.len() / d).step_by(ROWS_IN_CACHE);
    let parts = firsts.zip(statistics).map(|part| (part.1.0.len(), part)).collect();
    Rows::filled([x.len() / d, d], operands, parts, |(first, (mean, rstd)), y, stride| {
        for i in 0..mean.len() {
            vector::fetch(x, (first + i + ROWS_AHEAD) * d, d);
            let x = &x[(first + i) * d..][..d];
            let row = moments(x, eps);
            (mean[i], rstd[i]) = (row.mean, row.rstd);
            vector::normalise(x, row, weight, bias, &mut y[i * stride..][..d]);
        }
    })
}

fn moments(x: &[f32], eps: f32) -> Moments {
    let d = x.len() as f32;
    let mean = vector::sum(x) / d;
    let variance = vector::sum_of_squared_deviations(x, mean) / d;
    Moments { mean, rstd: 1.0 / (variance + eps).sqrt() }
}

/// Sets dx; returns (dweight, dbias).
pub fn backward(
    x: &[f32],
    weight: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    write: Write,
) -> (Vec<f32>, Vec<f32>) {
    let d = weight.len();
    let operands = x.par_chunks(ROWS * d).zip(dy.par_chunks(ROWS * d));
    let statistics = mean.par_chunks(ROWS).zip(rstd.par_chunks(ROWS));
    let tasks = dx.par_chunks_mut(ROWS * d).zip(operands).zip(statistics).with_max_len(1);
    let partial: Vec<(Vec<f32>, Vec<f32>)> = tasks
        .map(|((dx, (x, dy)), (mean, rstd))| {
            let (mut dweight, mut dbias, mut g, mut row_dx) = (vec![0.0; d], vec![0.0; d], vec![0.0; d], vec![0.0; d]);
            let rows = dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d));
            for (i, ((dx, x), dy)) in rows.enumerate() {
                let row = Moments { mean: mean[i], rstd: rstd[i] };
                vector::normalise_backward(x, dy, row, weight, &mut dweight, &mut dbias, &mut g);
                let a = vector::sum(&g) / d as f32;
                let b = vector::dot_deviation(&g, x, row.mean) * row.rstd * row.rstd / d as f32;
                match write {
                    Write::Set => vector::centre(&g, x, row, a, b, dx),
                    Write::Add => {
                        vector::centre(&g, x, row, a, b, &mut row_dx);
                        vector::add(dx, &row_dx);
                    }
                }
            }
            (dweight, dbias)
        })
        .collect();
    let (mut dweight, mut dbias) = (vec![0.0; d], vec![0.0; d]);
    for (w, b) in &partial {
        vector::add(&mut dweight, w);
        vector::add(&mut dbias, b);
    }
    (dweight, dbias)
}
