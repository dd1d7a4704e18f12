//! How much is kept: an exact decimal percentage and the number of patches it stands for, or a share of the saliency.
#![forbid(unsafe_code)]

use super::Round;
use crate::error::Error;
use serde::{Deserialize, Serialize};

/// Decimals that a keep ratio may have.
const DECIMALS: usize = 6;

/// What is kept: K percent of the patches, 0 < K <= 100, or for each image the fewest patches that hold a share of its
/// saliency, 0 < mass <= 1. An exact decimal with at most six decimals.
///
/// Parsed by `FromStr` ("70", "62.5", "70%", "mass:0.9"), shown in the shortest decimal form; "70" and "70.0" are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keep {
    of: Of,
    /// The value is `numerator / denominator`; the denominator is the smallest power of ten that serves.
    numerator: u64,
    denominator: u64,
}

/// What a value is a share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    /// The number of patches, in percent.
    Patches,
    /// The sum of an image's scores.
    Saliency,
}

/// How the text of a mass begins.
const MASS: &str = "mass:";

impl Keep {
    /// Every patch.
    pub const ALL: Keep = Keep { of: Of::Patches, numerator: 100, denominator: 1 };

    /// k for `patches` = N: `max(1, floor(K*N/100))` in exact integers, or the nearest integer with halves upward.
    ///
    /// At least 1 and at most N. For a mass, whose k differs from image to image, N: the most that it can be.
    pub fn count(&self, patches: usize, round: Round) -> usize {
        if self.mass().is_some() {
            return patches;
        }
        let dividend = u128::from(self.numerator) * patches as u128;
        let divisor = u128::from(self.denominator) * 100;
        let k = match round {
            Round::Floor => dividend / divisor,
            Round::Nearest => (2 * dividend + divisor) / (2 * divisor),
        };
        // K <= 100 keeps k <= N, so the conversion loses nothing.
        (k as usize).max(1).min(patches)
    }

    /// `count` where it is the same for every image; none for a mass.
    pub fn fixed(&self, patches: usize, round: Round) -> Option<usize> {
        self.mass().is_none().then(|| self.count(patches, round))
    }

    /// The share of the saliency that is kept, above 0 and at most 1; none when a number of patches is.
    pub fn mass(&self) -> Option<f64> {
        (self.of == Of::Saliency).then(|| self.numerator as f64 / self.denominator as f64)
    }

    /// K as a float. Of a mass, its percent of the saliency; see `shown` for what tells the two apart.
    pub fn percent(&self) -> f64 {
        let value = self.numerator as f64 / self.denominator as f64;
        if self.of == Of::Saliency { 100.0 * value } else { value }
    }

    /// For people: "K = 70 %", or "mass:0.9".
    pub fn words(&self) -> String {
        if self.of == Of::Saliency { self.to_string() } else { format!("K = {self} %") }
    }

    /// As JSON documents show it, for `serialize_with`: K as a number, a mass as its text.
    pub fn shown<S: serde::Serializer>(keep: &Keep, serializer: S) -> Result<S::Ok, S::Error> {
        match keep.of {
            Of::Patches => serializer.serialize_f64(keep.percent()),
            Of::Saliency => serializer.collect_str(keep),
        }
    }

    /// Refuses a mass: the kernels of a card take images of one length.
    pub fn check_on_card(&self) -> crate::error::Result<()> {
        if self.mass().is_none() {
            return Ok(());
        }
        let reason = format!("{self} keeps another number of patches of each image, which the CPU engine alone can do");
        Err(Error::usage("keep", reason, "use --device cpu, or give a percentage such as 70"))
    }

    /// The value in millionths, which are as fine as it gets.
    pub fn millionths(&self) -> u64 {
        self.numerator * (10u64.pow(DECIMALS as u32) / self.denominator)
    }

    /// What this one is with another value, in millionths: from 1 to the most that there is.
    pub fn with_millionths(&self, millionths: u64) -> Self {
        let (mut numerator, mut denominator) = (millionths, 10u64.pow(DECIMALS as u32));
        while denominator > 1 && numerator % 10 == 0 {
            (numerator, denominator) = (numerator / 10, denominator / 10);
        }
        Keep { of: self.of, numerator, denominator }
    }
}

