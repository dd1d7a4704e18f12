//! An image cut into segments, which LIME shows or hides: the model's own patches, SLIC or quickshift superpixels.
#![forbid(unsafe_code)]

mod lab;
mod quickshift;
mod slic;

pub use quickshift::quickshift;
pub use slic::slic;

use crate::prune::Grid;
use serde::Serialize;

/// How an image is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The model's patches
    #[default]
    Grid,
    /// SLIC superpixels, as scikit-image's
    Slic,
    /// Quickshift superpixels, with lime's settings
    Quickshift,
}

/// The segment of each pixel, numbered from 0 without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    pub count: usize,
    /// (height, width)
    pub labels: Vec<u32>,
}

impl Segments {
    /// Numbers labels anew, from 0 without a gap, in the order of the old numbers, as `numpy.unique` does.
    fn compact(mut labels: Vec<u32>) -> Self {
        let mut old = labels.clone();
        old.sort_unstable();
        old.dedup();
        for label in &mut labels {
            *label = old.binary_search(label).expect("every label was collected") as u32;
        }
        Segments { count: old.len(), labels }
    }

    /// The patches, each a segment.
    pub fn grid(grid: &Grid) -> Self {
        let p = grid.patch;
        let label = |i: usize| (i / grid.width / p * grid.columns() + i % grid.width / p) as u32;
        Segments { count: grid.patches(), labels: (0..grid.height * grid.width).map(label).collect() }
    }

    /// Cuts rgb (h, w, 3); `count` is about how many SLIC aims at.
    pub fn of(method: Method, rgb: &[u8], grid: &Grid, count: usize) -> Self {
        match method {
            Method::Grid => Segments::grid(grid),
            Method::Slic => slic(rgb, grid.height, grid.width, count, 10.0),
            Method::Quickshift => quickshift(rgb, grid.height, grid.width, 4.0, 200.0, 0.2),
        }
    }

    /// Pixels of each segment.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.count];
        self.labels.iter().for_each(|&label| sizes[label as usize] += 1);
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_segments_in_raster_order() {
        let grid = Segments::grid(&Grid { height: 4, width: 6, patch: 2 });
        assert_eq!(
            (grid.count, &grid.labels[..6], &grid.labels[12..18]),
            (6, &[0, 0, 1, 1, 2, 2][..], &[3, 3, 4, 4, 5, 5][..])
        );
        assert_eq!(grid.sizes(), [4; 6]);
        assert_eq!(Segments::compact(vec![7, 2, 7, 9]).labels, [1, 0, 1, 2]);
    }

    #[test]
    fn a_flat_image_is_cut_all_the_same() {
        let rgb = vec![90; 32 * 48 * 3];
        for method in [Method::Slic, Method::Quickshift] {
            let found = Segments::of(method, &rgb, &Grid { height: 32, width: 48, patch: 16 }, 6);
            assert!(found.count > 0 && found.sizes().iter().all(|&size| size > 0), "{method:?}");
            assert_eq!(found.labels.len(), 32 * 48);
        }
    }
}
