//! A picture to draw on: pixels, blends, outlines and short labels; PNG comes out.
#![forbid(unsafe_code)]

use crate::chart::letters;
use crate::data::decode::Picture;
use crate::error::{Error, Result};

/// 8-bit RGB.
pub type Colour = [u8; 3];

/// Okabe and Ito's colours, told apart with any kind of sight.
pub const BLACK: Colour = [0, 0, 0];
pub const ORANGE: Colour = [230, 159, 0];
pub const SKY: Colour = [86, 180, 233];
pub const GREEN: Colour = [0, 158, 115];
pub const YELLOW: Colour = [240, 228, 66];
pub const BLUE: Colour = [0, 114, 178];
pub const VERMILION: Colour = [213, 94, 0];
pub const PURPLE: Colour = [204, 121, 167];
pub const WHITE: Colour = [255; 3];

/// A picture that is drawn on. What falls outside is left out.
#[derive(Clone, Debug)]
pub struct Canvas {
    pub picture: Picture,
}

/// `colour` over `below` with opacity `alpha` in [0, 1].
pub fn mix(below: Colour, colour: Colour, alpha: f64) -> Colour {
    std::array::from_fn(|c| {
        let (from, to) = (f64::from(below[c]), f64::from(colour[c]));
        (from + (to - from) * alpha.clamp(0.0, 1.0)).round() as u8
    })
}

/// The colour of a value in [0, 1]: blue over sky to yellow.
pub fn ramp(value: f64) -> Colour {
    let value = value.clamp(0.0, 1.0);
    if value < 0.5 { mix(BLUE, SKY, 2.0 * value) } else { mix(SKY, YELLOW, 2.0 * value - 1.0) }
}

impl Canvas {
    /// A canvas of one colour.
    pub fn new(width: usize, height: usize, colour: Colour) -> Self {
        let pixels = colour.iter().copied().cycle().take(width * height * 3).collect();
        Canvas { picture: Picture { width, height, pixels } }
    }

    /// A canvas that shows `rgb` (side, side, 3), each pixel `scale` times wide and high.
    pub fn of(rgb: &[u8], side: usize, scale: usize) -> Self {
        let mut canvas = Canvas::new(side * scale, side * scale, BLACK);
        for y in 0..side * scale {
            for x in 0..side * scale {
                let from = (y / scale * side + x / scale) * 3;
                canvas.set(x, y, [rgb[from], rgb[from + 1], rgb[from + 2]]);
            }
        }
        canvas
    }

    fn place(&self, x: usize, y: usize) -> Option<usize> {
        (x < self.picture.width && y < self.picture.height).then(|| (y * self.picture.width + x) * 3)
    }

    /// The colour of a pixel; black outside.
    pub fn at(&self, x: usize, y: usize) -> Colour {
        self.place(x, y).map_or(BLACK, |i| std::array::from_fn(|c| self.picture.pixels[i + c]))
    }

    /// Paints a pixel.
    pub fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if let Some(i) = self.place(x, y) {
            self.picture.pixels[i..i + 3].copy_from_slice(&colour);
        }
    }

    /// Paints over a pixel with opacity `alpha`.
    pub fn blend(&mut self, x: usize, y: usize, colour: Colour, alpha: f64) {
        self.set(x, y, mix(self.at(x, y), colour, alpha));
    }

    /// Fills the pixels from (left, top) up to, not including, (right, bottom).
    pub fn fill(&mut self, [left, top, right, bottom]: [usize; 4], colour: Colour) {
        for y in top..bottom.min(self.picture.height) {
            for x in left..right.min(self.picture.width) {
                self.set(x, y, colour);
            }
        }
    }

    /// The frame just inside these pixels, `thick` wide.
    pub fn outline(&mut self, [left, top, right, bottom]: [usize; 4], thick: usize, colour: Colour) {
        self.fill([left, top, right, bottom.min(top + thick)], colour);
        self.fill([left, top.max(bottom.saturating_sub(thick)), right, bottom], colour);
        self.fill([left, top, right.min(left + thick), bottom], colour);
        self.fill([left.max(right.saturating_sub(thick)), top, right, bottom], colour);
    }

    /// Puts another canvas with its upper left corner at (x, y).
    pub fn put(&mut self, other: &Canvas, x: usize, y: usize) {
        for row in 0..other.picture.height {
            for column in 0..other.picture.width {
                self.set(x + column, y + row, other.at(column, row));
            }
        }
    }

    /// Writes a label whose upper left corner is (x, y); each dot is `scale` pixels wide.
    pub fn text(&mut self, text: &str, (x, y): (usize, usize), scale: usize, colour: Colour) {
        letters::draw(text, &mut |column, row| {
            let (left, top) = (x + column * scale, y + row * scale);
            self.fill([left, top, left + scale, top + scale], colour);
        });
    }

    /// The picture as the bytes of a PNG file.
    pub fn png(&self) -> Result<Vec<u8>> {
        self.picture.clone().png().map_err(|error| Error::shape("canvas", error.to_string()))
    }
}

