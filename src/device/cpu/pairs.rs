//! Elements rounded to bf16 and laid two to a word, as `vdpbf16ps` and `tdpbf16ps` read them.
#![allow(unsafe_code)]

use super::pack::{COLUMNS_AHEAD, TOGETHER};
use super::vector::{bf16_bits, fetch};

/// The word of two elements, the earlier one in the lower half.
fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(u32::from(bf16_bits(low)) | u32::from(bf16_bits(high)) << 16)
}

/// `out[i]` holds x[2 i] and x[2 i + 1]; the last of an odd number has a zero beside it.
pub(super) fn neighbours(x: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), x.len().div_ceil(2), "pairs of {} elements", x.len());
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked on the line above; the lengths are asserted.
        return unsafe { avx512::neighbours(x, out) };
    }
    let (pairs, rest) = x.as_chunks::<2>();
    for (out, &[low, high]) in out.iter_mut().zip(pairs) {
        *out = pair(low, high);
    }
    if let [last] = rest {
        out[pairs.len()] = pair(*last, 0.0);
    }
}

/// Panels from columns that lie one after the other: `out[(panel * depth + l) * WIDTH + i]` holds elements
/// `panel * WIDTH + i` of columns 2 l and 2 l + 1. Column l begins at `data[l * stride]`. Of `rows` elements those that
/// fill no panel are left alone; an odd last column is paired with zeros, words beyond it are left alone.
pub(super) fn columns<const WIDTH: usize>(
    data: &[f32],
    stride: usize,
    rows: usize,
    cols: usize,
    depth: usize,
    out: &mut [f32],
) {
    let whole = rows / WIDTH;
    assert!(depth >= cols.div_ceil(2) && out.len() >= whole * depth * WIDTH, "panels of {rows} rows do not fit");
    assert!(cols == 0 || (cols - 1) * stride + rows <= data.len(), "the columns of a panel leave their matrix");
    let zeros = [0.0; TOGETHER];
    assert!(rows <= zeros.len() || cols.is_multiple_of(2), "{rows} rows are more than a task packs");
    for l in 0..cols.div_ceil(2) {
        for column in [2 * l, 2 * l + 1] {
            fetch(data, (column + COLUMNS_AHEAD) * stride, rows);
        }
        let low = &data[2 * l * stride..][..rows];
        let high = if 2 * l + 1 < cols { &data[(2 * l + 1) * stride..][..rows] } else { &zeros[..rows] };
        let panels = low.as_chunks::<WIDTH>().0.iter().zip(high.as_chunks::<WIDTH>().0);
        #[cfg(target_arch = "x86_64")]
        if avx512::there() {
            for (panel, (low, high)) in panels.enumerate() {
                let out = &mut out[(panel * depth + l) * WIDTH..][..WIDTH];
                // SAFETY: the processor has the features, checked above; all three hold WIDTH elements.
                unsafe { avx512::side_by_side(low, high, out) };
            }
            continue;
        }
        for (panel, (low, high)) in panels.enumerate() {
            let out = &mut out[(panel * depth + l) * WIDTH..][..WIDTH];
            for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
                *out = pair(low, high);
            }
        }
    }
}

/// `out[i]` holds low[i] and high[i].
pub(super) fn side_by_side(low: &[f32], high: &[f32], out: &mut [f32]) {
    assert!(low.len() == out.len() && high.len() == out.len(), "pairs of columns of different lengths");
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked on the line above; the lengths are asserted.
        return unsafe { avx512::side_by_side(low, high, out) };
    }
    for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
        *out = pair(low, high);
    }
}

/// The processor's own rounding. It takes subnormal elements for zeros, as those instructions do.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    /// Lanes of a register.
    const LANES: usize = 16;

    pub fn there() -> bool {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512f") && has!("avx512bw") && has!("avx512bf16")
    }

    /// The lanes of `left` elements.
    fn lanes(left: usize) -> __mmask16 {
        if left < LANES { (1 << left) - 1 } else { !0 }
    }

    /// The elements of `low` and then those of `high` in bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn rounded(low: __m512, high: __m512) -> __m512i {
        // SAFETY: both types are 512 bits, of which every pattern is a value.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    /// See `super::neighbours`.
    ///
    /// # Safety
    /// `out` holds half as many words as `x` elements, rounded up.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn neighbours(x: &[f32], out: &mut [f32]) {
        let (whole, rest) = x.as_chunks::<{ 2 * LANES }>();
        let (out, out_rest) = out.split_at_mut(LANES * whole.len());
        for (x, out) in whole.iter().zip(out.as_chunks_mut::<LANES>().0) {
            // SAFETY: the chunks hold two registers and one.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(LANES)));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), rounded(low, high));
            }
        }
        if rest.is_empty() {
            return;
        }
        let (first, second) = (lanes(rest.len()), lanes(rest.len().saturating_sub(LANES)));
        // SAFETY: masked lanes are neither read nor written; the others are inside the rests, of which the caller promises
        // that the second has half the length of the first, rounded up.
        unsafe {
            let low = _mm512_maskz_loadu_ps(first, rest.as_ptr());
            let high = _mm512_maskz_loadu_ps(second, rest.as_ptr().wrapping_add(LANES));
            _mm512_mask_storeu_epi32(out_rest.as_mut_ptr().cast(), lanes(out_rest.len()), rounded(low, high));
        }
    }

    /// See `super::side_by_side`.
    ///
    /// # Safety
    /// The three are of one length.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn side_by_side(low: &[f32], high: &[f32], out: &mut [f32]) {
        // 0, 16, 1, 17, ...: each element of the first half with that of the second.
        let order = _mm512_add_epi32(
            _mm512_set1_epi32(16 << 16),
            _mm512_mullo_epi32(
                _mm512_set1_epi32(0x0001_0001),
                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            ),
        );
        let whole = out.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: the register's lanes are inside the three slices, which the caller promises to be of one length.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(low.as_ptr().add(at)), _mm512_loadu_ps(high.as_ptr().add(at)));
                let words = _mm512_permutexvar_epi16(order, rounded(low, high));
                _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), words);
            }
        }
        let rest = out.len() - whole;
        if rest == 0 {
            return;
        }
        let mask = lanes(rest);
        // SAFETY: as above; masked lanes are neither read nor written. Stores that skip lanes are slow, so that twelve, the
        // rows of a panel, are stored as eight and four.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask, low.as_ptr().add(whole));
            let high = _mm512_maskz_loadu_ps(mask, high.as_ptr().add(whole));
            let words = _mm512_permutexvar_epi16(order, rounded(low, high));
            let out: *mut f32 = out.as_mut_ptr().add(whole);
            if rest == 12 {
                _mm256_storeu_si256(out.cast(), _mm512_castsi512_si256(words));
                _mm_storeu_si128(out.add(8).cast(), _mm512_extracti32x4_epi32::<2>(words));
            } else {
                _mm512_mask_storeu_epi32(out.cast(), mask, words);
            }
        }
    }
}
