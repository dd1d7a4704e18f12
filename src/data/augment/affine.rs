//! Pillow's affine `transform` and `rotate` of RGB images, in its own floating-point arithmetic.
#![forbid(unsafe_code)]

use crate::data::Interpolation;
use crate::data::decode::Picture;

/// From an output pixel's centre (x, y) to the source: (a x + b y + c, d x + e y + f).
pub type Matrix = [f64; 6];

/// `image.transform(image.size, Image.AFFINE, matrix, resample=filter, fillcolor=fill)`.
pub fn transform(picture: &mut Picture, matrix: Matrix, filter: Interpolation, fill: [u8; 3]) {
    let (width, height) = (picture.width, picture.height);
    let [a, b, c, d, e, f] = matrix;
    let mut out = Vec::with_capacity(picture.pixels.len());
    for row in 0..height {
        let y = row as f64 + 0.5;
        for column in 0..width {
            let x = column as f64 + 0.5;
            let (sx, sy) = (a * x + b * y + c, d * x + e * y + f);
            // A source that is no number lies outside too.
            let inside = (0.0..width as f64).contains(&sx) && (0.0..height as f64).contains(&sy);
            out.extend(match filter {
                _ if !inside => fill,
                Interpolation::Bilinear => bilinear(picture, sx - 0.5, sy - 0.5),
                Interpolation::Bicubic => bicubic(picture, sx - 0.5, sy - 0.5),
            });
        }
    }
    picture.pixels = out;
}

/// `image.rotate(degrees, resample=filter, fillcolor=fill)`: counter-clockwise around the centre.
pub fn rotate(picture: &mut Picture, degrees: f64, filter: Interpolation, fill: [u8; 3]) {
    let degrees = degrees.rem_euclid(360.0);
    if degrees == 0.0 {
        return;
    }
    if degrees == 180.0 {
        picture.pixels.as_chunks_mut::<3>().0.reverse();
        return;
    }
    let (x, y) = (picture.width as f64 / 2.0, picture.height as f64 / 2.0);
    let angle = -(degrees * (std::f64::consts::PI / 180.0));
    let (cos, sin, nis) = (round15(libm::cos(angle)), round15(libm::sin(angle)), round15(-libm::sin(angle)));
    let c = cos * -x + sin * -y + 0.0 + x;
    let f = nis * -x + cos * -y + 0.0 + y;
    transform(picture, [cos, sin, c, nis, cos, f], filter, fill);
}

/// Python's `round(x, 15)`.
fn round15(x: f64) -> f64 {
    format!("{x:.15}").parse().expect("a number was printed")
}

/// The sample's place to the left of `v` or above it, and how far `v` is from it.
fn split(v: f64) -> (isize, f64) {
    let low = v.floor();
    (low as isize, v - low)
}

/// The byte of channel `c` at (x, y), or at the nearest place inside.
fn sample(picture: &Picture, x: isize, y: isize, c: usize) -> i32 {
    let x = x.clamp(0, picture.width as isize - 1) as usize;
    let y = y.clamp(0, picture.height as isize - 1) as usize;
    i32::from(picture.pixels[(y * picture.width + x) * 3 + c])
}

fn bilinear(picture: &Picture, x: f64, y: f64) -> [u8; 3] {
    let ((x, dx), (y, dy)) = (split(x), split(y));
    std::array::from_fn(|c| {
        let row = |y: isize| {
            let (left, right) = (sample(picture, x, y, c), sample(picture, x + 1, y, c));
            f64::from(left) + f64::from(right - left) * dx
        };
        let (above, below) = (row(y), row(y + 1));
        (above + (below - above) * dy) as u8
    })
}

fn bicubic(picture: &Picture, x: f64, y: f64) -> [u8; 3] {
    let ((x, dx), (y, dy)) = (split(x), split(y));
    std::array::from_fn(|c| {
        let rows = [-1, 0, 1, 2].map(|j| {
            let [v1, v2, v3, v4] = [-1, 0, 1, 2].map(|i| f64::from(sample(picture, x + i, y + j, c)));
            cubic(v1, v2, v3, v4, dx)
        });
        let [v1, v2, v3, v4] = rows;
        // The cast truncates and stays within 0 and 255.
        cubic(v1, v2, v3, v4, dy) as u8
    })
}

/// The cubic with a = -1 through four samples, at `d` from the second to the third.
fn cubic(v1: f64, v2: f64, v3: f64, v4: f64, d: f64) -> f64 {
    let p2 = -v1 + v3;
    let p3 = 2.0 * (v1 - v2) + v3 - v4;
    let p4 = -v1 + v2 - v3 + v4;
    v2 + d * (p2 + d * (p3 + d * p4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture { width: 5, height: 4, pixels: (0..60).map(|i| i * 4).collect() }
    }

    #[test]
    fn whole_steps_move_pixels_unchanged() {
        for filter in [Interpolation::Bilinear, Interpolation::Bicubic] {
            let mut same = picture();
            transform(&mut same, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], filter, [9; 3]);
            assert_eq!(same, picture());
            let mut moved = picture();
            transform(&mut moved, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], filter, [9; 3]);
            for (got, was) in moved.pixels.chunks(15).zip(picture().pixels.chunks(15)) {
                assert_eq!((&got[..12], &got[12..]), (&was[3..], &[9; 3][..]));
            }
        }
    }

    #[test]
    fn half_turns_and_full_turns_are_exact() {
        let turned = |degrees| {
            let mut turned = picture();
            rotate(&mut turned, degrees, Interpolation::Bicubic, [0; 3]);
            turned
        };
        assert_eq!(turned(0.0), picture());
        assert_eq!(turned(-360.0), picture());
        let mut half = picture();
        half.pixels.as_chunks_mut::<3>().0.reverse();
        assert_eq!(turned(180.0), half);
        assert_eq!(turned(-180.0), half);
    }

    #[test]
    fn what_lies_nowhere_is_filled() {
        let mut lost = picture();
        transform(&mut lost, [f64::NAN, 0.0, 0.0, 0.0, 1.0, 0.0], Interpolation::Bilinear, [1, 2, 3]);
        assert_eq!(lost.pixels, [1, 2, 3].repeat(20));
    }
}
