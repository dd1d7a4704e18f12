//! The micro-kernel for AVX2 with FMA.
#![allow(unsafe_code)]

use super::Work;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows and columns of the rectangle: twelve sums, two vectors of b and one broadcast of a fill fifteen of the sixteen registers.
pub(super) const SIZE: [usize; 2] = [MR, NR];
const MR: usize = 6;
const NR: usize = 2 * LANES;

/// Floats of a vector.
const LANES: usize = 8;

/// The products of a word of six rows of a and a row of b, which lie so many bytes on, added to the sums.
macro_rules! step {
    ($word:literal, $row:literal) => {
        concat!(
            step!(@load "{y0}", $row, "0"),
            step!(@load "{y1}", $row, "32"),
            step!(@row "{a}", $word, "{s00}", "{s01}"),
            step!(@row "{a} + {row}", $word, "{s10}", "{s11}"),
            step!(@row "{a} + 2*{row}", $word, "{s20}", "{s21}"),
            step!(@row "{a} + {row3}", $word, "{s30}", "{s31}"),
            step!(@row "{a} + 4*{row}", $word, "{s40}", "{s41}"),
            step!(@row "{a} + {row5}", $word, "{s50}", "{s51}"),
        )
    };
    (@load $y:literal, $row:literal, $half:literal) => {
        concat!("vmovups ", $y, ", ymmword ptr [{b} + ", $row, " + ", $half, "]\n")
    };
    (@row $at:literal, $word:literal, $s0:literal, $s1:literal) => {
        concat!(
            "vbroadcastss {x}, dword ptr [", $at, " + ", $word, "]\n",
            "vfmadd231ps ", $s0, ", {x}, {y0}\n",
            "vfmadd231ps ", $s1, ", {x}, {y1}\n",
        )
    };
}

/// The sums over k words of six rows of a, whose words lie `WORD` apart, and a panel of b.
///
/// With one step to a turn of the loop a step takes 24 instructions, with four 21: up to an eighth more products in the same time (measured
/// on a Zen 3 in a virtual machine). In assembly, so that the sums stay in registers whatever the compiler unrolls.
///
/// # Safety
/// As [`run`], for the rows that begin at `a`, whose words lie `WORD` apart, and the panel that begins at `b`.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn sums<const WORD: usize>(k: usize, a: *const f32, a_row: usize, b: *const f32) -> [[__m256; 2]; MR] {
    let row = a_row * size_of::<f32>();
    let [
        [mut s00, mut s01],
        [mut s10, mut s11],
        [mut s20, mut s21],
        [mut s30, mut s31],
        [mut s40, mut s41],
        [mut s50, mut s51],
    ] = [[_mm256_setzero_ps(); 2]; MR];
    // SAFETY: k steps are taken in all, so the words of the rows of a, of which there are six even where the block has fewer, and the rows
    // of b are inside (the caller's promise); nothing is written.
    unsafe {
        asm!(
            "test {fours}, {fours}",
            "jz 3f",
            // What the processor fetches at once.
            ".p2align 5",
            "2:",
            step!("0*4*{word}", "0"),
            step!("1*4*{word}", "64"),
            step!("2*4*{word}", "128"),
            step!("3*4*{word}", "192"),
            "add {a}, 16*{word}",
            "add {b}, 256",
            "dec {fours}",
            "jnz 2b",
            "3:",
            "test {ones}, {ones}",
            "jz 5f",
            "4:",
            step!("0", "0"),
            "add {a}, 4*{word}",
            "add {b}, 64",
            "dec {ones}",
            "jnz 4b",
            "5:",
            word = const WORD,
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            fours = inout(reg) k / 4 => _,
            ones = inout(reg) k % 4 => _,
            row = in(reg) row,
            row3 = in(reg) 3 * row,
            row5 = in(reg) 5 * row,
            x = out(ymm_reg) _,
            y0 = out(ymm_reg) _,
            y1 = out(ymm_reg) _,
            s00 = inout(ymm_reg) s00,
            s01 = inout(ymm_reg) s01,
            s10 = inout(ymm_reg) s10,
            s11 = inout(ymm_reg) s11,
            s20 = inout(ymm_reg) s20,
            s21 = inout(ymm_reg) s21,
            s30 = inout(ymm_reg) s30,
            s31 = inout(ymm_reg) s31,
            s40 = inout(ymm_reg) s40,
            s41 = inout(ymm_reg) s41,
            s50 = inout(ymm_reg) s50,
            s51 = inout(ymm_reg) s51,
            options(readonly, pure, nostack),
        );
    }
    [[s00, s01], [s10, s11], [s20, s21], [s30, s31], [s40, s41], [s50, s51]]
}

