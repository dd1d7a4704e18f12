//! Operands of the matrix product laid out as the micro-kernels read them.
#![forbid(unsafe_code)]

use super::kernel::{Form, Panels, Strips, Words};
use super::mat::{Elements, Mat};
use super::transpose::transpose;
use super::vector::fetch;
use super::{Buffer, pairs, pieces, vector};
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a cache line; the first panel begins on one.
pub(super) const LINE: usize = 16;

/// Elements of a row that are read in one go, so that the processor sees a stream.
const BLOCK: usize = 512;
/// How many rows of a block the processor is told ahead which it will read.
const ROWS_AHEAD: usize = 2;
/// As [`ROWS_AHEAD`], of short rows, at most.
const MOST_AHEAD: usize = 16;
/// As [`ROWS_AHEAD`], of columns.
pub(super) const COLUMNS_AHEAD: usize = 8;
/// Rows of the matrix that one task packs, about: as many lines of a column are read in one go where columns are contiguous.
pub(super) const TOGETHER: usize = 128;
/// Rows that one task packs and sums.
const ROWS_SUMMED: usize = 64;
/// Rows of a left operand that one task packs.
const ROWS_TOGETHER: usize = 32;

/// Who packs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The calling thread.
    Caller,
    /// All threads.
    All,
}

/// A matrix in words, in one of two layouts: row after row, which is what most left operands have anyway; or cut into
/// panels of as many rows as a kernel takes, each stored word by word along the rows. Zeros fill up the last panel, the
/// last pair of an odd row, and a row's last step. Words beyond `depth` of a row hold anything, and are not to be read.
pub(super) struct Packed {
    buffer: Buffer,
    /// Where the words begin in the buffer, and how many there are.
    start: usize,
    len: usize,
    /// Words of a row, to the end of its last step.
    depth: usize,
    /// Words from row to row, from word to word of a row, and from panel to panel.
    row: usize,
    word: usize,
    panel: usize,
}

impl Packed {
    /// The panels of `m`, of `width` rows.
    pub fn panels(m: Mat, width: usize, form: Form, by: By) -> Self {
        assert_elements(m, form);
        Self::in_panels([m.rows, m.cols], width, form, by, |rows, depth, out| {
            let m = m.row_range(rows.start, rows.len());
            if m.row_stride == 1 {
                return match form.words {
                    Words::Pairs if m.elements == Elements::Bf16 => pairs::panels_of_halves(m, width, depth, out),
                    Words::F32 => pack_columns(m, width, depth, out),
                    Words::Rounded => {
                        pack_columns(m, width, depth, out);
                        vector::round_bf16(out);
                    }
                    Words::Pairs => pairs::panels_of_columns::<1>(m, width, depth, out),
                    Words::Parts => pairs::panels_of_columns::<3>(m, width, depth, out),
                };
            }
            let mut block = Buffer::scratch(width * block_stride(form));
            for (panel, out) in out.chunks_exact_mut(width * depth).enumerate() {
                let m = m.row_range(panel * width, width.min(m.rows - panel * width));
                pack_rows(m, width, form, block.as_mut_slice(), &mut out[..width * form.len(m.cols)]);
            }
        })
    }

    /// Panels, of `width` rows, of `rows` x `cols` elements: `fill` gets some rows, the words of a row to the end of its last
    /// step, and room for the panels of those rows, where all words of elements are left to it.
    fn in_panels(
        [rows, cols]: [usize; 2],
        width: usize,
        form: Form,
        by: By,
        fill: impl Fn(Range<usize>, usize, &mut [f32]) + Sync + Send,
    ) -> Self {
        let (len, depth) = (form.len(cols), form.depth(cols));
        let mut packed = Self::room(rows.div_ceil(width), depth, [1, width, width * depth]);
        let together = (TOGETHER / width).max(1) * width;
        each(packed.all_mut(), together * depth, by, |(index, out)| {
            let first = index * together;
            out.chunks_exact_mut(width * depth).for_each(|panel| panel[width * len..].fill(0.0));
            fill(first..(first + together).min(rows), depth, out);
        });
        packed
    }

