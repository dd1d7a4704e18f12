//! SLIC superpixels (Achanta et al. 2012), equal to scikit-image's `slic(start_label=0)` with its other defaults.
//!
//! k-means over position and L*a*b*, each centre seen only by pixels within two steps of it, ten rounds. Then pieces
//! that hang together become the segments: small ones join a neighbour, large ones are cut off at a size.
#![forbid(unsafe_code)]

use super::Segments;
use super::lab::lab;

const ROUNDS: usize = 10;
/// Smallest and largest piece, as shares of the mean one.
const SMALLEST: f64 = 0.5;
const LARGEST: f64 = 3.0;

/// A centre: row, column, L*, a*, b*.
type Centre = [f64; 5];

/// About `count` segments of rgb (h, w, 3). A larger compactness makes them squarer.
pub fn slic(rgb: &[u8], height: usize, width: usize, count: usize, compactness: f64) -> Segments {
    let colours = colours(rgb, compactness);
    let [(top, down), (left, right)] = regular_grid(height, width, count);
    let rows = (top..height).step_by(down);
    let place = |y: usize| (left..width).step_by(right).map(move |x| [y as f64, x as f64, 0.0, 0.0, 0.0]);
    let mut centres: Vec<Centre> = rows.flat_map(place).collect();
    // Distances are measured in steps of the grid that was asked for, windows in steps of the one that fitted.
    let weight = 1.0 / (down.max(right) as f64).powi(2);
    let window = regular_grid(height, width, centres.len()).map(|(_, step)| 2.0 * step as f64);
    let mut nearest = vec![0usize; height * width];
    for _ in 0..ROUNDS {
        assign(&colours, [height, width], &centres, weight, window, &mut nearest);
        move_centres(&colours, width, &nearest, &mut centres);
    }
    let mean = (height * width) as f64 / centres.len() as f64;
    connect(&nearest, height, width, (SMALLEST * mean) as usize, (LARGEST * mean) as usize)
}

/// L*a*b* over the compactness, of values stretched to [0, 1].
fn colours(rgb: &[u8], compactness: f64) -> Vec<[f64; 3]> {
    let unit = |v: u8| f64::from(v) / 255.0;
    let least = rgb.iter().copied().min().map_or(0.0, unit);
    let most = rgb.iter().copied().max().map_or(0.0, unit) - least;
    let ratio = 1.0 / compactness;
    let value = |v: u8| if most > 0.0 { (unit(v) - least) / most } else { unit(v) - least };
    rgb.as_chunks::<3>().0.iter().map(|pixel| lab(pixel.map(value)).map(|v| v * ratio)).collect()
}

/// First place and step of about `count` points on a regular grid, of rows and then of columns; scikit-image's
/// `regular_grid`.
fn regular_grid(height: usize, width: usize, count: usize) -> [(usize, usize); 2] {
    let (short, long) = (height.min(width) as f64, height.max(width) as f64);
    if short * long <= count as f64 {
        return [(0, 1); 2];
    }
    let even = (short * long / count as f64).sqrt();
    // An image narrower than a step is one row of points.
    let steps = if short < even { [short, long / count as f64] } else { [even, even] };
    let grid = steps.map(|step| ((step / 2.0).floor() as usize, (step.round_ties_even() as usize).max(1)));
    if height <= width { grid } else { [grid[1], grid[0]] }
}

/// Gives each pixel to the nearest centre whose window it lies in; the earlier centre wins a tie.
fn assign(
    colours: &[[f64; 3]],
    [height, width]: [usize; 2],
    centres: &[Centre],
    weight: f64,
    windows: [f64; 2],
    nearest: &mut [usize],
) {
    let mut distance = vec![f64::MAX; height * width];
    for (k, centre) in centres.iter().enumerate() {
        let [cy, cx, ..] = *centre;
        let window = |c: f64, reach: f64, size: usize| {
            ((c - reach).max(0.0) as usize, (c + reach + 1.0).min(size as f64).max(0.0) as usize)
        };
        let ((top, bottom), (left, right)) = (window(cy, windows[0], height), window(cx, windows[1], width));
        for y in top..bottom {
            let dy = (cy - y as f64) * (cy - y as f64);
            for x in left..right {
                let i = y * width + x;
                let dx = (cx - x as f64) * (cx - x as f64);
                let mut colour = 0.0;
                for (a, b) in colours[i].iter().zip(&centre[2..]) {
                    colour += (a - b) * (a - b);
                }
                let d = (dy + dx) * weight + colour;
                if d < distance[i] {
                    (nearest[i], distance[i]) = (k, d);
                }
            }
        }
    }
}

/// Moves each centre to the mean of its pixels. One that lost them all becomes NaN, which is near nothing any more.
fn move_centres(colours: &[[f64; 3]], width: usize, nearest: &[usize], centres: &mut [Centre]) {
    let mut sums = vec![([0.0; 5], 0usize); centres.len()];
    for (i, (&k, [l, a, b])) in nearest.iter().zip(colours).enumerate() {
        let (sum, count) = &mut sums[k];
        let values = [(i / width) as f64, (i % width) as f64, *l, *a, *b];
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        *count += 1;
    }
    for (centre, (sum, count)) in centres.iter_mut().zip(sums) {
        *centre = sum.map(|sum| sum / count as f64);
    }
}

/// Pieces of one label that hang together, numbered in raster order; a piece below `least` pixels joins the neighbour
/// met last, one of `most` pixels ends there.
fn connect(labels: &[usize], height: usize, width: usize, least: usize, most: usize) -> Segments {
    const NONE: u32 = u32::MAX;
    let mut found = vec![NONE; labels.len()];
    let mut fresh = 0;
    let mut piece = Vec::new();
    for start in 0..labels.len() {
        if found[start] != NONE {
            continue;
        }
        let mut neighbour = 0;
        found[start] = fresh;
        piece.clear();
        piece.push(start);
        let mut visited = 0;
        while visited < piece.len() && piece.len() < most {
            let (y, x) = (piece[visited] / width, piece[visited] % width);
            // Right, left, below, above: the order decides which neighbour is met last.
            let around = [
                (x + 1 < width).then(|| y * width + x + 1),
                (x > 0).then(|| y * width + x - 1),
                (y + 1 < height).then(|| (y + 1) * width + x),
                (y > 0).then(|| (y - 1) * width + x),
            ];
            for i in around.into_iter().flatten() {
                if labels[i] == labels[start] && found[i] == NONE {
                    found[i] = fresh;
                    piece.push(i);
                    if piece.len() >= most {
                        break;
                    }
                } else if found[i] != NONE && found[i] != fresh {
                    neighbour = found[i];
                }
            }
            visited += 1;
        }
        if piece.len() < least {
            piece.iter().for_each(|&i| found[i] = neighbour);
        } else {
            fresh += 1;
        }
    }
    Segments::compact(found)
}
