//! What a picture loses as a baseline JPEG, bit for bit as Pillow (libjpeg-turbo) writes it and reads it back.
//!
//! Entropy coding loses nothing, so it is left out: colours are turned and halved, blocks transformed and quantised, and
//! all of it undone, in libjpeg's integers (`jccolor`, `jcsample`, `jfdctint`, `jcdctmgr`, `jidctint`, `jdsample`, `jdcolor`).
#![forbid(unsafe_code)]

use super::decode::Picture;

/// Side of a block.
const SIDE: usize = 8;
/// Coefficients of a block, rows from the top.
type Block = [i32; SIDE * SIDE];

/// Quantisation of ISO 10918-1, annex K, at quality 50: luma, then chroma.
const TABLES: [Block; 2] = [
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
        51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
        120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ],
    [
        17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,
        99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
        99, 99, 99, 99, 99, 99, 99, 99,
    ],
];

/// 8-bit samples of one channel, rows from the top.
struct Plane {
    width: usize,
    height: usize,
    samples: Vec<i32>,
}

impl Plane {
    fn new(width: usize, height: usize, sample: impl Fn(usize, usize) -> i32) -> Self {
        let samples = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| sample(x, y)).collect();
        Plane { width, height, samples }
    }

    /// The sample at a place, or the nearest one to it.
    fn near(&self, x: usize, y: usize) -> i32 {
        self.samples[y.min(self.height - 1) * self.width + x.min(self.width - 1)]
    }
}

/// `picture` saved as a JPEG of `quality` (1 to 100), with chroma halved both ways, and read back.
pub fn round_trip(picture: &mut Picture, quality: i32) {
    let (width, height) = (picture.width, picture.height);
    let of = |x: usize, y: usize| {
        let at = (y * width + x) * 3;
        [0, 1, 2].map(|c| i32::from(picture.pixels[at + c]))
    };
    let luma = Plane::new(width, height, |x, y| {
        let [r, g, b] = of(x, y);
        (fixed(0.299) * r + fixed(0.587) * g + fixed(0.114) * b + HALF) >> 16
    });
    let full = |weights: [i32; 3]| {
        Plane::new(width, height, |x, y| {
            let sum: i32 = of(x, y).into_iter().zip(weights).map(|(v, w)| v * w).sum();
            (sum + (128 << 16) + HALF - 1) >> 16
        })
    };
    let blue = full([-fixed(0.16874), -fixed(0.33126), fixed(0.5)]);
    let red = full([fixed(0.5), -fixed(0.41869), -fixed(0.08131)]);
    let [table, chroma_table] = TABLES.map(|table| scaled(&table, quality));
    let luma = quantised(&luma, &table);
    let [blue, red] = [blue, red].map(|plane| doubled(&quantised(&halved(&plane), &chroma_table), width, height));
    for (i, pixel) in picture.pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (y, cb, cr) = (luma.samples[i], blue.samples[i] - 128, red.samples[i] - 128);
        let green = (-fixed(0.34414) * cb + HALF - fixed(0.71414) * cr) >> 16;
        *pixel = [y + ((fixed(1.402) * cr + HALF) >> 16), y + green, y + ((fixed(1.772) * cb + HALF) >> 16)].map(byte);
    }
}

/// One half in 16 fractional bits.
const HALF: i32 = 1 << 15;

/// A constant in 16 fractional bits.
const fn fixed(value: f64) -> i32 {
    (value * 65536.0 + 0.5) as i32
}

fn byte(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}

/// `jpeg_set_quality` with baseline tables forced.
fn scaled(table: &Block, quality: i32) -> Block {
    let scale = if quality < 50 { 5000 / quality.max(1) } else { 200 - 2 * quality.min(100) };
    table.map(|q| ((q * scale + 50) / 100).clamp(1, 255))
}

/// Means of 2 x 2 samples; their roundings lean down and up by turns. What lies beyond the right edge repeats it, as far
/// as blocks reach, and below the last row of means nothing is made.
fn halved(plane: &Plane) -> Plane {
    let width = plane.width.div_ceil(2).next_multiple_of(SIDE);
    Plane::new(width, plane.height.div_ceil(2), |x, y| {
        let sum: i32 = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(i, j)| plane.near(2 * x + i, 2 * y + j)).iter().sum();
        (sum + 1 + (x % 2) as i32) >> 2
    })
}

/// Each block transformed, quantised by `table`, and brought back.
fn quantised(plane: &Plane, table: &Block) -> Plane {
    let mut out = Plane { width: plane.width, height: plane.height, samples: vec![0; plane.samples.len()] };
    for top in (0..plane.height).step_by(SIDE) {
        for left in (0..plane.width).step_by(SIDE) {
            let mut block: Block = std::array::from_fn(|i| plane.near(left + i % SIDE, top + i / SIDE) - 128);
            forward(&mut block);
            for (value, q) in block.iter_mut().zip(table) {
                // The transform leaves its result eight times too large.
                let level = (value.abs() + 4 * q) / (8 * q);
                *value = value.signum() * level * q;
            }
            inverse(&mut block);
            for y in top..(top + SIDE).min(plane.height) {
                for x in left..(left + SIDE).min(plane.width) {
                    out.samples[y * plane.width + x] = i32::from(byte(block[(y - top) * SIDE + x - left] + 128));
                }
            }
        }
    }
    out
}

