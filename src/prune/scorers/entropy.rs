//! Shannon entropy of the histogram of a patch's luma, in bits.
#![forbid(unsafe_code)]

use super::{for_each_pixel, luma_thousandths};
use crate::prune::Grid;

/// `rgb` is (h, w, 3), the result (N,); `bins` divides 256.
///
/// Luma is the integer (299 R + 587 G + 114 B + 500) div 1000, its bin luma * bins div 256. The terms -p log2 p are
/// added in ascending order of the bins, so that another program can reach the same bits.
pub fn score(grid: &Grid, rgb: &[u8], bins: usize) -> Vec<f64> {
    let pixels = grid.patch * grid.patch;
    let mut counts = vec![0u32; grid.patches() * bins];
    for_each_pixel(grid, |n, pixel| {
        let luma = (luma_thousandths(&rgb[3 * pixel..3 * pixel + 3]) + 500) / 1000;
        counts[n * bins + luma as usize * bins / 256] += 1;
    });
    counts.chunks_exact(bins).map(|histogram| entropy(histogram, pixels)).collect()
}

fn entropy(histogram: &[u32], pixels: usize) -> f64 {
    histogram.iter().filter(|&&count| count > 0).fold(0.0, |sum, &count| sum - term(count, pixels))
}

/// p log2 p of a bin with `count` of the patch's pixels; 0 for none.
pub fn term(count: u32, pixels: usize) -> f64 {
    let p = f64::from(count) / pixels as f64;
    if count == 0 { 0.0 } else { p * libm::log2(p) }
}
