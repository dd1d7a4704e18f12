//! Elements in bf16 laid two to a word, as `vdpbf16ps` and `tdpbf16ps` read them: rounded, in one part, or exactly (but for what
//! `kernel::amx` says), in three, each of which is what the ones before leave, rounded. Of sixteen pairs the words of the first
//! part come first, then those of the others.
#![allow(unsafe_code)]

use super::kernel::PAIRS;
use super::mat::{Elements, Mat, reach};
use super::pack::TOGETHER;
use super::vector::bf16_bits;

/// The words of two elements, a part each, the earlier element in the lower half.
fn pair<const PARTS: usize>(mut low: f32, mut high: f32) -> [f32; PARTS] {
    let rounded = |x: &mut f32| {
        let bits = u32::from(bf16_bits(*x));
        *x -= f32::from_bits(bits << 16);
        bits
    };
    std::array::from_fn(|_| f32::from_bits(rounded(&mut low) | rounded(&mut high) << 16))
}

/// Pairs of a row of `cols` elements, and with several parts those that fill its last step.
fn count<const PARTS: usize>(cols: usize) -> usize {
    let pairs = cols.div_ceil(2);
    if PARTS == 1 { pairs } else { pairs.next_multiple_of(PAIRS) }
}

/// The word of a part of pair `l` in its row.
fn word<const PARTS: usize>(l: usize, part: usize) -> usize {
    (l / PAIRS * PARTS + part) * PAIRS + l % PAIRS
}

/// A matrix in bf16, stored row after row: `words` begins with the first of `cols` columns of the first of `rows` rows, which are
/// `stride` words apart.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    words: &'a [f32],
    stride: usize,
    rows: usize,
    cols: usize,
}

impl<'a> Halves<'a> {
    /// What `m` is the transpose of.
    fn turned(m: Mat<'a>) -> Self {
        assert_eq!((m.elements, m.row_stride), (Elements::Bf16, 1), "columns of pairs");
        let halves = Halves { words: m.data, stride: m.col_stride / 2, rows: m.cols, cols: m.rows };
        assert!(m.data.len() >= reach(halves.rows, count::<1>(halves.cols), halves.stride), "rows leave their matrix");
        halves
    }

    /// The bits of an element; zeros beside the matrix.
    fn bits(&self, row: usize, column: usize) -> u32 {
        match row < self.rows && column < self.cols {
            true => self.words[row * self.stride + column / 2].to_bits() >> (16 * (column % 2)) & 0xffff,
            false => 0,
        }
    }

    /// The word of rows 2 l and 2 l + 1 in a column.
    fn pair(&self, column: usize, l: usize) -> [f32; 1] {
        [f32::from_bits(self.bits(2 * l, column) | self.bits(2 * l + 1, column) << 16)]
    }
}

/// The words of pair `l` of row `i` of a matrix; what it lacks is zeros.
fn pair_of<const PARTS: usize>(m: Mat, i: usize, l: usize) -> [f32; PARTS] {
    let element = |l| if i < m.rows && l < m.cols { m.data[i * m.row_stride + l * m.col_stride] } else { 0.0 };
    pair(element(2 * l), element(2 * l + 1))
}

/// The words of `rows` rows of `cols` elements, one by one: `put` gets the row, which word of it, and the word, of which `words`
/// makes those of a row's pair.
fn one_by_one<const PARTS: usize>(
    [rows, cols]: [usize; 2],
    words: impl Fn(usize, usize) -> [f32; PARTS],
    mut put: impl FnMut(usize, usize, f32),
) {
    for (i, l) in (0..rows).flat_map(|i| (0..count::<PARTS>(cols)).map(move |l| (i, l))) {
        for (part, value) in words(i, l).into_iter().enumerate() {
            put(i, word::<PARTS>(l, part), value);
        }
    }
}

