//! The linear layer on the CPU: tiled products, with bias, residual and GELU while a tile is in cache.
#![forbid(unsafe_code)]

use crate::device::cpu::gemm::{
    Added, Last, Mat, Operands, Panels, Rows, Segment, Write, par_gemm_far, par_gemm_rows, par_gemm_to_rows,
};
use crate::device::cpu::{gelu, vector};
use std::sync::atomic::{AtomicBool, Ordering};

/// How many rows of a tile the processor is told ahead which it will read.
const ROWS_AHEAD: usize = 2;

/// What a tile of the product gets before it leaves the cache, beside the bias.
pub enum Finish<'a> {
    Nothing,
    /// y += residual (rows, n_out).
    Residual(&'a [f32]),
    /// gelu(y) goes into this second output (rows, n_out); y stays.
    GeluBeside(&'a mut [f32]),
}

/// W (n_out, n_in) as the right operand of `forward`.
pub fn panels(weight: &[f32], n: usize, k: usize, operands: Operands) -> Panels {
    Panels::new(Mat::new(weight, n, k).t(), operands)
}

/// x (rows, n_in) as the left operand of `forward`.
pub fn rows(x: &[f32], k: usize, operands: Operands) -> Rows {
    Rows::new(Mat::new(x, x.len() / k, k), operands)
}

/// y (rows, n_out) = x W^T + b of a packed x, then what `finish` says.
pub fn forward(x: &Rows, weight: &Panels, bias: &[f32], finish: Finish, y: &mut [f32]) {
    let added = Added { bias, residual: &[] };
    match finish {
        Finish::Nothing => par_gemm_rows(y, &mut [], x, weight, Write::Set, added, &|_| {}),
        Finish::Residual(residual) => {
            par_gemm_rows(y, &mut [], x, weight, Write::Set, Added { residual, ..added }, &|_| {});
        }
        Finish::GeluBeside(beside) => {
            par_gemm_rows(y, beside, x, weight, Write::Set, added, &|s| gelu::gelu(s.values, s.beside));
        }
    }
}

/// x W^T + b of a packed x, as products read it.
pub fn forward_rows(x: &Rows, weight: &Panels, bias: &[f32]) -> Rows {
    par_gemm_to_rows(x, weight, bias, &mut [], &mut [], Last::Nothing)
}

/// gelu(x W^T + b) of a packed x, as the left operand of another product; x W^T + b goes into `pre` unless that is empty.
pub fn gelu_rows(x: &Rows, weight: &Panels, bias: &[f32], pre: &mut [f32]) -> Rows {
    par_gemm_to_rows(x, weight, bias, pre, &mut [], Last::Gelu)
}

/// dy (rows, n_out) as the products of the way back read it; its rows' sum is added to `dbias`.
pub fn gradient_rows(dy: &[f32], operands: Operands, dbias: &mut [f32]) -> Rows {
    let n = dbias.len();
    Rows::new_adding_sums(Mat::new(dy, dy.len() / n, n), operands, dbias)
}

/// dx (rows, n_in) = dy (rows, n_out) W.
pub fn backward_dx(dy: &Rows, weight: &[f32], dx: &mut [f32], n: usize, k: usize, operands: Operands) {
    let weight = Panels::new(Mat::new(weight, n, k), operands);
    par_gemm_rows(dx, &mut [], dy, &weight, Write::Set, Added::default(), &|_| {});
}

/// What makes of a tile's rows of dx (rows, n_in) those of dx gelu'(pre).
fn gelu_slope(pre: &[f32], k: usize) -> impl Fn(Segment) + Sync {
    move |s| {
        let start = s.row * k + s.column;
        vector::fetch(pre, start + ROWS_AHEAD * k, s.values.len());
        gelu::gelu_backward(&pre[start..start + s.values.len()], s.values);
    }
}

/// dx (rows, n_in) = dy (rows, n_out) W gelu'(pre), for an input that was gelu(pre).
pub fn backward_dx_gelu(
    dy: &Rows,
    weight: &[f32],
    pre: &[f32],
    dx: &mut [f32],
    n: usize,
    k: usize,
    operands: Operands,
) {
    let weight = Panels::new(Mat::new(weight, n, k), operands);
    par_gemm_rows(dx, &mut [], dy, &weight, Write::Set, Added::default(), &gelu_slope(pre, k));
}

/// [`backward_dx_gelu`] as products read it; its rows' sum is added to `sums`.
pub fn backward_dx_gelu_rows(
    dy: &Rows,
    weight: &[f32],
    pre: &[f32],
    n: usize,
    operands: Operands,
    sums: &mut [f32],
) -> Rows {
    let k = sums.len();
    let weight = Panels::new(Mat::new(weight, n, k), operands);
    par_gemm_to_rows(dy, &weight, &[], &mut [], sums, Last::Made(&gelu_slope(pre, k)))
}

/// dW (n_out, n_in) (+)= dy^T x, of dy^T (n_out, rows) and x packed. The optimiser is the next to read it. Returns whether all of it is
/// finite, which is seen while it is in cache.
pub fn backward_dweight(dy: &Rows, x: &Panels, dweight: &mut [f32], write: Write) -> bool {
    let finite = AtomicBool::new(true);
    par_gemm_far(dweight, dy, x, write, &|s| {
        if !vector::finite(s.values) {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.into_inner()
}
