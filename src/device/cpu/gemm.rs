//! Matrix products in f32 over strided views: one thread, or tiles whose borders depend on the shape alone.
//!
//! Each output element is summed by one call in one order, so results do not depend on the number of threads.
#![allow(unsafe_code)]

use rayon::prelude::*;

/// A read-only matrix: element (i, j) lies at `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A contiguous row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that begin `row_stride` apart. Panics when the last row leaves `data`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let needed = reach(rows, cols, row_stride);
        assert!(data.len() >= needed, "a {rows} x {cols} matrix needs {needed} elements, not {}", data.len());
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, as a view.
    pub fn t(self) -> Self {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }

    /// Rows `first..first + rows` as a view.
    fn row_range(self, first: usize, rows: usize) -> Self {
        assert!(first + rows <= self.rows, "rows {first}+{rows} leave a matrix of {}", self.rows);
        let start = if rows == 0 { 0 } else { first * self.row_stride };
        Mat { data: &self.data[start.min(self.data.len())..], rows, ..self }
    }

    /// Columns `first..first + cols` as a view.
    fn col_range(self, first: usize, cols: usize) -> Self {
        self.t().row_range(first, cols).t()
    }
}

/// Elements from the first of a matrix to its last. Panics when that is more than memory can hold.
fn reach(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    let last_row = (rows - 1).checked_mul(row_stride);
    last_row.and_then(|start| start.checked_add(cols)).expect("a matrix beyond memory")
}

/// Whether a product overwrites its output or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The output is overwritten; its old contents are not read.
    Set,
    /// The product is added to the output.
    Add,
}

/// `out (+)= alpha * a b` on the calling thread, `out` of a.rows rows that begin `row_stride` apart.
pub fn gemm(out: &mut [f32], row_stride: usize, a: Mat, b: Mat, alpha: f32, write: Write) {
    let (m, n) = (a.rows, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert!(row_stride >= n && out.len() >= reach(m, n, row_stride), "a product leaves its output");
    // SAFETY: `out` holds m rows of n elements at `row_stride` (asserted above) and is borrowed mutably.
    unsafe { gemm_into(out.as_mut_ptr(), row_stride, a, b, alpha, write) }
}

/// # Safety
/// `out` must point to a.rows rows of b.cols writable elements, `row_stride` apart, that no other thread touches.
unsafe fn gemm_into(out: *mut f32, row_stride: usize, a: Mat, b: Mat, alpha: f32, write: Write) {
    assert_eq!(a.cols, b.rows, "inner sizes of a product differ");
    let add = write == Write::Add;
    // SAFETY: the output is the caller's promise; `a` and `b` hold every element that their strides reach (checked by
    // `Mat::strided`, kept by `t` and the range views). With an inner size of 0 nothing of `a` and `b` is read.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            row_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A pointer to the output that tiles of one product share; each tile writes its own rectangle.
#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: `par_gemm` hands every tile a disjoint rectangle of the output, so no element is reached by two threads.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// Tile sides for an (m, n) output: large enough to amortise packing, small enough to share among cores, and as even
/// as the micro-kernels' multiples allow.
fn tile(m: usize, n: usize) -> (usize, usize) {
    let even = |len: usize, most: usize, step: usize| {
        let tiles = len.div_ceil(most).max(1);
        len.div_ceil(tiles).next_multiple_of(step).min(len.max(1))
    };
    (even(m, if m >= 1024 { 256 } else { 128 }, 24), even(n, if m >= 512 { 1024 } else { 192 }, 16))
}

/// `out (+)= a b` in parallel, `out` contiguous (a.rows, b.cols). After a tile is done, `finish(row, first column,
/// segment)` is called for each of its row segments while they are in cache: the place of fused epilogues.
pub fn par_gemm(out: &mut [f32], a: Mat, b: Mat, write: Write, finish: &(dyn Fn(usize, usize, &mut [f32]) + Sync)) {
    let (m, n) = (a.rows, b.cols);
    assert_eq!(out.len(), m * n, "a product does not fill its output");
    if m == 0 || n == 0 {
        return;
    }
    let (tile_rows, tile_cols) = tile(m, n);
    let (row_tiles, col_tiles) = (m.div_ceil(tile_rows), n.div_ceil(tile_cols));
    let output = &Output(out.as_mut_ptr());
    (0..row_tiles * col_tiles).into_par_iter().for_each(|index| {
        let (i, j) = ((index / col_tiles) * tile_rows, (index % col_tiles) * tile_cols);
        let (rows, cols) = (tile_rows.min(m - i), tile_cols.min(n - j));
        // SAFETY: the rectangle (i..i + rows, j..j + cols) lies inside the output and belongs to this tile alone.
        unsafe {
            gemm_into(output.0.add(i * n + j), n, a.row_range(i, rows), b.col_range(j, cols), 1.0, write);
        }
        for row in i..i + rows {
            // SAFETY: as above; the slice covers this tile's columns of one row.
            let segment = unsafe { std::slice::from_raw_parts_mut(output.0.add(row * n + j), cols) };
            finish(row, j, segment);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::vector::UNIT_F32;
    use crate::rng::{Purpose, Stream};

    fn values(len: usize, a: u32) -> Vec<f32> {
        let mut stream = Stream::new(1, Purpose::Fixture, a, 0);
        (0..len).map(|_| stream.uniform24() * 2.0 - 1.0).collect()
    }

    #[test]
    fn products_of_awkward_shapes_match_loops() {
        for (m, n, k) in
            [(0, 3, 2), (1, 1, 1), (2, 3, 0), (7, 5, 3), (3, 4, 0), (33, 197, 31), (197, 33, 64), (300, 1100, 65)]
        {
            let (a, b) = (values(m * k, 0), values(k * n, 1));
            let start = values(m * n, 2);
            for write in [Write::Set, Write::Add] {
                let mut out = start.clone();
                par_gemm(&mut out, Mat::new(&a, m, k), Mat::new(&b, k, n), write, &|row, col, segment| {
                    segment.iter_mut().enumerate().for_each(|(j, v)| *v += (row * 1000 + col + j) as f32 * 1e-3);
                });
                for i in 0..m {
                    for j in 0..n {
                        let mut exact = if write == Write::Add { f64::from(start[i * n + j]) } else { 0.0 };
                        exact += (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum::<f64>();
                        exact += f64::from((i * 1000 + j) as f32 * 1e-3);
                        // k products of at most 1, a sum, and the epilogue's rounding.
                        let budget = (k as f64 + 2.0) * UNIT_F32 * (1.0 + k as f64 + exact.abs());
                        let got = f64::from(out[i * n + j]);
                        assert!((got - exact).abs() <= budget, "({m},{n},{k}) at ({i},{j}): {got} not {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (m, n, k) = (700, 450, 130);
        let (a, b) = (values(m * k, 3), values(k * n, 4));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; m * n];
            pool.install(|| par_gemm(&mut out, Mat::new(&a, m, k), Mat::new(&b, k, n), Write::Set, &|_, _, _| {}));
            out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(3));
    }
}