/// `out` holds the words of x; the last of an odd number has a zero beside it, three parts fill whole steps with zeros.
pub(super) fn neighbours<const PARTS: usize>(x: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), PARTS * count::<PARTS>(x.len()), "pairs of {} elements", x.len());
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked on the line above; the lengths are asserted.
        return unsafe { avx512::neighbours::<PARTS>(x, out) };
    }
    let m = Mat::new(x, 1, x.len());
    one_by_one([1, x.len()], |i, l| pair_of::<PARTS>(m, i, l), |_, word, value| out[word] = value);
}

/// Where panels of `rows` rows lie: word l of row `panel * width + i` at `(panel * depth + l) * width + i`. An error in a size is a
/// panic.
fn assert_panels(words: usize, rows: usize, [width, depth]: [usize; 2], out: &[f32]) {
    assert!(depth >= words && out.len() >= rows.div_ceil(width) * depth * width, "panels find no room");
    assert!(matches!(width % PAIRS, 0 | 12), "no kernel reads pairs in panels of {width} rows");
}

/// Panels of `width` rows of a matrix whose columns are contiguous: `out[(panel * depth + l) * width + i]` is word l of row
/// `panel * width + i`, zero for rows that the matrix lacks. Words beyond the last pair are left alone.
pub(super) fn panels_of_columns<const PARTS: usize>(m: Mat, width: usize, depth: usize, out: &mut [f32]) {
    assert_eq!((m.elements, m.row_stride), (Elements::F32, 1), "panels of contiguous columns in f32");
    assert_panels(PARTS * count::<PARTS>(m.cols), m.rows, [width, depth], out);
    assert!(m.data.len() >= reach(m.cols, m.rows, m.col_stride), "columns leave their matrix");
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked above; what the matrix and the output hold is asserted.
        return unsafe { avx512::panels_of_columns::<PARTS>(m, width, depth, out) };
    }
    let rows = m.rows.next_multiple_of(width);
    one_by_one(
        [rows, m.cols],
        |i, l| pair_of::<PARTS>(m, i, l),
        |i, word, value| {
            out[(i / width * depth + word) * width + i % width] = value;
        },
    );
}

/// [`panels_of_columns`] of a matrix in bf16.
pub(super) fn panels_of_halves(m: Mat, width: usize, depth: usize, out: &mut [f32]) {
    assert_panels(count::<1>(m.cols), m.rows, [width, depth], out);
    let m = Halves::turned(m);
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked above; what the matrix and the output hold is asserted.
        return unsafe { avx512::panels_of_halves(m, width, depth, out) };
    }
    let columns = m.cols.next_multiple_of(width);
    one_by_one(
        [columns, m.rows],
        |i, l| m.pair(i, l),
        |i, word, value| {
            out[(i / width * depth + word) * width + i % width] = value;
        },
    );
}

/// Rows of `words` words, `stride` apart, are what one task packs and find room.
fn assert_rows(words: usize, rows: usize, stride: usize, out: &[f32]) {
    assert!(words <= stride && rows * stride <= out.len(), "{rows} rows of {words} words find no room");
    assert!(rows <= TOGETHER, "{rows} rows are more than a task packs");
}

/// Rows of words, `stride` apart, of a matrix whose columns are contiguous. In the last step, for which there is room, words beyond the
/// last pair become zeros or stay what they were; those beyond the step stay.
pub(super) fn rows_of_columns<const PARTS: usize>(m: Mat, out: &mut [f32], stride: usize) {
    assert_eq!((m.elements, m.row_stride), (Elements::F32, 1), "rows of contiguous columns in f32");
    assert_rows(PARTS * count::<PARTS>(m.cols).next_multiple_of(PAIRS), m.rows, stride, out);
    assert!(m.data.len() >= reach(m.cols, m.rows, m.col_stride), "columns leave their matrix");
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked above; what the matrix and the output hold is asserted.
        return unsafe { avx512::rows_of_columns::<PARTS>(m, out, stride) };
    }
    let put = |i: usize, word: usize, value: f32| out[i * stride + word] = value;
    one_by_one([m.rows, m.cols], |i, l| pair_of::<PARTS>(m, i, l), put);
}