impl std::str::FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim();
        let (of, most, number, what, remedy) = match number.strip_prefix(MASS) {
            Some(mass) => (Of::Saliency, 1, mass.trim(), "mass", "give a share of the saliency such as mass:0.9"),
            None => {
                let number = number.strip_suffix('%').unwrap_or(number).trim_end();
                (Of::Patches, 100, number, "keep ratio", "give a percentage such as 70")
            }
        };
        let wrong = || format!("{what} {text:?} is not a number between 0 and {most}; {remedy}");
        let outside = || format!("{what} {text:?} is not above 0 and at most {most}; {remedy}");
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return Err(wrong());
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        if negative || whole.len() > 3 {
            return Err(outside());
        }
        if fraction.len() > DECIMALS {
            return Err(format!("{what} {text:?} has more than {DECIMALS} decimals; round it to {DECIMALS}"));
        }
        let denominator = 10u64.pow(fraction.len() as u32);
        let digits = |part: &str| part.bytes().fold(0u64, |value, byte| value * 10 + u64::from(byte - b'0'));
        let numerator = digits(whole) * denominator + digits(fraction);
        if numerator == 0 || numerator > most * denominator {
            return Err(outside());
        }
        Ok(Keep { of, numerator, denominator })
    }
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.numerator / self.denominator, self.numerator % self.denominator);
        let mass = if self.of == Of::Saliency { MASS } else { "" };
        let text = match self.denominator.ilog10() as usize {
            0 => format!("{mass}{whole}"),
            decimals => format!("{mass}{whole}.{rest:0decimals$}"),
        };
        f.pad(&text)
    }
}

impl Serialize for Keep {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A keep ratio is written as text; a configuration by hand may also give a bare number.
impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl serde::de::Visitor<'_> for TextOrNumber {
            type Value = Keep;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a percentage such as 70, or a share of the saliency such as mass:0.9")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Keep, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Keep, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Keep, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Keep, E> {
                self.visit_str(&value.to_string())
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keep(text: &str) -> Keep {
        text.parse().unwrap()
    }

    #[test]
    fn decimals_are_parsed_and_shown_in_the_shortest_form() {
        for (text, shown) in [
            ("70", "70"),
            ("62.5", "62.5"),
            ("12.50", "12.5"),
            ("100", "100"),
            ("100.000", "100"),
            ("0.5", "0.5"),
            (".5", "0.5"),
            ("070.", "70"),
            ("70%", "70"),
            (" 33.333333 % ", "33.333333"),
            ("0.000001", "0.000001"),
            ("70.0000000000", "70"),
        ] {
            assert_eq!(keep(text).to_string(), shown, "{text}");
        }
        assert_eq!(keep("70"), keep("70.0%"));
        assert_eq!(format!("[{:>6}]", keep("62.5")), "[  62.5]");
    }

    #[test]
    fn what_is_no_ratio_is_refused_with_a_remedy() {
        for text in ["abc", "", "%", ".", "1e2", "+70", "nan", "inf", "70%%", "7 0", "0x10", "1.2.3", "--1", "٧٠"] {
            let message = text.parse::<Keep>().unwrap_err();
            assert!(message.contains(&format!("{text:?} is not a number between 0 and 100")), "{message}");
            assert!(message.ends_with("give a percentage such as 70"), "{message}");
        }
        for text in ["0", "0.0", "-1", "-0", "101", "100.000001", "99999999999999999999999"] {
            let message = text.parse::<Keep>().unwrap_err();
            assert!(message.contains("is not above 0 and at most 100"), "{message}");
        }
        assert!("33.3333333".parse::<Keep>().unwrap_err().contains("more than 6 decimals"));
    }

