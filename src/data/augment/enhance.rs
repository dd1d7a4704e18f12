//! Pillow's ImageEnhance: an image is blended with what has no colour, contrast, light or edge at all.
#![forbid(unsafe_code)]

use crate::data::decode::Picture;

/// `ImageEnhance.Color(image).enhance(factor)`: 0 is grey, 1 the image.
pub fn color(picture: &mut Picture, factor: f64) {
    blend(&mut picture.pixels, factor, |_, pixel| [luma(pixel); 3]);
}

/// `ImageEnhance.Contrast(image).enhance(factor)`: 0 is the mean grey everywhere, 1 the image.
pub fn contrast(picture: &mut Picture, factor: f64) {
    let pixels = picture.pixels.as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8;
    blend(&mut picture.pixels, factor, |_, _| [mean; 3]);
}

/// `ImageEnhance.Brightness(image).enhance(factor)`: 0 is black, 1 the image.
pub fn brightness(picture: &mut Picture, factor: f64) {
    blend(&mut picture.pixels, factor, |_, _| [0; 3]);
}

/// `ImageEnhance.Sharpness(image).enhance(factor)`: 0 is smoothed, 1 the image, above it is sharper.
pub fn sharpness(picture: &mut Picture, factor: f64) {
    let smooth = smoothed(picture);
    blend(&mut picture.pixels, factor, |i, _| smooth.as_chunks::<3>().0[i]);
}

/// Pillow's `convert("L")`.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// `Image.blend(base, image, factor)`, where `base` gives a pixel of it by its number and the image's own.
fn blend(pixels: &mut [u8], factor: f64, base: impl Fn(usize, [u8; 3]) -> [u8; 3]) {
    let alpha = factor as f32;
    if alpha == 1.0 {
        return;
    }
    for (i, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let from = base(i, *pixel);
        for (v, from) in pixel.iter_mut().zip(from) {
            let step = (i32::from(*v) - i32::from(from)) as f32;
            // The cast truncates and stays within 0 and 255, as Pillow does where it extrapolates.
            *v = (f32::from(from) + alpha * step) as u8;
        }
    }
}

/// `filter(ImageFilter.SMOOTH)`: 3 x 3 with weight 5 in the middle, by 13; the outermost pixels stay.
fn smoothed(picture: &Picture) -> Vec<u8> {
    let (width, height) = (picture.width, picture.height);
    let mut out = picture.pixels.clone();
    if width < 3 || height < 3 {
        return out;
    }
    let (one, five) = (1.0f32 / 13.0, 5.0f32 / 13.0);
    let at = |i: usize| f32::from(picture.pixels[i]);
    for y in 1..height - 1 {
        for x in 3..(width - 1) * 3 {
            let row = |y: usize, middle: f32| {
                let i = y * width * 3 + x;
                at(i - 3) * one + at(i) * middle + at(i + 3) * one
            };
            // The order of Pillow's sums.
            let sum = 0.5 + row(y + 1, one) + row(y, five) + row(y - 1, one);
            out[y * width * 3 + x] = sum as u8;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture { width: 4, height: 3, pixels: (0..36).map(|i| i * 7).collect() }
    }

    #[test]
    fn a_factor_of_one_changes_nothing() {
        for enhance in [color, contrast, brightness, sharpness] {
            let mut same = picture();
            enhance(&mut same, 1.0);
            assert_eq!(same, picture());
        }
    }

    #[test]
    fn the_ends_are_grey_and_black() {
        let mut grey = picture();
        color(&mut grey, 0.0);
        assert!(grey.pixels.as_chunks::<3>().0.iter().all(|[r, g, b]| r == g && g == b));
        let mut black = picture();
        brightness(&mut black, 0.0);
        assert_eq!(black.pixels, [0; 36]);
        let mut flat = picture();
        contrast(&mut flat, 0.0);
        assert!(flat.pixels.iter().all(|&v| v == flat.pixels[0]));
    }

    #[test]
    fn an_image_too_small_for_the_filter_stays() {
        let mut small = Picture { width: 2, height: 9, pixels: (0..54).collect() };
        let before = small.clone();
        sharpness(&mut small, 0.0);
        assert_eq!(small, before);
    }
}
