//! Random erasing (Zhong et al., 2017) as timm's `RandomErasing`: boxes of a normalised image get another content.
#![forbid(unsafe_code)]

use crate::data::Norm;
use crate::data::resize::Crop;
use crate::rng::Stream;
use serde::{Deserialize, Serialize};

/// Smallest and largest share of the image that all boxes cover together.
pub const AREA: [f64; 2] = [0.02, 1.0 / 3.0];
/// Smallest aspect ratio of a box, height over width; the largest is its inverse.
pub const ASPECT: f64 = 0.3;

/// What an erased box is filled with, in normalised values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EraseMode {
    /// The mean colour
    #[default]
    Const,
    /// One random colour a box
    Rand,
    /// A random colour a pixel
    Pixel,
}

/// Random erasing of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Erase {
    /// Probability that anything is erased.
    pub prob: f64,
    pub mode: EraseMode,
    /// Most boxes; how many is drawn from 1 to this.
    pub count: u32,
}

impl Default for Erase {
    fn default() -> Self {
        Erase { prob: 0.0, mode: EraseMode::Const, count: 1 }
    }
}

/// (height, width) of a box for one of `count`, from its share of the area before that and the logarithm of its aspect;
/// none when it does not fit, since timm asks for less than the image on either side.
pub fn box_size(height: usize, width: usize, count: u32, share: f64, log_aspect: f64) -> Option<(usize, usize)> {
    let area = share * (height * width) as f64 / f64::from(count);
    let aspect = libm::exp(log_aspect);
    let h = (area * aspect).sqrt().round_ties_even() as usize;
    let w = (area / aspect).sqrt().round_ties_even() as usize;
    (w < width && h < height).then_some((h, w))
}

impl Erase {
    /// Erases from the image (C, side, side). `rgb` (side, side, C) follows: its bytes in the boxes become those nearest to
    /// the new values, so that a scorer of 8-bit pixels ranks what the model sees.
    pub fn apply(&self, image: &mut [f32], rgb: &mut [u8], side: usize, norm: Norm, stream: &mut Stream) {
        if stream.uniform() >= self.prob {
            return;
        }
        let count = 1 + stream.below(self.count);
        for _ in 0..count {
            if let Some(place) = place(side, count, stream) {
                fill(image, rgb, side, norm, place, self.mode, stream);
            }
        }
    }
}

/// A place for a box, within ten tries.
fn place(side: usize, count: u32, stream: &mut Stream) -> Option<Crop> {
    for _ in 0..10 {
        let share = stream.range(AREA[0], AREA[1]);
        let log_aspect = stream.range(libm::log(ASPECT), libm::log(1.0 / ASPECT));
        if let Some((height, width)) = box_size(side, side, count, share, log_aspect) {
            let top = stream.below((side - height + 1) as u32) as usize;
            let left = stream.below((side - width + 1) as u32) as usize;
            return Some(Crop { left, top, width, height });
        }
    }
    None
}

