//! What maps every value of a channel to another through a table: Pillow's ImageOps, and timm's SolarizeAdd.
#![forbid(unsafe_code)]

type Table = [u8; 256];

/// `ImageOps.autocontrast`: each channel is stretched so that it reaches from 0 to 255.
pub fn auto_contrast(pixels: &mut [u8]) {
    by_channel(pixels, |histogram| {
        let low = histogram.iter().position(|&n| n > 0)?;
        let high = histogram.iter().rposition(|&n| n > 0)?;
        if high <= low {
            return None;
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        Some(std::array::from_fn(|v| (v as f64 * scale + offset) as u8))
    });
}

/// `ImageOps.equalize`: each channel so that its values are spread evenly.
pub fn equalize(pixels: &mut [u8]) {
    by_channel(pixels, |histogram| {
        let last = *histogram.iter().rfind(|&&n| n > 0)?;
        let step = (histogram.iter().sum::<u64>() - last) / 255;
        if step == 0 {
            return None;
        }
        let mut sum = step / 2;
        Some(std::array::from_fn(|v| {
            let level = sum / step;
            sum += histogram[v];
            level.min(255) as u8
        }))
    });
}

/// `ImageOps.invert`.
pub fn invert(pixels: &mut [u8]) {
    every(pixels, |v| 255 - v);
}

/// timm's `posterize`: only the highest `bits` bits are kept; with none or fewer the image is black, as it was in Pillow
/// until 13, which refuses them.
pub fn posterize(pixels: &mut [u8], bits: i32) {
    let mask = if bits >= 8 { 255 } else { !((1u32 << (8 - bits.max(0))) - 1) as u8 };
    every(pixels, |v| v & mask);
}

/// `ImageOps.solarize`: values from `threshold` on are inverted.
pub fn solarize(pixels: &mut [u8], threshold: i32) {
    every(pixels, |v| if i32::from(v) < threshold { v } else { 255 - v });
}

/// timm's `solarize_add`: `add` brightens values below 128.
pub fn solarize_add(pixels: &mut [u8], add: i32) {
    every(pixels, |v| if v < 128 { (i32::from(v) + add).min(255) as u8 } else { v });
}

fn every(pixels: &mut [u8], f: impl Fn(u8) -> u8) {
    let table: Table = std::array::from_fn(|v| f(v as u8));
    pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

/// Replaces each channel through the table that its histogram gives; a channel without one stays.
fn by_channel(pixels: &mut [u8], table: impl Fn(&[u64; 256]) -> Option<Table>) {
    for c in 0..3 {
        let mut histogram = [0; 256];
        pixels.iter().skip(c).step_by(3).for_each(|&v| histogram[usize::from(v)] += 1);
        if let Some(table) = table(&histogram) {
            pixels.iter_mut().skip(c).step_by(3).for_each(|v| *v = table[usize::from(*v)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posterize_keeps_high_bits() {
        let bits = |bits| {
            let mut pixels = [255, 129, 77];
            posterize(&mut pixels, bits);
            pixels
        };
        assert_eq!(bits(8), [255, 129, 77]);
        assert_eq!(bits(1), [128, 128, 0]);
        assert_eq!(bits(0), [0; 3]);
        assert_eq!(bits(-9), [0; 3]);
    }

    #[test]
    fn one_colour_has_no_contrast_to_stretch() {
        let mut pixels = [7, 8, 9].repeat(5);
        auto_contrast(&mut pixels);
        equalize(&mut pixels);
        assert_eq!(pixels, [7, 8, 9].repeat(5));
        auto_contrast(&mut []);
    }
}
