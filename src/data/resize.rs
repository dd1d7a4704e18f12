//! Pillow's 8-bit resampler (`ImagingResample`), bit for bit: two passes of fixed-point filters with antialias.
#![forbid(unsafe_code)]

use super::{Interpolation, decode::Picture};

/// Fraction bits of the fixed-point weights, 32 - 8 - 2 as in Pillow: room for 8-bit samples and an overshoot.
const PRECISION: u32 = 32 - 8 - 2;
/// One half, so that the shift at the end rounds.
const HALF: i32 = 1 << (PRECISION - 1);

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
    // The first pass makes only the rows that the second one reads.
    let first = rows.spans.iter().map(|s| s.0).min().unwrap_or(0);
    let last = rows.spans.iter().map(|s| s.0 + s.1).max().unwrap_or(0);
    let bytes = window.width * 3;
    let mut wide = vec![0; (last - first) * bytes];
    for (y, out) in (first..last).zip(wide.chunks_exact_mut(bytes)) {
        let begin = ((crop.top + y) * picture.width + crop.left) * 3;
        let row = &picture.pixels[begin..begin + crop.width * 3];
        if width == crop.width {
            out.copy_from_slice(&row[window.left * 3..][..bytes]);
        } else {
            horizontal(row, out, &columns);
        }
    }
    // Rows of one tap each are the rows themselves.
    if height == crop.height { wide } else { vertical(&wide, bytes, first, &rows) }
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
                weights: vec![1 << PRECISION; count],
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
                let w = if total != 0.0 { w / total } else { *w } * f64::from(1 << PRECISION);
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

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn horizontal(row: &[u8], out: &mut [u8], taps: &Taps) {
    let pixels = row.as_chunks::<3>().0;
    for (i, out) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (first, weights) = taps.of(i);
        let mut sum = [HALF; 3];
        for (p, &w) in pixels[first..first + weights.len()].iter().zip(weights) {
            sum[0] += i32::from(p[0]) * w;
            sum[1] += i32::from(p[1]) * w;
            sum[2] += i32::from(p[2]) * w;
        }
        *out = sum.map(clip);
    }
}

/// Filters columns of `source`, whose first row is row `first` of the image, a whole row of sums at a time.
fn vertical(source: &[u8], bytes: usize, first: usize, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0; taps.spans.len() * bytes];
    let mut sums = vec![0i32; bytes];
    for (i, out) in out.chunks_exact_mut(bytes).enumerate() {
        let (begin, weights) = taps.of(i);
        sums.fill(HALF);
        for (row, &w) in source[(begin - first) * bytes..].chunks_exact(bytes).zip(weights) {
            for (sum, &v) in sums.iter_mut().zip(row) {
                *sum += i32::from(v) * w;
            }
        }
        for (o, &sum) in out.iter_mut().zip(&sums) {
            *o = clip(sum);
        }
    }
    out
}