    /// `m` as the left operand of a kernel of `height` rows: row after row, but in panels where its columns are contiguous
    /// and the kernel takes a word at a time.
    pub fn left(m: Mat, height: usize, form: Form, by: By) -> Self {
        assert_elements(m, form);
        if m.col_stride != 1 && form.step == 1 {
            return Self::panels(m, height, form, by);
        }
        let mut packed = Self::row_room(m.rows, m.cols, height, form);
        let row = packed.row;
        let together = if m.col_stride == 1 { ROWS_TOGETHER } else { TOGETHER };
        each(&mut packed.all_mut()[..m.rows * row], together * row, by, |(index, out)| {
            let first = index * together;
            if m.col_stride != 1 {
                let m = m.row_range(first, together.min(m.rows - first));
                return match form.words {
                    Words::Pairs if m.elements == Elements::Bf16 => pairs::rows_of_halves(m, out, row),
                    Words::Pairs => pairs::rows_of_columns::<1>(m, out, row),
                    Words::Parts => pairs::rows_of_columns::<3>(m, out, row),
                    Words::F32 | Words::Rounded => unreachable!("a kernel of many words a step reads pairs or parts"),
                };
            }
            for (i, out) in (first..).zip(out.chunks_exact_mut(row)) {
                m.fetch_row(i + ROWS_AHEAD);
                pack_part(m, i, 0..m.cols, form, out);
            }
        });
        packed
    }

