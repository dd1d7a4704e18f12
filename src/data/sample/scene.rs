//! A picture of the sample: background, one object of the five classes, now and then a stranger, noise.
#![forbid(unsafe_code)]

use super::canvas::{Bounds, Canvas, Colour, Placement, Shape};
use super::shapes::{self, Parts, Role};
use crate::rng::{Purpose, Stream};

/// The classes, in the order of their labels.
pub const CLASSES: [&str; 5] = ["bicycle", "car", "cat", "dog", "person"];

/// The grey about which pictures are balanced, close to ImageNet's mean: what differs from it has a large norm.
const MIDDLE: f64 = 0.46;

/// One annotated object; the box counts pixels from 1, both ends included, as VOC does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub name: &'static str,
    pub pose: &'static str,
    pub xmin: usize,
    pub ymin: usize,
    pub xmax: usize,
    pub ymax: usize,
}

/// A finished picture.
pub struct Scene {
    pub width: usize,
    pub height: usize,
    /// (height, width, 3)
    pub rgb: Vec<u8>,
    /// The object of the five classes first.
    pub objects: Vec<Object>,
}

/// The class of image `index`: every run of five images holds each class once, in an order of its own.
pub fn class_of(seed: u64, index: usize) -> usize {
    let mut order: [usize; 5] = std::array::from_fn(|i| i);
    Stream::new(seed, Purpose::Sample, (index / 5) as u32, 1).shuffle(&mut order);
    order[index % 5]
}

/// A colour at `level` with a tint of up to `tint` per channel; the mean over the channels is `level`.
fn tinted(random: &mut Stream, level: f64, tint: f64) -> Colour {
    let offsets: [f64; 3] = std::array::from_fn(|_| random.range(-tint, tint));
    let mean = offsets.iter().sum::<f64>() / 3.0;
    offsets.map(|o| (level + o - mean).clamp(0.0, 1.0) as f32)
}

/// Colours by role: the main one well above the middle, the others below it.
///
/// Which of them is the brighter does not change from picture to picture: a small model would have to learn each class
/// twice. Brightness still tells no class, because `draw` balances every picture.
struct Palette {
    main: Colour,
    second: Colour,
    detail: Colour,
}

impl Palette {
    fn draw(random: &mut Stream) -> Self {
        let main = MIDDLE + random.range(0.3, 0.44);
        let second = MIDDLE - random.range(0.28, 0.4);
        let detail = MIDDLE - random.range(0.2, 0.34);
        let mut colour = |level| tinted(random, level, 0.08);
        Palette { main: colour(main), second: colour(second), detail: colour(detail) }
    }

    fn of(&self, role: Role) -> Colour {
        match role {
            Role::Main => self.main,
            Role::Second => self.second,
            Role::Detail => self.detail,
        }
    }
}

/// A plain, graded or two-toned background near the middle, with faint blobs and stripes.
fn background(random: &mut Stream, width: usize, height: usize) -> Canvas {
    let base = MIDDLE + random.range(-0.06, 0.06);
    let other = base + random.range(-0.08, 0.08);
    let (from, to) = (tinted(random, base, 0.05), tinted(random, other, 0.05));
    let angle = random.range(0.0, 2.0 * std::f64::consts::PI);
    let (along, across) = (libm::cos(angle), libm::sin(angle));
    let split = random.range(-0.25, 0.25);
    // A gradient ten pixels long is an edge between two tones.
    let hard = random.below(2) == 0;
    let span = if hard { 10.0 } else { (width + height) as f64 * 0.6 };
    let (w, h) = (width as f64, height as f64);
    let mut canvas = Canvas::new(width, height, |x, y| {
        let position = (x - w / 2.0) * along + (y - h / 2.0) * across - split * h;
        let t = (position / span + 0.5).clamp(0.0, 1.0) as f32;
        std::array::from_fn(|i| from[i] + t * (to[i] - from[i]))
    });
    for _ in 0..2 + random.below(3) {
        let centre = [random.range(0.0, w), random.range(0.0, h)];
        let shape = if random.below(2) == 0 {
            let turn = random.range(0.0, 3.0);
            let radii = [random.range(0.04, 0.2) * w, random.range(0.04, 0.15) * w];
            Shape::Ellipse { centre, radii, axis: [libm::cos(turn), libm::sin(turn)] }
        } else {
            let turn = random.range(0.0, 6.3);
            let reach = random.range(0.2, 0.8) * w;
            let end = [centre[0] + reach * libm::cos(turn), centre[1] + reach * libm::sin(turn)];
            Shape::Line { points: vec![centre, end], radius: random.range(2.0, 9.0) }
        };
        let level = MIDDLE + random.range(-0.1, 0.1);
        let colour = tinted(random, level, 0.06);
        canvas.paint(&shape, colour, 0.6);
    }
    canvas.settle();
    canvas
}

