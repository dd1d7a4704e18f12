//! Sum of squares of a patch's values; its root is the paper's Eq. 1.
//!
//! The ranking uses the sum itself, since rounding a root can make two unequal sums equal.
#![forbid(unsafe_code)]

use super::for_each_pixel;
use crate::prune::Grid;

/// Over the values that the model is fed: `image` is (C, h, w), the result (N,).
pub fn normalized(grid: &Grid, image: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; grid.patches()];
    // Row by row of the image, so that the sums of neighbours do not wait for each other; a patch's own order stays.
    for (y, row) in image.chunks_exact(grid.width).enumerate() {
        let first = y % grid.height / grid.patch * grid.columns();
        for (sum, values) in sums[first..].iter_mut().zip(row.chunks_exact(grid.patch)) {
            *sum = values.iter().fold(*sum, |sum, &x| sum + f64::from(x) * f64::from(x));
        }
    }
    sums
}

/// The square of each level / 255, the quotient in f32.
pub fn raw_squares() -> [f64; 256] {
    std::array::from_fn(|level| f64::from(level as f32 / 255.0).powi(2))
}

/// Over RGB / 255 in f32: `rgb` is (h, w, 3), the result (N,).
pub fn raw(grid: &Grid, rgb: &[u8]) -> Vec<f64> {
    let squares = raw_squares();
    let mut sums = vec![0.0; grid.patches()];
    for channel in 0..3 {
        for_each_pixel(grid, |n, pixel| sums[n] += squares[usize::from(rgb[3 * pixel + channel])]);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_summed_in_its_own_order_whatever_the_image() {
        for (height, width, patch, channels) in [(8, 8, 4, 3), (9, 11, 4, 2), (16, 7, 7, 1), (5, 5, 5, 3)] {
            let grid = Grid { height, width, patch };
            let image: Vec<f32> = (0..channels * height * width).map(|i| (i as f32 * 0.7).sin() * 1e3).collect();
            let mut sums = vec![0.0; grid.patches()];
            for plane in image.chunks_exact(height * width) {
                for_each_pixel(&grid, |n, pixel| sums[n] += f64::from(plane[pixel]) * f64::from(plane[pixel]));
            }
            assert_eq!(normalized(&grid, &image), sums, "{height} x {width} in patches of {patch}");
        }
    }
}
