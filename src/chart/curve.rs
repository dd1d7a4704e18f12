//! Lines over a common axis, for functions that are known everywhere.
#![forbid(unsafe_code)]

use super::svg::{Anchor, Svg, ticks};

/// One line and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub name: String,
    /// (x, y), x ascending.
    pub points: Vec<(f64, f64)>,
    /// SVG's dash pattern; empty for a full line.
    pub dash: &'static str,
}

/// Colours that stay apart for most eyes.
const COLOURS: [&str; 6] = ["#1f5fa8", "#d1495b", "#2e8b57", "#8a5fbf", "#c77700", "#444444"];

/// The lines from zero on both axes, with marks `(x, words)` along the x axis.
pub fn curve(title: &str, [x_name, y_name]: [&str; 2], lines: &[Line], marks: &[(f64, String)]) -> String {
    let (left, top, width, height) = (70.0, 84.0, 600.0, 360.0);
    let base = top + height;
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let x_top = all().map(|(x, _)| x).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let y_top = all().map(|(_, y)| y).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.04;
    let (x, y) = (|v: f64| left + width * v / x_top, |v: f64| base - height * v / y_top);
    let mut svg = Svg::new(left + width + 70.0, base + 56.0 + 20.0 * lines.len() as f64);
    let ink = "#1a1a1a";
    svg.text((16.0, 26.0), 15.0, Anchor::Start, ink, title);
    for value in ticks(y_top, 6) {
        svg.line([left, y(value), left + width, y(value)], "#e4e4e4", 1.0, "");
        svg.text((left - 7.0, y(value) + 4.0), 11.0, Anchor::End, ink, &format!("{}", (value * 1e6).round() / 1e6));
    }
    for value in ticks(x_top, 8) {
        svg.line([x(value), base, x(value), base + 5.0], ink, 1.0, "");
        svg.text((x(value), base + 18.0), 11.0, Anchor::Middle, ink, &format!("{value}"));
    }
    for (place, words) in marks {
        svg.line([x(*place), top, x(*place), base], "#b0b0b0", 1.0, "3 4");
        svg.turned((x(*place) + 4.0, top - 5.0), 10.0, Anchor::Start, "#606060", words, -40.0);
    }
    for (i, line) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<_> = line.points.iter().map(|&(a, b)| (x(a), y(b))).collect();
        svg.path(&points, colour, 2.0, line.dash);
        let at = base + 58.0 + 20.0 * i as f64;
        svg.line([left, at - 4.0, left + 34.0, at - 4.0], colour, 2.5, line.dash);
        svg.text((left + 44.0, at), 12.0, Anchor::Start, ink, &line.name);
    }
    svg.path(&[(left, top), (left, base), (left + width, base)], ink, 1.0, "");
    svg.text((left + width / 2.0, base + 36.0), 12.0, Anchor::Middle, ink, x_name);
    svg.turned((20.0, top + height / 2.0), 12.0, Anchor::Middle, ink, y_name, -90.0);
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_the_axes_say() {
        let line = Line { name: "a < b".into(), points: vec![(0.0, 0.0), (100.0, 10.0)], dash: "" };
        let text = curve("t", ["S", "GMACs"], &[line], &[(50.0, "K = 50 %".into())]);
        roxmltree::Document::parse(&text).unwrap();
        // The origin is at (70, 444); ten of 10.4 is at 444 - 360 / 1.04.
        assert!(text.contains(r#"points="70,444 670,97.85""#), "{text}");
        assert!(curve("", ["", ""], &[], &[]).contains("</svg>"));
    }
}
