//! Operands of the matrix product laid out as the micro-kernels read them.
#![forbid(unsafe_code)]

use super::gemm::Mat;
use super::kernel::Words;
use super::transpose::transpose;
use super::vector::fetch;
use super::{Buffer, pairs, vector};
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a cache line; the first panel begins on one.
const LINE: usize = 16;

/// Elements of a row that are read in one go, so that the processor sees a stream.
const BLOCK: usize = 512;
/// Words from row to row of a block: no power of two, so that the rows do not compete for the same lines of the cache.
const BLOCK_STRIDE: usize = BLOCK + LINE;
/// How many rows of a block the processor is told ahead which it will read.
const ROWS_AHEAD: usize = 2;
/// As [`ROWS_AHEAD`], of columns.
pub(super) const COLUMNS_AHEAD: usize = 8;
/// Rows of the matrix that one task packs, about: as many lines of a column are read in one go where columns are contiguous.
pub(super) const TOGETHER: usize = 128;
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
    /// Where the first panel begins in the buffer, and how long all are.
    start: usize,
    len: usize,
    width: usize,
    /// Words of a row.
    depth: usize,
}

impl Packed {
    /// The panels of `m`.
    pub fn new(m: Mat, width: usize, words: Words, by: By) -> Self {
        let mut packed = Self::room(m.rows, m.cols, width, words);
        let depth = packed.depth;
        let panels = packed.all_mut();
        let len = panels.len();
        let together = (TOGETHER / width).max(1);
        let fill = |(index, out): (usize, &mut [f32])| {
            let first = index * together * width;
            let m = m.row_range(first, (together * width).min(m.rows - first));
            if m.row_stride == 1 {
                return match words {
                    Words::F32 => pack_columns(m, width, depth, out),
                    Words::Rounded => {
                        pack_columns(m, width, depth, out);
                        vector::round_bf16(out);
                    }
                    Words::Pairs => pack_pair_columns(m, width, depth, out),
                };
            }
            let panels = &mut out.chunks_exact_mut(width * depth).collect::<Vec<_>>();
            pack_into(m, width, words, panels);
        };
        let task = together * width * depth;
        match by {
            _ if len == 0 => {}
            By::Caller => panels.chunks_mut(task).enumerate().for_each(fill),
            By::All => panels.par_chunks_mut(task).enumerate().for_each(fill),
        }
        packed
    }

    /// Room for the panels of a matrix of `rows` x `cols`, which hold anything.
    pub fn room(rows: usize, cols: usize, width: usize, words: Words) -> Self {
        let depth = if words == Words::Pairs { cols.div_ceil(2) } else { cols };
        let len = rows.div_ceil(width) * width * depth;
        let buffer = Buffer::scratch(len + LINE);
        let start = buffer.as_slice().as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Packed { buffer, start, len, width, depth }
    }

    fn all_mut(&mut self) -> &mut [f32] {
        &mut self.buffer.as_mut_slice()[self.start..self.start + self.len]
    }

    /// All panels, one after the other, each cut into runs of `words` words a row.
    pub fn parts_mut(&mut self, words: usize) -> impl Iterator<Item = std::slice::ChunksMut<'_, f32>> {
        let (panel, part) = (self.width * self.depth, self.width * words);
        self.all_mut().chunks_exact_mut(panel.max(1)).map(move |panel| panel.chunks_mut(part.max(1)))
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

/// Packs the rows of `m`, which are contiguous, each panel where `panels` says.
pub(super) fn pack_into(m: Mat, width: usize, words: Words, panels: &mut [&mut [f32]]) {
    let mut block = Buffer::scratch(width * BLOCK_STRIDE);
    for (panel, out) in panels.iter_mut().enumerate() {
        let m = m.row_range(panel * width, width.min(m.rows - panel * width));
        pack_rows(m, width, words, block.as_mut_slice(), out);
    }
}

/// A panel of a matrix whose rows are contiguous: `out[l * width + i]` is word l of row i, zero for rows that `m` lacks.
/// `block` is room to work in.
fn pack_rows(m: Mat, width: usize, words: Words, block: &mut [f32], out: &mut [f32]) {
    assert_eq!(m.col_stride, 1, "rows or columns of a matrix are contiguous");
    if m.rows < width {
        out.fill(0.0);
    }
    let per_word = if words == Words::Pairs { 2 } else { 1 };
    for (index, out) in out.chunks_mut(width * BLOCK / per_word).enumerate() {
        let (first, len) = (index * BLOCK, (m.cols - index * BLOCK).min(BLOCK));
        for (i, row) in block.chunks_exact_mut(BLOCK_STRIDE).take(m.rows).enumerate() {
            let (elements, row) = (&m.data[i * m.row_stride + first..][..len], &mut row[..len.div_ceil(per_word)]);
            let (ahead, column, some) = match i + ROWS_AHEAD {
                ahead if ahead < m.rows => (ahead, first, len),
                ahead => (ahead - m.rows, first + len, (m.cols - first - len).min(BLOCK)),
            };
            fetch(m.data, ahead * m.row_stride + column, some);
            match words {
                Words::F32 => row.copy_from_slice(elements),
                Words::Rounded => {
                    row.copy_from_slice(elements);
                    vector::round_bf16(row);
                }
                Words::Pairs => pairs::neighbours(elements, row),
            }
        }
        transpose(block, BLOCK_STRIDE, m.rows, width, out);
    }
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
        fetch(m.data, (l + COLUMNS_AHEAD) * m.col_stride, m.rows);
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

/// See [`pack_columns`], of words that hold pairs.
fn pack_pair_columns(m: Mat, width: usize, depth: usize, out: &mut [f32]) {
    match width {
        12 => pairs::columns::<12>(m.data, m.col_stride, m.rows, m.cols, depth, out),
        32 => pairs::columns::<32>(m.data, m.col_stride, m.rows, m.cols, depth, out),
        _ => unreachable!("no kernel reads pairs in panels of {width} rows"),
    }
    let (rows, first) = (m.rows % width, m.rows - m.rows % width);
    if rows == 0 {
        return;
    }
    for (l, out) in out[m.rows / width * width * depth..].chunks_exact_mut(width).enumerate() {
        let column = |l: usize| &m.data[l * m.col_stride + first..][..rows];
        let high = if 2 * l + 1 < m.cols { column(2 * l + 1) } else { &[0.0; WIDEST][..rows] };
        pairs::side_by_side(column(2 * l), high, &mut out[..rows]);
        out[rows..].fill(0.0);
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
