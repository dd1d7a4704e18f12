//! RandAugment (Cubuk et al., 2020) as timm has it: its string, its operations, its levels.
#![forbid(unsafe_code)]

use super::{affine, enhance, table};
use crate::data::Interpolation;
use crate::data::decode::Picture;
use crate::rng::Stream;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Magnitude that timm's levels are divided by, and their upper bound unless `mmax` gives another.
const FULL: f64 = 10.0;
/// Most operations an image may get, and largest magnitude.
const MOST: u32 = 100;
/// A deviation above this means a magnitude drawn evenly from 0 to m.
const UNIFORM: f64 = 100.0;

/// timm's `rand-m9-mstd0.5-inc1`: what `rand_augment_transform` reads, `tweights` and other sets of operations excepted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RandAugment {
    /// `m`
    pub magnitude: u32,
    /// `n`: operations drawn for an image, with replacement.
    pub layers: u32,
    /// `p`: probability of each drawn operation.
    pub prob: f64,
    /// `mstd`: deviation of the magnitude.
    pub deviation: f64,
    /// `mmax`: largest magnitude; 10 when absent.
    pub max: Option<u32>,
    /// `inc`: operations that all grow stronger with the magnitude.
    pub increasing: bool,
}

impl FromStr for RandAugment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut it = RandAugment { magnitude: 10, layers: 2, prob: 0.5, deviation: 0.0, max: None, increasing: false };
        let mut parts = text.split('-');
        if parts.next() != Some("rand") {
            return Err("only rand-..., as rand-m9-mstd0.5-inc1, is known".into());
        }
        let mut seen = Vec::new();
        for part in parts {
            let (key, value) = part.split_at(part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len()));
            let bad = |rule: &str| format!("'{part}' in it is not {rule}");
            let whole = |low: u32, high: u32| {
                let number = value.parse().ok().filter(|n| (low..=high).contains(n));
                number.ok_or_else(|| bad(&format!("'{key}' with a whole number from {low} to {high}")))
            };
            let real = |high: f64| {
                let number = value.parse().ok().filter(|x| (0.0..=high).contains(x));
                number.ok_or_else(|| bad(&format!("'{key}' with a number from 0 to {high}")))
            };
            match key {
                "m" => it.magnitude = whole(0, MOST)?,
                "n" => it.layers = whole(1, MOST)?,
                "p" => it.prob = real(1.0)?,
                "mstd" => it.deviation = real(1e9)?,
                "mmax" => it.max = Some(whole(1, MOST)?),
                "inc" => it.increasing = whole(0, 1)? == 1,
                _ => return Err(bad("one of m, n, p, mstd, mmax and inc with a number")),
            }
            if seen.contains(&key) {
                return Err(format!("'{key}' stands in it twice"));
            }
            seen.push(key);
        }
        Ok(it)
    }
}

impl fmt::Display for RandAugment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rand-m{}-n{}-p{}-mstd{}", self.magnitude, self.layers, self.prob, self.deviation)?;
        if let Some(max) = self.max {
            write!(f, "-mmax{max}")?;
        }
        write!(f, "-inc{}", u8::from(self.increasing))
    }
}

impl TryFrom<String> for RandAugment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("'{text}': {why}"))
    }
}

impl From<RandAugment> for String {
    fn from(it: RandAugment) -> Self {
        it.to_string()
    }
}

/// timm's operations; Posterize, Solarize and the enhancers have a second scale of levels, the increasing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

impl Op {
    /// All of them, in timm's order.
    pub const ALL: [Op; 15] = [
        Op::AutoContrast,
        Op::Equalize,
        Op::Invert,
        Op::Rotate,
        Op::Posterize,
        Op::Solarize,
        Op::SolarizeAdd,
        Op::Color,
        Op::Contrast,
        Op::Brightness,
        Op::Sharpness,
        Op::ShearX,
        Op::ShearY,
        Op::TranslateX,
        Op::TranslateY,
    ];

