//! Matrix products with sums in f32 over strided views, by one thread or by all.
//!
//! Both operands are laid out as the micro-kernels read them, then tiles of those run over both. The order in which an
//! element is summed depends on the kernel and the inner size alone, so results do not depend on tiles or on the number of
//! threads.
#![allow(unsafe_code)]

use super::kernel::{Block, Kernel, Strips, Words, kernel};
pub use super::kernel::{Operands, Ready};
pub use super::mat::Mat;
use super::mat::reach;
use super::pack::{By, Packed, pack_part, pack_row};
use super::vector;
use super::{Buffer, gelu};
use rayon::prelude::*;
use std::ops::Range;
use std::ptr::null;

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

/// Sizes of one product and where its output, or a tile of it, lies.
#[derive(Clone, Copy)]
struct Output<'a> {
    c: *mut f32,
    /// Elements from row to row.
    stride: usize,
    m: usize,
    n: usize,
    /// The row and the column of the element at `c`.
    origin: (usize, usize),
    added: Added<'a>,
}

// SAFETY: every tile has a disjoint rectangle of the output or a buffer of its own, so no element is reached by two threads.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

/// Tiles that a product is cut into at least, when it has so many panels, to share it among threads: in all, and for each.
const TILES: usize = 16;
const TILES_A_THREAD: usize = 2;

/// How many rows ahead the processor is told which words it will write.
const ROWS_AHEAD: usize = 4;

/// The runs that an inner size is cut into for a kernel, which depend on nothing else: one at least, which may be empty.
fn runs(k: usize, kernel: &Kernel) -> impl Iterator<Item = Range<usize>> + use<> {
    let run = k.div_ceil(k.div_ceil(kernel.cut.run).max(1)).next_multiple_of(kernel.form.step);
    (0..k.max(1)).step_by(run.max(1)).map(move |start| start..(start + run).min(k))
}

/// `out (+)= alpha * a b` on the calling thread, `out` of a.rows rows that begin `row_stride` apart.
pub fn gemm(out: &mut [f32], row_stride: usize, a: Mat, b: Mat, alpha: f32, write: Write, operands: Operands) {
    let (m, n, kernel) = (a.rows, b.cols, kernel(operands));
    let Kernel { mr, nr, form, .. } = *kernel;
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(a.cols, b.rows, "inner sizes of a product differ");
    assert!(row_stride >= n && out.len() >= reach(m, n, row_stride), "a product leaves its output");
    let (a_packed, b_packed) = (Packed::left(a, mr, form, By::Caller), Packed::panels(b.t(), nr, form, By::Caller));
    let output = Output { c: out.as_mut_ptr(), stride: row_stride, m, n, origin: (0, 0), added: Added::default() };
    let (rows, cols) = (0..m.div_ceil(mr), 0..n.div_ceil(nr));
    // SAFETY: `out` holds m rows of n elements at `row_stride` (asserted above) and is borrowed mutably.
    unsafe { tile(kernel, output, &a_packed, &b_packed, rows, cols, alpha, write) }
}

/// The tile of panels `rows` of a and panels `cols` of b.
///
/// # Safety
/// `out` must hold the tile's rectangle, which no other thread touches; what is added fits it, and a residual's rows are as far apart as
/// the output's.
#[allow(clippy::too_many_arguments)]
unsafe fn tile(
    kernel: &Kernel,
    out: Output,
    a: &Packed,
    b: &Packed,
    rows: Range<usize>,
    cols: Range<usize>,
    alpha: f32,
    write: Write,
) {
    let Kernel { mr, nr, .. } = *kernel;
    let _ready = kernel.ready();
    assert!(out.added.residual.is_empty() || out.stride == out.n, "a residual's rows lie as far apart as the output's");
    let (row, col) = (rows.start * mr, cols.start * nr);
    let size = [(rows.end * mr).min(out.m) - row, (cols.end * nr).min(out.n) - col];
    let start = out.c.wrapping_add((row - out.origin.0) * out.stride + col - out.origin.1);
    for run in runs(a.depth(), kernel) {
        let add = write == Write::Add || run.start > 0;
        let last = run.end == a.depth();
        let added = |values: &[f32], at: usize| match last && !values.is_empty() {
            true => values[at..].as_ptr(),
            false => null(),
        };
        let (bias, residual) = (added(out.added.bias, col), added(out.added.residual, row * out.n + col));
        let (a, b) = (a.strips(rows.start, run.start), b.panels_of(cols.clone(), run.clone()));
        let [rows, cols] = size;
        let to = Block { c: start, stride: out.stride, rows, cols, bias, residual };
        // SAFETY: the tile begins inside the output and ends at its borders at the latest; bias and residual fit the output (the
        // caller's promise) and are taken from the tile's first column, and element, on; a residual's rows are n apart, as asserted.
        unsafe { kernel.run(run.len(), a, b, to, alpha, add) };
    }
}

