//! The micro-kernels for AVX-512: f32, and pairs of bf16 with `vdpbf16ps`.
#![allow(unsafe_code)]

use super::Work;
use std::arch::x86_64::*;
use std::hint::black_box;

/// Rows of the rectangle.
pub(super) const MR: usize = 12;
/// Columns of the rectangle.
pub(super) const NR: usize = 32;

/// How many words of the inner dimension before its use a row of b is asked for.
const AHEAD: usize = 16;

/// A kernel whose step multiplies a broadcast word of a by a vector of b and adds to a vector of sums.
///
/// 12 x 32: twenty-four sums, two vectors of b and one broadcast of a fill twenty-seven of the thirty-two registers.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $features:literal, $step:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`super::Run`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(work: &Work) {
            let Work { k, a, a_row, a_word, b, c, c_row: stride, alpha, add, .. } = *work;
            for i in 0..MR {
                // A prefetch reads nothing; the lines arrive while the sums are made.
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride).cast());
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride + 16).cast());
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride + 31).cast());
            }
            let mut sums = [[_mm512_setzero_ps(); 2]; MR];
            // Hidden from the compiler, which would make a chain of sums of them; each serves three rows by an address.
            const { assert!(MR == 12) };
            let mut rows = [0, 3, 6, 9].map(|i| black_box(a.wrapping_add(i * a_row)));
            // Not unrolled: what the loop itself does fits beside the products, and the registers are enough.
            for l in 0..k {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(NR * (l + AHEAD)).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(NR * (l + AHEAD) + 16).cast());
                // SAFETY: l < k, so word l of the rows of a and row l of b are inside (the caller's promise).
                unsafe {
                    let (b0, b1) = (_mm512_loadu_ps(b.add(NR * l)), _mm512_loadu_ps(b.add(NR * l + 16)));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_ps(*rows[i / 3].add(i % 3 * a_row));
                        sums[0] = $step(sums[0], x, b0);
                        sums[1] = $step(sums[1], x, b1);
                    }
                }
                rows = rows.map(|row| row.wrapping_add(a_word));
            }
            let alpha = _mm512_set1_ps(alpha);
            for (i, sums) in sums.iter().enumerate() {
                for (half, &sum) in sums.iter().enumerate() {
                    // SAFETY: the caller promises MR rows of NR elements.
                    unsafe {
                        let c = c.add(i * stride + 16 * half);
                        let value = _mm512_mul_ps(alpha, sum);
                        _mm512_storeu_ps(c, if add { _mm512_add_ps(_mm512_loadu_ps(c), value) } else { value });
                    }
                }
            }
        }
    };
}

kernel!(
    /// Words that hold elements.
    run,
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
    "avx512f,avx512bf16",
    |sum, x, y| _mm512_dpbf16_ps(sum, pairs(x), pairs(y))
);