    /// What lies row after row, `rows` x `cols` elements in this form, as a matrix.
    pub fn mat(&self, [rows, cols]: [usize; 2], form: Form) -> Mat<'_> {
        assert_eq!(self.word, 1, "the matrix lies in panels");
        let words = &self.buffer.as_slice()[self.start..self.start + self.len];
        match form.words {
            Words::F32 | Words::Rounded => Mat::strided(words, rows, cols, self.row),
            Words::Pairs => Mat::pairs(words, rows, cols, self.row),
            Words::Parts => panic!("elements in parts are not put together again"),
        }
    }

    /// [`Packed::left`] of a matrix whose rows are contiguous, on all threads; adds the sum of its rows to `sums`, in an order that
    /// depends on their number alone.
    pub fn left_adding_sums(m: Mat, height: usize, form: Form, sums: &mut [f32]) -> Self {
        assert!(m.col_stride == 1 && m.elements == Elements::F32, "sums of contiguous rows in f32");
        assert_eq!(sums.len(), m.cols, "a sum for each column");
        let mut packed = Self::row_room(m.rows, m.cols, height, form);
        let row = packed.row;
        let mut parts = Buffer::zeros(m.rows.div_ceil(ROWS_SUMMED) * m.cols);
        if m.rows * m.cols > 0 {
            let outs = packed.all_mut()[..m.rows * row].par_chunks_mut(ROWS_SUMMED * row);
            let work = outs.zip(parts.as_mut_slice().par_chunks_mut(m.cols)).enumerate().with_max_len(1);
            work.for_each(|(index, (out, sums))| {
                for (i, out) in (index * ROWS_SUMMED..).zip(out.chunks_exact_mut(row)) {
                    fetch(m.data, (i + ROWS_AHEAD) * m.row_stride, m.cols);
                    let elements = &m.data[i * m.row_stride..][..m.cols];
                    pack_row(elements, form, out);
                    vector::add(sums, elements);
                }
            });
            parts.as_slice().chunks_exact(m.cols).for_each(|part| vector::add(sums, part));
        }
        packed
    }

    /// A left operand of `rows` x `cols`, part by part: of each its number of rows, and what `fill` gets together with room
    /// for them and how far apart they begin. On all threads.
    pub fn filled<P: Send>(
        size: [usize; 2],
        height: usize,
        form: Form,
        parts: Vec<(usize, P)>,
        fill: impl Fn(P, &mut [f32], usize) + Sync + Send,
    ) -> Self {
        let cols = size[1];
        Self::in_parts(size, height, form, parts, |rows, part, out, row| {
            if form.words == Words::F32 {
                return fill(part, out, row);
            }
            let mut values = Buffer::scratch(rows * cols);
            fill(part, values.as_mut_slice(), cols);
            for (values, out) in values.as_slice().chunks_exact(cols).zip(out.chunks_exact_mut(row)) {
                pack_row(values, form, out);
            }
        })
    }

    /// [`Packed::filled`], row by row: `begin` gets a part, and what it makes of it gets the number of each of the part's rows and room
    /// for its elements. The sum of all rows is added to `sums`, in an order that depends on the parts' numbers of rows alone.
    pub fn by_rows<P: Send, F: Fn(usize, &mut [f32]) + Sync>(
        size: [usize; 2],
        height: usize,
        form: Form,
        parts: Vec<(usize, P)>,
        sums: &mut [f32],
        begin: impl Fn(P) -> F + Sync + Send,
    ) -> Self {
        let cols = size[1];
        assert!(cols > 0 && sums.len() == cols, "{} sums of {cols} columns", sums.len());
        let blocks = || parts.iter().map(|part| part.0.div_ceil(ROWS_SUMMED));
        let mut sums_of_blocks = Buffer::zeros(blocks().sum::<usize>() * cols);
        let sums_out = pieces(sums_of_blocks.as_mut_slice(), blocks().map(|blocks| blocks * cols));
        let parts = parts.into_iter().zip(sums_out).map(|((rows, part), sums)| (rows, (part, sums))).collect();
        let packed = Self::in_parts(size, height, form, parts, |_, (part, sums), out, row| {
            let write = begin(part);
            let blocks = out.par_chunks_mut(ROWS_SUMMED * row).zip(sums.par_chunks_mut(cols)).enumerate();
            blocks.with_max_len(1).for_each(|(block, (out, sums))| {
                let mut values = Buffer::scratch(cols);
                let values = values.as_mut_slice();
                for (i, out) in (block * ROWS_SUMMED..).zip(out.chunks_exact_mut(row)) {
                    write(i, values);
                    pack_row(values, form, out);
                    vector::add(sums, values);
                }
            });
        });
        sums_of_blocks.as_slice().chunks_exact(cols).for_each(|block| vector::add(sums, block));
        packed
    }

    /// Rows of words for a kernel of `height` rows, part by part on all threads: `write` gets a part's number of rows, the part, room
    /// for its rows, and how far apart they begin.
    fn in_parts<P: Send>(
        [rows, cols]: [usize; 2],
        height: usize,
        form: Form,
        parts: Vec<(usize, P)>,
        write: impl Fn(usize, P, &mut [f32], usize) + Sync + Send,
    ) -> Self {
        assert_eq!(parts.iter().map(|part| part.0).sum::<usize>(), rows, "the parts are not all rows");
        let mut packed = Self::row_room(rows, cols, height, form);
        let row = packed.row;
        let outs = pieces(packed.all_mut(), parts.iter().map(|part| part.0 * row));
        let work = parts.into_par_iter().zip(outs).with_max_len(1);
        work.for_each(|((rows, part), out)| write(rows, part, out, row));
        packed
    }

    /// Room for a matrix of `rows` x `cols` row after row, for a kernel of `height` rows. It holds anything but for zeros
    /// that fill up the last panel and the rows' last step.
    pub fn row_room(rows: usize, cols: usize, height: usize, form: Form) -> Self {
        let (len, depth) = (form.len(cols), form.depth(cols));
        // An odd number of cache lines, so that the rows of a panel do not compete for the same ones.
        let row = if depth == 0 { 0 } else { (depth.div_ceil(LINE) | 1) * LINE };
        let mut packed = Self::room(rows.div_ceil(height), depth, [row, 1, height * row]);
        let (rows, rest) = packed.all_mut().split_at_mut(rows * row);
        rest.fill(0.0);
        if depth > len {
            rows.chunks_exact_mut(row).for_each(|row| row[len..depth].fill(0.0));
        }
        packed
    }

    fn room(panels: usize, depth: usize, [row, word, panel]: [usize; 3]) -> Self {
        let len = panels * panel;
        let buffer = Buffer::scratch(len + LINE);
        let start = buffer.as_slice().as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Packed { buffer, start, len, depth, row, word, panel }
    }

    /// All words.
    pub fn all_mut(&mut self) -> &mut [f32] {
        &mut self.buffer.as_mut_slice()[self.start..self.start + self.len]
    }

    /// Words from row to row.
    pub fn row(&self) -> usize {
        self.row
    }

    /// Words of a row: the inner size as the kernels count it.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The rows from panel `index` on, from word `first` on.
    pub fn strips(&self, index: usize, first: usize) -> Strips<'_> {
        let words = &self.buffer.as_slice()[self.start + index * self.panel + first * self.word..self.start + self.len];
        Strips { words, strip: self.panel, row: self.row, word: self.word }
    }

    /// Words `range` of some panels, one at least, of a matrix in panels. After them the same panels' next words are read; after the last
    /// words the first ones of the panels that follow, or of the first panel.
    pub fn panels_of(&self, panels: Range<usize>, range: Range<usize>) -> Panels<'_> {
        assert_eq!(self.row, 1, "the matrix lies row after row");
        let at = |panel: usize, word: usize| self.start + panel * self.panel + word * self.word;
        let (first, end) = (at(panels.start, range.start), at(panels.end - 1, range.end));
        let next = match at(panels.end, 0) {
            _ if range.end < self.depth => at(panels.start, range.end),
            following if following < self.start + self.len => following,
            _ => at(0, 0),
        };
        let words = &self.buffer.as_slice()[first..end];
        Panels { words, panel: self.panel, next: next.wrapping_sub(first) }
    }
}

