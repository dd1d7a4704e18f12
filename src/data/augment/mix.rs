//! Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) as timm's `Mixup` in its mode for whole batches.
#![forbid(unsafe_code)]

use crate::data::Batch;
use crate::data::resize::Crop;
use crate::ops::cross_entropy::Mixed;
use crate::rng::{Purpose, Stream};

/// How batches are mixed. Image i of B meets image B - 1 - i; the middle one of an odd batch meets itself, which leaves
/// it as it is but for rounding. (timm refuses odd batches, for the sake of its other modes.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Mixup draws the weight from Beta(this, this); none when 0.
    pub mixup: f64,
    /// CutMix draws from Beta(this, this); none when 0.
    pub cutmix: f64,
    /// Probability that a batch is mixed.
    pub prob: f64,
    /// Probability of CutMix where there are both.
    pub switch_prob: f64,
    /// Epochs with mixing, after which there is none; all when 0.
    pub off_epoch: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Mix { mixup: 0.0, cutmix: 0.0, prob: 1.0, switch_prob: 0.5, off_epoch: 0 }
    }
}

/// What becomes of one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Blend {
    /// An image keeps this weight, the rest is its partner's.
    Mixup(f64),
    /// The box comes from the partner.
    Cutmix(Crop),
}

impl Mix {
    /// Whether batches of an epoch may be mixed.
    pub fn is_on(&self, epoch: u32) -> bool {
        (self.mixup > 0.0 || self.cutmix > 0.0) && (self.off_epoch == 0 || epoch < self.off_epoch)
    }

    /// What happens to batch `number` of an epoch whose images are of `side` pixels; the same whoever asks, and when.
    pub fn draw(&self, seed: u64, epoch: u32, number: u32, side: usize) -> Option<Blend> {
        if !self.is_on(epoch) {
            return None;
        }
        let mut stream = Stream::new(seed, Purpose::Mix, epoch, number);
        if stream.uniform() >= self.prob {
            return None;
        }
        let cut = stream.uniform() < self.switch_prob;
        if self.cutmix <= 0.0 || (self.mixup > 0.0 && !cut) {
            return Some(Blend::Mixup(beta(self.mixup, &mut stream)));
        }
        let weight = beta(self.cutmix, &mut stream);
        let (cy, cx) = (stream.below(side as u32) as usize, stream.below(side as u32) as usize);
        Some(Blend::Cutmix(cutmix_box(side, side, weight, cy, cx)))
    }
}

/// timm's `rand_bbox`: the box around (cy, cx) that would leave `weight` of the image, cut at the borders.
pub fn cutmix_box(height: usize, width: usize, weight: f64, cy: usize, cx: usize) -> Crop {
    let ratio = (1.0 - weight).sqrt();
    let span = |side: usize, centre: usize| {
        let cut = (side as f64 * ratio) as usize;
        (centre.saturating_sub(cut / 2), (centre + cut.div_ceil(2)).min(side))
    };
    let ((top, bottom), (left, right)) = (span(height, cy), span(width, cx));
    Crop { left, top, width: right - left, height: bottom - top }
}

impl Blend {
    /// Mixes a batch of images (C, height, width) and notes the partners' labels. The 8-bit pixels are mixed alike, so
    /// that every scorer ranks the patches of what the model sees. With CutMix the weight is the true share of an
    /// image's own pixels.
    pub fn apply(&self, batch: &mut Batch, height: usize, width: usize) {
        let weight = match *self {
            Blend::Mixup(weight) => {
                let (own, other) = (weight as f32, (1.0 - weight) as f32);
                let byte = |a: u8, b: u8| (f32::from(a) * own + f32::from(b) * other).round_ties_even() as u8;
                with_partners(&mut batch.images, batch.labels.len(), |a, b| a * own + b * other);
                with_partners(&mut batch.rgb, batch.labels.len(), byte);
                weight
            }
            Blend::Cutmix(cut) => {
                swap_boxes(&mut batch.images, batch.labels.len(), (3, height, width), cut, 1);
                swap_boxes(&mut batch.rgb, batch.labels.len(), (1, height, width * 3), cut, 3);
                1.0 - (cut.height * cut.width) as f64 / (height * width) as f64
            }
        };
        let others = batch.labels.iter().rev().copied().collect();
        batch.norm = None;
        batch.mixed = Some(Mixed { others, weight: weight as f32 });
    }
}

/// Replaces every value of every image by `f` of it and of its partner's.
fn with_partners<T: Copy>(values: &mut [T], b: usize, f: impl Fn(T, T) -> T) {
    let each = values.len() / b.max(1);
    let (front, back) = values.split_at_mut(b / 2 * each);
    let back = &mut back[(b % 2) * each..];
    for (one, two) in front.chunks_exact_mut(each.max(1)).zip(back.rchunks_exact_mut(each.max(1))) {
        for (a, b) in one.iter_mut().zip(two) {
            (*a, *b) = (f(*a, *b), f(*b, *a));
        }
    }
    if b % 2 == 1 {
        let middle = &mut values[b / 2 * each..][..each];
        middle.iter_mut().for_each(|v| *v = f(*v, *v));
    }
}

/// Exchanges the box between partners, in images of `planes` planes of `height` rows of `row` values, `step` a pixel.
fn swap_boxes<T>(values: &mut [T], b: usize, (planes, height, row): (usize, usize, usize), cut: Crop, step: usize) {
    let each = planes * height * row;
    let (front, back) = values.split_at_mut(b.div_ceil(2) * each);
    for (one, two) in front.chunks_exact_mut(each).zip(back.rchunks_exact_mut(each)) {
        for plane in 0..planes {
            for y in cut.top..cut.top + cut.height {
                let begin = (plane * height + y) * row + cut.left * step;
                one[begin..][..cut.width * step].swap_with_slice(&mut two[begin..][..cut.width * step]);
            }
        }
    }
}