/// Panels a tile holds in each direction, as even as may be.
fn tiling(kernel: &Kernel, row_panels: usize, col_panels: usize) -> (usize, usize) {
    let even = |panels: usize, most: usize| panels.div_ceil(panels.div_ceil(most).max(1)).max(1);
    let rows = even(row_panels, kernel.cut.rows / kernel.mr);
    let tiles_down = row_panels.div_ceil(rows).max(1);
    let wanted = TILES.max(TILES_A_THREAD * rayon::current_num_threads()).div_ceil(tiles_down);
    (rows, even(col_panels, col_panels.div_ceil(wanted).clamp(1, kernel.cut.cols / kernel.nr)))
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
        Self::filled_adding_sums(size, operands, parts, &mut [], fill)
    }

    /// [`Rows::filled`], which unless `sums` is empty also adds the sum of all rows to it, in an order that depends on the parts alone.
    pub fn filled_adding_sums<P: Send>(
        [m, k]: [usize; 2],
        operands: Operands,
        parts: Vec<(usize, P)>,
        sums: &mut [f32],
        fill: impl Fn(P, &mut [f32], usize) + Sync + Send,
    ) -> Self {
        let Kernel { mr, form, .. } = *kernel(operands);
        Rows { packed: Packed::filled([m, k], mr, form, parts, sums, fill), operands, m, k }
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

/// How the output of a product is cut into tiles, each of which one thread computes.
struct Tiles {
    kernel: &'static Kernel,
    /// Panels of a and of b in all.
    panels: (usize, usize),
    /// Panels of a tile.
    tile: (usize, usize),
    across: usize,
}

impl Tiles {
    fn new(operands: Operands, m: usize, n: usize) -> Self {
        let kernel = kernel(operands);
        let panels = (m.div_ceil(kernel.mr), n.div_ceil(kernel.nr));
        let tile = tiling(kernel, panels.0, panels.1);
        Tiles { kernel, panels, tile, across: panels.1.div_ceil(tile.1) }
    }

    fn count(&self) -> usize {
        self.panels.0.div_ceil(self.tile.0) * self.across
    }

    /// Calls `work` with each tile's number and its panels of a and of b, in parallel.
    fn for_each(&self, work: impl Fn(usize, Range<usize>, Range<usize>) + Sync) {
        (0..self.count()).into_par_iter().with_max_len(1).for_each(|index| {
            let (i, j) = ((index / self.across) * self.tile.0, (index % self.across) * self.tile.1);
            work(index, i..(i + self.tile.0).min(self.panels.0), j..(j + self.tile.1).min(self.panels.1));
        });
    }
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
    let output = &Output { c: out.as_mut_ptr(), stride: n, m, n, origin: (0, 0), added };
    let second = &Output { c: beside.as_mut_ptr(), ..*output };
    let has_second = !beside.is_empty();
    tiles.for_each(|_, rows, cols| {
        // SAFETY: the tiles' rectangles lie inside the output and do not overlap; that what is added fits is asserted above.
        unsafe { tile(tiles.kernel, *output, &a.packed, &b.packed, rows.clone(), cols.clone(), 1.0, write) };
        let (column, end) = (cols.start * nr, (cols.end * nr).min(n));
        for row in rows.start * mr..(rows.end * mr).min(m) {
            let at = row * n + column;
            // SAFETY: as above; the slices cover this tile's columns of one row, of an output that has them.
            let (values, beside) = unsafe {
                let beside = if has_second { second.c.add(at) } else { std::ptr::NonNull::dangling().as_ptr() };
                let beside_len = if has_second { end - column } else { 0 };
                (
                    std::slice::from_raw_parts_mut(output.c.add(at), end - column),
                    std::slice::from_raw_parts_mut(beside, beside_len),
                )
            };
            finish(Segment { row, column, values, beside });
        }
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
    let words_out = &Output { c: packed.all_mut().as_mut_ptr(), stride: row_words, m, n, origin: (0, 0), added };
    let keeps = !kept.is_empty();
    let kept = &Output { c: kept.as_mut_ptr(), stride: n, ..*words_out };
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
        // Words that hold elements are computed where they are to lie.
        let mut room = Buffer::scratch(match (form.plain(), keeps) {
            (true, _) => 0,
            (false, true) => width,
            (false, false) => height * width,
        });
        let room = room.as_mut_slice();
        // SAFETY: row `first` has words for n elements, of which the tile's are of no other tile: `column` is a multiple of nr,
        // where a word begins.
        let start = unsafe { words_out.c.add(first * row_words + form.len(column)) };
        let (c, stride) = match (keeps, form.plain()) {
            // SAFETY: an output that is kept holds m rows of n elements.
            (true, _) => (unsafe { kept.c.add(first * n + column) }, n),
            (false, true) => (start, row_words),
            (false, false) => (room.as_mut_ptr(), width),
        };
        // SAFETY: the tile's rectangle, which begins at `origin`, lies in the output that is kept, the rows or `room`; that the bias
        // fits is asserted above.
        unsafe {
            let output = Output { c, stride, origin: (first, column), ..*words_out };
            tile(tiles.kernel, output, &a.packed, &b.packed, rows, cols, 1.0, Write::Set);
        }
        for i in 0..height {
            if i + ROWS_AHEAD < height {
                vector::fetch_from(start.wrapping_add((i + ROWS_AHEAD) * row_words), form.len(width));
            }
            // SAFETY: as above; row i of the rectangle.
            let values = unsafe { std::slice::from_raw_parts_mut(c.add(i * stride), width) };
            // SAFETY: as above; neither `values` nor `room` lie in the rows, unless words are elements.
            let out = || unsafe { std::slice::from_raw_parts_mut(start.add(i * row_words), form.len(width)) };
            if let (Last::Gelu, Words::Pairs, true) = (last, form.words, sums.is_empty()) {
                gelu::gelu_pairs(values, out());
                continue;
            }
            let beside: &mut [f32] = match (keeps, form.plain()) {
                (false, _) => &mut [],
                (true, true) => out(),
                (true, false) => &mut *room,
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
        }
    });
    parts.as_slice().chunks_exact(n.max(1)).for_each(|part| vector::add(sums, part));
    Rows { packed, operands: b.operands, m, k: n }
}

#[cfg(test)]
mod tests;