/// Calls `fill` with each run of `len` words and its number.
fn each(words: &mut [f32], len: usize, by: By, fill: impl Fn((usize, &mut [f32])) + Sync + Send) {
    match by {
        _ if words.is_empty() => {}
        By::Caller => words.chunks_mut(len).enumerate().for_each(fill),
        By::All => words.par_chunks_mut(len).enumerate().with_max_len(1).for_each(fill),
    }
}

/// The words of a row's elements, at the beginning of `out`.
pub(super) fn pack_row(elements: &[f32], form: Form, out: &mut [f32]) {
    let out = &mut out[..form.len(elements.len())];
    match form.words {
        Words::F32 => out.copy_from_slice(elements),
        Words::Rounded => {
            out.copy_from_slice(elements);
            vector::round_bf16(out);
        }
        Words::Pairs => pairs::neighbours::<1>(elements, out),
        Words::Parts => pairs::neighbours::<3>(elements, out),
    }
}

/// Panics when no such words are made of the elements of `m`.
fn assert_elements(m: Mat, form: Form) {
    assert!(m.elements == Elements::F32 || form.words == Words::Pairs, "only pairs are made of pairs");
}

/// The words of some elements of a row of a matrix, whose rows are contiguous, at the beginning of `out`.
pub(super) fn pack_part(m: Mat, row: usize, cols: Range<usize>, form: Form, out: &mut [f32]) {
    let (words, odd) = (m.words(row, cols.clone()), cols.len() % 2 == 1);
    if m.elements == Elements::F32 {
        return pack_row(words, form, out);
    }
    assert_elements(m, form);
    let out = &mut out[..words.len()];
    out.copy_from_slice(words);
    if let (true, Some(last)) = (odd, out.last_mut()) {
        *last = f32::from_bits(last.to_bits() & 0xffff);
    }
}

/// Words from row to row of a block: an odd number of cache lines, so that the rows do not compete for the same ones.
fn block_stride(form: Form) -> usize {
    form.len(BLOCK) + LINE
}