/// Pixels that a label takes: width and height.
pub fn text_size(text: &str, scale: usize) -> (usize, usize) {
    (letters::width(text) * scale, letters::HEIGHT * scale)
}

/// Pictures of one size in rows, each with a label above, on white. The first row may be wider than others.
pub fn sheet(rows: &[Vec<(String, Canvas)>]) -> Canvas {
    let Some((_, first)) = rows.iter().flatten().next() else { return Canvas::new(1, 1, WHITE) };
    let (width, height) = (first.picture.width, first.picture.height);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let longest = rows.iter().flatten().map(|(label, _)| text_size(label, 1).0).max().unwrap_or(1).max(1);
    // Two dots or more where the longest label leaves room for it.
    let scale = (width / longest).clamp(1, (width / 150).max(1) + 1);
    let (gap, head) = (6 + width / 112, text_size("", scale).1 + 6);
    let mut sheet = Canvas::new(columns * (width + gap) + gap, rows.len() * (height + head + gap) + gap, WHITE);
    for (r, row) in rows.iter().enumerate() {
        for (c, (label, picture)) in row.iter().enumerate() {
            let (x, y) = (gap + c * (width + gap), gap + r * (height + head + gap));
            sheet.text(label, (x, y), scale, BLACK);
            sheet.put(picture, x, y + head);
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_stays_inside() {
        let mut canvas = Canvas::new(8, 6, WHITE);
        canvas.outline([1, 1, 5, 4], 1, BLUE);
        canvas.fill([6, 4, 99, 99], GREEN);
        canvas.text("Wg", (5, 3), 3, BLACK);
        assert_eq!([canvas.at(1, 1), canvas.at(4, 3), canvas.at(2, 2), canvas.at(9, 9)], [BLUE, BLUE, WHITE, BLACK]);
        canvas.outline([0, 0, 1, 1], 3, ORANGE);
        assert_eq!([canvas.at(0, 0), canvas.at(1, 0)], [ORANGE, WHITE]);
    }

    #[test]
    fn blends_and_ramp_meet_their_ends() {
        assert_eq!(
            [mix(BLACK, WHITE, 0.0), mix(BLACK, WHITE, 1.0), mix([0, 100, 9], [255, 0, 9], 0.5)],
            [BLACK, WHITE, [128, 50, 9]]
        );
        assert_eq!([ramp(-1.0), ramp(0.5), ramp(2.0)], [BLUE, SKY, YELLOW]);
    }

    #[test]
    fn png_is_read_back_pixel_for_pixel() {
        let mut canvas = Canvas::of(&[10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120], 2, 3);
        canvas.text("k", (0, 0), 1, VERMILION);
        let back = crate::data::decode::decode(&canvas.png().unwrap(), std::path::Path::new("a.png")).unwrap();
        assert_eq!(back, canvas.picture);
        assert_eq!(canvas.at(5, 5), [100, 110, 120]);
    }
}
