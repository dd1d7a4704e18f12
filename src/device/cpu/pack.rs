//! Operands of the matrix product laid out as the micro-kernels read them.
#![forbid(unsafe_code)]

use super::gemm::Mat;
use super::kernel::Words;
use super::transpose::transpose;
use super::{Buffer, vector};
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a cache line; the first panel begins on one.
const LINE: usize = 16;

/// Words of a row that are made and transposed at a time where a word holds a pair.
const PAIRS: usize = 64;
/// Rows of the matrix that one task packs, about: as many lines of a column are read in one go where columns are contiguous.
const TOGETHER: usize = 128;
/// The widest panel.
const WIDEST: usize = 32;

/// Who packs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The calling thread.
    Caller,
    /// All threads.
    All,
}

/// A matrix cut into panels of `width` rows, each stored word by word along the rows; a short panel is filled up with
/// zeros, and so is the last pair of an odd row.
pub(super) struct Packed {
    buffer: Buffer,
    /// Where the first panel begins in the buffer.
    start: usize,
    width: usize,
    /// Words of a row.
    depth: usize,
}

impl Packed {
    /// The panels of `m`.
    pub fn new(m: Mat, width: usize, words: Words, by: By) -> Self {
        let depth = if words == Words::Pairs { m.cols.div_ceil(2) } else { m.cols };
        let len = m.rows.div_ceil(width) * width * depth;
        let mut buffer = Buffer::scratch(len + LINE);
        let start = buffer.as_slice().as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let panels = &mut buffer.as_mut_slice()[start..start + len];
        let together = (TOGETHER / width).max(1);
        let fill = |(index, out): (usize, &mut [f32])| {
            let first = index * together * width;
            let m = m.row_range(first, (together * width).min(m.rows - first));
            if words == Words::F32 && m.row_stride == 1 {
                return pack_columns(m, width, depth, out);
            }
            for (panel, out) in out.chunks_exact_mut(width * depth).enumerate() {
                let m = m.row_range(panel * width, width.min(m.rows - panel * width));
                match words {
                    Words::F32 => pack(m, width, out),
                    Words::Rounded => {
                        pack(m, width, out);
                        vector::round_bf16(out);
                    }
                    Words::Pairs => pack_pairs(m, width, out),
                }
            }
        };
        let task = together * width * depth;
        match by {
            _ if len == 0 => {}
            By::Caller => panels.chunks_mut(task).enumerate().for_each(fill),
            By::All => panels.par_chunks_mut(task).enumerate().for_each(fill),
        }
        Packed { buffer, start, width, depth }
    }

    /// Words of a row: the inner size as the kernels count it.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Words `range` of panel `index`.
    pub fn panel(&self, index: usize, range: Range<usize>) -> &[f32] {
        let first = self.start + index * self.width * self.depth;
        &self.buffer.as_slice()[first + range.start * self.width..first + range.end * self.width]
    }
}

/// `out[l * width + i] = m(i, l)`, and zero for rows that `m` lacks.
fn pack(m: Mat, width: usize, out: &mut [f32]) {
    if m.row_stride == 1 {
        return pack_columns(m, width, m.cols, out);
    }
    if m.rows < width {
        out.fill(0.0);
    }
    assert_eq!(m.col_stride, 1, "rows or columns of a matrix are contiguous");
    transpose(m.data, m.row_stride, m.rows, width, out);
}

/// The panels of a matrix whose columns are contiguous, filled side by side, so that a column is read in one go.
fn pack_columns(m: Mat, width: usize, depth: usize, out: &mut [f32]) {
    match width {
        6 => columns::<6>(m, depth, out),
        12 => columns::<12>(m, depth, out),
        16 => columns::<16>(m, depth, out),
        32 => columns::<32>(m, depth, out),
        _ => short_columns(m, width, depth, 0, out),
    }
}

/// See [`pack_columns`]: whole panels by copies whose length the compiler knows, which cost no call.
fn columns<const WIDTH: usize>(m: Mat, depth: usize, out: &mut [f32]) {
    let whole = m.rows / WIDTH;
    for l in 0..depth {
        let column = &m.data[l * m.col_stride..][..m.rows];
        for (panel, values) in column.as_chunks::<WIDTH>().0.iter().enumerate() {
            out[(panel * depth + l) * WIDTH..][..WIDTH].copy_from_slice(values);
        }
    }
    short_columns(m, WIDTH, depth, whole, out);
}

