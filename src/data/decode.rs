//! Image files to 8-bit RGB, as Pillow's `open(path).convert("RGB")` gives it, with bounds on what a header may ask for.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use image::codecs::{jpeg::JpegDecoder, png::PngDecoder};
use image::{ColorType, ImageDecoder, ImageFormat, Limits};
use libjpeg_turbo_rs::{ComponentInfo, Decoder, PixelFormat};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Longest side that is decoded, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Most bytes that one decoded image may take.
pub const MAX_BYTES: u64 = 256 << 20;
/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 512 << 20;
const AGAIN: &str = "copy or download it again";

/// A decoded image: 8-bit RGB, rows from the top, no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// (height, width, 3)
    pub pixels: Vec<u8>,
}

/// Reads a JPEG or PNG file; see [`decode`].
pub fn read(path: &Path) -> Result<Picture> {
    decode(&bytes_of(path)?, path)
}

/// Refuses a file that [`read`] refuses, and one whose coded data are damaged.
pub fn verify(path: &Path) -> Result<()> {
    let bytes = bytes_of(path)?;
    match opened(&bytes, path)? {
        Opened::Jpeg(decoder) => jpeg_to_rgb(*decoder, false, path).map(drop),
        _ => decode(&bytes, path).map(drop),
    }
}

/// Refuses what [`read`] would, as far as that can be told without decoding pixels: files that are no image, headers
/// that ask for too much, and files that end early.
pub fn check(path: &Path) -> Result<()> {
    let bytes = bytes_of(path)?;
    match opened(&bytes, path)? {
        Opened::Png(_) if !png_is_complete(&bytes) => Err(Error::data(path, "the PNG ends early", AGAIN)),
        _ => Ok(()),
    }
}

/// Width and height that the header of an image file names, in pixels.
pub fn size(path: &Path) -> Result<(u32, u32)> {
    Ok(match opened(&bytes_of(path)?, path)? {
        Opened::Jpeg(decoder) => dimensions(&decoder),
        Opened::FourChannels(decoder) => decoder.dimensions(),
        Opened::Png(decoder) => decoder.dimensions(),
    })
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, &e))?;
    if meta.is_dir() {
        return Err(Error::data(path, "is a folder, not an image", "name a JPEG or PNG file"));
    }
    if !meta.is_file() {
        return Err(Error::data(path, "is no regular file", "name a JPEG or PNG file"));
    }
    if meta.len() > MAX_FILE {
        let reason =
            format!("is {} MiB long, more than an image file may be ({} MiB)", meta.len() >> 20, MAX_FILE >> 20);
        return Err(Error::data(path, reason, "shrink the image or leave it out"));
    }
    std::fs::read(path).map_err(|e| Error::io(path, &e))
}

/// Decodes a JPEG or PNG, told apart by content. `path` is only named in errors.
///
/// Grey is replicated, a palette expanded, alpha dropped, CMYK multiplied out after Adobe's inversion, and 16-bit
/// channels give their top byte. An EXIF orientation is ignored. Errors: not an image, another format, more pixels than
/// [`MAX_SIDE`] and [`MAX_BYTES`] allow (checked before they are decoded), and files that end early.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Picture> {
    match opened(bytes, path)? {
        Opened::Jpeg(decoder) => jpeg_to_rgb(*decoder, true, path),
        Opened::FourChannels(decoder) => to_rgb(decoder, JPEG, path),
        Opened::Png(decoder) => to_rgb(decoder, "PNG", path),
    }
}

const JPEG: &str = "JPEG";

/// A decoder that has read its header, which asks for nothing that is refused.
enum Opened<'a> {
    Jpeg(Box<Decoder<'a>>),
    /// CMYK and its kin whose channels are of different sizes.
    FourChannels(JpegDecoder<Cursor<&'a [u8]>>),
    Png(Box<PngDecoder<Cursor<&'a [u8]>>>),
}

fn opened<'a>(bytes: &'a [u8], path: &Path) -> Result<Opened<'a>> {
    if bytes.is_empty() {
        return Err(Error::data(path, "the file is empty", AGAIN));
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => {
            if !jpeg_is_complete(bytes) {
                return Err(Error::data(path, "the JPEG ends early", AGAIN));
            }
            let decoder = unpanicked(path, || Decoder::new(bytes).map_err(|e| broken(path, JPEG, &e)))?;
            let (width, height) = dimensions(&decoder);
            let channels = decoder.header().components.len();
            check_size((width, height), u64::from(width) * u64::from(height) * channels as u64, path)?;
            let factors = |c: &ComponentInfo| (c.horizontal_sampling, c.vertical_sampling);
            let alike = decoder.header().components.windows(2).all(|pair| factors(&pair[0]) == factors(&pair[1]));
            if channels < 4 || alike {
                return Ok(Opened::Jpeg(Box::new(decoder)));
            }
            // At odd sizes libjpeg-turbo-rs panics on these.
            JpegDecoder::new(Cursor::new(bytes)).map(Opened::FourChannels).map_err(|e| broken(path, JPEG, &e))
        }
        Ok(ImageFormat::Png) => {
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAX_BYTES);
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(|e| broken(path, "PNG", &e))?;
            check_size(decoder.dimensions(), decoder.total_bytes(), path)?;
            Ok(Opened::Png(Box::new(decoder)))
        }
        Ok(other) => {
            let name = other.extensions_str().first().unwrap_or(&"other").to_uppercase();
            Err(Error::data(
                path,
                format!("is a {name} image; only JPEG and PNG are read"),
                "convert it to JPEG or PNG",
            ))
        }
        Err(_) => Err(Error::data(path, "is neither JPEG nor PNG", "convert it to JPEG or PNG, or leave it out")),
    }
}

