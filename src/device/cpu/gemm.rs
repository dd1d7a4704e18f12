//! Matrix products with sums in f32 over strided views, by one thread or by all.
//!
//! Both operands are laid out as the micro-kernels read them, then tiles of those run over both. The order in which an
//! element is summed depends on the kernel and the inner size alone, so results do not depend on tiles or on the number of
//! threads.
#![allow(unsafe_code)]

mod tile;

use super::kernel::{Block, Kernel, Strips, Words, kernel};
pub use super::kernel::{Operands, Ready};
pub use super::mat::Mat;
use super::mat::reach;
use super::pack::{By, Packed, pack_part, pack_row};
use super::vector;
use super::{Buffer, gelu};
use std::ptr::null_mut;
use tile::{Output, ROWS_AHEAD, Tiles, runs, tile};

/// Whether a product overwrites its output or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The output is overwritten; its old contents are not read.
    Set,
    /// The product is added to the output.
    Add,
}

/// What is added to a product (m, n) before it is written: `bias` (n) to each of its rows, then `residual` (m, n). What is empty adds
/// nothing.
#[derive(Clone, Copy, Default)]
pub struct Added<'a> {
    pub bias: &'a [f32],
    pub residual: &'a [f32],
}

impl Added<'_> {
    fn assert_fits(self, m: usize, n: usize) {
        assert!(self.bias.is_empty() || self.bias.len() == n, "{} elements of a bias for {n} columns", self.bias.len());
        let fits = self.residual.is_empty() || self.residual.len() == m * n;
        assert!(fits, "{} elements of a residual for a product of {m} x {n}", self.residual.len());
    }
}

/// `out (+)= alpha * a b` on the calling thread, `out` of a.rows rows that begin `row_stride` apart.
pub fn gemm(out: &mut [f32], row_stride: usize, a: Mat, b: Mat, alpha: f32, write: Write, operands: Operands) {
    gemm_with(kernel(operands), out, row_stride, a, b, alpha, write, Added::default(), false);
}

/// [`gemm`] by this kernel, with what is added to the product, and past the caches where `far`.
#[allow(clippy::too_many_arguments)]
fn gemm_with(
    kernel: &Kernel,
    out: &mut [f32],
    row_stride: usize,
    a: Mat,
    b: Mat,
    alpha: f32,
    write: Write,
    added: Added,
    far: bool,
) {
    let (m, n, Kernel { mr, nr, form, .. }) = (a.rows, b.cols, *kernel);
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(a.cols, b.rows, "inner sizes of a product differ");
    assert!(row_stride >= n && out.len() >= reach(m, n, row_stride), "a product leaves its output");
    added.assert_fits(m, n);
    let (a_packed, b_packed) = (Packed::left(a, mr, form, By::Caller), Packed::panels(b.t(), nr, form, By::Caller));
    let output = Output { c: out.as_mut_ptr(), stride: row_stride, m, n, added, far };
    let (rows, cols) = (0..m.div_ceil(mr), 0..n.div_ceil(nr));
    // SAFETY: `out` holds m rows of n elements at `row_stride` (asserted above) and is borrowed mutably.
    unsafe { tile(kernel, output, &a_packed, &b_packed, rows, cols, alpha, write, |_, _| {}) }
}

/// The right operand of a product, packed once for many products.
pub struct Panels {
    packed: Packed,
    operands: Operands,
    /// Inner size.
    k: usize,
    /// Columns.
    n: usize,
}

impl Panels {
    /// Packs `b` (k, n) on all threads, for products that read both operands so.
    pub fn new(b: Mat, operands: Operands) -> Self {
        let Kernel { nr, form, .. } = *kernel(operands);
        Panels { packed: Packed::panels(b.t(), nr, form, By::All), operands, k: b.rows, n: b.cols }
    }

    /// [`Panels::new`] on the calling thread.
    pub fn by_caller(b: Mat, operands: Operands) -> Self {
        let Kernel { nr, form, .. } = *kernel(operands);
        Panels { packed: Packed::panels(b.t(), nr, form, By::Caller), operands, k: b.rows, n: b.cols }
    }