/// The lanes below `n`.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn lanes(n: usize) -> __m256i {
    let n = _mm256_set1_epi32(n.min(LANES) as i32);
    _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Writes the rectangle that begins in `row` and `col` of the block: the first `rows` and `cols` of the sums, times alpha, with what is
/// added to them. `PART` when those are not all.
///
/// # Safety
/// See [`super::Run`]; so many rows and columns are in the block.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn put<const PART: bool>(
    work: &Work,
    [row, col]: [usize; 2],
    [rows, cols]: [usize; 2],
    sums: [[__m256; 2]; MR],
) {
    let Work { c_row, add, bias, .. } = *work;
    let first = row * c_row + col;
    let (c, residual) = (work.c.wrapping_add(first), work.residual.wrapping_add(first));
    let mask = [lanes(cols), lanes(cols.saturating_sub(LANES))];
    let alpha = _mm256_set1_ps(work.alpha);
    // SAFETY: the caller promises so many rows and columns of c and of what is added; lanes out of the mask are not touched.
    unsafe {
        let read = |from: *const f32, half: usize| match PART {
            true => _mm256_maskload_ps(from.wrapping_add(LANES * half), mask[half]),
            false => _mm256_loadu_ps(from.add(LANES * half)),
        };
        for (i, sums) in sums.into_iter().enumerate().take(if PART { rows } else { MR }) {
            for (half, sum) in sums.into_iter().enumerate() {
                let mut value = _mm256_mul_ps(alpha, sum);
                if add {
                    value = _mm256_add_ps(read(c.add(i * c_row), half), value);
                }
                if !bias.is_null() {
                    value = _mm256_add_ps(value, read(bias.add(col), half));
                }
                if !work.residual.is_null() {
                    value = _mm256_add_ps(value, read(residual.add(i * c_row), half));
                }
                let c = c.wrapping_add(i * c_row + LANES * half);
                match PART {
                    true => _mm256_maskstore_ps(c, mask[half], value),
                    false => _mm256_storeu_ps(c, value),
                }
            }
        }
    }
}

/// The rectangle of a strip and a panel, where the words of a row lie `WORD` apart.
///
/// # Safety
/// As [`run`]; `a_word` is `WORD`, and the strip and the panel are of the block.
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
unsafe fn rectangle<const WORD: usize>(work: &Work, strip: usize, panel: usize) {
    let Work { k, a_row, c_row, .. } = *work;
    let at = [strip * MR, panel * NR];
    let first = at[0] * c_row + at[1];
    for i in 0..MR {
        // A prefetch reads nothing; the lines arrive while the sums are made.
        let ask = |of: *const f32| {
            let row = of.wrapping_add(first + i * c_row);
            _mm_prefetch::<_MM_HINT_T0>(row.cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(NR - 1).cast());
        };
        ask(work.c);
        if !work.residual.is_null() {
            ask(work.residual);
        }
    }
    let size = work.size(SIZE, strip, panel);
    // SAFETY: the caller's promise.
    unsafe {
        let a = work.a.wrapping_add(strip * work.a_strip);
        let sums = sums::<WORD>(k, a, a_row, work.b.wrapping_add(panel * work.b_panel));
        match size == SIZE {
            true => put::<false>(work, at, size, sums),
            false => put::<true>(work, at, size, sums),
        }
    }
}

/// Words that hold elements.
///
/// # Safety
/// See [`super::Run`]; `a_word` is 1 or the rows of the kernel.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(work: &Work) {
    for strip in 0..work.rows.div_ceil(MR) {
        for panel in 0..work.cols.div_ceil(NR) {
            // SAFETY: the caller's promise, of `a_word` too, of whose two values the match takes the one that it is.
            unsafe {
                match work.a_word {
                    1 => rectangle::<1>(work, strip, panel),
                    _ => rectangle::<MR>(work, strip, panel),
                }
            }
        }
    }
}