/// See [`pack_columns`]: the panels from `first` on, a short one filled up with zeros.
fn short_columns(m: Mat, width: usize, depth: usize, first: usize, out: &mut [f32]) {
    for (panel, out) in out.chunks_exact_mut(width * depth).enumerate().skip(first) {
        let rows = width.min(m.rows - panel * width);
        for (l, out) in out.chunks_exact_mut(width).enumerate() {
            out[..rows].copy_from_slice(&m.data[l * m.col_stride + panel * width..][..rows]);
            out[rows..].fill(0.0);
        }
    }
}

/// `out[l * width + i]` holds m(i, 2 l) and m(i, 2 l + 1) in bf16; zero for what `m` lacks.
fn pack_pairs(m: Mat, width: usize, out: &mut [f32]) {
    assert!(width <= WIDEST, "a panel of {width} rows");
    if m.rows < width {
        out.fill(0.0);
    }
    if m.row_stride == 1 {
        let column = |l: usize| &m.data[l * m.col_stride..][..m.rows];
        for (l, out) in out.chunks_exact_mut(width).enumerate() {
            let high = if 2 * l + 1 < m.cols { column(2 * l + 1) } else { &[0.0; WIDEST][..m.rows] };
            vector::pair_bf16(column(2 * l), high, &mut out[..m.rows]);
        }
        return;
    }
    assert_eq!(m.col_stride, 1, "rows or columns of a matrix are contiguous");
    let mut pairs = [0.0; WIDEST * PAIRS];
    for (block, out) in out.chunks_mut(width * PAIRS).enumerate() {
        let first = 2 * PAIRS * block;
        let len = (m.cols - first).min(2 * PAIRS);
        for (i, pairs) in pairs.chunks_exact_mut(PAIRS).take(m.rows).enumerate() {
            vector::pairs_bf16(&m.data[i * m.row_stride + first..][..len], pairs);
        }
        transpose(&pairs, PAIRS, m.rows, width, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_lie_where_elements_would() {
        for (rows, cols) in [(1, 1), (12, 128), (13, 129), (31, 300), (32, 7)] {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.3).sin()).collect();
            for m in [Mat::new(&values, rows, cols), Mat::new(&values, cols, rows).t()] {
                for width in [12, 32] {
                    let packed = Packed::new(m, width, Words::Pairs, By::Caller);
                    assert_eq!(packed.depth(), cols.div_ceil(2));
                    for i in 0..rows.div_ceil(width) * width {
                        let panel = packed.panel(i / width, 0..packed.depth());
                        for l in 0..cols.div_ceil(2) * 2 {
                            let word = panel[l / 2 * width + i % width].to_bits();
                            let got = if l % 2 == 0 { word as u16 } else { (word >> 16) as u16 };
                            let inside = i < rows && l < cols;
                            let want = if inside { m.data[i * m.row_stride + l * m.col_stride] } else { 0.0 };
                            assert_eq!(got, half::bf16::from_f32(want).to_bits(), "({i}, {l}) of {rows} x {cols}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn elements_lie_in_panels_side_by_side() {
        let shapes = [1, 5, 126, 127, 128, 129, 300].into_iter().flat_map(|rows| [(rows, 1), (rows, 37)]);
        for ((rows, cols), width) in shapes.flat_map(|shape| [4, 6, 8, 12, 16, 32].map(|width| (shape, width))) {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.3).sin() + 2.0).collect();
            for m in [Mat::new(&values, rows, cols), Mat::new(&values, cols, rows).t()] {
                for (words, by) in [(Words::F32, By::All), (Words::F32, By::Caller), (Words::Rounded, By::All)] {
                    let packed = Packed::new(m, width, words, by);
                    for (i, l) in (0..rows.div_ceil(width) * width).flat_map(|i| (0..cols).map(move |l| (i, l))) {
                        let got = packed.panel(i / width, 0..cols)[l * width + i % width];
                        let want = if i < rows { m.data[i * m.row_stride + l * m.col_stride] } else { 0.0 };
                        let want = if words == Words::F32 { want } else { half::bf16::from_f32(want).to_f32() };
                        assert_eq!(got, want, "({i}, {l}) of {rows} x {cols} in panels of {width}");
                    }
                }
            }
        }
    }
}