    /// Columns with those that fill up the last panel.
    pub fn width(&self) -> usize {
        self.n.next_multiple_of(kernel(self.operands).nr)
    }
}

/// Rows of a left operand, as many as a kernel takes at once, for products whose results stay in cache.
pub struct Strip {
    packed: Packed,
    operands: Operands,
    /// A row before it is packed, where words are not elements.
    row: Vec<f32>,
    cols: usize,
}

impl Strip {
    /// Rows of `cols` zeros.
    pub fn new(cols: usize, operands: Operands) -> Self {
        let Kernel { mr, form, .. } = *kernel(operands);
        let row = if form.words == Words::F32 { Vec::new() } else { vec![0.0; cols] };
        let mut packed = Packed::row_room(mr, cols, mr, form);
        packed.all_mut().fill(0.0);
        Strip { packed, operands, row, cols }
    }

    /// Rows of a strip.
    pub fn height(operands: Operands) -> usize {
        kernel(operands).mr
    }

    /// Its first rows.
    pub fn rows(&self, rows: usize) -> StripRows<'_> {
        StripRows { at: self.packed.strips(0, 0), rows, depth: self.packed.depth(), operands: self.operands }
    }

    /// Some rows of `m`, which has as many columns as the strip: where they lie, if they lie there as products read them and as many
    /// as a kernel takes, else packed.
    pub fn rows_of<'a>(&'a mut self, m: Mat<'a>, first: usize, rows: usize) -> StripRows<'a> {
        assert!(m.cols == self.cols && first + rows <= m.rows, "rows of a strip");
        let Kernel { mr, form, .. } = *kernel(self.operands);
        if let Some(at) = m.strip(first, mr, form) {
            return StripRows { at, rows, depth: form.depth(m.cols), operands: self.operands };
        }
        (0..rows).for_each(|i| self.pack(i, m, first + i));
        self.rows(rows)
    }

    /// Row `i` is a row of `m`, which has as many columns as the strip.
    pub fn pack(&mut self, i: usize, m: Mat, row: usize) {
        assert_eq!(m.cols, self.cols, "a row of a strip");
        let (form, stride) = (kernel(self.operands).form, self.packed.row());
        pack_part(m, row, 0..m.cols, form, &mut self.packed.all_mut()[i * stride..(i + 1) * stride]);
    }

    /// Row `i` is what `write` writes, all of it.
    pub fn put<T>(&mut self, i: usize, write: impl FnOnce(&mut [f32]) -> T) -> T {
        let (cols, form, stride) = (self.cols, kernel(self.operands).form, self.packed.row());
        let out = &mut self.packed.all_mut()[i * stride..(i + 1) * stride];
        if form.words == Words::F32 {
            return write(&mut out[..cols]);
        }
        let result = write(&mut self.row);
        pack_row(&self.row, form, out);
        result
    }
}

/// Rows of a left operand for [`gemm_strip`].
#[derive(Clone, Copy)]
pub struct StripRows<'a> {
    at: Strips<'a>,
    rows: usize,
    /// Words of a row.
    depth: usize,
    operands: Operands,
}

/// Makes the calling thread ready for products of operands read so while the result lives: many small ones take less time.
pub fn ready(operands: Operands) -> Ready {
    kernel(operands).ready()
}

/// `out = a b` on the calling thread, for rows of a strip and the columns of `b`; rows begin `row_stride` apart, and what lies beside
/// the product in rows and columns that fill up the strip and the panels may be written to. Of the strip's columns those count that
/// `b` has rows for; those beyond must be finite as they are read, for some of them are multiplied by zeros. What rows beyond the
/// strip's hold reaches no row of it. Panics when `out` has no room for so much.
pub fn gemm_strip(out: &mut [f32], row_stride: usize, a: StripRows, b: &Panels) {
    let (kernel, width, rows) = (kernel(b.operands), b.width(), a.rows);
    let Kernel { mr, nr, .. } = *kernel;
    assert!(a.operands == b.operands && a.depth >= b.packed.depth(), "a strip does not fit a product");
    assert!((1..=mr).contains(&rows), "{rows} rows of a strip of {mr}");
    assert!(row_stride >= width && out.len() >= reach(mr, width, row_stride), "a strip leaves its output");
    if b.n == 0 {
        return;
    }
    let _ready = kernel.ready();
    for run in runs(b.packed.depth(), kernel) {
        let words = Strips { words: &a.at.words[run.start * a.at.word..], ..a.at };
        let panels = b.packed.panels_of(0..width / nr, run.clone());
        let to = Block::bare(out.as_mut_ptr(), row_stride, kernel.covered(rows, b.n));
        // SAFETY: `out` holds mr rows of `width` elements at `row_stride` (asserted above) and is borrowed mutably.
        unsafe { kernel.run(run.len(), words, panels, to, 1.0, run.start > 0) };
    }
}

