//! The micro-kernels of the matrix product: a call computes a block of the output, of which a small rectangle is held in registers at a
//! time.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::vector;
use std::ptr::null;
use std::sync::LazyLock;

/// The most elements of a rectangle.
const MOST: usize = 1024;

/// In what type the operands of a product are read. Sums are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operands {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, to nearest, ties to even.
    Bf16,
}

impl Operands {
    /// bf16 where this processor multiplies pairs of it faster than elements of f32, else f32.
    pub fn fastest() -> Self {
        if kernel(Operands::Bf16).pays { Operands::Bf16 } else { Operands::F32 }
    }

    /// Whether this processor multiplies them in tile registers: AMX.
    pub fn in_tile_registers(self) -> bool {
        kernel(self).form.step > 1
    }

    /// Bytes that an element takes in packed rows.
    pub fn row_bytes(self) -> u64 {
        match kernel(self).form.words {
            Words::F32 | Words::Rounded => 4,
            Words::Pairs => 2,
            Words::Parts => 6,
        }
    }

    /// Whether packed rows take no more memory than their elements, so that they may be kept in their place.
    pub fn rows_stay_small(self) -> bool {
        self.row_bytes() <= 4
    }

    /// The type, and how this processor multiplies it where that is worth a word.
    pub fn words(self) -> &'static str {
        let Kernel { form: Form { words, .. }, pays, .. } = *kernel(self);
        match self {
            Operands::F32 if self.in_tile_registers() => "f32 (AMX, in three parts)",
            Operands::F32 => "f32",
            Operands::Bf16 if self.in_tile_registers() => "bf16 (AMX)",
            Operands::Bf16 if pays => "bf16",
            Operands::Bf16 if words == Words::Pairs => "bf16 (this processor multiplies it no faster than f32)",
            Operands::Bf16 => "bf16 (this processor multiplies it as f32: no faster)",
        }
    }
}

/// What a word (32 bits) of a packed operand holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// An element.
    F32,
    /// An element rounded to bf16, as f32.
    Rounded,
    /// Two elements in bf16 that are neighbours in the inner dimension, the earlier one in the lower half.
    Pairs,
    /// As `Pairs`, of elements in three parts, each what the ones before leave, rounded: sixteen words of first parts, then
    /// those of the second and of the third.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AMX reads so"))]
    Parts,
}

/// Pairs of elements whose parts lie together.
pub(super) const PAIRS: usize = 16;

/// How a kernel reads a row of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub words: Words,
    /// Words that a step of the inner dimension takes. When it is more than one, the words of a row of a lie side by side,
    /// and rows and panels end on a whole step, with zeros.
    pub step: usize,
}

impl Form {
    /// How many elements lie in how many words.
    pub fn ratio(self) -> (usize, usize) {
        match self.words {
            Words::F32 | Words::Rounded => (1, 1),
            Words::Pairs => (2, 1),
            Words::Parts => (2 * PAIRS, 3 * PAIRS),
        }
    }

    /// Whether a word holds an element.
    pub fn plain(self) -> bool {
        self.ratio() == (1, 1)
    }

    /// Words that hold a row of `cols` elements, zeros beside the last ones included.
    pub fn len(self, cols: usize) -> usize {
        let (elements, words) = self.ratio();
        cols.div_ceil(elements) * words
    }

    /// As [`Form::len`], to the end of the last step: the inner size as the kernels count it.
    pub fn depth(self, cols: usize) -> usize {
        self.len(cols).next_multiple_of(self.step)
    }
}

/// What a micro-kernel is to do: `c[i * c_row + j] (+)= alpha * sum over l < k of a(i, l) * b(l, j)`, and then
/// `+= bias[j]` and `+= residual[i * c_row + j]` unless those are null, where a(i, l) is
/// `a[i / mr * a_strip + i % mr * a_row + l * a_word]`, b(l, j) is `b[j / nr * b_panel + l * nr + j % nr]`, and a product of words that
/// hold pairs is the sum of two products; of words that hold parts, see `amx`.
struct Work {
    /// Words of the inner dimension.
    k: usize,
    a: *const f32,
    a_strip: usize,
    a_row: usize,
    a_word: usize,
    b: *const f32,
    b_panel: usize,
    /// What is read soon, from here on; any address.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AMX asks for it"))]
    next: *const f32,
    c: *mut f32,
    c_row: usize,
    alpha: f32,
    add: bool,
    bias: *const f32,
    residual: *const f32,
    /// Rows and columns of c that are there, one of each at least.
    rows: usize,
    cols: usize,
}