/// A panel of a matrix whose rows are contiguous: `out[l * width + i]` is word l of row i, zero for rows that `m` lacks.
/// `block` is room to work in.
fn pack_rows(m: Mat, width: usize, form: Form, block: &mut [f32], out: &mut [f32]) {
    assert_eq!(m.col_stride, 1, "rows or columns of a matrix are contiguous");
    // Short rows are packed sooner than memory answers.
    let rows_ahead = (BLOCK / m.cols.max(1)).clamp(ROWS_AHEAD, MOST_AHEAD);
    if m.rows < width {
        out.fill(0.0);
    }
    let stride = block_stride(form);
    if m.elements == Elements::Bf16 && m.cols <= BLOCK && m.cols.is_multiple_of(2) {
        // The words of a row are few, and as they are to be. Those of the next panel's rows are asked for.
        (0..m.rows).for_each(|i| m.fetch(m.rows + i, 0..m.cols));
        return transpose(m.data, m.row_stride / 2, [m.rows, m.cols / 2], out, width);
    }
    for (index, out) in out.chunks_mut(width * form.len(BLOCK)).enumerate() {
        let (first, len) = (index * BLOCK, (m.cols - index * BLOCK).min(BLOCK));
        for (i, row) in block.chunks_exact_mut(stride).take(m.rows).enumerate() {
            let (ahead, column, some) = match i + rows_ahead {
                ahead if ahead < m.rows => (ahead, first, len),
                ahead if first + len < m.cols => (ahead - m.rows, first + len, (m.cols - first - len).min(BLOCK)),
                // Of the next panel, if there is one.
                ahead => (ahead, 0, m.cols.min(BLOCK)),
            };
            m.fetch(ahead, column..column + some);
            pack_part(m, i, first..first + len, form, row);
        }
        transpose(block, stride, [m.rows, out.len() / width], out, width);
    }
}

/// The panels of a matrix whose columns are contiguous, filled side by side, so that a column is read in one go.
fn pack_columns(m: Mat, width: usize, depth: usize, out: &mut [f32]) {
    match width {
        6 => columns::<6>(m, depth, out),
        8 => columns::<8>(m, depth, out),
        12 => columns::<12>(m, depth, out),
        16 => columns::<16>(m, depth, out),
        32 => columns::<32>(m, depth, out),
        48 => columns::<48>(m, depth, out),
        _ => short_columns(m, width, depth, 0, out),
    }
}

