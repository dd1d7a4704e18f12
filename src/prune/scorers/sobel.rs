//! Mean magnitude of the 3x3 Sobel gradient of the luma.
#![forbid(unsafe_code)]

use super::{for_each_pixel, luma_thousandths};
use crate::prune::Grid;

/// `rgb` is (h, w, 3), the result (N,).
///
/// Luma Y = 0.299 R + 0.587 G + 0.114 B of RGB in [0, 1]; the border is replicated over the whole image, so patches
/// see across their own edges; sqrt(gx^2 + gy^2), mean over the patch. The two gradients are exact integers, in units
/// of 1/255000, so equal patches get equal scores.
pub fn score(grid: &Grid, rgb: &[u8]) -> Vec<f64> {
    let (height, width) = (grid.height, grid.width);
    let luma: Vec<i64> = rgb.chunks_exact(3).map(luma_thousandths).collect();
    let mut sums = vec![0.0; grid.patches()];
    for_each_pixel(grid, |n, pixel| {
        let (y, x) = (pixel / width, pixel % width);
        let row = |y: usize| &luma[y * width..(y + 1) * width];
        let (above, middle, below) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(height - 1)));
        let (left, right) = (x.saturating_sub(1), (x + 1).min(width - 1));
        let gx = (above[right] + 2 * middle[right] + below[right]) - (above[left] + 2 * middle[left] + below[left]);
        let gy = (below[left] + 2 * below[x] + below[right]) - (above[left] + 2 * above[x] + above[right]);
        sums[n] += ((gx * gx + gy * gy) as f64).sqrt();
    });
    let unit = 255_000.0 * (grid.patch * grid.patch) as f64;
    sums.iter().map(|sum| sum / unit).collect()
}
