//! Contact sheets: pictures in rows on white, with headings and captions.
#![forbid(unsafe_code)]

use super::decode::Picture;
use crate::chart::letters;

/// Colour of plain text.
pub const INK: [u8; 3] = [26, 26, 26];
/// Times that a letter's pixels are enlarged, and the pixels of a line of text.
const SCALE: usize = 2;
const LINE: usize = letters::HEIGHT * SCALE + 6;

impl Picture {
    /// White, of so many pixels.
    pub fn white(width: usize, height: usize) -> Self {
        Picture { width, height, pixels: vec![255; width * height * 3] }
    }

    /// Copies square `pixels` (side, side, 3) to where their upper left corner is at (x, y). They must fit.
    pub fn place(&mut self, x: usize, y: usize, side: usize, pixels: &[u8]) {
        for (row, line) in pixels.chunks_exact(side * 3).enumerate() {
            let begin = ((y + row) * self.width + x) * 3;
            self.pixels[begin..begin + side * 3].copy_from_slice(line);
        }
    }

    /// Writes one line of text whose upper left corner is at (x, y); what lies outside is left out.
    pub fn write(&mut self, x: usize, y: usize, colour: [u8; 3], text: &str) {
        letters::draw(text, &mut |column, row| {
            for i in 0..SCALE * SCALE {
                let (x, y) = (x + column * SCALE + i % SCALE, y + row * SCALE + i / SCALE);
                if x < self.width && y < self.height {
                    let at = (y * self.width + x) * 3;
                    self.pixels[at..at + 3].copy_from_slice(&colour);
                }
            }
        });
    }

    /// The picture as a PNG file.
    pub fn png(self) -> Result<Vec<u8>, image::ImageError> {
        let image = image::RgbImage::from_raw(self.width as u32, self.height as u32, self.pixels);
        let image = image.unwrap_or_else(|| unreachable!("a picture has three bytes a pixel"));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png)?;
        Ok(bytes.into_inner())
    }
}

/// A picture of a sheet and the lines below it.
#[derive(Clone, Debug)]
pub struct Cell {
    /// (side, side, 3)
    pub pixels: Vec<u8>,
    pub caption: Vec<(String, [u8; 3])>,
}

/// Pictures under a heading.
#[derive(Clone, Debug)]
pub struct Section {
    pub heading: String,
    pub cells: Vec<Cell>,
}

/// Characters that fit below a picture of `side` pixels.
fn fits(side: usize) -> usize {
    (side + SCALE) / (letters::STEP * SCALE)
}

/// `text` in so many letters, the last of them a tilde where it was cut.
fn cut(text: &str, most: usize) -> String {
    match text.chars().count() <= most {
        true => text.to_owned(),
        false => text.chars().take(most.saturating_sub(1)).chain(['~']).collect(),
    }
}

/// The sections one below the other, `columns` pictures of `side` pixels in a row, under a title.
pub fn sheet(title: &str, sections: &[Section], side: usize, columns: usize) -> Picture {
    let gap = 10;
    let across = sections.iter().map(|section| section.cells.len()).max().unwrap_or(0).clamp(1, columns.max(1));
    let words = sections.iter().map(|section| section.heading.as_str()).chain([title]);
    let longest = words.map(|text| letters::width(text) * SCALE).max().unwrap_or(0);
    let width = (across * (side + gap)).max(longest + gap) + gap;
    let lines = |section: &Section| section.cells.iter().map(|cell| cell.caption.len()).max().unwrap_or(0);
    let tall = |section: &Section| section.cells.len().div_ceil(across) * (side + lines(section) * LINE + 2 * gap);
    let height = 2 * LINE + gap + sections.iter().map(|section| tall(section) + LINE + gap).sum::<usize>();
    let mut picture = Picture::white(width, height);
    picture.write(gap, gap, INK, title);
    let mut y = 2 * LINE;
    for section in sections {
        picture.write(gap, y, INK, &section.heading);
        y += LINE + gap / 2;
        for row in section.cells.chunks(across) {
            for (i, cell) in row.iter().enumerate() {
                let x = gap + i * (side + gap);
                picture.place(x, y, side, &cell.pixels);
                for (n, (text, colour)) in cell.caption.iter().enumerate() {
                    picture.write(x, y + side + 6 + n * LINE, *colour, &cut(text, fits(side)));
                }
            }
            y += side + lines(section) * LINE + 2 * gap;
        }
        y += gap / 2;
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_and_captions_have_room() {
        let cell = |n: u8| Cell { pixels: vec![n; 32 * 32 * 3], caption: vec![("a long caption".into(), [200, 0, 0])] };
        let sections = [
            Section { heading: "first".into(), cells: (0..5).map(cell).collect() },
            Section { heading: "second, which is empty".into(), cells: vec![] },
        ];
        let made = sheet("title", &sections, 32, 3);
        assert_eq!(made.pixels.len(), made.width * made.height * 3);
        let of = |colour: [u8; 3]| made.pixels.as_chunks::<3>().0.iter().filter(|&&p| p == colour).count();
        assert!((0..5).all(|n| of([n; 3]) == 32 * 32) && of([200, 0, 0]) > 5 * 20);
        assert_eq!((fits(32), cut("a long", 4), cut("cat", 3)), (2, "a l~".into(), "cat".into()));
        let png = made.png().unwrap();
        assert_eq!(&png[1..4], b"PNG");
        assert!(sheet("", &[], 32, 3).height > 0);
    }
}
