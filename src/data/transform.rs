//! From a decoded image to the model's input: crop, resize, flip, normalise, as torchvision's transforms do on Pillow images.
#![forbid(unsafe_code)]

use super::decode::Picture;
use super::resize::{Crop, resize, resize_window};
use super::{Augment, EvalResize, Interpolation, Mode, Norm, Source, TransformConfig, default_crop_pct};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};

/// Largest `image_size`, in pixels.
const MAX_IMAGE_SIZE: usize = 4096;

impl Norm {
    /// Mean and deviation of the R, G and B channels scaled to [0, 1].
    pub fn mean_std(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Norm::Imagenet => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            Norm::Cifar => ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
            Norm::Half => ([0.5; 3], [0.5; 3]),
        }
    }
}

impl TransformConfig {
    /// The paper's preprocessing (section 4.3): ImageNet statistics, bilinear, squash, RandomResizedCrop and flip.
    pub fn paper(image_size: usize) -> Self {
        TransformConfig {
            image_size,
            norm: Norm::Imagenet,
            interpolation: Interpolation::Bilinear,
            eval_resize: EvalResize::Squash,
            crop_pct: default_crop_pct(),
            crop_scale: [0.08, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.5,
            augment: Augment::default(),
            corrupt: None,
        }
    }

    /// Refuses sizes, scales, ratios and probabilities that no image can be transformed with.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str, reason: String| Err(Error::usage(what, reason, "give the paper's value"));
        if self.image_size == 0 || self.image_size > MAX_IMAGE_SIZE {
            return bad("image_size", format!("{} is not in 1..={MAX_IMAGE_SIZE}", self.image_size));
        }
        if !(self.crop_pct > 0.0 && self.crop_pct <= 1.0) {
            return bad("--crop-pct", format!("{} is not above 0 and at most 1", self.crop_pct));
        }
        let least = self.image_size as f64 / MAX_IMAGE_SIZE as f64;
        if self.eval_resize == EvalResize::Crop && self.crop_pct < least {
            return bad(
                "--crop-pct",
                format!("the shorter side would be resized to more than {MAX_IMAGE_SIZE} pixels"),
            );
        }
        let ascending = |[low, high]: [f64; 2]| low > 0.0 && low <= high && high.is_finite();
        if !ascending(self.crop_scale) || self.crop_scale[1] > 1.0 {
            return bad("crop_scale", format!("{:?} is not a range within (0, 1]", self.crop_scale));
        }
        if !ascending(self.crop_ratio) {
            return bad("crop_ratio", format!("{:?} is not a range of positive numbers", self.crop_ratio));
        }
        if !(0.0..=1.0).contains(&self.flip) {
            return bad("flip", format!("{} is no probability", self.flip));
        }
        Ok(())
    }
}

/// Reads and transforms one image: (image (C, h, w), rgb (h, w, C)).
pub fn load(source: &Source, id: u64, config: &TransformConfig, mode: Mode) -> Result<(Vec<f32>, Vec<u8>)> {
    let mut rgb = bytes(source, id, config, mode)?;
    let mut image = normalise(&rgb, config.norm);
    if let Mode::Train { seed, epoch } = mode {
        let mut stream = Stream::new(seed, Purpose::Erase, epoch, id as u32);
        config.augment.erase.apply(&mut image, &mut rgb, config.image_size, config.norm, &mut stream);
    }
    Ok((image, rgb))
}

/// Reads one image and does everything that is done before the normalisation: rgb (h, w, C).
pub fn bytes(source: &Source, id: u64, config: &TransformConfig, mode: Mode) -> Result<Vec<u8>> {
    config.check()?;
    Ok(apply(&source.picture()?, id, config, mode))
}

/// Everything before the normalisation: in training crop, resize, flips and what is done to 8-bit pixels, else resize and
/// corruption. (image_size, image_size, 3). Random numbers depend on the mode's seed and epoch and on `id`.
pub fn apply(picture: &Picture, id: u64, config: &TransformConfig, mode: Mode) -> Vec<u8> {
    let side = config.image_size;
    match (mode, config.eval_resize) {
        (Mode::Train { seed, epoch }, _) => {
            let crop = random_crop(picture, config, &mut Stream::new(seed, Purpose::Crop, epoch, id as u32));
            let mut rgb = resize(picture, crop, side, side, config.interpolation);
            if Stream::new(seed, Purpose::Flip, epoch, id as u32).uniform() < config.flip {
                flip(&mut rgb, side);
            }
            let mut picture = Picture { width: side, height: side, pixels: rgb };
            config.augment.pixels(&mut picture, config.interpolation, config.norm, seed, epoch, id as u32);
            picture.pixels
        }
        (Mode::Eval, how) => {
            let rgb = match how {
                EvalResize::Squash => resize(picture, Crop::whole(picture), side, side, config.interpolation),
                EvalResize::Crop => resize_then_crop(picture, config),
            };
            let mut picture = Picture { width: side, height: side, pixels: rgb };
            if let Some(corruption) = config.corrupt {
                corruption.apply(&mut picture, id);
            }
            picture.pixels
        }
    }
}

