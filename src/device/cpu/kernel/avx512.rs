//! The micro-kernels for AVX-512: f32, and pairs of bf16 with `vdpbf16ps`.
#![allow(unsafe_code)]

use super::Work;
use std::arch::x86_64::*;
use std::hint::black_box;

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

/// As many steps of the inner dimension, unrolled, and on to what follows: a macro, for the sums must stay in registers.
macro_rules! steps {
    ($n:expr, $size:expr, $step:expr, $sums:ident, $rows:ident, $a_row:ident, $word:ident, $b:ident) => {
        for l in 0..$n {
            let ahead = $b.wrapping_add($size[1] * (l + AHEAD));
            for vector in 0..$size[1] / LANES {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(LANES * vector).cast());
            }
            // SAFETY: no more than k steps are taken in all, so each word of the rows of a and each row of b is inside (the
            // caller's promise).
            unsafe {
                let ys: [__m512; $size[1] / LANES] =
                    std::array::from_fn(|vector| _mm512_loadu_ps($b.add($size[1] * l + LANES * vector)));
                let together = $size[0] / ADDRESSES;
                for (i, sums) in $sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*$rows[i / together].add(i % together * $a_row + l * $word));
                    for (sum, y) in sums.iter_mut().zip(ys) {
                        *sum = $step(*sum, x, y);
                    }
                }
            }
        }
        $rows = $rows.map(|row| row.wrapping_add($n * $word));
        $b = $b.wrapping_add($n * $size[1]);
    };
}

/// A kernel whose step multiplies a broadcast word of a by a vector of b and adds to a vector of sums, so many steps in a turn of
/// its loop.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $size:expr, $unrolled:literal, $features:literal, $step:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`super::Run`]; `a_word` is 1 or the rows of the rectangle.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(work: &Work) {
            /// The work where the words of a row lie `WORD` apart.
            ///
            /// # Safety
            /// As the function around it; `a_word` is `WORD`.
            #[target_feature(enable = $features)]
            unsafe fn rectangle<const WORD: usize>(work: &Work) {
                let Work { k, a, a_row, b, c, c_row: stride, alpha, add, .. } = *work;
                for i in 0..$size[0] {
                    // A prefetch reads nothing; the lines arrive while the sums are made.
                    let row = c.wrapping_add(i * stride);
                    for vector in 0..$size[1] / LANES {
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(LANES * vector).cast());
                    }
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add($size[1] - 1).cast());
                }
                let mut sums = [[_mm512_setzero_ps(); $size[1] / LANES]; $size[0]];
                // Hidden from the compiler, which would make a chain of sums of them.
                const { assert!($size[0].is_multiple_of(ADDRESSES) && $size[1].is_multiple_of(LANES)) };
                let mut rows: [*const f32; ADDRESSES] =
                    std::array::from_fn(|i| black_box(a.wrapping_add(i * ($size[0] / ADDRESSES) * a_row)));
                let mut b = b;
                let turns = k / $unrolled;
                for _ in 0..turns {
                    steps!($unrolled, $size, $step, sums, rows, a_row, WORD, b);
                }
                for _ in turns * $unrolled..k {
                    steps!(1, $size, $step, sums, rows, a_row, WORD, b);
                }
                let alpha = _mm512_set1_ps(alpha);
                for (i, sums) in sums.iter().enumerate() {
                    for (vector, &sum) in sums.iter().enumerate() {
                        // SAFETY: the caller promises so many rows of so many elements.
                        unsafe {
                            let c = c.add(i * stride + LANES * vector);
                            let value = _mm512_mul_ps(alpha, sum);
                            _mm512_storeu_ps(c, if add { _mm512_add_ps(_mm512_loadu_ps(c), value) } else { value });
                        }
                    }
                }
            }
            // SAFETY: the caller's promise, also of the features; `a_word` is what the condition says.
            unsafe {
                if work.a_word == 1 {
                    rectangle::<1>(work);
                } else {
                    rectangle::<{ $size[0] }>(work);
                }
            }
        }
    };
}

kernel!(
    /// Words that hold elements.
    run,
    SIZE,
    1,
    "avx512f",
    |sum, x, y| _mm512_fmadd_ps(x, y, sum)
);

kernel!(
    /// Words that hold elements.
    run_wide,
    WIDE,
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
    1,
    "avx512f,avx512bf16",
    |sum, x, y| _mm512_dpbf16_ps(sum, pairs(x), pairs(y))
);