/// [`rows_of_columns`] of a matrix in bf16.
pub(super) fn rows_of_halves(m: Mat, out: &mut [f32], stride: usize) {
    assert_rows(count::<1>(m.cols).next_multiple_of(PAIRS), m.rows, stride, out);
    let m = Halves::turned(m);
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked above; what the matrix and the output hold is asserted.
        return unsafe { avx512::rows_of_halves(m, out, stride) };
    }
    one_by_one([m.cols, m.rows], |i, l| m.pair(i, l), |i, word, value| out[i * stride + word] = value);
}

/// The processor's own rounding. It takes subnormal elements for zeros, as those instructions do.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{Halves, Mat, PAIRS, TOGETHER, count, word};
    use crate::device::cpu::pack::COLUMNS_AHEAD;
    use crate::device::cpu::transpose::transpose;
    use std::arch::x86_64::*;

    /// Lanes of a register.
    const LANES: usize = 16;

    pub fn there() -> bool {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512bf16")
    }

    /// The lanes of `left` elements.
    pub fn lanes(left: usize) -> __mmask16 {
        if left < LANES { (1 << left) - 1 } else { !0 }
    }

    /// The elements of `low` and then those of `high` in bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn rounded(low: __m512, high: __m512) -> __m512i {
        // SAFETY: both types are 512 bits, of which every pattern is a value.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    /// [`rounded`]; what that leaves of the elements stays in both.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn part(low: &mut __m512, high: &mut __m512) -> __m512i {
        let words = rounded(*low, *high);
        *low = _mm512_sub_ps(*low, widened(_mm512_castsi512_si256(words)));
        *high = _mm512_sub_ps(*high, widened(_mm512_extracti64x4_epi64::<1>(words)));
        words
    }

    /// Elements in bf16 as f32.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn widened(halves: __m256i) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    /// Each element of the first half beside that of the second.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn interleaved(words: __m512i) -> __m512i {
        // 0, 16, 1, 17, ...
        let order = _mm512_add_epi32(
            _mm512_set1_epi32(16 << 16),
            _mm512_mullo_epi32(
                _mm512_set1_epi32(0x0001_0001),
                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            ),
        );
        _mm512_permutexvar_epi16(order, words)
    }

    /// See `super::neighbours`.
    ///
    /// # Safety
    /// `out` holds the words of `x`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn neighbours<const PARTS: usize>(x: &[f32], out: &mut [f32]) {
        const { assert!(PAIRS == LANES) };
        let (whole, rest) = x.as_chunks::<{ 2 * LANES }>();
        let (out, out_rest) = out.split_at_mut(PARTS * LANES * whole.len());
        for (x, out) in whole.iter().zip(out.chunks_exact_mut(PARTS * LANES)) {
            // SAFETY: the chunks hold two registers, and one for each part.
            unsafe {
                let (mut low, mut high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(LANES)));
                for out in out.as_chunks_mut::<LANES>().0 {
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), part(&mut low, &mut high));
                }
            }
        }
        if rest.is_empty() {
            return;
        }
        let (first, second) = (lanes(rest.len()), lanes(rest.len().saturating_sub(LANES)));
        // SAFETY: masked lanes are neither read nor written; the others are inside the rests, of which the caller promises
        // that the second has room for the pairs of the first: those there are of one part, sixteen of each of several.
        unsafe {
            let mut low = _mm512_maskz_loadu_ps(first, rest.as_ptr());
            let mut high = _mm512_maskz_loadu_ps(second, rest.as_ptr().wrapping_add(LANES));
            for out in out_rest.chunks_mut(LANES) {
                _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), lanes(out.len()), part(&mut low, &mut high));
            }
        }
    }

    /// The words of pair `l` of columns of a matrix, whose columns are contiguous, from row `at` on: zeros for lanes out of the
    /// mask and of a column that the matrix lacks.
    ///
    /// # Safety
    /// The matrix lies inside its data and has the rows of the mask.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn of_elements<const PARTS: usize>(m: &Mat, l: usize, at: usize, mask: __mmask16) -> [__m512i; PARTS] {
        let [mut low, mut high] = [2 * l, 2 * l + 1].map(|column| {
            let start = m.data.as_ptr().wrapping_add(column * m.col_stride + at);
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(COLUMNS_AHEAD * m.col_stride).cast());
            // SAFETY: lanes are those of elements inside the matrix, which the caller promises to lie inside its data.
            unsafe { _mm512_maskz_loadu_ps(if column < m.cols { mask } else { 0 }, start) }
        });
        std::array::from_fn(|_| interleaved(part(&mut low, &mut high)))
    }

    /// The same of rows 2 l and 2 l + 1 of packed elements, from column `at` on.
    ///
    /// # Safety
    /// The matrix lies inside its words and has the columns of the mask.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn of_halves(m: &Halves, l: usize, at: usize, mask: __mmask16) -> [__m512i; 1] {
        let [low, high] = [2 * l, 2 * l + 1].map(|row| {
            let start = m.words.as_ptr().cast::<i16>().wrapping_add(2 * row * m.stride + at);
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(2 * COLUMNS_AHEAD * m.stride).cast());
            // SAFETY: lanes are those of elements inside the matrix, which the caller promises to lie inside its words.
            _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(if row < m.rows { mask } else { 0 }, start) })
        });
        [_mm512_or_si512(low, _mm512_slli_epi32::<16>(high))]
    }

    /// See `super::rows_of_columns`.
    ///
    /// # Safety
    /// The matrix lies inside its data, with contiguous columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn rows_of_columns<const PARTS: usize>(m: Mat, out: &mut [f32], stride: usize) {
        // SAFETY: the caller's promise; `rows` asks for rows that there are.
        let words = |l, at, mask| unsafe { of_elements::<PARTS>(&m, l, at, mask) };
        // SAFETY: the processor has the features, as this function does.
        unsafe { rows([m.rows, m.cols], words, out, stride) }
    }

    /// See `super::rows_of_halves`.
    ///
    /// # Safety
    /// The matrix lies inside its words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn rows_of_halves(m: Halves, out: &mut [f32], stride: usize) {
        // SAFETY: the caller's promise; `rows` asks for columns that there are.
        let words = |l, at, mask| unsafe { of_halves(&m, l, at, mask) };
        // SAFETY: the processor has the features, as this function does.
        unsafe { rows([m.cols, m.rows], words, out, stride) }
    }

    /// Rows of words, of which `words` makes those of pair l, from a row on, for the rows of a mask.
    ///
    /// # Safety
    /// The processor has the features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn rows<const PARTS: usize>(
        [rows, cols]: [usize; 2],
        words: impl Fn(usize, usize, __mmask16) -> [__m512i; PARTS],
        out: &mut [f32],
        stride: usize,
    ) {
        const { assert!(PAIRS == LANES && TOGETHER.is_multiple_of(LANES)) };
        if rows == 0 {
            return;
        }
        let mut block = [[[0.0; TOGETHER]; PAIRS]; PARTS];
        for group in (0..cols.div_ceil(2)).step_by(PAIRS) {
            let steps = out.as_mut_ptr().wrapping_add(PARTS * group);
            for l in 0..PAIRS {
                for (turn, at) in (0..rows).step_by(LANES).enumerate() {
                    // The rows' steps, which lie far apart, are asked for while the block is filled.
                    let step = steps.wrapping_add((turn * PAIRS + l) * stride);
                    for number in 0..PARTS {
                        _mm_prefetch::<_MM_HINT_T0>(step.wrapping_add(number * PAIRS).cast());
                    }
                    for (block, words) in block.iter_mut().zip(words(group + l, at, lanes(rows - at))) {
                        let block: &mut [f32] = &mut block[l][at..at + LANES];
                        // SAFETY: the slice holds a vector.
                        unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), words) };
                    }
                }
            }
            for (number, block) in block.iter().enumerate() {
                let out = &mut out[PARTS * group + number * PAIRS..];
                transpose(block.as_flattened(), TOGETHER, [PAIRS, rows], out, stride);
            }
        }
    }

    /// See `super::panels_of_columns`.
    ///
    /// # Safety
    /// The matrix lies inside its data, with contiguous columns; `out` has room for its panels, whose rows are a multiple of
    /// sixteen, or twelve more.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn panels_of_columns<const PARTS: usize>(m: Mat, width: usize, depth: usize, out: &mut [f32]) {
        // SAFETY: the caller's promise; `panels` asks for rows that there are.
        let words = |l, at, mask| unsafe { of_elements::<PARTS>(&m, l, at, mask) };
        // SAFETY: the caller's promise.
        unsafe { panels([m.rows, m.cols], words, width, depth, out) }
    }

    /// See `super::panels_of_halves`.
    ///
    /// # Safety
    /// The matrix lies inside its words; the rest as of `panels_of_columns`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn panels_of_halves(m: Halves, width: usize, depth: usize, out: &mut [f32]) {
        // SAFETY: the caller's promise; `panels` asks for columns that there are.
        let words = |l, at, mask| unsafe { of_halves(&m, l, at, mask) };
        // SAFETY: the caller's promise.
        unsafe { panels([m.cols, m.rows], words, width, depth, out) }
    }

    /// Panels of words, of which `words` makes those of pair l, from a row on, for the rows of a mask.
    ///
    /// # Safety
    /// The processor has the features; `out` has room for the panels, whose rows are a multiple of sixteen, or twelve more.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn panels<const PARTS: usize>(
        [rows, cols]: [usize; 2],
        words: impl Fn(usize, usize, __mmask16) -> [__m512i; PARTS],
        width: usize,
        depth: usize,
        out: &mut [f32],
    ) {
        let places = places(rows, width, depth);
        for l in 0..count::<PARTS>(cols) {
            let starts: [usize; PARTS] = std::array::from_fn(|number| word::<PARTS>(l, number) * width);
            for place in &places {
                for (start, words) in starts.into_iter().zip(words(l, place.row, place.mask)) {
                    // SAFETY: the caller promises room.
                    unsafe { place.put(out, start, words) }
                }
            }
        }
    }

    /// Rows of a panel that a vector takes, from which on in the matrix and in the output.
    struct Place {
        row: usize,
        mask: __mmask16,
        lanes: usize,
        out: usize,
    }

    impl Place {
        /// Puts words in their place of the word that begins at `word` in each panel.
        ///
        /// # Safety
        /// That lies in the output.
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn put(&self, out: &mut [f32], word: usize, words: __m512i) {
            // SAFETY: the caller's promise. Stores that skip lanes are slow, so twelve, the only part of a vector that a panel ends
            // with, are stored as eight and four.
            unsafe {
                let out = out.as_mut_ptr().add(word + self.out);
                if self.lanes >= LANES {
                    _mm512_storeu_si512(out.cast(), words);
                } else {
                    _mm256_storeu_si256(out.cast(), _mm512_castsi512_si256(words));
                    _mm_storeu_si128(out.add(8).cast(), _mm512_extracti32x4_epi32::<2>(words));
                }
            }
        }
    }

    /// The places of `rows` rows in panels of `width`.
    fn places(rows: usize, width: usize, depth: usize) -> Vec<Place> {
        let place = |panel: usize, at: usize| Place {
            row: panel * width + at,
            mask: lanes(rows.saturating_sub(panel * width + at).min(width - at)),
            lanes: width - at,
            out: panel * depth * width + at,
        };
        let panels = 0..rows.div_ceil(width);
        panels.flat_map(|panel| (0..width).step_by(LANES).map(move |at| place(panel, at))).collect()
    }
}
