//! Matrix products with sums in f32 over strided views, by one thread or by all.
//!
//! Both operands are laid out as the micro-kernels read them, then tiles of those run over both. The order in which an
//! element is summed depends on the kernel and the inner size alone, so results do not depend on tiles or on the number of
//! threads.
#![allow(unsafe_code)]

use super::kernel::{Block, Cut, Kernel, Strips, Words, kernel};
pub use super::kernel::{Operands, Ready};
pub use super::mat::Mat;
use super::mat::reach;
use super::pack::{By, LINE, Packed, pack_part, pack_row};
use super::vector;
use super::{Buffer, gelu};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;
use std::ptr::{null, null_mut};

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

/// Sizes of one product and where its output lies: null where it is nowhere but in the tiles' own room.
#[derive(Clone, Copy)]
struct Output<'a> {
    c: *mut f32,
    /// Elements from row to row.
    stride: usize,
    m: usize,
    n: usize,
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
    gemm_with(kernel(operands), out, row_stride, a, b, alpha, write, Added::default());
}

/// [`gemm`] by this kernel, and what is added to the product.
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
) {
    let (m, n, Kernel { mr, nr, form, .. }) = (a.rows, b.cols, *kernel);
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(a.cols, b.rows, "inner sizes of a product differ");
    assert!(row_stride >= n && out.len() >= reach(m, n, row_stride), "a product leaves its output");
    added.assert_fits(m, n);
    let (a_packed, b_packed) = (Packed::left(a, mr, form, By::Caller), Packed::panels(b.t(), nr, form, By::Caller));
    let output = Output { c: out.as_mut_ptr(), stride: row_stride, m, n, added };
    let (rows, cols) = (0..m.div_ceil(mr), 0..n.div_ceil(nr));
    // SAFETY: `out` holds m rows of n elements at `row_stride` (asserted above) and is borrowed mutably.
    unsafe { tile(kernel, output, &a_packed, &b_packed, rows, cols, alpha, write, |_, _| {}) }
}

thread_local! {
    /// See [`in_room`].
    static ROOM: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Calls `work` with `len` values, whatever they are, which stay in the caches of the thread's core from one call to the next.
fn in_room<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    /// A huge page.
    const LEAST: usize = 1 << 19;
    if len == 0 {
        return work(&mut []);
    }
    let kept = ROOM.take().filter(|room| room.len() >= len);
    let mut room = kept.unwrap_or_else(|| Buffer::scratch(len.max(LEAST)));
    let result = work(&mut room.as_mut_slice()[..len]);
    ROOM.set(Some(room));
    result
}

/// The tile of panels `rows` of a and panels `cols` of b. `done` gets each of its rows, by its number in the tile, when it is finished.
///
/// # Safety
/// Unless it is null `out.c` must hold the tile's rectangle, which no other thread touches.
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
    mut done: impl FnMut(usize, &mut [f32]),
) {
    let Kernel { mr, nr, cut: Cut { aside, .. }, .. } = *kernel;
    let _ready = kernel.ready();
    let (nowhere, Added { bias, residual }) = (out.c.is_null(), out.added);
    assert!(!nowhere || write == Write::Set, "a product is added to nothing");
    assert!(
        residual.is_empty() || !nowhere && out.stride == out.n,
        "a residual's rows lie as far apart as the output's"
    );
    let (row, col) = (rows.start * mr, cols.start * nr);
    let (height, width) = ((rows.end * mr).min(out.m) - row, (cols.end * nr).min(out.n) - col);
    let bias = if bias.is_empty() { bias } else { &bias[col..col + width] };
    let residual = |i: usize| match residual.is_empty() {
        true => residual,
        false => &residual[(row + i) * out.n + col..][..width],
    };
    let place = out.c.wrapping_add(row * out.stride + col);
    // SAFETY: row i of the tile lies there, by the caller's promise; nobody asks for one of an output that is nowhere.
    let placed = |i: usize| unsafe { std::slice::from_raw_parts_mut(place.add(i * out.stride), width) };
    let [whole_rows, whole_cols] = kernel.covered(height, width);
    // An odd number of lines, so that rows do not compete for the same places in a cache.
    let apart = (whole_cols.div_ceil(LINE) | 1) * LINE;
    in_room(if nowhere || aside { whole_rows * apart } else { 0 }, |room| {
        if aside && write == Write::Add {
            (0..height).for_each(|i| room[i * apart..][..width].copy_from_slice(placed(i)));
        }
        let (c, stride) = if nowhere || aside { (room.as_mut_ptr(), apart) } else { (place, out.stride) };
        let (rows_run, cols_run) = if aside { (whole_rows, whole_cols) } else { (height, width) };
        for run in runs(a.depth(), kernel) {
            let last = run.end == a.depth() && !aside;
            let added = |values: &[f32], at: usize| match last && !values.is_empty() {
                true => values[at..].as_ptr(),
                false => null(),
            };
            let add = write == Write::Add || run.start > 0;
            let (a, b) = (a.strips(rows.start, run.start), b.panels_of(cols.clone(), run.clone()));
            let (bias, residual) = (added(bias, 0), added(out.added.residual, row * out.n + col));
            let to = Block { c, stride, rows: rows_run, cols: cols_run, bias, residual };
            // SAFETY: the room holds what the kernel covers; elsewhere the tile begins inside the output and ends at its borders at
            // the latest. Bias and residual have the tile's columns, and a residual's rows lie as far apart as the output's,
            // as asserted.
            unsafe { kernel.run(run.len(), a, b, to, alpha, add) };
        }
        for i in 0..height {
            if nowhere {
                let values = &mut room[i * apart..][..width];
                if aside {
                    vector::add(values, bias);
                }
                done(i, values);
                continue;
            }
            if aside {
                if i + ROWS_AHEAD < height {
                    let ahead = residual(i + ROWS_AHEAD);
                    vector::fetch(ahead, 0, ahead.len());
                }
                vector::sum_to(&room[i * apart..][..width], bias, residual(i), placed(i));
            }
            done(i, placed(i));
        }
    });
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
    let output = &Output { c: out.as_mut_ptr(), stride: n, m, n, added };
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
    let words_out = &Output { c: packed.all_mut().as_mut_ptr(), stride: row_words, m, n, added };
    let keeps = !kept.is_empty();
    let output = &match (keeps, form.plain()) {
        (true, _) => Output { c: kept.as_mut_ptr(), stride: n, ..*words_out },
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
