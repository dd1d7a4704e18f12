//! A reliability diagram: accuracy against confidence, and how the images lie along it.
#![forbid(unsafe_code)]

use super::svg::{Anchor, Svg, ticks};

/// One bin of confidences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    pub low: f64,
    pub high: f64,
    pub images: u64,
    /// Mean over the bin's images; not read when there is none.
    pub accuracy: f64,
    /// Mean over the bin's images; not read when there is none.
    pub confidence: f64,
}

/// Bars of accuracy with the gap to the mean confidence, and below them how many images each bin holds.
pub fn reliability(title: &str, note: &str, bars: &[Bar]) -> String {
    let (left, top, side, low) = (64.0, 64.0, 380.0, 96.0);
    let base = top + side;
    let below = base + 22.0 + low;
    let mut svg = Svg::new(left + side + 190.0, below + 58.0);
    let ink = "#1a1a1a";
    svg.text((16.0, 26.0), 15.0, Anchor::Start, ink, title);
    svg.text((16.0, 46.0), 12.0, Anchor::Start, ink, note);
    let x = |value: f64| left + side * value;
    let most = bars.iter().map(|bar| bar.images).max().unwrap_or(0).max(1) as f64;
    for value in ticks(1.0, 5) {
        svg.line([left, base - side * value, left + side, base - side * value], "#e4e4e4", 1.0, "");
        svg.text((left - 7.0, base - side * value + 4.0), 11.0, Anchor::End, ink, &format!("{value:.1}"));
        svg.text((x(value), below + 16.0), 11.0, Anchor::Middle, ink, &format!("{value:.1}"));
    }
    for bar in bars.iter().filter(|bar| bar.images > 0) {
        let (from, to) = (x(bar.low) + 1.0, x(bar.high) - 1.0);
        let words = format!(
            "confidence {:.3} to {:.3}: {} images, accuracy {:.4}, mean confidence {:.4}",
            bar.low, bar.high, bar.images, bar.accuracy, bar.confidence
        );
        let (high, less) = (bar.accuracy.max(bar.confidence), bar.accuracy.min(bar.confidence));
        svg.rect([from, base - side * bar.accuracy, to - from, side * bar.accuracy], "#3b6fb6", &words);
        let gap = if bar.accuracy < bar.confidence { "#e8a0a0" } else { "#9cc99c" };
        svg.rect([from, base - side * high, to - from, side * (high - less)], gap, &words);
        svg.line([from, base - side * bar.accuracy, to, base - side * bar.accuracy], ink, 1.5, "");
        let tall = low * bar.images as f64 / most;
        svg.rect([from, below - tall, to - from, tall], "#8a8a8a", &words);
    }
    svg.line([left, base, left + side, top], "#505050", 1.2, "5 4");
    svg.path(&[(left, top), (left, base), (left + side, base)], ink, 1.0, "");
    svg.path(&[(left, below - low), (left, below), (left + side, below)], ink, 1.0, "");
    svg.text((left - 7.0, below - low + 8.0), 11.0, Anchor::End, ink, &format!("{most:.0}"));
    svg.text((left - 7.0, below + 4.0), 11.0, Anchor::End, ink, "0");
    svg.turned((18.0, top + side / 2.0), 12.0, Anchor::Middle, ink, "accuracy", -90.0);
    svg.turned((18.0, below - low / 2.0), 12.0, Anchor::Middle, ink, "images", -90.0);
    svg.text((left + side / 2.0, below + 38.0), 12.0, Anchor::Middle, ink, "confidence of the prediction");
    let key = left + side + 20.0;
    for (i, (fill, words)) in
        [("#3b6fb6", "accuracy"), ("#e8a0a0", "surer than right"), ("#9cc99c", "righter than sure")].iter().enumerate()
    {
        let y = top + 20.0 * i as f64;
        svg.rect([key, y, 12.0, 12.0], fill, "");
        svg.text((key + 18.0, y + 10.0), 11.0, Anchor::Start, ink, words);
    }
    svg.line([key, top + 66.0, key + 12.0, top + 66.0], "#505050", 1.2, "5 4");
    svg.text((key + 18.0, top + 70.0), 11.0, Anchor::Start, ink, "as right as sure");
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_bins_are_left_out() {
        let bar = |i: u32, images| {
            let low = f64::from(i) / 15.0;
            Bar { low, high: low + 1.0 / 15.0, images, accuracy: 0.5, confidence: low + 0.03 }
        };
        let bars: Vec<Bar> = (0..15).map(|i| bar(i, u64::from(i % 3))).collect();
        let text = reliability("ViT & co", "ECE 0.1", &bars);
        let document = roxmltree::Document::parse(&text).unwrap();
        assert_eq!(document.descendants().filter(|n| n.has_tag_name("title")).count(), 10 * 3);
        assert!(!text.contains("NaN") && reliability("", "", &[]).contains("</svg>"));
    }
}