/// The left operand of a product, packed already.
pub struct Rows {
    packed: Packed,
    operands: Operands,
    m: usize,
    /// Inner size.
    k: usize,
}

impl Rows {
    /// Packs `a` (m, k) on all threads, for products that read both operands so.
    pub fn new(a: Mat, operands: Operands) -> Self {
        let Kernel { mr, form, .. } = *kernel(operands);
        Rows { packed: Packed::left(a, mr, form, By::All), operands, m: a.rows, k: a.cols }
    }

    /// [`Rows::new`] of a matrix whose rows are contiguous, which also adds the sum of its rows to `sums` (k), in an order that depends on m
    /// alone.
    pub fn new_adding_sums(a: Mat, operands: Operands, sums: &mut [f32]) -> Self {
        let Kernel { mr, form, .. } = *kernel(operands);
        Rows { packed: Packed::left_adding_sums(a, mr, form, sums), operands, m: a.rows, k: a.cols }
    }

    /// The rows' elements (m, k) as they are read, for products that read both operands so: others panic. Panics where
    /// [`Operands::rows_stay_small`] is false, and where the rows were packed of columns that lie side by side.
    pub fn mat(&self) -> Mat<'_> {
        self.packed.mat([self.m, self.k], kernel(self.operands).form)
    }

    /// Whether these are (m, k), for products that read both operands so.
    pub fn holds(&self, [m, k]: [usize; 2], operands: Operands) -> bool {
        (self.m, self.k, self.operands) == (m, k, operands)
    }

    /// A left operand (m, k), part by part on all threads: of each its number of rows, and what `fill` gets together with room
    /// for them and how far apart they begin. Where words are not elements as they are, a part is in f32 in the caches alone.
    pub fn filled<P: Send>(
        size: [usize; 2],
        operands: Operands,
        parts: Vec<(usize, P)>,
        fill: impl Fn(P, &mut [f32], usize) + Sync + Send,
    ) -> Self {
        let Kernel { mr, form, .. } = *kernel(operands);
        Rows { packed: Packed::filled(size, mr, form, parts, fill), operands, m: size[0], k: size[1] }
    }

    /// [`Rows::filled`], row by row: `begin` gets a part, and what it makes of it gets the number of each of the part's rows and room for
    /// its elements. Adds the sum of all rows to `sums` (k), in an order that depends on the parts' numbers of rows alone.
    pub fn by_rows<P: Send, F: Fn(usize, &mut [f32]) + Sync>(
        size: [usize; 2],
        operands: Operands,
        parts: Vec<(usize, P)>,
        sums: &mut [f32],
        begin: impl Fn(P) -> F + Sync + Send,
    ) -> Self {
        let Kernel { mr, form, .. } = *kernel(operands);
        Rows { packed: Packed::by_rows(size, mr, form, parts, sums, begin), operands, m: size[0], k: size[1] }
    }
}

/// A row of a finished tile: where it begins in the output, its values, and the same elements of the second output.
pub struct Segment<'a> {
    pub row: usize,
    pub column: usize,
    pub values: &'a mut [f32],
    /// Empty when there is no second output.
    pub beside: &'a mut [f32],
}

/// What becomes of a row of a tile before it is packed.
#[derive(Clone, Copy)]
pub enum Last<'a> {
    Nothing,
    /// gelu of it; an output that is kept stays what it was.
    Gelu,
    /// What this makes of it. It may change an output that is kept, and writes what is packed into the segment's second output then.
    Made(&'a (dyn Fn(Segment) + Sync)),
}

