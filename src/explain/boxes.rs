//! Annotated boxes on the model's square, and how much of them lies in each patch.
#![forbid(unsafe_code)]

use crate::data::{EvalResize, TransformConfig, annotation, transform};
use crate::error::Result;
use crate::prune::Grid;
use serde::Serialize;
use std::path::Path;

/// left, top, right, bottom in pixels of the model's square.
pub type Rect = [f64; 4];

/// An annotated object on the model's square.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Boxed {
    pub class: String,
    /// Cut off at the square's edges; without area when it lies outside.
    pub rect: Rect,
}

/// The objects of an annotation of an image of width x height pixels. Errors name the annotation.
pub fn read(path: &Path, width: usize, height: usize, config: &TransformConfig) -> Result<Vec<Boxed>> {
    let objects = annotation::read(path)?.objects;
    let place = |object: annotation::Object| {
        let [left, top, right, bottom] = object.sides(path)?;
        // Pixels are counted from 1, both ends included.
        let rect = on_square([left - 1.0, top - 1.0, right, bottom], width, height, config);
        Ok(Boxed { class: object.name, rect })
    };
    objects.into_iter().map(place).collect()
}

/// Where a rectangle of the image comes to lie when the image becomes the model's square.
pub fn on_square(rect: Rect, width: usize, height: usize, config: &TransformConfig) -> Rect {
    let side = config.image_size as f64;
    let (wide, high, x, y) = match config.eval_resize {
        EvalResize::Squash => (side, side, 0.0, 0.0),
        EvalResize::Crop => {
            let (wide, high, window) = transform::crop_window(width, height, config);
            (wide as f64, high as f64, window.left as f64, window.top as f64)
        }
    };
    let [left, top, right, bottom] = rect;
    let (x_scale, y_scale) = (wide / width as f64, high / height as f64);
    [left * x_scale - x, top * y_scale - y, right * x_scale - x, bottom * y_scale - y].map(|v| v.clamp(0.0, side))
}

/// The area of the union of `rects` in each patch, (N,), in square pixels.
pub fn area_by_patch(rects: &[Rect], grid: &Grid) -> Vec<f64> {
    let p = grid.patch as f64;
    let cuts = |low: usize, high: usize, cells: usize| {
        let ends = rects.iter().flat_map(|rect| [rect[low], rect[high]]);
        let mut cuts: Vec<f64> = ends.chain((0..=cells).map(|i| i as f64 * p)).collect();
        cuts.sort_by(f64::total_cmp);
        cuts.dedup();
        cuts
    };
    let (xs, ys) = (cuts(0, 2, grid.columns()), cuts(1, 3, grid.rows()));
    let mut area = vec![0.0; grid.patches()];
    // Between two cuts nothing begins or ends, so the middle tells for the whole piece.
    for y in ys.windows(2) {
        let middle = (y[0] + y[1]) / 2.0;
        let row: Vec<&Rect> = rects.iter().filter(|rect| rect[1] < middle && middle < rect[3]).collect();
        for x in xs.windows(2).filter(|_| !row.is_empty()) {
            let centre = (x[0] + x[1]) / 2.0;
            let (column, line) = ((centre / p) as usize, (middle / p) as usize);
            let inside = column < grid.columns() && line < grid.rows();
            if inside && row.iter().any(|rect| rect[0] < centre && centre < rect[2]) {
                area[line * grid.columns() + column] += (x[1] - x[0]) * (y[1] - y[0]);
            }
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn boxes_follow_the_resize() {
        let squash = TransformConfig::paper(224);
        // The left half of 448 x 112 pixels.
        assert_eq!(on_square([0.0, 0.0, 224.0, 112.0], 448, 112, &squash), [0.0, 0.0, 112.0, 224.0]);
        let crop = TransformConfig { eval_resize: EvalResize::Crop, ..squash };
        // The short side becomes 256, so the image becomes 1024 x 256; the middle 224 of each begin at 400 and 16.
        assert_eq!(on_square([0.0, 0.0, 224.0, 112.0], 448, 112, &crop), [0.0, 0.0, 112.0, 224.0]);
        let inside = on_square([196.0, 28.0, 252.0, 84.0], 448, 112, &crop);
        inside
            .iter()
            .zip([48.0, 48.0, 176.0, 176.0])
            .for_each(|(v, want)| approx::assert_relative_eq!(*v, want, epsilon = 1e-9));
    }

    proptest! {
        #[test]
        fn areas_are_those_of_the_pixels(ends in prop::collection::vec([0usize..=12, 0..=12, 0..=12, 0..=12], 0..6)) {
            let grid = Grid { height: 12, width: 12, patch: 4 };
            let rects: Vec<Rect> = ends
                .iter()
                .map(|&[a, b, c, d]| [a.min(b) as f64, c.min(d) as f64, a.max(b) as f64, c.max(d) as f64])
                .collect();
            let mut counted = vec![0.0; 9];
            for y in 0..12 {
                for x in 0..12 {
                    let (u, v) = (x as f64 + 0.5, y as f64 + 0.5);
                    if rects.iter().any(|r| r[0] < u && u < r[2] && r[1] < v && v < r[3]) {
                        counted[y / 4 * 3 + x / 4] += 1.0;
                    }
                }
            }
            prop_assert_eq!(area_by_patch(&rects, &grid), counted);
        }
    }
}
