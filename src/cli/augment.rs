//! The flags of `train` that augment its images; their names are timm's where timm has them.
#![forbid(unsafe_code)]

use crate::data::{EraseMode, RandAugment};
use crate::train::Augmentation;
use clap::Args;
use serde::Serialize;

/// What is done to training images beyond crop and flip; validation and test images stay as they are.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Augmentation")]
pub struct AugmentFlags {
    /// Aspect ratios of crops, width over height [default: 0.75,1.3333]
    #[arg(long, visible_alias = "ratio", value_name = "A,B", value_parser = super::train::pair)]
    pub crop_ratio: Option<[f64; 2]>,
    /// Probability of an image upside down [default: 0]
    #[arg(long, value_name = "F")]
    pub vflip: Option<f64>,
    /// Brightness, contrast and saturation within 1 +- F [default: 0]
    #[arg(long, value_name = "F")]
    pub color_jitter: Option<f64>,
    /// Probability of an image without colour [default: 0]
    #[arg(long, value_name = "F")]
    pub grayscale_prob: Option<f64>,
    /// RandAugment in timm's words, as rand-m9-mstd0.5-inc1
    #[arg(long, value_name = "RAND")]
    pub aa: Option<RandAugment>,
    /// Probability of random erasing [default: 0]
    #[arg(long, value_name = "F")]
    pub reprob: Option<f64>,
    /// What fills erased boxes [default: const]
    #[arg(long, value_name = "MODE")]
    pub remode: Option<EraseMode>,
    /// Most boxes erased from an image [default: 1]
    #[arg(long, value_name = "N")]
    pub recount: Option<u32>,
    /// Mix pairs of images, weight from Beta(F,F) [default: 0, off]
    #[arg(long, value_name = "F")]
    pub mixup: Option<f64>,
    /// Swap a box between pairs, area from Beta(F,F) [default: 0, off]
    #[arg(long, value_name = "F")]
    pub cutmix: Option<f64>,
    /// Probability that a batch is mixed [default: 1]
    #[arg(long, value_name = "F")]
    pub mixup_prob: Option<f64>,
    /// Probability of cutmix when mixup is on too [default: 0.5]
    #[arg(long, value_name = "F")]
    pub mixup_switch_prob: Option<f64>,
    /// Epochs after which nothing is mixed [default: 0, never]
    #[arg(long, value_name = "N")]
    pub mixup_off_epoch: Option<u32>,
}

/// The augmentation in words; none when there is none.
pub fn words(augment: &Augmentation) -> Option<String> {
    let mut words = Vec::new();
    let mut say = |on: bool, text: String| words.extend(on.then_some(text));
    say(augment.vflip > 0.0, format!("vflip {}", augment.vflip));
    say(augment.aa.is_some(), augment.aa.map(String::from).unwrap_or_default());
    say(augment.color_jitter > 0.0, format!("color-jitter {}", augment.color_jitter));
    say(augment.grayscale_prob > 0.0, format!("grayscale {}", augment.grayscale_prob));
    let mode = format!("{:?}", augment.remode).to_lowercase();
    say(augment.reprob > 0.0, format!("erasing {} ({mode})", augment.reprob));
    say(augment.mixup > 0.0, format!("mixup {}", augment.mixup));
    say(augment.cutmix > 0.0, format!("cutmix {}", augment.cutmix));
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_tell_what_is_on() {
        assert_eq!(words(&Augmentation::default()), None);
        let augment = Augmentation {
            aa: Some("rand-m9".parse().unwrap()),
            reprob: 0.25,
            remode: EraseMode::Pixel,
            mixup: 0.8,
            ..Augmentation::default()
        };
        assert_eq!(words(&augment).unwrap(), "rand-m9-n2-p0.5-mstd0-inc0, erasing 0.25 (pixel), mixup 0.8");
    }
}
