//! The micro-kernel for AVX2 with FMA.
#![allow(unsafe_code)]

use super::Work;
use std::arch::x86_64::*;
use std::hint::black_box;

/// 6 x 16: twelve sums, two vectors of b and one broadcast of a fill fifteen of the sixteen registers.
///
/// # Safety
/// See [`super::Run`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(work: &Work) {
    let Work { k, a, a_row, a_word, b, c, c_row: stride, alpha, add, .. } = *work;
    for i in 0..6 {
        // A prefetch reads nothing; the lines arrive while the sums are made.
        _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride).cast());
        _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride + 15).cast());
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; 6];
    // See `super::avx512`: hidden from the compiler, and not unrolled, or sums would leave the registers.
    let mut rows = [0, 3].map(|i| black_box(a.wrapping_add(i * a_row)));
    for l in 0..k {
        // SAFETY: l < k, so word l of the rows of a and row l of b are inside (the caller's promise).
        unsafe {
            let (b0, b1) = (_mm256_loadu_ps(b.add(16 * l)), _mm256_loadu_ps(b.add(16 * l + 8)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*rows[i / 3].add(i % 3 * a_row));
                sums[0] = _mm256_fmadd_ps(x, b0, sums[0]);
                sums[1] = _mm256_fmadd_ps(x, b1, sums[1]);
            }
        }
        rows = rows.map(|row| row.wrapping_add(a_word));
    }
    let alpha = _mm256_set1_ps(alpha);
    for (i, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller promises six rows of sixteen elements.
            unsafe {
                let c = c.add(i * stride + 8 * half);
                let value = _mm256_mul_ps(alpha, sum);
                _mm256_storeu_ps(c, if add { _mm256_add_ps(_mm256_loadu_ps(c), value) } else { value });
            }
        }
    }
}