/// Beta(a, a) as the share of one of two gamma variates, kept as logarithms so that a small `a` does not underflow.
fn beta(a: f64, stream: &mut Stream) -> f64 {
    let (x, y) = (log_gamma_variate(a, stream), log_gamma_variate(a, stream));
    1.0 / (1.0 + libm::exp(y - x))
}

/// The logarithm of a Gamma(a, 1) variate (Marsaglia and Tsang, 2000): Gamma(a + 1) times u^(1/a).
fn log_gamma_variate(a: f64, stream: &mut Stream) -> f64 {
    let d = a + 1.0 - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = stream.normal();
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - stream.uniform();
        if v > 0.0 && libm::log(u) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return libm::log(d * v) + libm::log(1.0 - stream.uniform()) / a;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Norm, noise};

    #[test]
    fn beta_has_its_mean_and_variance() {
        for a in [0.01, 0.2, 0.8, 1.0, 5.0, 200.0] {
            let mut stream = Stream::new(9, Purpose::Mix, 0, 0);
            let draws: Vec<f64> = (0..20_000).map(|_| beta(a, &mut stream)).collect();
            assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)));
            let variance = 0.25 / (2.0 * a + 1.0);
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            let square = draws.iter().map(|x| (x - 0.5).powi(2)).sum::<f64>() / 20_000.0;
            // The squared distance lies between 0 and 1/4, so its variance is at most its mean by a quarter.
            assert!((mean - 0.5).abs() < 6.0 * (variance / 20_000.0f64).sqrt(), "{a}: mean {mean}");
            assert!((square - variance).abs() < 6.0 * (variance * 0.25 / 20_000.0f64).sqrt(), "{a}: {square}");
        }
    }

    #[test]
    fn batches_are_mixed_as_often_and_as_long_as_asked() {
        let count = |mix: Mix, kind: fn(&Blend) -> bool| {
            (0..4000).filter(|&n| mix.draw(1, 2, n, 16).as_ref().is_some_and(kind)).count()
        };
        let cut: fn(&Blend) -> bool = |blend| matches!(blend, Blend::Cutmix(_));
        let both = Mix { mixup: 0.8, cutmix: 1.0, prob: 0.75, switch_prob: 0.25, off_epoch: 0 };
        // Deviations of 4000 throws with 0.75 and 0.1875: 27 and 25; six of each.
        assert!(count(both, |_| true).abs_diff(3000) < 6 * 28);
        assert!(count(both, cut).abs_diff(750) < 6 * 25);
        assert_eq!(count(Mix { mixup: 0.0, prob: 1.0, ..both }, cut), 4000);
        assert_eq!(count(Mix { cutmix: 0.0, ..both }, cut), 0);
        assert_eq!(count(Mix::default(), |_| true), 0);
        assert!(count(Mix { off_epoch: 3, ..both }, |_| true) > 0);
        assert_eq!(count(Mix { off_epoch: 2, ..both }, |_| true), 0);
    }

    #[test]
    fn draws_depend_on_seed_epoch_and_batch_alone() {
        let mix = Mix { mixup: 1.0, ..Mix::default() };
        assert_eq!(mix.draw(1, 2, 3, 8), mix.draw(1, 2, 3, 8));
        assert_ne!(mix.draw(1, 2, 3, 8), mix.draw(2, 2, 3, 8));
        assert_ne!(mix.draw(1, 2, 3, 8), mix.draw(1, 3, 3, 8));
        assert_ne!(mix.draw(1, 2, 3, 8), mix.draw(1, 2, 4, 8));
    }

    #[test]
    fn boxes_move_between_partners_in_both_kinds_of_pixels() {
        for b in 1..6 {
            let before = noise(b, 16, Norm::Half, 3, 1);
            let mut batch = noise(b, 16, Norm::Half, 3, 1);
            let cut = Crop { left: 3, top: 2, width: 7, height: 5 };
            Blend::Cutmix(cut).apply(&mut batch, 16, 16);
            for i in 0..b {
                for (y, x) in (0..16).flat_map(|y| (0..16).map(move |x| (y, x))) {
                    let inside = (2..7).contains(&y) && (3..10).contains(&x);
                    let from = if inside { b - 1 - i } else { i };
                    for c in 0..3 {
                        let at = |i: usize| ((i * 3 + c) * 16 + y) * 16 + x;
                        let rgb = |i: usize| ((i * 16 + y) * 16 + x) * 3 + c;
                        assert_eq!(batch.images[at(i)], before.images[at(from)]);
                        assert_eq!(batch.rgb[rgb(i)], before.rgb[rgb(from)]);
                    }
                }
            }
            let mixed = batch.mixed.unwrap();
            assert_eq!(mixed.weight, (1.0 - 35.0 / 256.0) as f32);
            assert!(mixed.others.iter().eq(before.labels.iter().rev()));
        }
    }

    #[test]
    fn the_8_bit_pixels_of_mixup_are_those_nearest_to_what_the_model_sees() {
        for b in 1..6 {
            let mut batch = noise(b, 4, Norm::Half, 3, 1);
            Blend::Mixup(0.3).apply(&mut batch, 4, 4);
            let again: Vec<f32> =
                batch.rgb.chunks(48).flat_map(|rgb| crate::data::transform::normalise(rgb, Norm::Half)).collect();
            for (value, back) in batch.images.iter().zip(again) {
                // Half a step of 1 / 255 in units of the deviation 0.5, and a rounding.
                assert!((value - back).abs() < 0.5001 / 255.0 / 0.5);
            }
            assert_eq!(batch.mixed.unwrap().weight, 0.3);
        }
    }
}
