//! Quickshift superpixels (Vedaldi and Soatto 2008), equal to scikit-image's `quickshift` but for its noise.
//!
//! Each pixel is linked to the nearest one of higher density in its window; trees are segments. scikit-image adds noise
//! of 1e-5 to the densities so that flat areas get an order; here, of equal densities the pixel earlier in raster order
//! counts as higher. Nothing is drawn, so an image has one segmentation.
#![forbid(unsafe_code)]

use super::Segments;
use super::lab::lab;
use rayon::prelude::*;

/// Cuts rgb (h, w, 3). `kernel` is the width of the density's Gaussian in pixels, links longer than `reach` are not
/// made, and `ratio` weighs colour against position. lime's settings are 4, 200 and 0.2.
pub fn quickshift(rgb: &[u8], height: usize, width: usize, kernel: f64, reach: f64, ratio: f64) -> Segments {
    let colours: Vec<[f64; 3]> =
        rgb.as_chunks::<3>().0.iter().map(|p| lab(p.map(|v| f64::from(v) / 255.0)).map(|v| v * ratio)).collect();
    let window = (3.0 * kernel).ceil() as usize;
    let around = |i: usize| {
        let (y, x) = (i / width, i % width);
        let rows = y.saturating_sub(window)..(y + window + 1).min(height);
        rows.flat_map(move |v| (x.saturating_sub(window)..(x + window + 1).min(width)).map(move |u| v * width + u))
    };
    let distance = |i: usize, j: usize| {
        let mut sum = 0.0;
        for (a, b) in colours[i].iter().zip(&colours[j]) {
            sum += (a - b) * (a - b);
        }
        let (dy, dx) = ((i / width).abs_diff(j / width) as f64, (i % width).abs_diff(j % width) as f64);
        sum + dy * dy + dx * dx
    };
    let scale = -0.5 / (kernel * kernel);
    let density: Vec<f64> = (0..height * width)
        .into_par_iter()
        .map(|i| around(i).fold(0.0, |sum, j| sum + (distance(i, j) * scale).exp()))
        .collect();
    let above = |j: usize, i: usize| density[j] > density[i] || (density[j] == density[i] && j < i);
    let parents: Vec<u32> = (0..height * width)
        .into_par_iter()
        .map(|i| {
            let (mut closest, mut parent) = (f64::MAX, i);
            for j in around(i).filter(|&j| above(j, i)) {
                let d = distance(i, j);
                if d < closest {
                    (closest, parent) = (d, j);
                }
            }
            if closest.sqrt() > reach { i as u32 } else { parent as u32 }
        })
        .collect();
    let root = |mut i: u32| {
        while parents[i as usize] != i {
            i = parents[i as usize];
        }
        i
    };
    Segments::compact((0..parents.len() as u32).map(root).collect())
}
