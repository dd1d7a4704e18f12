//! Views of matrices in memory.
#![forbid(unsafe_code)]

use super::kernel::{Form, Strips, Words};
use super::vector;
use std::ops::Range;

/// What lies in a word of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    /// An element.
    F32,
    /// Two elements in bf16, neighbours of a row, the earlier one in the lower half. A row begins with a word.
    Bf16,
}

/// A read-only matrix: element (i, j) is number `i * row_stride + j * col_stride` from the beginning of `data`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    pub(super) elements: Elements,
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
        Mat { data, rows, cols, row_stride, col_stride: 1, elements: Elements::F32 }
    }

    /// Rows of `cols` elements in bf16 that begin `stride` words apart. Panics when the last row leaves `words`.
    pub(super) fn pairs(words: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let needed = reach(rows, cols.div_ceil(2), stride);
        assert!(words.len() >= needed, "a {rows} x {cols} matrix needs {needed} words, not {}", words.len());
        Mat { data: words, rows, cols, row_stride: 2 * stride, col_stride: 1, elements: Elements::Bf16 }
    }

    /// How many rows there are.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// How many columns there are.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// The transpose, as a view.
    pub fn t(self) -> Self {
        let Mat { rows, cols, row_stride, col_stride, .. } = self;
        Mat { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride, ..self }
    }

    /// Rows and columns as a view. Panics when they leave the matrix, or begin inside a word.
    pub fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows && cols.start <= cols.end && cols.end <= self.cols,
            "rows {rows:?} and columns {cols:?} leave a matrix of {} x {}",
            self.rows,
            self.cols
        );
        let empty = rows.is_empty() || cols.is_empty();
        let first = if empty { 0 } else { self.word(rows.start, cols.start) };
        Mat { data: &self.data[first..], rows: rows.len(), cols: cols.len(), ..self }
    }

    /// Rows `first..first + rows` as a view.
    pub(super) fn row_range(self, first: usize, rows: usize) -> Self {
        self.block(first..first + rows, 0..self.cols)
    }

    /// The word that begins with an element.
    fn word(self, row: usize, col: usize) -> usize {
        let element = row * self.row_stride + col * self.col_stride;
        match self.elements {
            Elements::F32 => element,
            Elements::Bf16 => {
                assert!(element.is_multiple_of(2), "element ({row}, {col}) lies inside a word");
                element / 2
            }
        }
    }

    /// The words of some elements of a row, whose elements lie side by side; beside the last of an odd number lies whatever follows.
    pub(super) fn words(self, row: usize, cols: Range<usize>) -> &'a [f32] {
        assert!(self.col_stride == 1 && row < self.rows && cols.end <= self.cols, "elements side by side");
        &self.data[self.word(row, cols.start)..][..self.count(cols.len())]
    }

    /// `height` rows from `first` on as a kernel reads them, if they lie so: of them those beyond the matrix are whatever follows it.
    pub(super) fn strip(self, first: usize, height: usize, form: Form) -> Option<Strips<'a>> {
        let (elements, row) = match form.words {
            Words::F32 => (Elements::F32, self.row_stride),
            Words::Pairs => (Elements::Bf16, self.row_stride / 2),
            Words::Rounded | Words::Parts => return None,
        };
        let whole = self.cols.is_multiple_of(form.ratio().0) && form.depth(self.cols) == form.len(self.cols);
        if self.elements != elements || self.col_stride != 1 || self.cols == 0 || first >= self.rows || !whole {
            return None;
        }
        let words = &self.data[self.word(first, 0)..];
        (words.len() >= reach(height, form.len(self.cols), row)).then_some(Strips {
            words,
            strip: height * row,
            row,
            word: 1,
        })
    }

    /// Words that hold so many elements.
    fn count(self, elements: usize) -> usize {
        match self.elements {
            Elements::F32 => elements,
            Elements::Bf16 => elements.div_ceil(2),
        }
    }

    /// Asks for some elements of a row, side by side, whose first use is some time away. A row beyond the last is whatever lies there:
    /// of a block most often what is read after it.
    pub(super) fn fetch(self, row: usize, cols: Range<usize>) {
        vector::fetch(self.data, self.word(row, cols.start), self.count(cols.len()));
    }

    /// [`Mat::fetch`] of a whole row.
    pub fn fetch_row(self, row: usize) {
        self.fetch(row, 0..self.cols);
    }
}

/// Elements from the first of a matrix to its last. Panics when that is more than memory can hold.
pub(super) fn reach(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    let last_row = (rows - 1).checked_mul(row_stride);
    last_row.and_then(|start| start.checked_add(cols)).expect("a matrix beyond memory")
}
