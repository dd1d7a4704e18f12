//! The 8-bit resampler of Pillow 13 (`ImagingResample`), bit for bit: two passes of fixed-point filters with antialias.
#![forbid(unsafe_code)]

use super::{Interpolation, decode::Picture};
use crate::device::cpu::pixels::{PRECISION, ROWS, from_columns, into_columns, weigh_pixels, weigh_rows};
use std::ops::Range;

/// The weight one in Pillow's fixed point: it gives the sample itself.
const ONE: i32 = 1 << PRECISION;

/// A rectangle of whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

impl Crop {
    /// The whole of `picture`.
    pub fn whole(picture: &Picture) -> Self {
        Crop { left: 0, top: 0, width: picture.width, height: picture.height }
    }
}

/// `picture.crop(box).resize((width, height), filter)` of Pillow: (height, width, 3).
///
/// An axis whose size does not change is copied, not filtered. `crop` must lie in the picture, and no side may be 0.
pub fn resize(picture: &Picture, crop: Crop, width: usize, height: usize, filter: Interpolation) -> Vec<u8> {
    resize_window(picture, crop, width, height, Crop { left: 0, top: 0, width, height }, filter)
}

/// The `window` of what [`resize`] gives, (window.height, window.width, 3), without computing the rest of it.
pub fn resize_window(
    picture: &Picture,
    crop: Crop,
    width: usize,
    height: usize,
    window: Crop,
    filter: Interpolation,
) -> Vec<u8> {
    assert!(
        crop.left + crop.width <= picture.width && crop.top + crop.height <= picture.height,
        "the crop lies outside"
    );
    assert!(window.left + window.width <= width && window.top + window.height <= height, "the window lies outside");
    assert!(crop.width > 0 && crop.height > 0 && window.width > 0 && window.height > 0, "no side may be 0");
    let columns = Taps::new(crop.width, width, window.left, window.width, filter);
    let rows = Taps::new(crop.height, height, window.top, window.height, filter);
    let source = |y: usize| {
        let begin = ((crop.top + y) * picture.width + crop.left) * 3;
        &picture.pixels[begin..begin + crop.width * 3]
    };
    // What is between the passes is rounded to 8 bits, so their order shows. Pillow 13 begins with the rows where the
    // height shrinks by more than twice of what the width does; before 13 it always began with the columns.
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    if shrinks(crop.height, height) > (2 * shrinks(crop.width, width)).max(0) {
        let begin = (crop.top * picture.width + crop.left) * 3;
        let low = vertical(&picture.pixels[begin..], 0, picture.width * 3, crop.width * 3, &rows);
        return horizontal(|y| &low[y * crop.width * 3..][..crop.width * 3], 0..window.height, &columns);
    }
    // The first pass makes only the rows that the second one reads.
    let first = rows.spans.iter().map(|s| s.0).min().unwrap_or(0);
    let last = rows.spans.iter().map(|s| s.0 + s.1).max().unwrap_or(0);
    let narrow = horizontal(source, first..last, &columns);
    let bytes = window.width * 3;
    vertical(&narrow, first, bytes, bytes, &rows)
}

/// The weights of one axis: output i sums `weights[i*most..][..length]` times the samples from `first`.
struct Taps {
    /// (first, length) per output.
    spans: Vec<(usize, usize)>,
    weights: Vec<i32>,
    most: usize,
}

