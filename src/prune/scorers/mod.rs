//! The statistics that rank patches: one image in, one f64 a patch out, higher is kept first.
#![forbid(unsafe_code)]

use super::Grid;

pub mod center;
pub mod entropy;
pub mod l2;
pub mod random;
pub mod sobel;

/// Calls `visit(patch, pixel)` for each pixel, patch by patch and row by row within each; both are raster indices.
fn for_each_pixel(grid: &Grid, mut visit: impl FnMut(usize, usize)) {
    let p = grid.patch;
    for n in 0..grid.patches() {
        let (top, left) = (n / grid.columns() * p, n % grid.columns() * p);
        for y in top..top + p {
            for x in left..left + p {
                visit(n, y * grid.width + x);
            }
        }
    }
}

/// Luma in thousandths of a level, exact: 299 R + 587 G + 114 B of 8-bit RGB.
fn luma_thousandths(rgb: &[u8]) -> i64 {
    299 * i64::from(rgb[0]) + 587 * i64::from(rgb[1]) + 114 * i64::from(rgb[2])
}
