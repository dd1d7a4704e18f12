//! The micro-kernels for AVX-512: f32, and pairs of bf16 with `vdpbf16ps`.
#![allow(unsafe_code)]

use super::Work;
use crate::device::cpu::pairs::avx512::lanes;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows and columns of the rectangle of `run` and `run_pairs`: twenty-four sums, two vectors of b and one broadcast of a fill
/// twenty-seven of the thirty-two registers.
pub(super) const SIZE: [usize; 2] = [12, 32];
/// As [`SIZE`], of `run_wide`, whose sums, three vectors of b and one broadcast of a fill twenty-eight: a fifth fewer loads for as
/// many products.
pub(super) const WIDE: [usize; 2] = [8, 48];

/// Floats of a vector.
const LANES: usize = 16;
/// Addresses by which the rows of a are reached.
const ADDRESSES: usize = 4;
/// How many words of the inner dimension before its use a row of b is asked for.
const AHEAD: usize = 16;
/// Steps at most from one row of the output that is asked for to the next.
const BETWEEN: usize = 16;

/// As many steps of the inner dimension, unrolled, and on to what follows: a macro, for the sums must stay in registers.
macro_rules! steps {
    ($n:expr, $width:expr, $step:expr, $sums:ident, $rows:ident, $a_row:ident, $b:ident) => {
        for l in 0..$n {
            let ahead = $b.wrapping_add($width * (l + AHEAD));
            for vector in 0..VECTORS {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(LANES * vector).cast());
            }
            // SAFETY: no more than k steps are taken in all, so each word of the rows of a and each row of b is inside (the
            // caller's promise).
            unsafe {
                let ys: [__m512; VECTORS] =
                    std::array::from_fn(|vector| _mm512_loadu_ps($b.add($width * l + LANES * vector)));
                let together = ROWS / ADDRESSES;
                for (i, sums) in $sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*$rows[i / together].add(i % together * $a_row + l * WORD));
                    for (sum, y) in sums.iter_mut().zip(ys) {
                        *sum = $step(*sum, x, y);
                    }
                }
            }
        }
        $rows = $rows.map(|row| row.wrapping_add($n * WORD));
        $b = $b.wrapping_add($n * $width);
    };
}

/// Writes the rectangle that begins in `row` and `col` of the block: the first `rows` and `cols` of the sums, times alpha, with what is
/// added to them. `PART` when those are not all, `SCALED` unless alpha is 1.
///
/// # Safety
/// See [`super::Run`]; so many rows and columns are in the block.
#[inline(always)]
unsafe fn put<const ROWS: usize, const VECTORS: usize, const PART: bool, const SCALED: bool>(
    work: &Work,
    [row, col]: [usize; 2],
    [rows, cols]: [usize; 2],
    sums: [[__m512; VECTORS]; ROWS],
) {
    let Work { c_row, alpha, add, bias, .. } = *work;
    let first = row * c_row + col;
    let (c, residual) = (work.c.wrapping_add(first), work.residual.wrapping_add(first));
    let mask: [__mmask16; VECTORS] = std::array::from_fn(|vector| lanes(cols.saturating_sub(LANES * vector)));
    // SAFETY: the caller promises so many rows and columns of c and of what is added; lanes out of the mask are not touched.
    unsafe {
        let read = |from: *const f32, vector: usize| match PART {
            true => _mm512_maskz_loadu_ps(mask[vector], from.add(LANES * vector)),
            false => _mm512_loadu_ps(from.add(LANES * vector)),
        };
        // To add -0 changes nothing.
        let bias: [__m512; VECTORS] = std::array::from_fn(|vector| match bias.is_null() {
            true => _mm512_set1_ps(-0.0),
            false => read(bias.wrapping_add(col), vector),
        });
        let alpha = _mm512_set1_ps(alpha);
        // One short loop for each case, so that the compiler unrolls it; indexed by a variable, the sums would go through memory.
        macro_rules! each {
            ($value:expr) => {
                for i in 0..ROWS {
                    if PART && i >= rows {
                        break;
                    }
                    for vector in 0..VECTORS {
                        let sum = sums[i][vector];
                        let sum = if SCALED { _mm512_mul_ps(alpha, sum) } else { sum };
                        let value: __m512 = $value(i, vector, sum);
                        let c = c.add(i * c_row + LANES * vector);
                        match PART {
                            true => _mm512_mask_storeu_ps(c, mask[vector], value),
                            false => _mm512_storeu_ps(c, value),
                        }
                    }
                }
            };
        }
        let old = |i: usize, vector: usize, sum: __m512| _mm512_add_ps(read(c.add(i * c_row), vector), sum);
        let more = |i: usize, vector: usize, sum: __m512| _mm512_add_ps(sum, read(residual.add(i * c_row), vector));
        match (add, work.residual.is_null()) {
            (false, true) => each!(|_, vector: usize, sum| _mm512_add_ps(sum, bias[vector])),
            (false, false) => each!(|i, vector, sum| more(i, vector, _mm512_add_ps(sum, bias[vector]))),
            (true, true) => each!(|i, vector, sum| _mm512_add_ps(old(i, vector, sum), bias[vector])),
            (true, false) => each!(|i, vector, sum| more(i, vector, _mm512_add_ps(old(i, vector, sum), bias[vector]))),
        }
    }
}

