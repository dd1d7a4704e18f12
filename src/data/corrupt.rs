//! ImageNet-C's corruptions of 8-bit images (Hendrycks and Dietterich, ICLR 2019), for measuring robustness.
//!
//! The five are its `gaussian_noise`, `gaussian_blur` (of its extra set), `jpeg_compression`, `contrast` and
//! `brightness`, with the constants of its 224 x 224 images, in its order of f64 operations: agreement is to the bit but
//! for values that an ulp decides. As there, results are cut to whole levels, not rounded. Its files were saved as JPEGs of
//! quality 85 afterwards, which is not repeated here.
#![forbid(unsafe_code)]

use super::decode::Picture;
use super::jpeg;
use crate::rng::{Purpose, Stream};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is done to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Normal noise, for each channel of each pixel.
    Noise,
    /// A Gaussian filter, edges repeated.
    Blur,
    /// Saved as a JPEG and read back.
    Jpeg,
    /// Drawn towards the mean of each channel.
    Contrast,
    /// More value in hue, saturation, value.
    Brightness,
}

impl Kind {
    /// All of them, in the order of reports.
    pub const ALL: [Kind; 5] = [Kind::Noise, Kind::Blur, Kind::Jpeg, Kind::Contrast, Kind::Brightness];

    /// Its name in flags and results.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Noise => "noise",
            Kind::Blur => "blur",
            Kind::Jpeg => "jpeg",
            Kind::Contrast => "contrast",
            Kind::Brightness => "brightness",
        }
    }

    /// ImageNet-C's constant at severities 1 to 5: deviation in \[0, 1\], deviation in pixels, quality, share kept, and
    /// what is added to the value.
    pub fn constants(self) -> [f64; 5] {
        match self {
            Kind::Noise => [0.08, 0.12, 0.18, 0.26, 0.38],
            Kind::Blur => [1.0, 2.0, 3.0, 4.0, 6.0],
            Kind::Jpeg => [25.0, 18.0, 15.0, 10.0, 7.0],
            Kind::Contrast => [0.4, 0.3, 0.2, 0.1, 0.05],
            Kind::Brightness => [0.1, 0.2, 0.3, 0.4, 0.5],
        }
    }
}

/// A corruption at a severity. Written `noise:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corruption {
    pub kind: Kind,
    /// 1 to 5.
    pub severity: u8,
    /// Of the noise, which is one field an image at every severity.
    pub seed: u64,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.severity)
    }
}

/// A list of corruptions as a flag gives it: `all`, or `KIND`, `KIND:N`, `KIND:N..M` with commas between. Seeds are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruptions(pub Vec<Corruption>);

impl FromStr for Corruptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut list: Vec<Corruption> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, range) = part.split_once(':').unwrap_or((part, "1..5"));
            let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| name == "all" || name == kind.name()).collect();
            if kinds.is_empty() {
                return Err(format!("'{name}' is none of noise, blur, jpeg, contrast, brightness and all"));
            }
            let (first, last) = range.split_once("..").unwrap_or((range, range));
            let severity = |text: &str| text.parse::<u8>().ok().filter(|s| (1..=5).contains(s));
            let (Some(first), Some(last)) = (severity(first), severity(last)) else {
                return Err(format!("severity '{range}' is no number from 1 to 5 and no range such as 1..5"));
            };
            if first > last {
                return Err(format!("the range '{range}' is empty"));
            }
            let all = kinds.iter().flat_map(|&kind| (first..=last).map(move |severity| (kind, severity)));
            for corruption in all.map(|(kind, severity)| Corruption { kind, severity, seed: 0 }) {
                if !list.contains(&corruption) {
                    list.push(corruption);
                }
            }
        }
        Ok(Corruptions(list))
    }
}

impl Corruption {
    /// Corrupts `picture`; `id` is the image's place in its data set, which keys the noise.
    pub fn apply(&self, picture: &mut Picture, id: u64) {
        let constant = self.kind.constants()[usize::from(self.severity.clamp(1, 5)) - 1];
        match self.kind {
            Kind::Noise => {
                let mut stream = Stream::new(self.seed, Purpose::Corrupt, 0, id as u32);
                noise(picture, constant, &mut || stream.normal());
            }
            Kind::Blur => blur(picture, constant),
            Kind::Jpeg => jpeg::round_trip(picture, constant as i32),
            Kind::Contrast => contrast(picture, constant),
            Kind::Brightness => brightness(picture, constant),
        }
    }
}

/// Back from \[0, 1\]: cut off at both ends, then to whole levels downwards.
fn byte(value: f64) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0) as u8
}

fn unit(value: u8) -> f64 {
    f64::from(value) / 255.0
}

