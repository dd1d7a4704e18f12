//! The keep ratio: an exact decimal percentage, and the whole number of patches it stands for.
#![forbid(unsafe_code)]

use super::Round;
use serde::{Deserialize, Serialize};

/// Decimals that a keep ratio may have.
const DECIMALS: usize = 6;

/// The keep ratio K in percent, an exact decimal with 0 < K <= 100 and at most six decimals.
///
/// Parsed by `FromStr` ("70", "62.5", "70%"), shown in the shortest decimal form; "70" and "70.0" are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keep {
    /// K is `numerator / denominator`; the denominator is the smallest power of ten that serves.
    numerator: u64,
    denominator: u64,
}

impl Keep {
    /// Every patch.
    pub const ALL: Keep = Keep { numerator: 100, denominator: 1 };

    /// k for `patches` = N: `max(1, floor(K*N/100))` in exact integers, or the nearest integer with halves upward.
    ///
    /// At least 1 and at most N.
    pub fn count(&self, patches: usize, round: Round) -> usize {
        let dividend = u128::from(self.numerator) * patches as u128;
        let divisor = u128::from(self.denominator) * 100;
        let k = match round {
            Round::Floor => dividend / divisor,
            Round::Nearest => (2 * dividend + divisor) / (2 * divisor),
        };
        // K <= 100 keeps k <= N, so the conversion loses nothing.
        (k as usize).max(1).min(patches)
    }

    /// K as a float, for display and JSON.
    pub fn percent(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

impl std::str::FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("keep ratio {text:?} is not a number between 0 and 100; give a percentage such as 70");
        let outside = || format!("keep ratio {text:?} is not above 0 and at most 100; give a percentage such as 70");
        let number = text.trim();
        let number = number.strip_suffix('%').unwrap_or(number).trim_end();
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
            return Err(format!("keep ratio {text:?} has more than {DECIMALS} decimals; round it to {DECIMALS}"));
        }
        let denominator = 10u64.pow(fraction.len() as u32);
        let digits = |part: &str| part.bytes().fold(0u64, |value, byte| value * 10 + u64::from(byte - b'0'));
        let numerator = digits(whole) * denominator + digits(fraction);
        if numerator == 0 || numerator > 100 * denominator {
            return Err(outside());
        }
        Ok(Keep { numerator, denominator })
    }
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.numerator / self.denominator, self.numerator % self.denominator);
        let text = match self.denominator.ilog10() as usize {
            0 => whole.to_string(),
            decimals => format!("{whole}.{rest:0decimals$}"),
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
                f.write_str("a percentage such as 70")
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