/// A kernel whose step multiplies a broadcast word of a by a vector of b and adds to a vector of sums, so many steps in a turn of
/// its loop. A rectangle of fewer rows or columns is computed with as few sums as hold it, of these heights and widths. What lies between
/// two rectangles is kept short: while the processor waits for the last products of one, it has room for a few hundred instructions, and
/// the first products of the next are to be among them.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $size:expr, [$($rows:literal)*], [$($vectors:literal)*],
        $unrolled:literal, $features:literal, $step:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`super::Run`]; `a_word` is 1 or the rows of the kernel.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(work: &Work) {
            const MR: usize = $size[0];
            const NR: usize = $size[1];
            /// The rectangle of a strip and a panel where it takes so many rows and vectors, and the words of a row lie `WORD` apart.
            ///
            /// # Safety
            /// As the function around it; `a_word` is `WORD`, and the rectangle is no larger.
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn rectangle<const ROWS: usize, const VECTORS: usize, const WORD: usize>(
                work: &Work,
                strip: usize,
                panel: usize,
            ) {
                let Work { k, a_row, c_row, .. } = *work;
                let (row, col) = (strip * MR, panel * NR);
                let (a, mut b) = (work.a.wrapping_add(strip * work.a_strip), work.b.wrapping_add(panel * work.b_panel));
                let first = row * c_row + col;
                let (mut c, mut residual) = (work.c.wrapping_add(first), work.residual.wrapping_add(first));
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                const { assert!(ROWS.is_multiple_of(ADDRESSES)) };
                let mut rows: [*const f32; ADDRESSES] =
                    std::array::from_fn(|i| hidden(a.wrapping_add(i * (ROWS / ADDRESSES) * a_row)));
                // Between the steps a row of the output and of what is added to it is asked for at a time: the processor waits
                // for so many lines at once, and operands are among them.
                let between = (k / ROWS).min(BETWEEN) / $unrolled * $unrolled;
                for i in 0..=ROWS {
                    let steps = if i < ROWS { between } else { k - ROWS * between };
                    if i < ROWS {
                        for vector in 0..VECTORS {
                            _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(LANES * vector).cast());
                        }
                        _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(VECTORS * LANES - 1).cast());
                        if !work.residual.is_null() {
                            for vector in 0..VECTORS {
                                _mm_prefetch::<_MM_HINT_T0>(residual.wrapping_add(LANES * vector).cast());
                            }
                        }
                        (c, residual) = (c.wrapping_add(c_row), residual.wrapping_add(c_row));
                    }
                    for _ in 0..steps / $unrolled {
                        steps!($unrolled, NR, $step, sums, rows, a_row, b);
                    }
                    for _ in steps / $unrolled * $unrolled..steps {
                        steps!(1, NR, $step, sums, rows, a_row, b);
                    }
                }
                let (at, size) = ([row, col], work.size([MR, NR], strip, panel));
                let part = size[0] < ROWS || size[1] < VECTORS * LANES;
                // SAFETY: the caller's promise.
                unsafe {
                    match (part, work.alpha.to_bits() != 1f32.to_bits()) {
                        (false, false) => put::<ROWS, VECTORS, false, false>(work, at, size, sums),
                        (false, true) => put::<ROWS, VECTORS, false, true>(work, at, size, sums),
                        (true, false) => put::<ROWS, VECTORS, true, false>(work, at, size, sums),
                        (true, true) => put::<ROWS, VECTORS, true, true>(work, at, size, sums),
                    }
                }
            }
            /// The rectangle where it takes so many vectors.
            ///
            /// # Safety
            /// As above.
            #[target_feature(enable = $features)]
            unsafe fn vectors<const VECTORS: usize, const WORD: usize>(work: &Work, strip: usize, panel: usize) {
                match work.size([MR, NR], strip, panel)[0].next_multiple_of(ADDRESSES) {
                    // SAFETY: the caller's promise.
                    $($rows => unsafe { rectangle::<$rows, VECTORS, WORD>(work, strip, panel) },)*
                    rows => unreachable!("{rows} rows"),
                }
            }
            for strip in 0..work.rows.div_ceil(MR) {
                for panel in 0..work.cols.div_ceil(NR) {
                    match (work.size([MR, NR], strip, panel)[1].div_ceil(LANES), work.a_word == 1) {
                        // SAFETY: the caller's promise, also of the features; `a_word` is what the condition says.
                        $(($vectors, true) => unsafe { vectors::<$vectors, 1>(work, strip, panel) },
                        // SAFETY: as above.
                        ($vectors, false) => unsafe { vectors::<$vectors, MR>(work, strip, panel) },)*
                        (vectors, _) => unreachable!("{vectors} vectors"),
                    }
                }
            }
        }
    };
}

/// The same address, of which the compiler does not know where it comes from: it would make a chain of sums of the rows' addresses.
#[inline(always)]
fn hidden(address: *const f32) -> *const f32 {
    let mut same = address;
    // SAFETY: no instruction.
    unsafe { asm!("/* {} */", inout(reg) same, options(pure, readonly, nostack, preserves_flags)) };
    same
}

kernel!(
    /// Words that hold elements.
    run,
    SIZE,
    [12 8 4],
    [2 1],
    1,
    "avx512f",
    |sum, x, y| _mm512_fmadd_ps(x, y, sum)
);

kernel!(
    /// Words that hold elements.
    run_wide,
    WIDE,
    [8 4],
    [3 2 1],
    4,
    "avx512f",
    |sum, x, y| _mm512_fmadd_ps(x, y, sum)
);

/// The same bits as pairs of bf16.
#[inline(always)]
fn pairs(words: __m512) -> __m512bh {
    // SAFETY: both types are 512 bits, of which every pattern is a value.
    unsafe { std::mem::transmute::<__m512, __m512bh>(words) }
}

kernel!(
    /// Words that hold pairs of bf16.
    run_pairs,
    SIZE,
    [12 8 4],
    [2 1],
    1,
    "avx512f,avx512bf16",
    |sum, x, y| _mm512_dpbf16_ps(sum, pairs(x), pairs(y))
);