/// Chroma at full size: three parts of the nearer sample and one of the farther, along both axes (`h2v2_fancy_upsample`).
/// Planes of up to two samples across are repeated instead, as there.
fn doubled(plane: &Plane, width: usize, height: usize) -> Plane {
    let (columns, rows) = (width.div_ceil(2), height.div_ceil(2));
    let sample = |x: usize, y: usize| plane.near(x.min(columns - 1), y.min(rows - 1));
    if columns <= 2 {
        return Plane::new(width, height, |x, y| sample(x / 2, y / 2));
    }
    let column = |x: usize, y: usize| {
        let other = if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 };
        3 * sample(x, y / 2) + sample(x, other)
    };
    Plane::new(width, height, |x, y| {
        let here = 3 * column(x / 2, y);
        match x % 2 {
            0 => (here + column((x / 2).saturating_sub(1), y) + 8) >> 4,
            _ => (here + column((x / 2 + 1).min(columns - 1), y) + 7) >> 4,
        }
    })
}

/// Fractional bits of the transforms' constants, and those kept between their two passes.
const BITS: i32 = 13;
const BETWEEN: i32 = 2;

fn descale(value: i32, bits: i32) -> i32 {
    (value + (1 << (bits - 1))) >> bits
}

/// The eight places of row or column `i`.
fn line(i: usize, along_rows: bool) -> [usize; SIDE] {
    std::array::from_fn(|j| if along_rows { i * SIDE + j } else { j * SIDE + i })
}

/// The rotations of the odd half, which both transforms share.
fn odd([a, b, c, d]: [i32; 4]) -> [i32; 4] {
    let (z1, z2, z3, z4) = (a + d, b + c, a + c, b + d);
    let z5 = (z3 + z4) * 9633;
    let (z1, z2) = (z1 * -7373, z2 * -20995);
    let (z3, z4) = (z3 * -16069 + z5, z4 * -3196 + z5);
    [a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4]
}

/// `jpeg_fdct_islow`: the cosine transform, eight times too large.
fn forward(block: &mut Block) {
    for (along_rows, even_shift, shift) in [(true, -BETWEEN, BITS - BETWEEN), (false, BETWEEN, BITS + BETWEEN)] {
        for i in 0..SIDE {
            let at = line(i, along_rows);
            let v = at.map(|at| block[at]);
            let [s0, s1, s2, s3] = [0, 1, 2, 3].map(|j| v[j] + v[7 - j]);
            let [d0, d1, d2, d3] = [0, 1, 2, 3].map(|j| v[j] - v[7 - j]);
            let (t10, t13, t11, t12) = (s0 + s3, s0 - s3, s1 + s2, s1 - s2);
            let even = |v: i32| if even_shift < 0 { v << -even_shift } else { descale(v, even_shift) };
            let z1 = (t12 + t13) * 4433;
            let [o7, o5, o3, o1] = odd([d3, d2, d1, d0]).map(|v| descale(v, shift));
            let o2 = descale(z1 + t13 * 6270, shift);
            let o6 = descale(z1 - t12 * 15137, shift);
            let out = [even(t10 + t11), o1, o2, o3, even(t10 - t11), o5, o6, o7];
            at.into_iter().zip(out).for_each(|(at, v)| block[at] = v);
        }
    }
}

/// `jpeg_idct_islow`: back from coefficients to samples about 0.
fn inverse(block: &mut Block) {
    for (along_rows, shift) in [(false, BITS - BETWEEN), (true, BITS + BETWEEN + 3)] {
        for i in 0..SIDE {
            let at = line(i, along_rows);
            let v = at.map(|at| block[at]);
            let z1 = (v[2] + v[6]) * 4433;
            let (t2, t3) = (z1 - v[6] * 15137, z1 + v[2] * 6270);
            let (t0, t1) = ((v[0] + v[4]) << BITS, (v[0] - v[4]) << BITS);
            let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];
            let [o3, o2, o1, o0] = odd([v[7], v[5], v[3], v[1]]);
            let odd = [o0, o1, o2, o3];
            for j in 0..4 {
                block[at[j]] = descale(even[j] + odd[j], shift);
                block[at[7 - j]] = descale(even[j] - odd[j], shift);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: usize, height: usize) -> Picture {
        let pixels = (0..width * height).flat_map(|i| [(i % width * 5) as u8, (i / width * 3) as u8, 90]).collect();
        Picture { width, height, pixels }
    }

    #[test]
    fn the_transforms_undo_each_other() {
        let block: Block = std::array::from_fn(|i| ((i * 37 + i * i * 11) % 256) as i32 - 128);
        let mut back = block;
        forward(&mut back);
        back.iter_mut().for_each(|v| *v = descale(*v, 3));
        inverse(&mut back);
        assert!(block.iter().zip(back).all(|(a, b)| a.abs_diff(b) <= 1));
    }

    #[test]
    fn a_flat_picture_stays_and_better_qualities_lose_less() {
        let grey = Picture { width: 5, height: 3, pixels: vec![128; 45] };
        let mut flat = grey.clone();
        round_trip(&mut flat, 7);
        assert_eq!(flat, grey);
        let lost = |quality| {
            let mut out = ramp(37, 29);
            round_trip(&mut out, quality);
            out.pixels.iter().zip(ramp(37, 29).pixels).map(|(a, b)| u64::from(a.abs_diff(b))).sum::<u64>()
        };
        assert!(lost(95) < lost(25) && lost(25) < lost(7));
    }

    #[test]
    fn any_size_goes() {
        for (width, height) in [(1, 1), (2, 5), (4, 4), (5, 2), (8, 8), (9, 17), (16, 15)] {
            let mut picture = ramp(width, height);
            round_trip(&mut picture, 10);
            assert_eq!(picture.pixels.len(), width * height * 3);
        }
    }
}
