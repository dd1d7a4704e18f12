//! How a product is cut into tiles, each of which one thread computes, and how one is computed.
#![allow(unsafe_code)]

use super::{Added, Operands, Write};
use crate::device::cpu::Buffer;
use crate::device::cpu::kernel::{Block, Kernel, kernel};
use crate::device::cpu::pack::{LINE, Packed};
use crate::device::cpu::vector::{self, PastCaches};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;
use std::ptr::null;

/// Sizes of one product and where its output lies: null where it is nowhere but in the tiles' own room.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    pub c: *mut f32,
    /// Elements from row to row.
    pub stride: usize,
    pub m: usize,
    pub n: usize,
    pub added: Added<'a>,
    /// Whether it is written past the caches.
    pub far: bool,
}

// SAFETY: every tile has a disjoint rectangle of the output or a buffer of its own, so no element is reached by two threads.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

/// Tiles that a product is cut into at least, when it has so many panels, to share it among threads: in all, and for each.
const TILES: usize = 16;
const TILES_A_THREAD: usize = 2;

/// How many rows ahead the processor is told which words it will write, or read beside them.
pub(super) const ROWS_AHEAD: usize = 4;

/// The runs that an inner size is cut into for a kernel, which depend on nothing else: one at least, which may be empty.
pub(super) fn runs(k: usize, kernel: &Kernel) -> impl Iterator<Item = Range<usize>> + use<> {
    let run = k.div_ceil(k.div_ceil(kernel.cut.run).max(1)).next_multiple_of(kernel.form.step);
    (0..k.max(1)).step_by(run.max(1)).map(move |start| start..(start + run).min(k))
}

thread_local! {
    /// See [`in_room`].
    static ROOM: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Calls `work` with `len` values, whatever they are: the same memory from one call of the thread to the next, so that its core's caches
/// hold it where they are large enough.
fn in_room<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    if len == 0 {
        return work(&mut []);
    }
    let kept = ROOM.take().filter(|room| room.len() >= len);
    let mut room = kept.unwrap_or_else(|| Buffer::scratch(len.max(Buffer::HUGE_PAGE)));
    let result = work(&mut room.as_mut_slice()[..len]);
    ROOM.set(Some(room));
    result
}

/// The tile of panels `rows` of a and panels `cols` of b. `done` gets each of its rows, by its number in the tile, when it is finished.
///
/// # Safety
/// Unless it is null `out.c` must hold the tile's rectangle, which no other thread touches.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn tile(
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
    let Kernel { mr, nr, .. } = *kernel;
    let _ready = kernel.ready();
    let (nowhere, Added { bias, residual }) = (out.c.is_null(), out.added);
    // Whether sums lie in room of their own, where they are scaled and what is added is added. Elsewhere the kernel does that.
    let aside = out.far || kernel.cut.aside && a.depth() > kernel.cut.run;
    assert!(
        !nowhere || write == Write::Set && !out.far,
        "a product is added to nothing, or goes nowhere past the caches"
    );
    assert!(
        residual.is_empty() || aside || !nowhere && out.stride == out.n,
        "a residual's rows lie as far apart as the sums'"
    );
    let (scaled, kernel_alpha) = if aside { (alpha != 1.0, 1.0) } else { (false, alpha) };
    let (row, col) = (rows.start * mr, cols.start * nr);
    let (height, width) = ((rows.end * mr).min(out.m) - row, (cols.end * nr).min(out.n) - col);
    let bias = if bias.is_empty() { bias } else { &bias[col..col + width] };
    let residual_at = |i: usize| (row + i) * out.n + col;
    let row_of_residual = |i: usize| match residual.is_empty() {
        true => residual,
        false => &residual[residual_at(i)..][..width],
    };
    let place = out.c.wrapping_add(row * out.stride + col);
    // SAFETY: row i of the tile lies there, by the caller's promise; nobody asks for one of an output that is nowhere.
    let placed = |i: usize| unsafe { std::slice::from_raw_parts_mut(place.add(i * out.stride), width) };
    let [whole_rows, whole_cols] = kernel.covered(height, width);
    // An odd number of lines, so that rows do not compete for the same places in a cache.
    let apart = (whole_cols.div_ceil(LINE) | 1) * LINE;
    in_room(if nowhere || aside { whole_rows * apart } else { 0 }, |room| {
        if aside && write == Write::Add && !scaled {
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
            let add = write == Write::Add && !scaled || run.start > 0;
            let (a, b) = (a.strips(rows.start, run.start), b.panels_of(cols.clone(), run.clone()));
            let (bias, residual) = (added(bias, 0), added(residual, residual_at(0)));
            let to = Block { c, stride, rows: rows_run, cols: cols_run, bias, residual };
            // SAFETY: the room holds what the kernel covers; elsewhere the tile begins inside the output and ends at its borders at
            // the latest. Bias and residual have the tile's columns, and a residual's rows lie as far apart as the sums', as
            // asserted.
            unsafe { kernel.run(run.len(), a, b, to, kernel_alpha, add) };
        }
        let mut past = PastCaches::default();
        for i in 0..height {
            if !nowhere && !aside {
                done(i, placed(i));
                continue;
            }
            let (values, residual) = (&mut room[i * apart..][..width], row_of_residual(i));
            if i + ROWS_AHEAD < height {
                let ahead = row_of_residual(i + ROWS_AHEAD);
                vector::fetch(ahead, 0, ahead.len());
            }
            if scaled {
                vector::scale(values, alpha);
                if write == Write::Add {
                    vector::add(values, placed(i));
                }
            }
            if !nowhere && !out.far {
                vector::sum_to(values, bias, residual, placed(i));
                done(i, placed(i));
                continue;
            }
            if aside {
                vector::add(values, bias);
                vector::add(values, residual);
            }
            done(i, values);
            if out.far {
                past.copy(values, placed(i));
            }
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

/// How the output of a product is cut into tiles, each of which one thread computes.
pub(super) struct Tiles {
    pub kernel: &'static Kernel,
    /// Panels of a and of b in all.
    pub panels: (usize, usize),
    /// Panels of a tile.
    pub tile: (usize, usize),
    across: usize,
}

impl Tiles {
    pub fn new(operands: Operands, m: usize, n: usize) -> Self {
        let kernel = kernel(operands);
        let panels = (m.div_ceil(kernel.mr), n.div_ceil(kernel.nr));
        let tile = tiling(kernel, panels.0, panels.1);
        Tiles { kernel, panels, tile, across: panels.1.div_ceil(tile.1) }
    }

    fn count(&self) -> usize {
        self.panels.0.div_ceil(self.tile.0) * self.across
    }

    /// Calls `work` with each tile's number and its panels of a and of b, in parallel.
    pub fn for_each(&self, work: impl Fn(usize, Range<usize>, Range<usize>) + Sync) {
        (0..self.count()).into_par_iter().with_max_len(1).for_each(|index| {
            let (i, j) = ((index / self.across) * self.tile.0, (index % self.across) * self.tile.1);
            work(index, i..(i + self.tile.0).min(self.panels.0), j..(j + self.tile.1).min(self.panels.1));
        });
    }
}