/// Adds `deviation` times what `normal` gives, value by value in the order of the pixels.
pub fn noise(picture: &mut Picture, deviation: f64, normal: &mut dyn FnMut() -> f64) {
    for value in &mut picture.pixels {
        *value = byte(unit(*value) + deviation * normal());
    }
}

/// `skimage.filters.gaussian`: `scipy.ndimage` cuts the filter off at four deviations, and takes columns first.
pub fn blur(picture: &mut Picture, deviation: f64) {
    let radius = (4.0 * deviation + 0.5) as i64;
    let weights: Vec<f64> =
        (-radius..=radius).map(|x| (-0.5 / (deviation * deviation) * (x * x) as f64).exp()).collect();
    let sum = pairwise(&weights);
    let half: Vec<f64> = weights[radius as usize..].iter().map(|w| w / sum).collect();
    let (width, height) = (picture.width, picture.height);
    let source: Vec<f64> = picture.pixels.iter().map(|&v| unit(v)).collect();
    let columns = filtered(&source, &half, height, width * 3, width * 3);
    let both = filtered(&columns, &half, width, 3, 3);
    picture.pixels.iter_mut().zip(both).for_each(|(value, v)| *value = byte(v));
}

/// A symmetric filter along an axis of `len` places that are `stride` apart; lines begin at each of the first `run`
/// values of every stretch of `len * stride`.
fn filtered(source: &[f64], half: &[f64], len: usize, stride: usize, run: usize) -> Vec<f64> {
    let mut out = vec![0.0; source.len()];
    let mut line = vec![0.0; len];
    let reach = half.len() - 1;
    for begin in (0..source.len()).step_by(len * stride) {
        for first in begin..begin + run {
            (0..len).for_each(|i| line[i] = source[first + i * stride]);
            for i in 0..len {
                let pair = |j: usize| (line[i.saturating_sub(j)] + line[(i + j).min(len - 1)]) * half[j];
                out[first + i * stride] = (1..=reach).rev().fold(line[i] * half[0], |sum, j| sum + pair(j));
            }
        }
    }
    out
}

/// numpy's sum of up to 128 values: eight running sums.
fn pairwise(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().sum();
    }
    let (chunks, rest) = values.as_chunks::<8>();
    let mut s = [0.0; 8];
    chunks.iter().for_each(|chunk| (0..8).for_each(|i| s[i] += chunk[i]));
    rest.iter().fold(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])), |sum, v| sum + v)
}

/// Keeps a share of each value's distance to its channel's mean.
pub fn contrast(picture: &mut Picture, share: f64) {
    let pixels = picture.pixels.as_chunks_mut::<3>().0;
    let mut mean = [0.0; 3];
    pixels.iter().for_each(|pixel| (0..3).for_each(|c| mean[c] += unit(pixel[c])));
    mean = mean.map(|sum| sum / pixels.len() as f64);
    for pixel in pixels {
        (0..3).for_each(|c| pixel[c] = byte((unit(pixel[c]) - mean[c]) * share + mean[c]));
    }
}

/// Adds to the value of `skimage.color.rgb2hsv`, hue and saturation kept.
pub fn brightness(picture: &mut Picture, more: f64) {
    for pixel in picture.pixels.as_chunks_mut::<3>().0 {
        let [h, s, v] = hsv(pixel.map(unit));
        *pixel = rgb([h, s, (v + more).clamp(0.0, 1.0)]).map(byte);
    }
}

/// `skimage.color.rgb2hsv`: of equally large channels the last gives the hue.
fn hsv([r, g, b]: [f64; 3]) -> [f64; 3] {
    let (v, least) = (r.max(g).max(b), r.min(g).min(b));
    let delta = v - least;
    if delta == 0.0 {
        return [0.0, 0.0, v];
    }
    let hue = if b == v {
        4.0 + (r - g) / delta
    } else if g == v {
        2.0 + (b - r) / delta
    } else {
        (g - b) / delta
    };
    [(hue / 6.0).rem_euclid(1.0), delta / v, v]
}