    /// What timm's level functions make of a magnitude: degrees, bits, threshold, addend, factor, shear, or share of the
    /// side to move by. `negated` is their throw of a coin, where they make one.
    pub fn argument(self, magnitude: f64, increasing: bool, negated: bool) -> f64 {
        let level = magnitude / FULL;
        let signed = |x: f64| if negated { -x } else { x };
        match self {
            Op::AutoContrast | Op::Equalize | Op::Invert => 0.0,
            Op::Rotate => signed(level * 30.0),
            Op::Posterize if increasing => 4.0 - (level * 4.0).trunc(),
            Op::Posterize => (level * 4.0).trunc(),
            Op::Solarize if increasing => 256.0 - (level * 256.0).trunc().min(256.0),
            Op::Solarize => (level * 256.0).trunc().min(256.0),
            Op::SolarizeAdd => (level * 110.0).trunc().min(128.0),
            Op::Color | Op::Contrast | Op::Brightness | Op::Sharpness if increasing => {
                (1.0 + signed(level * 0.9)).max(0.1)
            }
            Op::Color | Op::Contrast | Op::Brightness | Op::Sharpness => level * 1.8 + 0.1,
            Op::ShearX | Op::ShearY => signed(level * 0.3),
            Op::TranslateX | Op::TranslateY => signed(level * 0.45),
        }
    }

    /// Does it. `filter` and `fill` are for what moves pixels.
    pub fn apply(self, picture: &mut Picture, argument: f64, filter: Interpolation, fill: [u8; 3]) {
        let (width, height) = (picture.width as f64, picture.height as f64);
        match self {
            Op::AutoContrast => table::auto_contrast(&mut picture.pixels),
            Op::Equalize => table::equalize(&mut picture.pixels),
            Op::Invert => table::invert(&mut picture.pixels),
            Op::Posterize => table::posterize(&mut picture.pixels, argument as i32),
            Op::Solarize => table::solarize(&mut picture.pixels, argument as i32),
            Op::SolarizeAdd => table::solarize_add(&mut picture.pixels, argument as i32),
            Op::Color => enhance::color(picture, argument),
            Op::Contrast => enhance::contrast(picture, argument),
            Op::Brightness => enhance::brightness(picture, argument),
            Op::Sharpness => enhance::sharpness(picture, argument),
            Op::Rotate => affine::rotate(picture, argument, filter, fill),
            Op::ShearX => affine::transform(picture, [1.0, argument, 0.0, 0.0, 1.0, 0.0], filter, fill),
            Op::ShearY => affine::transform(picture, [1.0, 0.0, 0.0, argument, 1.0, 0.0], filter, fill),
            Op::TranslateX => affine::transform(picture, [1.0, 0.0, argument * width, 0.0, 1.0, 0.0], filter, fill),
            Op::TranslateY => affine::transform(picture, [1.0, 0.0, 0.0, 0.0, 1.0, argument * height], filter, fill),
        }
    }
}

impl RandAugment {
    /// The operations of one image with their arguments: `layers` are drawn evenly, and each stays with probability
    /// `prob`. Every layer takes the same number of draws, whatever comes of them.
    pub fn draw(&self, stream: &mut Stream) -> Vec<(Op, f64)> {
        let mut drawn = Vec::new();
        for _ in 0..self.layers {
            let op = Op::ALL[stream.below(Op::ALL.len() as u32) as usize];
            let stays = stream.uniform() < self.prob;
            let (even, bell, negated) = (stream.uniform(), stream.normal(), stream.uniform() < 0.5);
            let magnitude = f64::from(self.magnitude);
            let magnitude = match self.deviation {
                wide if wide > UNIFORM => even * magnitude,
                deviation => magnitude + deviation * bell,
            };
            let magnitude = magnitude.clamp(0.0, self.max.map_or(FULL, f64::from));
            if stays {
                drawn.push((op, op.argument(magnitude, self.increasing, negated)));
            }
        }
        drawn
    }