impl Work {
    /// The same product with nothing added, into other room for a whole rectangle of `mr` rows.
    fn whole(&self, c: *mut f32, [mr, nr]: [usize; 2]) -> Work {
        Work { c, c_row: nr, bias: null(), residual: null(), rows: mr, cols: nr, ..*self }
    }

    /// Rows and columns of the part in a strip and a panel.
    #[inline(always)]
    fn size(&self, [mr, nr]: [usize; 2], strip: usize, panel: usize) -> [usize; 2] {
        [mr.min(self.rows - strip * mr), nr.min(self.cols - panel * nr)]
    }

    /// The part in a strip and a panel. `next` is what is read soon.
    fn rectangle(&self, [mr, nr]: [usize; 2], strip: usize, panel: usize, next: *const f32) -> Work {
        let (row, col) = (strip * mr, panel * nr);
        let [rows, cols] = self.size([mr, nr], strip, panel);
        let beside = |at: *const f32, offset: usize| if at.is_null() { at } else { at.wrapping_add(offset) };
        Work {
            a: self.a.wrapping_add(strip * self.a_strip),
            b: self.b.wrapping_add(panel * self.b_panel),
            next,
            c: self.c.wrapping_add(row * self.c_row + col),
            bias: beside(self.bias, col),
            residual: beside(self.residual, row * self.c_row + col),
            rows,
            cols,
            ..*self
        }
    }

    /// Adds bias and residual.
    ///
    /// # Safety
    /// See [`Run`].
    unsafe fn finish(&self) {
        let Work { c, c_row, bias, residual, rows, cols, .. } = *self;
        if bias.is_null() && residual.is_null() {
            return;
        }
        for i in 0..rows {
            // SAFETY: the caller promises so many rows and columns of each.
            unsafe {
                let c = std::slice::from_raw_parts_mut(c.add(i * c_row), cols);
                if !bias.is_null() {
                    vector::add(c, std::slice::from_raw_parts(bias, cols));
                }
                if !residual.is_null() {
                    vector::add(c, std::slice::from_raw_parts(residual.add(i * c_row), cols));
                }
            }
        }
    }
}

/// Does the work.
///
/// # Safety
/// `a` and `b` hold k readable words in each of mr rows of each strip and k * nr readable words of each panel, those of a row of a side
/// by side or, mr apart, in a panel; `c` reaches so many rows of so many writable elements, `c_row` apart, and what is added as many
/// readable ones; the processor has the instructions that the kernel was compiled for. One for whole rectangles is called with mr rows,
/// nr columns, and null for what is added; one for the upper half the same with mr / 2 rows, and reads no more of a.
type Run = unsafe fn(&Work);

/// What a micro-kernel takes at a time.
#[derive(Clone, Copy)]
enum Takes {
    /// Any number of rows and columns, and what is added to them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "those for AVX2 and AVX-512 do"))]
    Blocks(Run),
    /// A whole rectangle at a time, or by `upper` the upper half of its rows, on this way through a block.
    Rectangles { run: Run, upper: Option<Run>, walk: Walk },
}

/// The rows of a that a block reads, in strips of a kernel's rows: word l of row i of strip s lies at
/// `words[s * strip + i * row + l * word]`. `word` is 1, or a kernel's rows.
#[derive(Clone, Copy)]
pub(super) struct Strips<'a> {
    pub words: &'a [f32],
    pub strip: usize,
    pub row: usize,
    pub word: usize,
}

/// The columns of b that a block reads, in panels of a kernel's columns, word by word along the inner dimension: each panel begins
/// `panel` words after the one before. What is read soon after them begins `next` words (modulo the
/// address space) after their first.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub words: &'a [f32],
    pub panel: usize,
    pub next: usize,
}

/// How a product is cut into tiles.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// Rows of a tile at most: each panel of b is read from afar once for so many.
    pub rows: usize,
    /// Columns of a tile at most, so that the tile of the output, or of the sums, stays in the second cache.
    pub cols: usize,
    /// Inner sizes are cut into runs of at most this many words, a multiple of a step, so that what is read again and again
    /// stays near. The cut decides the order of a sum.
    pub run: usize,
    /// Whether the sums of a tile of more than one run lie in room of their own, which the second cache holds, until all runs are in them:
    /// for a kernel that reads and writes them often, so that the output's lines, which come from afar, are written once, row by row.
    pub aside: bool,
}