impl Taps {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc` for `count` outputs from `begin` on; the order of the
    /// operations in f64 is theirs. With `from == to` each output is one sample of weight one.
    fn new(from: usize, to: usize, begin: usize, count: usize, filter: Interpolation) -> Self {
        if from == to {
            return Taps {
                spans: (begin..begin + count).map(|i| (i, 1)).collect(),
                weights: vec![ONE; count],
                most: 1,
            };
        }
        let (radius, kernel): (f64, fn(f64) -> f64) = match filter {
            Interpolation::Bilinear => (1.0, triangle),
            Interpolation::Bicubic => (2.0, keys),
        };
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let (support, shrink) = (radius * stretch, 1.0 / stretch);
        let most = support.ceil() as usize * 2 + 1;
        let (mut spans, mut weights) = (Vec::with_capacity(count), vec![0; count * most]);
        let mut exact = Vec::with_capacity(most);
        for i in 0..count {
            let center = ((begin + i) as f64 + 0.5) * scale;
            // Casts of negative numbers saturate at 0, which is the clamp that Pillow makes.
            let first = (center - support + 0.5) as usize;
            let last = ((center + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..last).map(|x| kernel((x as f64 - center + 0.5) * shrink)));
            let total = exact.iter().fold(0.0, |sum, w| sum + w);
            for (out, w) in weights[i * most..].iter_mut().zip(&exact) {
                let w = if total != 0.0 { w / total } else { *w } * f64::from(ONE);
                *out = (w + if w < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            spans.push((first, last - first));
        }
        Taps { spans, weights, most }
    }

    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, length) = self.spans[i];
        (first, &self.weights[i * self.most..i * self.most + length])
    }
}

/// The bilinear kernel: a triangle of radius 1.
fn triangle(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 1.0 - x } else { 0.0 }
}

/// The bicubic kernel of Keys with a = -0.5, in Pillow's order of operations.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Filters along the `rows` that `row` gives, several at a time.
fn horizontal<'a>(row: impl Fn(usize) -> &'a [u8], rows: Range<usize>, taps: &Taps) -> Vec<u8> {
    let bytes = taps.spans.len() * 3;
    let mut out = vec![0; rows.len() * bytes];
    let mut columns = vec![[0; 3 * ROWS]; row(rows.start).len() / 3];
    let mut narrow = vec![[0; 3 * ROWS]; taps.spans.len()];
    for (first, out) in rows.clone().step_by(ROWS).zip(out.chunks_mut(bytes * ROWS)) {
        for r in 0..out.len() / bytes {
            into_columns(row(first + r), r, &mut columns);
        }
        weigh_pixels(&columns, &taps.spans, &taps.weights, taps.most, &mut narrow);
        for (r, out) in out.chunks_exact_mut(bytes).enumerate() {
            from_columns(&narrow, r, out);
        }
    }
    out
}

/// Filters across rows of `bytes` bytes: `rows` holds them, each `stride` after the one before, from row `begin` on.
fn vertical(rows: &[u8], begin: usize, stride: usize, bytes: usize, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0; taps.spans.len() * bytes];
    for (i, out) in out.chunks_exact_mut(bytes).enumerate() {
        let (first, weights) = taps.of(i);
        let rows = &rows[(first - begin) * stride..];
        if weights == [ONE] {
            out.copy_from_slice(&rows[..bytes]);
        } else {
            weigh_rows(rows, stride, weights, out);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A picture whose neighbours differ much, so that every weight shows.
    fn pattern(width: usize, height: usize) -> Picture {
        let value = |i: usize| ((i / 3 / width) * 83 + (i / 3 % width) * 151 + (i % 3) * 57) as u8;
        Picture { width, height, pixels: (0..width * height * 3).map(value).collect() }
    }

    fn whole(from: (usize, usize), to: (usize, usize), filter: Interpolation) -> Vec<u8> {
        let picture = pattern(from.0, from.1);
        resize(&picture, Crop::whole(&picture), to.0, to.1, filter)
    }

    #[test]
    fn equals_pillow_on_small_patterns() {
        use Interpolation::{Bicubic, Bilinear};
        let shrunk = [
            81, 138, 79, 127, 184, 125, 126, 117, 131, 113, 163, 126, 145, 114, 141, 101, 130, 135, 131, 130, 105, 95,
            94, 151,
        ];
        assert_eq!(whole((5, 3), (2, 4), Bilinear), shrunk);
        let shrunk = [
            73, 136, 72, 130, 188, 129, 125, 113, 139, 115, 171, 124, 152, 112, 149, 100, 128, 134, 136, 134, 98, 92,
            85, 155,
        ];
        assert_eq!(whole((5, 3), (2, 4), Bicubic), shrunk);
        let grown = [
            0, 35, 119, 5, 63, 102, 71, 136, 57, 136, 208, 11, 161, 236, 0, 34, 96, 166, 52, 100, 149, 118, 111, 104,
            183, 120, 58, 208, 124, 41, 72, 157, 212, 98, 137, 195, 164, 85, 150, 229, 32, 104, 254, 12, 87,
        ];
        assert_eq!(whole((2, 2), (5, 3), Bicubic), grown);
        let one_axis = [
            101, 127, 120, 157, 123, 79, 116, 109, 166, 112, 169, 125, 159, 146, 102, 139, 105, 98, 135, 91, 148, 94,
            151, 144,
        ];
        assert_eq!(whole((4, 6), (4, 2), Bicubic), one_axis);
        // Here Pillow 13 begins with the rows; the other order gives other values.
        let rows_first = [
            125, 130, 117, 145, 126, 90, 142, 112, 111, 117, 98, 165, 157, 138, 94, 143, 113, 130, 129, 110, 150, 125,
            130, 143,
        ];
        assert_eq!(whole((3, 9), (4, 2), Bicubic), rows_first);
        assert_eq!(whole((9, 1), (2, 1), Bilinear), [110, 149, 105, 139, 149, 149]);
    }

    #[test]
    fn the_same_size_is_a_copy() {
        assert_eq!(whole((6, 5), (6, 5), Interpolation::Bicubic), pattern(6, 5).pixels);
    }

    proptest! {
        #[test]
        fn a_window_is_a_part_of_the_whole(
            from in (1usize..30, 1usize..30), to in (1usize..30, 1usize..30), cuts in prop::array::uniform4(0.0..1.0f64),
            cubic: bool,
        ) {
            let filter = if cubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
            let all = whole(from, to, filter);
            let left = (cuts[0] * to.0 as f64) as usize;
            let top = (cuts[1] * to.1 as f64) as usize;
            let width = 1 + (cuts[2] * (to.0 - left) as f64) as usize;
            let height = 1 + (cuts[3] * (to.1 - top) as f64) as usize;
            let (width, height) = (width.min(to.0 - left), height.min(to.1 - top));
            let window = Crop { left, top, width, height };
            let picture = pattern(from.0, from.1);
            let part = resize_window(&picture, Crop::whole(&picture), to.0, to.1, window, filter);
            let rows = all.chunks_exact(to.0 * 3).skip(top).take(height);
            let want: Vec<u8> = rows.flat_map(|row| &row[left * 3..(left + width) * 3]).copied().collect();
            prop_assert_eq!(part, want);
        }

        #[test]
        fn a_flat_picture_stays_flat(from in (1usize..200, 1usize..200), to in (1usize..200, 1usize..200), value: u8) {
            let picture = Picture { width: from.0, height: from.1, pixels: vec![value; from.0 * from.1 * 3] };
            for filter in [Interpolation::Bilinear, Interpolation::Bicubic] {
                let out = resize(&picture, Crop::whole(&picture), to.0, to.1, filter);
                prop_assert!(out.iter().all(|v| *v == value));
            }
        }

        #[test]
        fn a_crop_is_cut_before_it_is_filtered(
            left in 0usize..6, top in 0usize..6, width in 1usize..8, height in 1usize..8,
        ) {
            let picture = pattern(13, 13);
            let rows = picture.pixels.chunks_exact(13 * 3).skip(top).take(height);
            let pixels = rows.flat_map(|row| &row[left * 3..(left + width) * 3]).copied().collect();
            let cut = Picture { width, height, pixels };
            let crop = Crop { left, top, width, height };
            let want = resize(&cut, Crop::whole(&cut), 5, 4, Interpolation::Bicubic);
            prop_assert_eq!(resize(&picture, crop, 5, 4, Interpolation::Bicubic), want);
        }
    }
}
