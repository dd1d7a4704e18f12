//! Panels from rows that are contiguous: a transpose, in blocks of sixteen by sixteen where the processor has AVX-512, of eight by eight
//! where it has AVX.
#![allow(unsafe_code)]

/// Columns that the plain loops transpose at a time, so that what is written stays in the first cache.
const BLOCK: usize = 16;

/// `out[l * to_stride + i] = rows[i * stride + l]` for the rows i below `count` and every l below `cols`; other elements of
/// `out` are left alone.
pub(super) fn transpose(rows: &[f32], stride: usize, [count, cols]: [usize; 2], out: &mut [f32], to_stride: usize) {
    if count == 0 || cols == 0 {
        return;
    }
    assert!(
        count <= to_stride && (cols - 1) * to_stride + count <= out.len(),
        "{cols} columns of {count} find no room"
    );
    assert!((count - 1) * stride + cols <= rows.len(), "the rows of a panel leave their matrix");
    let done = squares(rows, stride, [count, cols], out, to_stride);
    for start in (done..cols).step_by(BLOCK) {
        let end = (start + BLOCK).min(cols);
        for i in 0..count {
            for (l, &value) in (start..end).zip(&rows[i * stride + start..i * stride + end]) {
                out[l * to_stride + i] = value;
            }
        }
    }
}

/// Transposes what is a multiple of a square's columns, for rows that are one too; returns how many.
#[cfg(target_arch = "x86_64")]
fn squares(rows: &[f32], stride: usize, [count, cols]: [usize; 2], out: &mut [f32], to_stride: usize) -> usize {
    use std::arch::is_x86_feature_detected as has;
    let mut done = 0;
    if count.is_multiple_of(16) && has!("avx512f") {
        // SAFETY: the processor has AVX-512, and the rows are a multiple of sixteen; `transpose` asserts that all are inside.
        done = unsafe { avx512::sixteens(rows, stride, [count, cols], out, to_stride) };
    }
    if done < cols && count.is_multiple_of(8) && has!("avx") {
        let (rows, out) = (&rows[done..], &mut out[done * to_stride..]);
        // SAFETY: as above, of AVX and eight; the columns that are left begin at the first of each.
        done += unsafe { avx::eights(rows, stride, [count, cols - done], out, to_stride) };
    }
    done
}

#[cfg(not(target_arch = "x86_64"))]
fn squares(_: &[f32], _: usize, _: [usize; 2], _: &mut [f32], _: usize) -> usize {
    0
}

/// Declares the function that transposes squares of such a side with `transposed`, which takes and gives the vectors of one.
#[cfg(target_arch = "x86_64")]
macro_rules! each_square {
    ($name:ident, $side:literal, $feature:literal, $load:ident, $store:ident) => {
        /// See `super::squares`.
        ///
        /// # Safety
        /// All rows and columns are inside; the rows are a multiple of a square's; the processor has the feature.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $name(
            rows: &[f32],
            stride: usize,
            [count, cols]: [usize; 2],
            out: &mut [f32],
            to_stride: usize,
        ) -> usize {
            let whole = cols / $side * $side;
            for l in (0..whole).step_by($side) {
                for first in (0..count).step_by($side) {
                    // SAFETY: rows below `count` hold a vector from column l on, and `out` has places for them, by the
                    // caller's promise.
                    unsafe {
                        let from = rows.as_ptr().add(first * stride + l);
                        let to = out.as_mut_ptr().add(l * to_stride + first);
                        let square = std::array::from_fn(|i| $load(from.add(i * stride)));
                        for (l, column) in transposed(square).into_iter().enumerate() {
                            $store(to.add(l * to_stride), column);
                        }
                    }
                }
            }
            whole
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    /// The transpose of sixteen vectors of sixteen.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transposed(r: [__m512; 16]) -> [__m512; 16] {
        // Squares of four lie in each quarter of four vectors after two turns; two more put the quarters in their places.
        let mut a = r;
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut b = a;
        for i in 0..4 {
            b[4 * i] = _mm512_shuffle_ps::<0x44>(a[4 * i], a[4 * i + 2]);
            b[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a[4 * i], a[4 * i + 2]);
            b[4 * i + 2] = _mm512_shuffle_ps::<0x44>(a[4 * i + 1], a[4 * i + 3]);
            b[4 * i + 3] = _mm512_shuffle_ps::<0xee>(a[4 * i + 1], a[4 * i + 3]);
        }
        let mut c = b;
        for i in 0..4 {
            c[i] = _mm512_shuffle_f32x4::<0x88>(b[i], b[i + 4]);
            c[i + 4] = _mm512_shuffle_f32x4::<0xdd>(b[i], b[i + 4]);
            c[i + 8] = _mm512_shuffle_f32x4::<0x88>(b[i + 8], b[i + 12]);
            c[i + 12] = _mm512_shuffle_f32x4::<0xdd>(b[i + 8], b[i + 12]);
        }
        let mut d = c;
        for i in 0..4 {
            d[i] = _mm512_shuffle_f32x4::<0x88>(c[i], c[i + 8]);
            d[i + 8] = _mm512_shuffle_f32x4::<0xdd>(c[i], c[i + 8]);
            d[i + 4] = _mm512_shuffle_f32x4::<0x88>(c[i + 4], c[i + 12]);
            d[i + 12] = _mm512_shuffle_f32x4::<0xdd>(c[i + 4], c[i + 12]);
        }
        d
    }

    each_square!(sixteens, 16, "avx512f", _mm512_loadu_ps, _mm512_storeu_ps);
}

#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::*;

    /// The transpose of eight vectors of eight.
    #[inline]
    #[target_feature(enable = "avx")]
    fn transposed(r: [__m256; 8]) -> [__m256; 8] {
        let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        let (a4, a5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
        let (a6, a7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
        let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
        [
            _mm256_permute2f128_ps::<0x20>(b0, b4),
            _mm256_permute2f128_ps::<0x20>(b1, b5),
            _mm256_permute2f128_ps::<0x20>(b2, b6),
            _mm256_permute2f128_ps::<0x20>(b3, b7),
            _mm256_permute2f128_ps::<0x31>(b0, b4),
            _mm256_permute2f128_ps::<0x31>(b1, b5),
            _mm256_permute2f128_ps::<0x31>(b2, b6),
            _mm256_permute2f128_ps::<0x31>(b3, b7),
        ]
    }

    each_square!(eights, 8, "avx", _mm256_loadu_ps, _mm256_storeu_ps);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_the_transpose_and_nothing_else_changes() {
        for width in [4, 6, 8, 12, 16, 24, 32, 48] {
            for (count, to) in [(0, 0), (1, 0), (width - 1, 0), (width, 0), (width, 5), (width / 2, 0)] {
                let to = width + to;
                for cols in [0, 1, 7, 8, 9, 16, 24, 31, 64] {
                    let stride = cols + 3;
                    let rows: Vec<f32> = (0..width * stride).map(|i| i as f32).collect();
                    let mut out = vec![-1.0; cols * to];
                    transpose(&rows, stride, [count, cols], &mut out, to);
                    for (at, &got) in out.iter().enumerate() {
                        let (l, i) = (at / to, at % to);
                        assert_eq!(got, if i < count { rows[i * stride + l] } else { -1.0 }, "{width} {count} {cols}");
                    }
                }
            }
        }
    }
}