/// The way through a block.
#[derive(Clone, Copy)]
enum Walk {
    /// Along the rows of the output, whose columns lie pages apart, as kernels that take blocks go too.
    Rows,
    /// Down each panel of b, which stays in the near caches, as the rows of a do.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AMX walks so"))]
    Columns,
}

/// A micro-kernel, the size of its rectangle, and the words that it reads.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Rows.
    pub mr: usize,
    /// Columns.
    pub nr: usize,
    pub cut: Cut,
    pub form: Form,
    /// Whether it is faster than the kernels for f32.
    pays: bool,
    takes: Takes,
}

/// The best kernel of this processor for operands read so.
pub(super) fn kernel(operands: Operands) -> &'static Kernel {
    static BEST: LazyLock<[Kernel; 2]> = LazyLock::new(|| {
        [Operands::F32, Operands::Bf16].map(|operands| candidates(operands).next().expect("plain loops run anywhere"))
    });
    &BEST[operands as usize]
}

/// The kernels that this processor can run, the best first. Those for f32 that fuse round once a step, along the inner
/// dimension, and give the same bits with AVX2 as with AVX-512.
pub(super) fn candidates(operands: Operands) -> impl Iterator<Item = Kernel> {
    let words = if operands == Operands::F32 { Words::F32 } else { Words::Rounded };
    let mut found = Vec::new();
    let plain = Kernel {
        mr: 4,
        nr: 8,
        cut: Cut { rows: 384, cols: 128, run: 1536, aside: false },
        form: Form { words, step: 1 },
        pays: false,
        takes: Takes::Rectangles { run: run_portable::<4, 8>, upper: None, walk: Walk::Rows },
    };
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        // The fastest: large tiles with AVX2 (Zen 3), low ones with AVX-512 (Zen 5; not so low on Emerald Rapids).
        let ([mr, nr], rows) = (avx512::SIZE, if intel() { 192 } else { 48 });
        let high = Kernel { mr, nr, cut: Cut { rows, ..plain.cut }, takes: Takes::Blocks(avx512::run), ..plain };
        let pairs = |step| Form { words: Words::Pairs, step };
        let tiles = Kernel { mr: amx::MR, nr: amx::NR, ..plain };
        if operands == Operands::Bf16 && amx::there() {
            found.push(Kernel {
                cut: Cut { rows: 288, cols: 256, run: 8 * amx::STEP, aside: true },
                form: pairs(amx::STEP),
                pays: true,
                takes: down_panels(amx::run::<1>, amx::run_upper::<1>),
                ..tiles
            });
        }
        // Elements are taken apart with AVX-512 BF16.
        if operands == Operands::F32 && amx::there() && has!("avx512bw") && has!("avx512bf16") {
            let step = 3 * amx::STEP;
            found.push(Kernel {
                cut: Cut { rows: 192, cols: 384, run: 24 * step, aside: false },
                form: Form { words: Words::Parts, step },
                takes: down_panels(amx::run::<3>, amx::run_upper::<3>),
                ..tiles
            });
        }
        if operands == Operands::Bf16 && has!("avx512f") && has!("avx512bf16") {
            // On Emerald Rapids it was slower than the kernel for f32, on Zen 5 twice as fast.
            found.push(Kernel { form: pairs(1), pays: !intel(), takes: Takes::Blocks(avx512::run_pairs), ..high });
        }
        if has!("avx512f") {
            let [mr, nr] = avx512::WIDE;
            let (cut, takes) = (Cut { rows: 384, cols: 192, ..plain.cut }, Takes::Blocks(avx512::run_wide));
            let wide = Kernel { mr, nr, cut, takes, ..high };
            // Whole steps took 2 to 7 % less time with the wide one on an Emerald Rapids, its longer turns included.
            found.extend(if intel() { [wide, high] } else { [high, wide] });
        }
        if has!("avx2") && has!("fma") {
            let [mr, nr] = avx2::SIZE;
            found.push(Kernel { mr, nr, takes: Takes::Blocks(avx2::run), ..plain });
        }
    }
    found.push(plain);
    found.into_iter()
}

/// A kernel of rectangles, and of their upper halves, that goes down the panels.
#[cfg(target_arch = "x86_64")]
fn down_panels(run: Run, upper: Run) -> Takes {
    Takes::Rectangles { run, upper: Some(upper), walk: Walk::Columns }
}