/// Width and height in pixels.
fn dimensions(decoder: &Decoder) -> (u32, u32) {
    let header = decoder.header();
    (u32::from(header.width), u32::from(header.height))
}

/// What `decode` gives. Where it panics, which a file that nobody thought of may bring a decoder to, the file is at fault.
fn unpanicked<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(broken(path, JPEG, &"the decoder gave up")))
}

/// Where data are damaged, something is put in their place if `fill`, as Pillow does; else that is an error.
fn jpeg_to_rgb(mut decoder: Decoder, fill: bool, path: &Path) -> Result<Picture> {
    let (width, height) = dimensions(&decoder);
    let (width, height) = (width as usize, height as usize);
    let format = if decoder.header().components.len() == 4 { PixelFormat::Cmyk } else { PixelFormat::Rgb };
    decoder.set_output_format(format);
    decoder.set_lenient(fill);
    let image = unpanicked(path, || decoder.decode_image().map_err(|e| broken(path, JPEG, &e)))?;
    if (image.width, image.height, image.data.len()) != (width, height, width * height * format.bytes_per_pixel()) {
        return Err(broken(path, JPEG, &"it is of another size than its header says"));
    }
    let pixels = if format == PixelFormat::Cmyk {
        image.data.as_chunks::<4>().0.iter().flat_map(|p| from_cmyk(*p)).collect()
    } else {
        image.data
    };
    Ok(Picture { width, height, pixels })
}

/// Adobe's inverted CMYK as RGB, in the integers of Pillow's `cmyk2rgb`.
fn from_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| {
        let product = u32::from(255 - ink) * u32::from(k) + 128;
        // At most `k`, so nothing is clipped.
        k - (((product >> 8) + product) >> 8) as u8
    })
}

fn broken(path: &Path, format: &str, source: &dyn std::fmt::Display) -> Error {
    Error::data(path, format!("not a sound {format}: {source}"), "copy or download it again, or leave it out")
}

/// Refuses a header that asks for nothing or for too much: `decoded` is what the decoder gives, in bytes.
fn check_size((width, height): (u32, u32), decoded: u64, path: &Path) -> Result<()> {
    let bytes = decoded.max(u64::from(width) * u64::from(height) * 3);
    if width == 0 || height == 0 {
        return Err(Error::data(path, format!("has {width} x {height} pixels"), "leave it out"));
    }
    if width > MAX_SIDE || height > MAX_SIDE || bytes > MAX_BYTES {
        let reason = format!(
            "its header asks for {width} x {height} pixels, more than {MAX_SIDE} on a side or {} MiB in all",
            MAX_BYTES >> 20
        );
        return Err(Error::data(path, reason, "shrink the image or leave it out"));
    }
    Ok(())
}

fn to_rgb(decoder: impl ImageDecoder, format: &str, path: &Path) -> Result<Picture> {
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let mut raw = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut raw).map_err(|e| broken(path, format, &e))?;
    let pixels = match color {
        ColorType::Rgb8 => raw,
        ColorType::Rgba8 => raw.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        ColorType::L8 => raw.iter().flat_map(|&v| [v; 3]).collect(),
        ColorType::La8 => raw.as_chunks::<2>().0.iter().flat_map(|p| [p[0]; 3]).collect(),
        ColorType::L16 => raw.as_chunks::<2>().0.iter().flat_map(|p| [top(*p); 3]).collect(),
        ColorType::La16 => raw.as_chunks::<4>().0.iter().flat_map(|p| [top([p[0], p[1]]); 3]).collect(),
        ColorType::Rgb16 => raw.as_chunks::<2>().0.iter().map(|p| top(*p)).collect(),
        ColorType::Rgba16 => {
            let rgb = |p: &[u8; 8]| [top([p[0], p[1]]), top([p[2], p[3]]), top([p[4], p[5]])];
            raw.as_chunks::<8>().0.iter().flat_map(rgb).collect()
        }
        other => return Err(Error::data(path, format!("has pixels of kind {other:?}"), "convert it to 8-bit RGB")),
    };
    Ok(Picture { width: width as usize, height: height as usize, pixels })
}

/// The top byte of a 16-bit channel in the machine's own byte order, as Pillow keeps it.
fn top(channel: [u8; 2]) -> u8 {
    (u16::from_ne_bytes(channel) >> 8) as u8
}

