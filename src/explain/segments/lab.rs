//! CIE L*a*b* of sRGB pixels, as scikit-image's `rgb2lab` with illuminant D65 and the 2 degree observer.
#![forbid(unsafe_code)]

/// sRGB in linear light to XYZ.
const TO_XYZ: [[f64; 3]; 3] =
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]];
/// XYZ of the white point.
const WHITE: [f64; 3] = [0.95047, 1.0, 1.08883];

/// L*, a*, b* of R, G, B in [0, 1].
pub fn lab(rgb: [f64; 3]) -> [f64; 3] {
    let light = rgb.map(|v| if v > 0.04045 { ((v + 0.055) / 1.055).powf(2.4) } else { v / 12.92 });
    let [x, y, z] = std::array::from_fn(|i| {
        let [r, g, b] = TO_XYZ[i];
        let v = (light[0] * r + light[1] * g + light[2] * b) / WHITE[i];
        if v > 0.008856 { v.cbrt() } else { 7.787 * v + 16.0 / 116.0 }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_and_black_are_the_ends_of_lightness() {
        let [l, a, b] = lab([1.0; 3]);
        assert!((l - 100.0).abs() < 1e-3 && a.abs() < 0.02 && b.abs() < 0.02, "{l} {a} {b}");
        let [l, a, b] = lab([0.0; 3]);
        assert!(l.abs() < 1e-12 && a.abs() < 1e-12 && b.abs() < 1e-12, "{l} {a} {b}");
        // Pure red of the standard, by any table of colours.
        let red = lab([1.0, 0.0, 0.0]);
        assert!(red.iter().zip([53.24, 80.09, 67.20]).all(|(v, want)| (v - want).abs() < 0.02), "{red:?}");
    }
}