/// `skimage.color.hsv2rgb`.
fn rgb([h, s, v]: [f64; 3]) -> [f64; 3] {
    let sector = (h * 6.0).floor();
    let f = h * 6.0 - sector;
    let (p, q, t) = (v * (1.0 - s), v * (1.0 - f * s), v * (1.0 - (1.0 - f) * s));
    [[v, t, p], [q, v, p], [p, v, t], [p, q, v], [t, p, v], [v, p, q]][sector as usize % 6]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grey(side: usize, level: u8) -> Picture {
        Picture { width: side, height: side, pixels: vec![level; side * side * 3] }
    }

    fn made(text: &str, seed: u64, id: u64) -> Picture {
        let mut corruption = text.parse::<Corruptions>().unwrap().0[0];
        corruption.seed = seed;
        let mut picture = grey(64, 128);
        corruption.apply(&mut picture, id);
        picture
    }

    #[test]
    fn lists_are_read_as_they_are_written() {
        let words = |text: &str| {
            let list = text.parse::<Corruptions>().unwrap().0;
            list.iter().map(Corruption::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words("noise:3"), "noise:3");
        assert_eq!(words("jpeg:4..5, blur:1,jpeg:5"), "jpeg:4 jpeg:5 blur:1");
        assert_eq!(words("contrast"), "contrast:1 contrast:2 contrast:3 contrast:4 contrast:5");
        assert_eq!(words("all").split(' ').count(), 25);
        assert_eq!(words("all:2").split(' ').count(), 5);
        for bad in ["", "fog:1", "noise:0", "noise:6", "noise:", "noise:3..1", "noise:a..b", "noise:1...5", "noise,,"] {
            assert!(bad.parse::<Corruptions>().is_err(), "{bad}");
        }
    }

    #[test]
    fn noise_depends_on_seed_and_image_and_has_its_deviation() {
        assert_eq!(made("noise:2", 7, 3), made("noise:2", 7, 3));
        assert_ne!(made("noise:2", 7, 3), made("noise:2", 8, 3));
        assert_ne!(made("noise:2", 7, 3), made("noise:2", 7, 4));
        for (severity, deviation) in (1..=2).zip(Kind::Noise.constants()) {
            let values: Vec<f64> = made(&format!("noise:{severity}"), 1, 0).pixels.iter().map(|&v| unit(v)).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let spread = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
            // Half a level is lost by cutting; three standard errors are 3 deviation / sqrt(n) and that over sqrt(2). At
            // 0.12 the range cuts off less than one value in 30,000.
            let cut = 0.5 / 255.0;
            assert!((mean + cut - 128.0 / 255.0).abs() < 3.0 * deviation / n.sqrt(), "{severity}: mean {mean}");
            assert!((spread - deviation).abs() < 3.0 * deviation / (2.0 * n).sqrt() + 1e-4, "{severity}: {spread}");
        }
        // The same field at every severity: where it is positive at one, it is at the others.
        let (low, high) = (made("noise:1", 5, 5), made("noise:5", 5, 5));
        let apart = |(&l, &h): (&u8, &u8)| l == 128 || (l > 128) == (h > 128);
        assert!(low.pixels.iter().zip(&high.pixels).all(apart));
    }

    #[test]
    fn contrast_and_brightness_move_as_they_say() {
        let mut two = Picture { width: 2, height: 1, pixels: vec![55, 100, 0, 155, 100, 255] };
        contrast(&mut two, 0.4);
        // The means are 105, 100 and 127.5; four tenths of the distances stay.
        assert!(two.pixels.iter().zip([85u8, 100, 76, 125, 100, 178]).all(|(a, b)| a.abs_diff(b) <= 1), "{two:?}");
        let mut one = Picture { width: 1, height: 1, pixels: vec![100, 50, 0] };
        brightness(&mut one, 0.2);
        // Value 100 becomes 151; the others keep their share of it.
        assert!(one.pixels.iter().zip([151u8, 75, 0]).all(|(a, b)| a.abs_diff(b) <= 1), "{one:?}");
    }

    #[test]
    fn a_blur_spreads_a_point_evenly() {
        let mut point = grey(33, 0);
        (0..3).for_each(|c| point.pixels[(16 * 33 + 16) * 3 + c] = 255);
        blur(&mut point, 1.0);
        let at = |x: usize, y: usize| point.pixels[(y * 33 + x) * 3];
        // 255 / (2 pi) is 40.58.
        assert_eq!((at(16, 16), at(15, 16), at(17, 16), at(16, 15), at(22, 16)), (40, 24, 24, 24, 0));
    }

    proptest! {
        #[test]
        fn colours_survive_the_way_to_hsv_and_back(r: u8, g: u8, b: u8) {
            let back = rgb(hsv([r, g, b].map(unit))).map(|v| (v * 255.0).round() as u8);
            prop_assert_eq!(back, [r, g, b]);
        }

        #[test]
        fn any_size_can_be_corrupted(width in 1usize..20, height in 1usize..20, which in 0usize..25, level: u8) {
            let corruption = "all".parse::<Corruptions>().unwrap().0[which];
            let mut picture = Picture { width, height, pixels: vec![level; width * height * 3] };
            corruption.apply(&mut picture, 1);
            prop_assert_eq!(picture.pixels.len(), width * height * 3);
            if matches!(corruption.kind, Kind::Blur | Kind::Contrast) {
                prop_assert!(picture.pixels.iter().all(|v| v.abs_diff(level) <= 1));
            }
        }
    }
}