/// See [`pack_columns`]: whole panels by copies whose length the compiler knows, which cost no call.
fn columns<const WIDTH: usize>(m: Mat, depth: usize, out: &mut [f32]) {
    let whole = m.rows / WIDTH;
    for l in 0..m.cols {
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
        for (l, out) in out.chunks_exact_mut(width).enumerate().take(m.cols) {
            out[..rows].copy_from_slice(&m.data[l * m.col_stride + panel * width..][..rows]);
            out[rows..].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pack = fn(Mat, usize, Form, By) -> Packed;

    /// Both constructors; as the left operand of a kernel that takes a word at a time a matrix whose columns are
    /// contiguous lies in panels too.
    const LAYOUTS: [Pack; 2] = [Packed::panels, Packed::left];

    fn form((words, step): (Words, usize)) -> Form {
        Form { words, step }
    }

    #[test]
    fn rows_that_are_written_lie_as_rows_that_are_packed() {
        let (rows, cols) = (70, 137);
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.3).sin()).collect();
        let forms = [(Words::F32, 1), (Words::Rounded, 1), (Words::Pairs, 1), (Words::Pairs, 16), (Words::Parts, 48)];
        for form in forms.map(form) {
            // What lies in recycled memory must not matter; large enough to be recycled.
            let soil = || Packed::row_room(rows, cols, 12, form).all_mut().fill(f32::NAN);
            soil();
            let parts = vec![(1, 0..1), (40, 1..41), (0, 41..41), (29, 41..70)];
            let row_at = |row: usize| &values[row * cols..][..cols];
            let mut written = Packed::filled([rows, cols], 12, form, parts.clone(), |rows, out, stride| {
                for (i, row) in rows.enumerate() {
                    out[i * stride..][..cols].copy_from_slice(row_at(row));
                }
            });
            soil();
            let mut sums = vec![0.5; cols];
            let mut one_by_one = Packed::by_rows([rows, cols], 12, form, parts, &mut sums, |rows| {
                move |i, out: &mut [f32]| out.copy_from_slice(row_at(rows.start + i))
            });
            soil();
            let mut packed = Packed::left(Mat::new(&values, rows, cols), 12, form, By::Caller);
            let (depth, row) = (packed.depth(), packed.row());
            let rows = |p: &mut Packed| -> Vec<u32> {
                p.all_mut()
                    .chunks_exact(row)
                    .flat_map(|row| row[..depth].iter().map(|w| w.to_bits()).collect::<Vec<_>>())
                    .collect()
            };
            let packed = rows(&mut packed);
            assert_eq!(rows(&mut written), packed);
            assert_eq!(rows(&mut one_by_one), packed);
            for (j, sum) in sums.into_iter().enumerate() {
                let column = || std::iter::once(0.5).chain((0..70).map(|i| f64::from(values[i * cols + j])));
                let budget = vector::UNIT_F32 * 71.0 * column().map(f64::abs).sum::<f64>();
                assert!((f64::from(sum) - column().sum::<f64>()).abs() <= budget, "{form:?}, sum of column {j}");
            }
        }
    }

    #[test]
    fn packed_rows_are_turned_into_the_panels_of_their_matrix() {
        let forms = [(Words::F32, 1), (Words::Rounded, 1), (Words::Pairs, 1), (Words::Pairs, 16)].map(form);
        for (rows, cols) in [(1, 1), (2, 33), (33, 2), (45, 137), (138, 300), (0, 4), (4, 0)] {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.3).sin()).collect();
            let m = Mat::new(&values, rows, cols);
            for (form, width) in forms.into_iter().flat_map(|form| [12, 16, 32, 48].map(|width| (form, width))) {
                // What lies in recycled memory must not matter.
                Packed::row_room(rows, cols, 12, form).all_mut().fill(f32::NAN);
                let packed = Packed::left(m, 12, form, By::Caller);
                Packed::panels(m.t(), width, form, By::Caller).all_mut().fill(f32::NAN);
                let mut got = Packed::panels(packed.mat([rows, cols], form).t(), width, form, By::All);
                let mut want = Packed::panels(m.t(), width, form, By::Caller);
                let bits = |p: &mut Packed| p.all_mut().iter().map(|w| w.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&mut got), bits(&mut want), "{rows} x {cols}, {form:?}, panels of {width}");
            }
        }
    }

    #[test]
    fn packed_rows_are_turned_into_the_rows_of_their_transpose() {
        let forms = [(Words::F32, 1), (Words::Rounded, 1), (Words::Pairs, 1), (Words::Pairs, 16)].map(form);
        for (rows, cols) in [(1, 1), (2, 33), (33, 2), (45, 137), (138, 300)] {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.3).sin()).collect();
            let m = Mat::new(&values, rows, cols);
            for (form, height) in forms.into_iter().flat_map(|form| [12, 32].map(|height| (form, height))) {
                let packed = Packed::left(m, height, form, By::Caller);
                // What lies in recycled memory must not matter.
                Packed::row_room(cols, rows, height, form).all_mut().fill(f32::NAN);
                let got = Packed::left(packed.mat([rows, cols], form).t(), height, form, By::All);
                let want = Packed::left(m.t(), height, form, By::Caller);
                assert_eq!(got.depth(), want.depth());
                for (i, l) in (0..cols).flat_map(|i| (0..want.depth()).map(move |l| (i, l))) {
                    let [got, want] = [&got, &want].map(|packed| {
                        let strip = packed.strips(i / height, l);
                        strip.words[i % height * strip.row].to_bits()
                    });
                    assert_eq!(got, want, "word {l} of row {i} of {cols} x {rows}, {form:?}, {height}");
                }
            }
        }
    }

    #[test]
    fn rows_are_packed_and_summed_at_once() {
        for (rows, cols) in [(0, 3), (1, 1), (64, 5), (65, 33), (200, 48)] {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i % 17) as f32 - 8.0).collect();
            let m = Mat::new(&values, rows, cols);
            for form in [(Words::F32, 1), (Words::Pairs, 1)].map(form) {
                let mut sums = vec![0.5; cols];
                let mut got = Packed::left_adding_sums(m, 12, form, &mut sums);
                let mut want = Packed::left(m, 12, form, By::Caller);
                let words = |p: &mut Packed| {
                    let (row, depth) = (p.row, p.depth);
                    let rows = p.all_mut().chunks_exact(row.max(1)).take(rows);
                    rows.flat_map(|words| words[..depth].to_vec()).map(f32::to_bits).collect::<Vec<_>>()
                };
                assert_eq!(words(&mut got), words(&mut want), "{rows} x {cols}");
                // Whole numbers, whose sums are exact.
                let column = |j: usize| 0.5 + (0..rows).map(|i| values[i * cols + j]).sum::<f32>();
                assert_eq!(sums, (0..cols).map(column).collect::<Vec<_>>(), "{rows} x {cols}");
            }
        }
    }

    #[test]
    fn pairs_lie_where_elements_would() {
        let shapes = [(1, 1), (12, 128), (13, 129), (31, 300), (32, 7), (150, 70)];
        for ((rows, cols), step) in shapes.into_iter().flat_map(|shape| [1, 16, 48].map(|step: usize| (shape, step))) {
            let values: Vec<f32> = (0..rows * cols)
                .map(|i| (i as f32 * 0.3).sin() * [1.0, 2.0f32.powi(-90), 2.0f32.powi(120)][i % 3])
                .collect();
            for m in [Mat::new(&values, rows, cols), Mat::new(&values, cols, rows).t()] {
                for (width, pack) in [12, 32].into_iter().flat_map(|w| [(w, LAYOUTS[0]), (w, LAYOUTS[1])]) {
                    let by = if width == 12 { By::Caller } else { By::All };
                    let parts = if step == 48 { 3 } else { 1 };
                    let words = if parts == 3 { Words::Parts } else { Words::Pairs };
                    let packed = pack(m, width, form((words, step)), by);
                    assert_eq!(packed.depth(), (parts * cols.div_ceil(2)).next_multiple_of(step));
                    for i in 0..rows.div_ceil(width) * width {
                        let panel = packed.strips(i / width, 0);
                        for l in 0..packed.depth() / parts * 2 {
                            let inside = i < rows && l < cols;
                            let want = if inside { m.data[i * m.row_stride + l * m.col_stride] } else { 0.0 };
                            let mut left = want;
                            for part in 0..parts {
                                let at = (l / 32 * parts + part) * 16 + l / 2 % 16;
                                let word = panel.words[at * panel.word + i % width * panel.row].to_bits();
                                let got = half::bf16::from_bits((if l % 2 == 0 { word } else { word >> 16 }) as u16);
                                assert_eq!(
                                    got,
                                    half::bf16::from_f32(left),
                                    "({i}, {l}) of {rows} x {cols}, part {part}"
                                );
                                left -= got.to_f32();
                            }
                            assert!(parts == 1 || left == 0.0, "{want} has {left} beside its parts");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn elements_lie_in_panels_side_by_side() {
        let shapes = [1, 5, 126, 127, 128, 129, 300].into_iter().flat_map(|rows| [(rows, 1), (rows, 37)]);
        for ((rows, cols), width) in shapes.flat_map(|shape| [4, 6, 8, 12, 16, 32, 48].map(|width| (shape, width))) {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.3).sin() + 2.0).collect();
            for m in [Mat::new(&values, rows, cols), Mat::new(&values, cols, rows).t()] {
                let ways = [(Words::F32, By::All), (Words::F32, By::Caller), (Words::Rounded, By::All)];
                for ((words, by), pack) in ways.into_iter().flat_map(|way| LAYOUTS.map(|pack| (way, pack))) {
                    let packed = pack(m, width, form((words, 1)), by);
                    for (i, l) in (0..rows.div_ceil(width) * width).flat_map(|i| (0..cols).map(move |l| (i, l))) {
                        let panel = packed.strips(i / width, l);
                        let got = panel.words[i % width * panel.row];
                        let want = if i < rows { m.data[i * m.row_stride + l * m.col_stride] } else { 0.0 };
                        let want = if words == Words::F32 { want } else { half::bf16::from_f32(want).to_f32() };
                        assert_eq!(got, want, "({i}, {l}) of {rows} x {cols} in panels of {width}");
                    }
                }
            }
        }
    }
}
