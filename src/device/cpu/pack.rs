//! Operands of the matrix product laid out as the micro-kernels read them.
#![forbid(unsafe_code)]

use super::Buffer;
use super::gemm::Mat;
use super::transpose::transpose;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a cache line; the first panel begins on one.
const LINE: usize = 16;

/// Who packs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The calling thread.
    Caller,
    /// All threads.
    All,
}

/// A matrix cut into panels of `width` rows, each stored column by column; a short panel is filled up with zeros.
pub(super) struct Packed {
    buffer: Buffer,
    /// Where the first panel begins in the buffer.
    start: usize,
    width: usize,
    cols: usize,
}

impl Packed {
    /// The panels of `m`.
    pub fn new(m: Mat, width: usize, by: By) -> Self {
        let cols = m.cols;
        let len = m.rows.div_ceil(width) * width * cols;
        let mut buffer = Buffer::scratch(len + LINE);
        let start = buffer.as_slice().as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let panels = &mut buffer.as_mut_slice()[start..start + len];
        let fill = |(index, out): (usize, &mut [f32])| {
            let first = index * width;
            pack(m.row_range(first, width.min(m.rows - first)), width, out);
        };
        match by {
            _ if len == 0 => {}
            By::Caller => panels.chunks_exact_mut(width * cols).enumerate().for_each(fill),
            By::All => panels.par_chunks_exact_mut(width * cols).enumerate().for_each(fill),
        }
        Packed { buffer, start, width, cols }
    }

    /// Columns `cols` of panel `index`.
    pub fn panel(&self, index: usize, cols: Range<usize>) -> &[f32] {
        let first = self.start + index * self.width * self.cols;
        &self.buffer.as_slice()[first + cols.start * self.width..first + cols.end * self.width]
    }
}

/// `out[l * width + i] = m(i, l)`, and zero for rows that `m` lacks.
fn pack(m: Mat, width: usize, out: &mut [f32]) {
    if m.rows < width {
        out.fill(0.0);
    }
    if m.row_stride == 1 {
        for (l, out) in out.chunks_exact_mut(width).enumerate() {
            out[..m.rows].copy_from_slice(&m.data[l * m.col_stride..][..m.rows]);
        }
        return;
    }
    assert_eq!(m.col_stride, 1, "rows or columns of a matrix are contiguous");
    transpose(m.data, m.row_stride, m.rows, width, out);
}
