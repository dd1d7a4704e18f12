//! Loops over 8-bit pixels in fixed point, compiled for AVX-512, for AVX2 and for the baseline, with the same bits from all.
#![allow(unsafe_code)]

use super::vector::vectorised;

/// Fraction bits of the weights: 8-bit samples times weights that sum to one, with room for an overshoot, fit in i32.
pub const PRECISION: u32 = 32 - 8 - 2;
/// One half, so that the shift at the end rounds.
const HALF: i32 = 1 << (PRECISION - 1);
/// Rows of RGB pixels that are filtered together along their length: 24 bytes side by side fill three vectors of sums.
pub const ROWS: usize = 8;
/// Bytes of a row that are summed together: their sums stay in registers.
const BLOCK: usize = 32;

#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

vectorised! {
    /// One row of a vertical filter: `out[j]` is the sum of `weights[t] * rows[t * stride + j]`, rounded and clipped.
    /// `rows` reaches to the end of the last row, `out` is no longer than a row.
    pub fn weigh_rows(rows: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        let done = blocks.len() * BLOCK;
        for (i, block) in blocks.iter_mut().enumerate() {
            let mut sums = [HALF; BLOCK];
            for (t, &w) in weights.iter().enumerate() {
                let row: &[u8; BLOCK] = rows[t * stride + i * BLOCK..].first_chunk().expect("the row is as long");
                for j in 0..BLOCK {
                    sums[j] += i32::from(row[j]) * w;
                }
            }
            for j in 0..BLOCK {
                block[j] = clip(sums[j]);
            }
        }
        for (j, out) in rest.iter_mut().enumerate() {
            let sum = weights.iter().enumerate().fold(HALF, |sum, (t, &w)| sum + i32::from(rows[t * stride + done + j]) * w);
            *out = clip(sum);
        }
    }

    /// A horizontal filter over [`ROWS`] rows of RGB pixels side by side: output i is the sum of `weights[i * most + t]`
    /// times the pixels from `spans[i].0` on, for `spans[i].1` weights t, rounded and clipped.
    pub fn weigh_pixels(
        columns: &[[u8; 3 * ROWS]],
        spans: &[(usize, usize)],
        weights: &[i32],
        most: usize,
        out: &mut [[u8; 3 * ROWS]]
    ) {
        for (i, (&(first, length), out)) in spans.iter().zip(out).enumerate() {
            let mut sums = [HALF; 3 * ROWS];
            for (column, &w) in columns[first..first + length].iter().zip(&weights[i * most..i * most + length]) {
                for j in 0..3 * ROWS {
                    sums[j] += i32::from(column[j]) * w;
                }
            }
            for j in 0..3 * ROWS {
                out[j] = clip(sums[j]);
            }
        }
    }
}

/// Puts row `r` of pixels into its place in columns of [`ROWS`] pixels.
pub fn into_columns(row: &[u8], r: usize, columns: &mut [[u8; 3 * ROWS]]) {
    for (pixel, column) in row.as_chunks::<3>().0.iter().zip(columns) {
        column.as_chunks_mut::<3>().0[r] = *pixel;
    }
}

/// Takes row `r` out of columns of [`ROWS`] pixels.
pub fn from_columns(columns: &[[u8; 3 * ROWS]], r: usize, row: &mut [u8]) {
    for (pixel, column) in row.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
        *pixel = column.as_chunks::<3>().0[r];
    }
}