/// Whether the chunks of a PNG lead to its IEND.
fn png_is_complete(bytes: &[u8]) -> bool {
    let mut at = 8usize;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        at += 12 + length;
        if &head[4..] == b"IEND" {
            return at <= bytes.len();
        }
    }
    false
}

/// Whether the markers of a JPEG lead to its end-of-image marker.
///
/// Pillow refuses a file without its end, where a decoder that fills in would not.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        let Some(skip) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xFF)) else { return false };
        at += skip;
        let Some(fill) = bytes[at..].iter().position(|&b| b != 0xFF) else { return false };
        at += fill;
        let marker = bytes[at];
        at += 1;
        match marker {
            0xD9 => return true,
            // A stuffed zero, TEM, restarts and SOI carry no length; the search for the next 0xFF passes over scan data.
            0x00 | 0x01 | 0xD0..=0xD8 => {}
            _ => match bytes.get(at..at + 2) {
                Some(length) => at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2),
                None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};

    fn png(pixels: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
        let mut out = Vec::new();
        PngEncoder::new(&mut out).write_image(pixels, width, height, color).unwrap();
        out
    }

    fn jpeg() -> Vec<u8> {
        let pixels: Vec<u8> = (0..40 * 24 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let mut out = Vec::new();
        JpegEncoder::new_with_quality(&mut out, 90).write_image(&pixels, 40, 24, ExtendedColorType::Rgb8).unwrap();
        out
    }

    fn reason(bytes: &[u8]) -> String {
        decode(bytes, Path::new("a.png")).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_png_becomes_rgb() {
        let read = |bytes: Vec<u8>| decode(&bytes, Path::new("a")).unwrap().pixels;
        assert_eq!(read(png(&[7, 200], 2, 1, ExtendedColorType::L8)), [7, 7, 7, 200, 200, 200]);
        assert_eq!(read(png(&[7, 0, 200, 9], 2, 1, ExtendedColorType::La8)), [7, 7, 7, 200, 200, 200]);
        assert_eq!(read(png(&[1, 2, 3, 0, 4, 5, 6, 9], 2, 1, ExtendedColorType::Rgba8)), [1, 2, 3, 4, 5, 6]);
        // 0x12FF must give 0x12: the top byte, where rounding would give 0x13.
        let deep = |v: &[u16]| v.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
        assert_eq!(read(png(&deep(&[0x12FF]), 1, 1, ExtendedColorType::L16)), [0x12; 3]);
        let rgb = [0x12FF, 0x80FF, 0xFFFF];
        assert_eq!(read(png(&deep(&rgb), 1, 1, ExtendedColorType::Rgb16)), [0x12, 0x80, 0xFF]);
        let rgba = [0x12FF, 0x80FF, 0xFFFF, 0];
        assert_eq!(read(png(&deep(&rgba), 1, 1, ExtendedColorType::Rgba16)), [0x12, 0x80, 0xFF]);
    }

    #[test]
    fn a_jpeg_cut_anywhere_is_refused() {
        let whole = jpeg();
        assert_eq!(decode(&whole, Path::new("a")).unwrap().width, 40);
        for n in 0..whole.len() {
            assert!(decode(&whole[..n], Path::new("a")).is_err(), "{n} of {} bytes", whole.len());
        }
        let mut longer = whole.clone();
        longer.extend([0; 9]);
        assert_eq!(decode(&longer, Path::new("a")).unwrap(), decode(&whole, Path::new("a")).unwrap());
    }

    #[test]
    fn a_png_cut_inside_its_pixels_is_refused() {
        let noise: Vec<u8> = (0..32 * 32 * 3u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let whole = png(&noise, 32, 32, ExtendedColorType::Rgb8);
        for n in (1..whole.len() - 40).step_by(13) {
            assert!(decode(&whole[..n], Path::new("a")).is_err(), "{n} of {} bytes", whole.len());
        }
    }

    #[test]
    fn a_header_that_asks_for_too_much_is_refused_unread() {
        let mut bytes = png(&[0; 3], 1, 1, ExtendedColorType::Rgb8);
        bytes[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let mut crc = !0u32;
        for byte in &bytes[12..29] {
            crc ^= u32::from(*byte);
            (0..8).for_each(|_| crc = crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()));
        }
        bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
        assert!(reason(&bytes).contains("60000 x 60000"), "{}", reason(&bytes));

        let mut bytes = jpeg();
        let frame = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
        bytes[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
        assert!(reason(&bytes).contains("60000 x 60000"), "{}", reason(&bytes));
    }

    #[test]
    fn other_things_are_named_for_what_they_are() {
        assert!(reason(b"").contains("empty"));
        assert!(reason(b"hello, I am text").contains("neither JPEG nor PNG"));
        assert!(reason(b"GIF89a\x01\0\x01\0").contains("GIF"));
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("folder"));
        assert!(read(&folder.path().join("none.jpg")).is_err());
    }
}