/// The box of all parts.
fn bounds(parts: &Parts) -> Bounds {
    let boxes = parts.iter().map(|(_, shape)| shape.bounds());
    boxes.reduce(Bounds::union).unwrap_or(Bounds { low: [0.0; 2], high: [0.0; 2] })
}

/// `parts` turned by up to `tilt` radians, mirrored or not, `side` pixels along the longer side of their box,
/// anywhere on the picture but wholly on it.
fn place(random: &mut Stream, parts: &Parts, canvas: &Canvas, tilt: f64, side: f64) -> (Parts, bool) {
    let angle = random.range(-tilt, tilt);
    let mirror = random.below(2) == 0;
    let mut to = Placement { scale: 1.0, mirror, turn: [libm::cos(angle), libm::sin(angle)], shift: [0.0; 2] };
    let all = |to: &Placement| -> Parts { parts.iter().map(|(role, shape)| (*role, shape.place(to))).collect() };
    let size = bounds(&all(&to)).size();
    to.scale = side / size[0].max(size[1]);
    let reach = bounds(&all(&to));
    let ends = [canvas.width as f64 - 6.0, canvas.height as f64 - 6.0];
    let size = reach.size();
    to.shift = std::array::from_fn(|i| random.range(5.0, ends[i] - size[i]) - reach.low[i]);
    (all(&to), mirror)
}

/// Paints `parts` and annotates them.
fn paint(canvas: &mut Canvas, parts: &Parts, palette: &Palette, name: &'static str, pose: &'static str) -> Object {
    let mut covered: Option<Bounds> = None;
    for (role, shape) in parts {
        let here = canvas.paint(shape, palette.of(*role), 1.0);
        covered = here.map(|h| covered.map_or(h, |c| c.union(h))).or(covered);
    }
    let Bounds { low, high } = covered.unwrap_or(Bounds { low: [0.0; 2], high: [0.0; 2] });
    let [xmin, ymin] = low.map(|v| v as usize + 1);
    let [xmax, ymax] = high.map(|v| v as usize + 1);
    Object { name, pose, xmin, ymin, xmax, ymax }
}

/// Draws image `index` of the sample of `seed`. The same numbers give the same bytes on any thread.
pub fn draw(seed: u64, index: usize) -> Scene {
    let random = &mut Stream::new(seed, Purpose::Sample, index as u32, 0);
    let (width, height) = (232 + random.below(65) as usize, 200 + random.below(57) as usize);
    let shorter = width.min(height) as f64;
    let mut canvas = background(random, width, height);
    let class = class_of(seed, index);
    let palette = Palette::draw(random);
    let parts = [shapes::bicycle, shapes::car, shapes::cat, shapes::dog, shapes::person][class](random);
    let side = shorter * random.range(0.72, 0.92);
    let (placed, mirror) = place(random, &parts, &canvas, 0.1, side);
    let pose = match (CLASSES[class], mirror) {
        ("cat" | "person", _) => "Frontal",
        (_, true) => "Left",
        (_, false) => "Right",
    };
    let mut objects = Vec::new();
    if random.below(12) == 0 {
        let (name, stranger) =
            if random.below(2) == 0 { ("bottle", shapes::bottle(random)) } else { ("chair", shapes::chair(random)) };
        let side = shorter * random.range(0.18, 0.26);
        let colours = Palette::draw(random);
        for _ in 0..8 {
            let (aside, _) = place(random, &stranger, &canvas, 0.1, side);
            if !bounds(&aside).meets(&bounds(&placed), 12.0) {
                objects.push(paint(&mut canvas, &aside, &colours, name, "Unspecified"));
                break;
            }
        }
    }
    objects.insert(0, paint(&mut canvas, &placed, &palette, CLASSES[class], pose));
    // The mean colour comes from one distribution whatever is on the picture, so that it cannot tell the class.
    let level = MIDDLE + random.range(-0.06, 0.1);
    canvas.balance(tinted(random, level, 0.05));
    let grain = random.range(0.005, 0.03) as f32;
    let mut rgb = Vec::with_capacity(width * height * 3);
    for pixel in &canvas.pixels {
        let noise = (random.next_u32() >> 16) as f32 / 65536.0 - 0.5;
        rgb.extend(pixel.map(|v| ((v + noise * 2.0 * grain) * 255.0 + 0.5) as u8));
    }
    Scene { width, height, rgb, objects }
}