    /// Draws and does.
    pub fn apply(&self, picture: &mut Picture, filter: Interpolation, fill: [u8; 3], stream: &mut Stream) {
        for (op, argument) in self.draw(stream) {
            op.apply(picture, argument, filter, fill);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn stream(seed: u64) -> Stream {
        Stream::new(seed, Purpose::RandAugment, 0, 0)
    }

    #[test]
    fn timms_strings_are_read_and_written_in_full() {
        let full = |text: &str| text.parse::<RandAugment>().map(|it| it.to_string());
        assert_eq!(full("rand-m9-mstd0.5-inc1").unwrap(), "rand-m9-n2-p0.5-mstd0.5-inc1");
        assert_eq!(full("rand").unwrap(), "rand-m10-n2-p0.5-mstd0-inc0");
        let long = "rand-m15-n3-p0.8-mstd101-mmax30-inc1";
        assert_eq!(full(long).unwrap(), long);
        for bad in [
            "",
            "m9",
            "original",
            "augmix-m5",
            "rand-",
            "rand-m",
            "rand-m9.5",
            "rand-m-1",
            "rand-m101",
            "rand-n0",
            "rand-p1.5",
            "rand-mstdinf",
            "rand-mmax0",
            "rand-inc2",
            "rand-tweights",
            "rand-t3a",
            "rand-m9-m9",
            "rand-x3",
            "rand-9",
            "rand-p0.5.5",
            "RAND-m9",
        ] {
            assert!(full(bad).is_err(), "{bad}");
        }
        assert!(full("rand-m9.5").unwrap_err().contains("'m9.5'"));
    }

    #[test]
    fn operations_come_evenly_and_as_often_as_asked() {
        let it: RandAugment = "rand-m9-n2-p0.5-mstd0.5-inc1".parse().unwrap();
        let drawn: Vec<_> = (0..15_000).flat_map(|seed| it.draw(&mut stream(seed))).collect();
        // 30,000 throws of a coin have a deviation of 87; six of them bound a fair one.
        assert!(drawn.len().abs_diff(15_000) < 6 * 87, "{}", drawn.len());
        for op in Op::ALL {
            let (count, all) = (drawn.iter().filter(|(o, _)| *o == op).count() as f64, drawn.len() as f64);
            let deviation = (all * (1.0 / 15.0) * (14.0 / 15.0)).sqrt();
            assert!((count - all / 15.0).abs() < 6.0 * deviation, "{op:?} {count}");
        }
        assert!("rand-p0".parse::<RandAugment>().unwrap().draw(&mut stream(1)).is_empty());
        assert_eq!("rand-p1-n7".parse::<RandAugment>().unwrap().draw(&mut stream(1)).len(), 7);
    }

    #[test]
    fn magnitudes_scatter_around_theirs_and_stay_within_bounds() {
        let degrees = |text: &str| -> Vec<f64> {
            let it: RandAugment = text.parse().unwrap();
            let all = (0..20_000).flat_map(|seed| it.draw(&mut stream(seed)));
            all.filter(|(op, _)| *op == Op::Rotate).map(|(_, degrees)| degrees).collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let bell = degrees("rand-m5-n1-p1-mstd0.5");
        assert!(bell.len() > 1000);
        let sizes: Vec<f64> = bell.iter().map(|d| d.abs() / 3.0).collect();
        let scatter = mean(&sizes.iter().map(|s| (s - 5.0).powi(2)).collect::<Vec<_>>()).sqrt();
        // Standard errors over n draws: 0.5 / sqrt(n) of the mean, 0.5 / sqrt(2 n) of the deviation, sqrt(n) / 2 of the
        // count of negated ones; six of each.
        let n = bell.len() as f64;
        assert!((mean(&sizes) - 5.0).abs() < 3.0 / n.sqrt());
        assert!((scatter - 0.5).abs() < 3.0 / (2.0 * n).sqrt());
        let negated = bell.iter().filter(|d| **d < 0.0).count() as f64;
        assert!((negated - n / 2.0).abs() < 3.0 * n.sqrt());
        let even = degrees("rand-m8-n1-p1-mstd101");
        assert!(even.iter().all(|d| d.abs() <= 24.0));
        let sizes: Vec<f64> = even.iter().map(|d| d.abs()).collect();
        // An even draw from 0 to 24 has mean 12 and deviation 24 / sqrt(12).
        assert!((mean(&sizes) - 12.0).abs() < 6.0 * 6.93 / n.sqrt());
        assert!(degrees("rand-m20-n1-p1").iter().all(|d| d.abs() == 30.0));
        assert!(degrees("rand-m20-n1-p1-mmax30").iter().all(|d| d.abs() == 60.0));
    }

    #[test]
    fn a_drawn_image_is_the_same_again() {
        let it: RandAugment = "rand-m9-mstd0.5-inc1-p1".parse().unwrap();
        let at = |seed| {
            let mut picture = Picture { width: 8, height: 6, pixels: (0..144).collect() };
            it.apply(&mut picture, Interpolation::Bilinear, [1; 3], &mut stream(seed));
            picture
        };
        assert_eq!(at(3), at(3));
        assert!((0..20).any(|seed| at(seed) != at(3)));
    }
}