    #[test]
    fn a_mass_is_a_share_of_the_saliency() {
        for (text, shown, mass) in [
            ("mass:0.9", "mass:0.9", 0.9),
            (" mass: 0.950 ", "mass:0.95", 0.95),
            ("mass:1", "mass:1", 1.0),
            ("mass:1.000000", "mass:1", 1.0),
            ("mass:.000001", "mass:0.000001", 1e-6),
        ] {
            let keep = keep(text);
            assert_eq!((keep.to_string(), keep.mass()), (shown.to_string(), Some(mass)), "{text}");
            assert_eq!((keep.fixed(196, Round::Floor), keep.count(196, Round::Nearest)), (None, 196));
            assert_eq!(keep.check_on_card().unwrap_err().exit_code(), 2);
        }
        for text in
            ["mass:", "mass:abc", "mass:nan", "mass:inf", "mass:1e-1", "mass:90%", "Mass:0.9", "mass", "mass=0.9"]
        {
            assert!(text.parse::<Keep>().unwrap_err().contains("is not a number between 0 and 1"), "{text}");
        }
        for text in ["mass:0", "mass:0.0", "mass:-0.5", "mass:1.1", "mass:90", "mass:1.000001"] {
            let message = text.parse::<Keep>().unwrap_err();
            assert!(message.contains("is not above 0 and at most 1; give a share of the saliency"), "{message}");
        }
        assert!("mass:0.1234567".parse::<Keep>().unwrap_err().contains("more than 6 decimals"));
        assert_ne!(keep("mass:1"), keep("1"));
        assert_eq!((keep("70").mass(), keep("70").fixed(196, Round::Floor)), (None, Some(137)));
        assert!(keep("70").check_on_card().is_ok());
        assert_eq!(serde_json::to_string(&keep("mass:0.90")).unwrap(), "\"mass:0.9\"");
        assert_eq!(serde_json::from_str::<Keep>("\"mass:0.9\"").unwrap(), keep("mass:0.9"));
    }

    #[test]
    fn counts_of_the_paper() {
        for (text, floor, nearest) in [
            ("100", 196, 196),
            ("70", 137, 137),
            ("60", 117, 118),
            ("50", 98, 98),
            ("30", 58, 59),
            ("0.1", 1, 1),
            ("99.9", 195, 196),
        ] {
            assert_eq!(keep(text).count(196, Round::Floor), floor, "{text}");
            assert_eq!(keep(text).count(196, Round::Nearest), nearest, "{text}");
        }
        assert_eq!(keep("12.5").count(4, Round::Nearest), 1);
        assert_eq!(keep("62.5").count(4, Round::Nearest), 3, "halves go upward");
    }

    #[test]
    fn text_and_numbers_are_read_from_configurations() {
        let read = |json: &str| serde_json::from_str::<Keep>(json);
        assert_eq!(read("\"62.5\"").unwrap(), keep("62.5"));
        assert_eq!(read("62.5").unwrap(), keep("62.5"));
        assert_eq!(read("70").unwrap(), keep("70"));
        assert!(read("-1").is_err() && read("0").is_err() && read("true").is_err());
        assert_eq!(serde_json::to_string(&keep("62.50")).unwrap(), "\"62.5\"");
    }

    proptest! {
        #[test]
        fn count_is_the_rational_definition(millionths in 1u64..=100_000_000, patches in 1usize..100_000) {
            let k = keep(&format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000));
            let (dividend, divisor) = (u128::from(millionths) * patches as u128, 100_000_000u128);
            prop_assert_eq!(k.count(patches, Round::Floor) as u128, (dividend / divisor).max(1));
            let nearest = dividend / divisor + u128::from(2 * (dividend % divisor) >= divisor);
            prop_assert_eq!(k.count(patches, Round::Nearest) as u128, nearest.max(1));
        }

        #[test]
        fn shown_and_parsed_again_is_the_same(millionths in 1u64..=100_000_000) {
            let k = keep(&format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000));
            prop_assert_eq!(keep(&k.to_string()), k);
            prop_assert_eq!(k.percent(), millionths as f64 / 1e6);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = text.parse::<Keep>();
        }
    }
}