/// What CPUID says at `leaf`, the first of its parts.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "the function is safe from Rust 1.94 on")]
fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { std::arch::x86_64::__cpuid_count(leaf, 0) }
}

/// Whether Intel made this processor.
#[cfg(target_arch = "x86_64")]
fn intel() -> bool {
    let maker = cpuid(0);
    [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

/// The rows and columns of the output that a call covers.
pub(super) struct Block {
    pub c: *mut f32,
    /// Elements from row to row.
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
    /// What is added to the product: a row to each of its rows, and as many elements as it has, `stride` apart. Null: nothing.
    pub bias: *const f32,
    pub residual: *const f32,
}

impl Block {
    /// One to which nothing is added beside the product.
    pub fn bare(c: *mut f32, stride: usize, [rows, cols]: [usize; 2]) -> Self {
        Block { c, stride, rows, cols, bias: null(), residual: null() }
    }
}

impl Kernel {
    /// Where there is room for whole rectangles, and nobody minds what is written beside `rows`, one at least, and `cols`: the rows and
    /// columns to ask for. Kernels that take blocks are asked for no more than is wanted.
    pub fn covered(&self, rows: usize, cols: usize) -> [usize; 2] {
        let Kernel { mr, nr, .. } = *self;
        match self.takes {
            Takes::Blocks(_) => [rows, cols],
            Takes::Rectangles { upper: Some(_), .. } => [rows.next_multiple_of(mr / 2), cols.next_multiple_of(nr)],
            Takes::Rectangles { .. } => [rows.next_multiple_of(mr), cols.next_multiple_of(nr)],
        }
    }

    /// Adds to (or sets) a block from `k` words of rows of `a` and of panels of `b`, (k, nr) each. What they hold beyond the block is
    /// dropped, so that an element's bits do not depend on where a tile ends.
    ///
    /// # Safety
    /// `out.c` reaches `out.rows` rows of `out.cols` writable elements that no other thread touches, and what is added to them is
    /// there, and readable.
    pub unsafe fn run(&self, k: usize, a: Strips, b: Panels, out: Block, alpha: f32, add: bool) {
        let Kernel { mr, nr, form: Form { step, .. }, .. } = *self;
        let (strips, panels) = (out.rows.div_ceil(mr), out.cols.div_ceil(nr));
        if strips == 0 || panels == 0 {
            return;
        }
        // A kernel that also takes half rectangles reads only the upper half of a last strip that is no higher.
        let rows = match self.takes {
            Takes::Rectangles { upper: Some(_), .. } if out.rows - (strips - 1) * mr <= mr / 2 => mr / 2,
            _ => mr,
        };
        let before = if strips > 1 { (strips - 2) * a.strip + (mr - 1) * a.row } else { 0 };
        let last_row = before.max((strips - 1) * a.strip + (rows - 1) * a.row);
        let reach = if k == 0 { 0 } else { last_row + (k - 1) * a.word + 1 };
        let ends = if k == 0 { 0 } else { (panels - 1) * b.panel + k * nr };
        assert!(a.words.len() >= reach && b.words.len() >= ends, "rows or a panel end before {k} words");
        assert!(step == 1 || k.is_multiple_of(step) && a.word == 1, "{k} words are no steps of {step} side by side");
        assert!(a.word == 1 || a.word == mr, "words {} apart lie neither row after row nor in a panel", a.word);
        let work = Work {
            k,
            a: a.words.as_ptr(),
            a_strip: a.strip,
            a_row: a.row,
            a_word: a.word,
            b: b.words.as_ptr(),
            b_panel: b.panel,
            next: b.words.as_ptr().wrapping_add(b.next),
            c: out.c,
            c_row: out.stride,
            alpha,
            add,
            bias: out.bias,
            residual: out.residual,
            rows: out.rows,
            cols: out.cols,
        };
        // SAFETY: the lengths of a and b are asserted above, the block and what is added to it are the caller's promise, and
        // `candidates` offers a kernel only where the processor has what it takes.
        unsafe {
            match self.takes {
                Takes::Blocks(run) => run(&work),
                Takes::Rectangles { run, upper, walk } => self.run_rectangles(run, upper, walk, &work),
            }
        }
    }

    /// The work, a rectangle at a time.
    ///
    /// # Safety
    /// See [`Run`].
    unsafe fn run_rectangles(&self, run: Run, upper: Option<Run>, walk: Walk, work: &Work) {
        let Kernel { mr, nr, .. } = *self;
        let (strips, panels) = (work.rows.div_ceil(mr), work.cols.div_ceil(nr));
        let one = |strip: usize, panel: usize, next: *const f32| {
            let work = work.rectangle([mr, nr], strip, panel, next);
            let (run, mr) = match upper {
                Some(upper) if work.rows <= mr / 2 => (upper, mr / 2),
                _ => (run, mr),
            };
            if !work.residual.is_null() {
                // It arrives while the sums are made.
                let row = |i: usize| work.residual.wrapping_add(i * work.c_row);
                (0..work.rows).for_each(|i| vector::fetch_from(row(i), work.cols));
            }
            // SAFETY: the caller's promise.
            unsafe {
                if work.rows == mr && work.cols == nr {
                    run(&Work { bias: null(), residual: null(), ..work });
                } else {
                    run_part(run, [mr, nr], &work);
                }
                work.finish();
            }
        };
        let panel_at = |panel: usize| work.b.wrapping_add(panel * work.b_panel);
        match walk {
            Walk::Rows => (0..strips).for_each(|i| (0..panels).for_each(|j| one(i, j, panel_at(j)))),
            Walk::Columns => {
                for j in 0..panels {
                    for i in 0..strips {
                        // What is read next is asked for a part at a time, while this panel is worked on.
                        let part = i * work.k * nr / strips;
                        let next = if j + 1 < panels { panel_at(j + 1) } else { work.next };
                        one(i, j, next.wrapping_add(part));
                    }
                }
            }
        }
    }

    /// Makes the calling thread ready for this kernel while the result lives. `run` does so itself; who runs it often on
    /// little spares it the time.
    #[inline]
    pub fn ready(&self) -> Ready {
        #[cfg(target_arch = "x86_64")]
        if self.form.step > 1 {
            return Ready { _registers: Some(amx::Configured::new()) };
        }
        Ready::default()
    }
}

/// See [`Kernel::ready`].
#[derive(Default)]
#[must_use = "the thread is ready while this lives"]
pub struct Ready {
    #[cfg(target_arch = "x86_64")]
    _registers: Option<amx::Configured>,
}

/// `run` for a rectangle that it does not fill, in room of its own.
///
/// # Safety
/// See [`Run`]; the output is no larger than mr x nr.
#[inline(never)]
unsafe fn run_part(run: Run, [mr, nr]: [usize; 2], work: &Work) {
    let Work { rows, cols, .. } = *work;
    let mut whole = [0.0; MOST];
    assert!(mr * nr <= MOST, "a rectangle of {mr} x {nr}");
    // SAFETY: row i of the output holds `cols` elements, writable and of no other thread, by the caller's promise.
    let row = |i: usize| unsafe { std::slice::from_raw_parts_mut(work.c.add(i * work.c_row), cols) };
    if work.add {
        (0..rows).for_each(|i| whole[i * nr..][..cols].copy_from_slice(row(i)));
    }
    // SAFETY: the caller's promise; the output is `whole`, which holds mr * nr elements.
    unsafe { run(&work.whole(whole.as_mut_ptr(), [mr, nr])) };
    (0..rows).for_each(|i| row(i).copy_from_slice(&whole[i * nr..][..cols]));
}

/// Plain loops that the compiler turns into whatever vectors the target has.
///
/// # Safety
/// See [`Run`].
unsafe fn run_portable<const MR: usize, const NR: usize>(work: &Work) {
    let Work { k, a, a_row, a_word, b, c, c_row, alpha, add, .. } = *work;
    // SAFETY: the caller promises this length.
    let b = unsafe { std::slice::from_raw_parts(b, k * NR) };
    let mut sums = [[0.0f32; NR]; MR];
    for (l, b) in b.chunks_exact(NR).enumerate() {
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller promises k words in each of MR rows.
            let x = unsafe { *a.add(i * a_row + l * a_word) };
            for (sum, &y) in sums.iter_mut().zip(b) {
                *sum = if cfg!(target_arch = "aarch64") { x.mul_add(y, *sum) } else { *sum + x * y };
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: the caller promises MR rows of NR elements.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * c_row), NR) };
        for (c, &sum) in c.iter_mut().zip(sums) {
            *c = if add { *c + alpha * sum } else { alpha * sum };
        }
    }
}

#[cfg(test)]
mod tests;
