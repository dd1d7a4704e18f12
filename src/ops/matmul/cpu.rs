//! The linear layer on the CPU: tiled products, bias and residual added while a tile is in cache.
#![forbid(unsafe_code)]

use crate::device::cpu::gemm::{Mat, Write, par_gemm};
use crate::device::cpu::vector;
use rayon::prelude::*;

/// Columns of one task of the bias gradient.
const COLUMNS: usize = 64;

/// y (rows, n_out) = x (rows, n_in) W^T + b, plus `residual` (rows, n_out) when given.
pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], residual: Option<&[f32]>, y: &mut [f32], k: usize) {
    let n = bias.len();
    let m = x.len() / k;
    par_gemm(y, Mat::new(x, m, k), Mat::new(weight, n, k).t(), Write::Set, &|row, column, segment| {
        vector::add(segment, &bias[column..column + segment.len()]);
        if let Some(residual) = residual {
            let start = row * n + column;
            vector::add(segment, &residual[start..start + segment.len()]);
        }
    });
}

/// dx (rows, n_in) = dy (rows, n_out) W.
pub fn backward_dx(dy: &[f32], weight: &[f32], dx: &mut [f32], n: usize, k: usize) {
    let m = dy.len() / n;
    par_gemm(dx, Mat::new(dy, m, n), Mat::new(weight, n, k), Write::Set, &|_, _, _| {});
}

/// dW (n_out, n_in) += dy^T x.
pub fn backward_dweight_add(dy: &[f32], x: &[f32], dweight: &mut [f32], n: usize, k: usize) {
    let m = dy.len() / n;
    par_gemm(dweight, Mat::new(dy, m, n).t(), Mat::new(x, m, k), Write::Add, &|_, _, _| {});
}

/// db (n_out) += column sums of dy: each task owns a run of columns and adds the rows in order.
pub fn backward_dbias_add(dy: &[f32], dbias: &mut [f32]) {
    let n = dbias.len();
    dbias.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, dbias)| {
        let first = task * COLUMNS;
        for row in dy.chunks_exact(n) {
            vector::add(dbias, &row[first..first + dbias.len()]);
        }
    });
}
