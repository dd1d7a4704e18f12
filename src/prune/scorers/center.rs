//! Nearness of a patch's centre to the image's centre.
#![forbid(unsafe_code)]

use crate::prune::Grid;

/// The negated squared distance of the centres in half pixels, an exact integer. The result is (N,).
pub fn score(grid: &Grid) -> Vec<f64> {
    let offset = |index: usize, side: usize| ((2 * index + 1) * grid.patch) as i64 - side as i64;
    (0..grid.patches())
        .map(|n| {
            let (dy, dx) = (offset(n / grid.columns(), grid.height), offset(n % grid.columns(), grid.width));
            -((dy * dy + dx * dx) as f64)
        })
        .collect()
}
