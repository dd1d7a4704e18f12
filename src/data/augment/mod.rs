//! Augmentation beyond crop and flip, as timm's: RandAugment, colour jitter, greyscale, random erasing, mixup, CutMix. Training only.
//!
//! The order is timm's without its prefetcher: crop, resize, flips, RandAugment or colour jitter, greyscale (8-bit pixels),
//! normalisation, random erasing (one image at a time), and at last mixup or CutMix of the batch. Patches are scored after all
//! of it: `Batch::images` is what the model sees and what the `l2` scorer reads, and where erasing and mixing change it,
//! `Batch::rgb`, which the other scorers read, holds the 8-bit pixels nearest to it.
#![forbid(unsafe_code)]

pub mod affine;
pub mod enhance;
pub mod erase;
pub mod mix;
pub mod rand_augment;
pub mod table;

pub use erase::{Erase, EraseMode};
pub use mix::Mix;
pub use rand_augment::RandAugment;

use super::decode::Picture;
use super::{Interpolation, Norm};
use crate::rng::{Purpose, Stream};

/// What is done to training images, and to batches of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Augment {
    /// Probability of an image upside down.
    pub vflip: f64,
    /// Brightness, contrast and saturation are each drawn from 1 - this (at least 0) to 1 + this; none when 0.
    pub color_jitter: f64,
    /// Probability of an image without colour.
    pub grayscale: f64,
    pub rand: Option<RandAugment>,
    pub erase: Erase,
    pub mix: Mix,
}

impl Augment {
    /// What comes between the horizontal flip and the normalisation.
    pub fn pixels(&self, picture: &mut Picture, filter: Interpolation, norm: Norm, seed: u64, epoch: u32, id: u32) {
        if self.vflip > 0.0 && Stream::new(seed, Purpose::VerticalFlip, epoch, id).uniform() < self.vflip {
            turn_over(picture);
        }
        if let Some(rand) = &self.rand {
            rand.apply(picture, filter, mean_colour(norm), &mut Stream::new(seed, Purpose::RandAugment, epoch, id));
        }
        if self.color_jitter > 0.0 {
            jitter(picture, self.color_jitter, &mut Stream::new(seed, Purpose::ColorJitter, epoch, id));
        }
        if self.grayscale > 0.0 && Stream::new(seed, Purpose::Greyscale, epoch, id).uniform() < self.grayscale {
            enhance::color(picture, 0.0);
        }
    }
}

/// What RandAugment fills with where no source pixel is.
pub fn mean_colour(norm: Norm) -> [u8; 3] {
    norm.mean_std().0.map(|mean| (f64::from(mean) * 255.0).round_ties_even() as u8)
}

/// Mirrors top and bottom.
fn turn_over(picture: &mut Picture) {
    let row = picture.width * 3;
    for y in 0..picture.height / 2 {
        let (above, below) = picture.pixels.split_at_mut((picture.height - 1 - y) * row);
        above[y * row..][..row].swap_with_slice(&mut below[..row]);
    }
}

/// torchvision's `ColorJitter(strength, strength, strength)`: brightness, contrast and saturation in any order.
fn jitter(picture: &mut Picture, strength: f64, stream: &mut Stream) {
    let mut changes = [enhance::brightness, enhance::contrast, enhance::color]
        .map(|change| (change, stream.range((1.0 - strength).max(0.0), 1.0 + strength)));
    stream.shuffle(&mut changes);
    for (change, factor) in changes {
        change(picture, factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture { width: 4, height: 3, pixels: (0..36).map(|i| i * 5 + 20).collect() }
    }

    #[test]
    fn a_vertical_flip_mirrors_the_columns() {
        let mut turned = picture();
        turn_over(&mut turned);
        let rows: Vec<&[u8]> = turned.pixels.chunks(12).collect();
        let before = picture();
        assert!(rows.into_iter().eq(before.pixels.rchunks(12)));
    }

    #[test]
    fn vertical_flips_and_greys_come_as_often_as_asked() {
        let count = |augment: &Augment| {
            let changed = |id| {
                let mut picture = picture();
                augment.pixels(&mut picture, Interpolation::Bilinear, Norm::Half, 1, 0, id);
                picture.pixels[0] > 20
            };
            (0..2000).filter(|&id| changed(id)).count()
        };
        for make in
            [|vflip| Augment { vflip, ..Augment::default() }, |grayscale| Augment { grayscale, ..Augment::default() }]
        {
            // The deviation of 2000 throws with 0.3 is 20.5; six of them bound a correct one.
            assert!(count(&make(0.3)).abs_diff(600) < 123);
            assert_eq!((count(&make(0.0)), count(&make(1.0))), (0, 2000));
        }
    }

    #[test]
    fn jitter_stays_within_its_strength() {
        let mut brightest = 0.0f64;
        for seed in 0..500 {
            let mut grey = Picture { width: 2, height: 2, pixels: vec![100; 12] };
            jitter(&mut grey, 0.4, &mut Stream::new(seed, Purpose::ColorJitter, 0, 0));
            // Grey of one level answers to brightness alone; a level is lost to truncation.
            assert!((59..=140).contains(&grey.pixels[0]), "{}", grey.pixels[0]);
            brightest = brightest.max(f64::from(grey.pixels[0]));
        }
        assert!(brightest > 135.0);
    }

    #[test]
    fn the_fill_is_the_mean_rounded_as_python_does() {
        assert_eq!(mean_colour(Norm::Imagenet), [124, 116, 104]);
        assert_eq!(mean_colour(Norm::Half), [128; 3]);
    }
}