/// `out (+)= a b` in parallel, `out` contiguous (a.rows, n). After a tile is done, `finish` is called for each of its
/// rows while they are in cache: the place of fused epilogues, which may fill `beside`, a second output of the same
/// shape (or empty).
pub fn par_gemm(
    out: &mut [f32],
    beside: &mut [f32],
    a: Mat,
    b: &Panels,
    write: Write,
    finish: &(dyn Fn(Segment) + Sync),
) {
    par_gemm_rows(out, beside, &Rows::new(a, b.operands), b, write, Added::default(), finish);
}

/// [`par_gemm`] of a left operand that is packed already, and of what is added to the product.
pub fn par_gemm_rows(
    out: &mut [f32],
    beside: &mut [f32],
    a: &Rows,
    b: &Panels,
    write: Write,
    added: Added,
    finish: &(dyn Fn(Segment) + Sync),
) {
    in_tiles(out, beside, a, b, write, added, false, finish);
}

/// `out (+)= a b` as [`par_gemm_rows`] does it, for an output that is not read soon: where it is set, its rows are written past the caches
/// after `finish` has seen them, which saves reading their old lines.
pub fn par_gemm_far(out: &mut [f32], a: &Rows, b: &Panels, write: Write, finish: &(dyn Fn(Segment) + Sync)) {
    in_tiles(out, &mut [], a, b, write, Added::default(), write == Write::Set, finish);
}

/// [`par_gemm_rows`], or [`par_gemm_far`].
#[allow(clippy::too_many_arguments)]
fn in_tiles(
    out: &mut [f32],
    beside: &mut [f32],
    a: &Rows,
    b: &Panels,
    write: Write,
    added: Added,
    far: bool,
    finish: &(dyn Fn(Segment) + Sync),
) {
    let (m, n) = (a.m, b.n);
    assert_eq!((a.k, a.operands), (b.k, b.operands), "the operands of a product differ in inner size or type");
    assert_eq!(out.len(), m * n, "a product does not fill its output");
    assert!(beside.is_empty() || beside.len() == out.len(), "the outputs of a product differ in size");
    added.assert_fits(m, n);
    if m == 0 || n == 0 {
        return;
    }
    let tiles = Tiles::new(b.operands, m, n);
    let Kernel { mr, nr, .. } = *tiles.kernel;
    let output = &Output { c: out.as_mut_ptr(), stride: n, m, n, added, far };
    let second = &Output { c: beside.as_mut_ptr(), ..*output };
    let has_second = !beside.is_empty();
    tiles.for_each(|_, rows, cols| {
        let (first, column) = (rows.start * mr, cols.start * nr);
        let done = |i: usize, values: &mut [f32]| {
            let row = first + i;
            let beside: &mut [f32] = match has_second {
                false => &mut [],
                // SAFETY: these columns of one row of the second output, which has them, are this tile's alone.
                true => unsafe { std::slice::from_raw_parts_mut(second.c.add(row * n + column), values.len()) },
            };
            finish(Segment { row, column, values, beside });
        };
        // SAFETY: the tiles' rectangles lie inside the output and do not overlap.
        unsafe { tile(tiles.kernel, *output, &a.packed, &b.packed, rows, cols, 1.0, write, done) };
    });
}