fn fill(image: &mut [f32], rgb: &mut [u8], side: usize, norm: Norm, place: Crop, mode: EraseMode, stream: &mut Stream) {
    let (mean, std) = norm.mean_std();
    for c in 0..3 {
        let colour = if mode == EraseMode::Rand { stream.normal() as f32 } else { 0.0 };
        for y in place.top..place.top + place.height {
            for x in place.left..place.left + place.width {
                let value = if mode == EraseMode::Pixel { stream.normal() as f32 } else { colour };
                image[(c * side + y) * side + x] = value;
                // The cast stays within 0 and 255.
                rgb[(y * side + x) * 3 + c] = ((value * std[c] + mean[c]) * 255.0).round_ties_even() as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::transform::normalise;
    use crate::rng::Purpose;

    const SIDE: usize = 32;

    fn erased(erase: &Erase, seed: u64) -> (Vec<f32>, Vec<u8>) {
        let mut rgb = vec![250; SIDE * SIDE * 3];
        let mut image = normalise(&rgb, Norm::Imagenet);
        erase.apply(&mut image, &mut rgb, SIDE, Norm::Imagenet, &mut Stream::new(seed, Purpose::Erase, 0, 0));
        (image, rgb)
    }

    #[test]
    fn the_8_bit_pixels_are_those_nearest_to_what_the_model_sees() {
        for mode in [EraseMode::Const, EraseMode::Rand, EraseMode::Pixel] {
            for seed in 0..20 {
                let (image, rgb) = erased(&Erase { prob: 1.0, mode, count: 3 }, seed);
                let again = normalise(&rgb, Norm::Imagenet);
                for (i, (value, back)) in image.iter().zip(&again).enumerate() {
                    let byte = rgb[i % (SIDE * SIDE) * 3 + i / (SIDE * SIDE)];
                    // Half a step of 1 / 255 and a rounding, in units of the smallest deviation 0.224.
                    let near = (value - back).abs() < 0.5001 / 255.0 / 0.224;
                    assert!(near || (byte == 0 && value < back) || (byte == 255 && value > back), "{value} {back}");
                }
            }
        }
    }

    #[test]
    fn each_mode_fills_as_it_says() {
        let plain = normalise(&[250; 3], Norm::Imagenet);
        let colours = |mode, seed| {
            let (image, _) = erased(&Erase { prob: 1.0, mode, count: 1 }, seed);
            let mut gone: Vec<u32> =
                image[..SIDE * SIDE].iter().filter(|v| **v != plain[0]).map(|v| v.to_bits()).collect();
            let area = gone.len();
            gone.sort_unstable();
            gone.dedup();
            (gone, area)
        };
        for seed in 0..50 {
            assert_eq!(colours(EraseMode::Const, seed).0, [0]);
            assert_eq!(colours(EraseMode::Rand, seed).0.len(), 1);
            let (kinds, area) = colours(EraseMode::Pixel, seed);
            assert!(kinds.len() > area * 9 / 10);
            // The area before the sides are rounded; each side is off by half a pixel at most.
            let share = area as f64 / (SIDE * SIDE) as f64;
            assert!((AREA[0] * 0.5..AREA[1] * 1.2).contains(&share), "{share}");
        }
    }

    #[test]
    fn images_are_erased_as_often_as_asked() {
        let count = |prob| {
            let erase = Erase { prob, ..Erase::default() };
            (0..2000).filter(|&seed| erased(&erase, seed).1.iter().any(|&v| v != 250)).count()
        };
        // The deviation of 2000 throws with 0.25 is 19; six of them bound a correct one.
        assert!(count(0.25).abs_diff(500) < 6 * 19 + 1);
        assert_eq!((count(0.0), count(1.0)), (0, 2000));
    }

    #[test]
    fn shares_and_aspects_are_spread_as_timms() {
        let (mut shares, mut wide, mut n) = (0.0, 0, 0.0);
        for seed in 0..4000 {
            let crop = place(1000, 1, &mut Stream::new(seed, Purpose::Erase, 0, 0)).unwrap();
            shares += (crop.width * crop.height) as f64 / 1e6;
            wide += usize::from(crop.width > crop.height);
            n += 1.0;
            let aspect = crop.height as f64 / crop.width as f64;
            assert!((0.29..3.45).contains(&aspect), "{aspect}");
        }
        // Every box fits at the first try here (sqrt(1/3 / 0.3) = 1.05 times the side only at the very end), so shares are
        // even over [0.02, 1/3] but for a hundredth: mean 0.1767, deviation 0.0905.
        assert!((shares / n - 0.1767).abs() < 6.0 * 0.0905 / 4000f64.sqrt() + 0.002, "{}", shares / n);
        assert!((wide as f64 - n / 2.0).abs() < 6.0 * 0.5 * 4000f64.sqrt(), "{wide}");
    }

    #[test]
    fn tiny_images_survive() {
        for side in 1..5 {
            let (mut image, mut rgb) = (vec![0.0; side * side * 3], vec![0; side * side * 3]);
            let erase = Erase { prob: 1.0, mode: EraseMode::Pixel, count: 5 };
            for seed in 0..50 {
                let mut stream = Stream::new(seed, Purpose::Erase, 0, 0);
                erase.apply(&mut image, &mut rgb, side, Norm::Half, &mut stream);
            }
        }
    }
}
