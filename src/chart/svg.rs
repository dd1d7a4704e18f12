//! SVG as text: a few shapes, every word escaped, numbers cut to hundredths of a pixel.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture in the making, on white.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Text that XML may hold: its five special characters as entities, control characters as spaces.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Width of a text in pixels, near enough for the sans-serif fonts at hand.
pub fn width_of(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.6
}

/// `text` cut to `most` characters, the last of them an ellipsis.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

fn n(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Svg {
    /// An empty picture of so many pixels.
    pub fn new(width: f64, height: f64) -> Self {
        Svg { width, height, body: String::new() }
    }

    /// A filled rectangle; `title` is what a browser shows when the pointer rests on it.
    pub fn rect(&mut self, [x, y, w, h]: [f64; 4], fill: &str, title: &str) {
        let _ =
            write!(self.body, r#"<rect x="{}" y="{}" width="{}" height="{}" fill="{fill}""#, n(x), n(y), n(w), n(h));
        self.body += &match title {
            "" => "/>\n".to_owned(),
            title => format!("><title>{}</title></rect>\n", escaped(title)),
        };
    }

    /// A straight line; `dash` is SVG's dash pattern, empty for a full line.
    pub fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], stroke: &str, width: f64, dash: &str) {
        self.path(&[(x1, y1), (x2, y2)], stroke, width, dash);
    }

    /// A line through points.
    pub fn path(&mut self, points: &[(f64, f64)], stroke: &str, width: f64, dash: &str) {
        let points: Vec<String> = points.iter().map(|&(x, y)| format!("{},{}", n(x), n(y))).collect();
        let dash = if dash.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{dash}""#) };
        let _ = writeln!(
            self.body,
            r#"<polyline points="{}" fill="none" stroke="{stroke}" stroke-width="{}"{dash}/>"#,
            points.join(" "),
            n(width)
        );
    }

    /// Text on a baseline that goes through the point.
    pub fn text(&mut self, (x, y): (f64, f64), size: f64, anchor: Anchor, fill: &str, text: &str) {
        self.turned((x, y), size, anchor, fill, text, 0.0);
    }

    /// Text turned about its point by so many degrees clockwise.
    pub fn turned(&mut self, (x, y): (f64, f64), size: f64, anchor: Anchor, fill: &str, text: &str, degrees: f64) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y) = (n(x), n(y));
        let turn =
            if degrees == 0.0 { String::new() } else { format!(r#" transform="rotate({} {x} {y})""#, n(degrees)) };
        let _ = writeln!(
            self.body,
            r#"<text x="{x}" y="{y}" font-size="{}" text-anchor="{anchor}" fill="{fill}"{turn}>{}</text>"#,
            n(size),
            escaped(text)
        );
    }

    /// The document.
    pub fn finish(self) -> String {
        let (w, h) = (n(self.width), n(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\">\n<rect width=\"{w}\" height=\"{h}\" \
             fill=\"#ffffff\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// Steps of 1, 2 or 5 times a power of ten: about `count` of them from 0 to `top`, and those alone that are not above it.
pub fn ticks(top: f64, count: usize) -> Vec<f64> {
    if !(top > 0.0 && top.is_finite()) {
        return vec![0.0];
    }
    let raw = top / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&s| s >= raw * 0.999).unwrap_or(10.0 * power);
    (0..=(top / step + 1e-9) as usize).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_escaped() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((1.0, 2.0), 3.0, Anchor::End, "#000000", "a<b> & \"c\"\n'd'");
        svg.rect([0.0, 0.0, 1.5, 2.25], "#ffffff", "</title><script>");
        let text = svg.finish();
        let document = roxmltree::Document::parse(&text).unwrap();
        let of = |name: &str| document.descendants().find(|node| node.has_tag_name(name)).unwrap().text().unwrap();
        assert_eq!((of("text"), of("title")), ("a<b> & \"c\" 'd'", "</title><script>"));
        assert!(text.contains(r#"width="1.5" height="2.25""#));
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(17.6, 5), [0.0, 5.0, 10.0, 15.0]);
        assert_eq!(ticks(1.0, 5).len(), 6);
        assert_eq!(ticks(0.0, 5), [0.0]);
        assert_eq!(ticks(f64::NAN, 5), [0.0]);
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!((cut("aquarium", 8).as_str(), cut("aquarium", 5).as_str()), ("aquarium", "aqua…"));
    }
}