/// a b + bias in parallel, each row of a tile as `last` leaves it, packed as the left operand of another product while the tile
/// is in cache. The output itself is nowhere else unless `kept` has room for it. Unless `sums` is empty, the sum of the rows that are
/// packed is added to it, in an order that depends on the kernel and m alone.
pub fn par_gemm_to_rows(a: &Rows, b: &Panels, bias: &[f32], kept: &mut [f32], sums: &mut [f32], last: Last) -> Rows {
    let (m, n) = (a.m, b.n);
    assert_eq!((a.k, a.operands), (b.k, b.operands), "the operands of a product differ in inner size or type");
    let added = Added { bias, ..Added::default() };
    added.assert_fits(m, n);
    assert!(kept.is_empty() || !matches!(last, Last::Nothing), "an output as it is packed is kept twice");
    assert!(kept.is_empty() || kept.len() == m * n, "a product does not fill its output");
    assert!(sums.is_empty() || sums.len() == n, "{} sums of {n} columns", sums.len());
    let tiles = Tiles::new(b.operands, m, n);
    let Kernel { mr, nr, form, .. } = *tiles.kernel;
    let mut packed = Packed::row_room(m, n, mr, form);
    let row_words = packed.row();
    let words_out = &Output { c: packed.all_mut().as_mut_ptr(), stride: row_words, m, n, added, far: false };
    let keeps = !kept.is_empty();
    let output = &match (keeps, form.plain()) {
        // The way back is the next to read it.
        (true, _) => Output { c: kept.as_mut_ptr(), stride: n, far: true, ..*words_out },
        // Words that hold elements are computed where they are to lie.
        (false, true) => *words_out,
        (false, false) => Output { c: null_mut(), ..*words_out },
    };
    // Of each row of tiles, whose heights do not depend on the number of threads.
    let mut parts = Buffer::zeros(tiles.panels.0.div_ceil(tiles.tile.0) * sums.len());
    let part = &Output { c: parts.as_mut_slice().as_mut_ptr(), stride: sums.len(), ..*words_out };
    assert!(nr.is_multiple_of(form.ratio().0), "a tile begins inside words of the output");
    tiles.for_each(|_, rows, cols| {
        let (first, column) = (rows.start * mr, cols.start * nr);
        let (height, width) = ((rows.end * mr).min(m) - first, (cols.end * nr).min(n) - column);
        let sums: &mut [f32] = match part.stride {
            0 => &mut [],
            // SAFETY: the sums of a row of tiles are n, of which those of the tile's columns are of no other tile.
            n => unsafe {
                let place = rows.start / tiles.tile.0 * n + column;
                std::slice::from_raw_parts_mut(part.c.add(place), width)
            },
        };
        let mut made = Buffer::scratch(if keeps && !form.plain() { width } else { 0 });
        // SAFETY: row `first` has words for n elements, of which the tile's are of no other tile: `column` is a multiple of nr,
        // where a word begins.
        let start = unsafe { words_out.c.add(first * row_words + form.len(column)) };
        let done = |i: usize, values: &mut [f32]| {
            if i + ROWS_AHEAD < height {
                vector::fetch_from(start.wrapping_add((i + ROWS_AHEAD) * row_words), form.len(width));
            }
            // SAFETY: as above; neither `values` nor `made` lie in the rows, unless words are elements.
            let out = || unsafe { std::slice::from_raw_parts_mut(start.add(i * row_words), form.len(width)) };
            if let (Last::Gelu, Words::Pairs, true) = (last, form.words, sums.is_empty()) {
                return gelu::gelu_pairs(values, out());
            }
            let beside: &mut [f32] = match (keeps, form.plain()) {
                (false, _) => &mut [],
                (true, true) => out(),
                (true, false) => made.as_mut_slice(),
            };
            match last {
                Last::Nothing => {}
                Last::Gelu if keeps => gelu::gelu(values, beside),
                Last::Gelu => gelu::gelu_in_place(values),
                Last::Made(make) => {
                    make(Segment { row: first + i, column, values: &mut *values, beside: &mut *beside });
                }
            }
            let finished = if keeps { beside } else { values };
            if !sums.is_empty() {
                vector::add(sums, finished);
            }
            match form.words {
                Words::F32 => {}
                Words::Rounded => vector::round_bf16(finished),
                Words::Pairs | Words::Parts => pack_row(finished, form, out()),
            }
        };
        // SAFETY: the tiles' rectangles lie in the output that is kept or in the rows, if anywhere, and do not overlap.
        unsafe { tile(tiles.kernel, *output, &a.packed, &b.packed, rows, cols, 1.0, Write::Set, done) };
    });
    parts.as_slice().chunks_exact(n.max(1)).for_each(|part| vector::add(sums, part));
    Rows { packed, operands: b.operands, m, k: n }
}

#[cfg(test)]
mod tests;