/// `RandomResizedCrop.get_params` of torchvision: ten tries, then the largest central crop within the ratios.
pub fn random_crop(picture: &Picture, config: &TransformConfig, stream: &mut Stream) -> Crop {
    let (width, height) = (picture.width, picture.height);
    let (area, [low, high]) = ((width * height) as f64, config.crop_ratio);
    for _ in 0..10 {
        let target = area * stream.range(config.crop_scale[0], config.crop_scale[1]);
        let ratio = libm::exp(stream.range(libm::log(low), libm::log(high)));
        let w = (target * ratio).sqrt().round_ties_even() as usize;
        let h = (target / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = stream.below((height - h + 1) as u32) as usize;
            let left = stream.below((width - w + 1) as u32) as usize;
            return Crop { left, top, width: w, height: h };
        }
    }
    let ratio = width as f64 / height as f64;
    let (w, h) = if ratio < low {
        (width, (width as f64 / low).round_ties_even() as usize)
    } else if ratio > high {
        ((height as f64 * high).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    Crop { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

/// The window of torchvision's `Resize(floor(side / crop_pct))`, which keeps the aspect, then `CenterCrop(side)`: width and
/// height that the image is resized to, and what is cut out of that.
pub fn crop_window(width: usize, height: usize, config: &TransformConfig) -> (usize, usize, Crop) {
    let side = config.image_size;
    let (short, long) = (width.min(height), width.max(height));
    let near = (side as f64 / config.crop_pct) as usize;
    let far = (near as f64 * long as f64 / short as f64) as usize;
    let (wide, high) = if width <= height { (near, far) } else { (far, near) };
    let middle = |size: usize| ((size - side) as f64 / 2.0).round_ties_even() as usize;
    (wide, high, Crop { left: middle(wide), top: middle(high), width: side, height: side })
}

fn resize_then_crop(picture: &Picture, config: &TransformConfig) -> Vec<u8> {
    let (width, height, window) = crop_window(picture.width, picture.height, config);
    resize_window(picture, Crop::whole(picture), width, height, window, config.interpolation)
}

/// Mirrors left and right.
fn flip(rgb: &mut [u8], width: usize) {
    for row in rgb.chunks_exact_mut(width * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// What `normalise` makes of each byte of each channel, (3,256).
pub fn levels(norm: Norm) -> Vec<f32> {
    let all: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
    normalise(&all, norm)
}

/// `ToTensor` and `Normalize` of torchvision in f32: (h, w, 3) to (3, h, w), (v / 255 - mean) / std.
pub fn normalise(rgb: &[u8], norm: Norm) -> Vec<f32> {
    let (mean, std) = norm.mean_std();
    let mut out = Vec::with_capacity(rgb.len());
    for c in 0..3 {
        let table: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]);
        out.extend(rgb.as_chunks::<3>().0.iter().map(|p| table[usize::from(p[c])]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ramp(width: usize, height: usize) -> Picture {
        let pixels = (0..width * height).flat_map(|i| [(i % width) as u8, (i / width) as u8, 7]).collect();
        Picture { width, height, pixels }
    }

    #[test]
    fn normalising_keeps_torchs_order_of_operations() {
        let out = normalise(&[0, 128, 255, 1, 2, 3], Norm::Imagenet);
        let want = |v: f32, mean: f32, std: f32| (v / 255.0 - mean) / std;
        assert_eq!(out[0].to_bits(), want(0.0, 0.485, 0.229).to_bits());
        assert_eq!(out[1].to_bits(), want(1.0, 0.485, 0.229).to_bits());
        assert_eq!(out[2].to_bits(), want(128.0, 0.456, 0.224).to_bits());
        assert_eq!(out[4].to_bits(), want(255.0, 0.406, 0.225).to_bits());
        assert_eq!(normalise(&[0, 255, 255], Norm::Half), [-1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_flip_mirrors_each_row() {
        let mut rgb = ramp(3, 2).pixels;
        flip(&mut rgb, 3);
        assert_eq!(rgb, [2, 0, 7, 1, 0, 7, 0, 0, 7, 2, 1, 7, 1, 1, 7, 0, 1, 7]);
    }

    #[test]
    fn flips_come_as_often_as_asked() {
        let mut config =
            TransformConfig { crop_scale: [1.0, 1.0], crop_ratio: [1.0, 1.0], ..TransformConfig::paper(8) };
        let picture = ramp(8, 8);
        let flips = |config: &TransformConfig| {
            let at = |id| apply(&picture, id, config, Mode::Train { seed: 5, epoch: 1 })[0] == 7;
            (0..2000).filter(|&id| at(id)).count()
        };
        // The deviation of the count is 22; six of them bound a correct one.
        assert!(flips(&config).abs_diff(1000) < 135);
        config.flip = 0.0;
        assert_eq!(flips(&config), 0);
        config.flip = 1.0;
        assert_eq!(flips(&config), 2000);
    }

    #[test]
    fn augmentation_depends_on_seed_epoch_and_id_alone() {
        let (picture, config) = (ramp(90, 60), TransformConfig::paper(16));
        let at = |seed, epoch, id| apply(&picture, id, &config, Mode::Train { seed, epoch });
        assert_eq!(at(1, 2, 3), at(1, 2, 3));
        assert_ne!(at(1, 2, 3), at(2, 2, 3));
        assert_ne!(at(1, 2, 3), at(1, 3, 3));
        assert_ne!(at(1, 2, 3), at(1, 2, 4));
    }

    #[test]
    fn a_strip_gets_the_central_crop_of_its_ratio() {
        let config = TransformConfig::paper(8);
        let crop = |w, h| random_crop(&ramp(w, h), &config, &mut Stream::new(0, Purpose::Crop, 0, 0));
        // No area of a strip this thin has a ratio within 3/4..4/3, so all ten tries miss.
        assert_eq!(crop(9, 2000), Crop { left: 0, top: 994, width: 9, height: 12 });
        assert_eq!(crop(2000, 9), Crop { left: 994, top: 0, width: 12, height: 9 });
        assert_eq!(crop(1, 1), Crop { left: 0, top: 0, width: 1, height: 1 });
    }

    #[test]
    fn the_central_crop_is_torchvisions() {
        let config = TransformConfig { eval_resize: EvalResize::Crop, ..TransformConfig::paper(14) };
        // 14 / 0.875 = 16, the size of the short side already: rows and columns are only cut, 1 and (33 - 14) / 2 = 9.5,
        // which Python rounds to 10.
        let rgb = apply(&ramp(33, 16), 0, &config, Mode::Eval);
        assert_eq!((rgb.len(), &rgb[..3]), (14 * 14 * 3, &[10, 1, 7][..]));
        // timm's 0.9 makes 15 of it; and a share of 1 leaves no border. floor(15 / 16 * 33) = 30 columns, 8 of which go.
        let window = |crop_pct| crop_window(33, 16, &TransformConfig { crop_pct, ..config.clone() });
        assert_eq!(window(0.9), (30, 15, Crop { left: 8, top: 0, width: 14, height: 14 }));
        assert_eq!(window(1.0), (28, 14, Crop { left: 7, top: 0, width: 14, height: 14 }));
        // A strip of 16,000 pixels must not be blown up as a whole.
        assert_eq!(apply(&ramp(1, 16_000), 0, &config, Mode::Eval).len(), 14 * 14 * 3);
    }

    #[test]
    fn impossible_settings_are_usage_errors() {
        let paper = TransformConfig::paper(224);
        assert!(paper.check().is_ok());
        let bad = [
            TransformConfig { image_size: 0, ..paper.clone() },
            TransformConfig { crop_scale: [0.5, 0.1], ..paper.clone() },
            TransformConfig { crop_scale: [0.5, 1.5], ..paper.clone() },
            TransformConfig { crop_ratio: [f64::NAN, 1.0], ..paper.clone() },
            TransformConfig { crop_pct: 0.0, ..paper.clone() },
            TransformConfig { crop_pct: f64::NAN, ..paper.clone() },
            TransformConfig { crop_pct: 1.1, ..paper.clone() },
            TransformConfig { crop_pct: 0.01, eval_resize: EvalResize::Crop, ..paper.clone() },
            TransformConfig { crop_ratio: [1.0, f64::INFINITY], ..paper.clone() },
            TransformConfig { flip: -0.1, ..paper.clone() },
        ];
        for config in bad {
            assert_eq!(config.check().unwrap_err().exit_code(), 2, "{config:?}");
        }
    }

    proptest! {
        #[test]
        fn crops_lie_inside(w in 1usize..500, h in 1usize..500, seed: u64, low in 0.01..1.0f64) {
            let config = TransformConfig { crop_scale: [low, 1.0], ..TransformConfig::paper(8) };
            let picture = Picture { width: w, height: h, pixels: Vec::new() };
            let crop = random_crop(&picture, &config, &mut Stream::new(seed, Purpose::Crop, 0, 0));
            prop_assert!(crop.width > 0 && crop.height > 0);
            prop_assert!(crop.left + crop.width <= w && crop.top + crop.height <= h);
        }
    }
}
