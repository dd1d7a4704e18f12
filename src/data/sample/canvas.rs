//! A small anti-aliased rasteriser: shapes are signed distances, a pixel is covered by how far inside it lies.
#![forbid(unsafe_code)]

/// A point or a vector; y grows downwards, as in images.
pub type Point = [f64; 2];

/// Linear RGB-like triple; 0 is black, 1 is white.
pub type Colour = [f32; 3];

/// Scale, mirror, rotation and shift: what places an object's own coordinates on the picture.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub scale: f64,
    pub mirror: bool,
    /// Cosine and sine of the rotation.
    pub turn: Point,
    pub shift: Point,
}

impl Placement {
    /// A vector on the picture: everything but the shift.
    fn vector(&self, v: Point) -> Point {
        let x = if self.mirror { -v[0] } else { v[0] } * self.scale;
        let y = v[1] * self.scale;
        [self.turn[0] * x - self.turn[1] * y, self.turn[1] * x + self.turn[0] * y]
    }

    /// A point on the picture.
    fn point(&self, p: Point) -> Point {
        let [x, y] = self.vector(p);
        [x + self.shift[0], y + self.shift[1]]
    }
}

/// An axis-parallel box, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    pub low: Point,
    pub high: Point,
}

impl Bounds {
    /// The smallest box around both.
    pub fn union(self, other: Bounds) -> Bounds {
        Bounds {
            low: [self.low[0].min(other.low[0]), self.low[1].min(other.low[1])],
            high: [self.high[0].max(other.high[0]), self.high[1].max(other.high[1])],
        }
    }

    /// Whether the two share a point once each is grown by half of `margin`.
    pub fn meets(&self, other: &Bounds, margin: f64) -> bool {
        (0..2).all(|i| self.low[i] < other.high[i] + margin && other.low[i] < self.high[i] + margin)
    }

    /// Width and height.
    pub fn size(&self) -> Point {
        [self.high[0] - self.low[0], self.high[1] - self.low[1]]
    }

    /// The box of `points`, grown by `radius` on each side.
    fn around(points: &[Point], radius: f64) -> Bounds {
        let mut bounds = Bounds { low: [f64::INFINITY; 2], high: [f64::NEG_INFINITY; 2] };
        for &p in points {
            bounds = bounds.union(Bounds { low: p, high: p });
        }
        Bounds {
            low: [bounds.low[0] - radius, bounds.low[1] - radius],
            high: [bounds.high[0] + radius, bounds.high[1] + radius],
        }
    }
}

/// What can be drawn.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A filled ellipse; `axis` is the unit direction of its first radius.
    Ellipse { centre: Point, radii: Point, axis: Point },
    /// A filled polygon with corners rounded outwards by `radius`.
    Polygon { points: Vec<Point>, radius: f64 },
    /// A line through `points`, `radius` thick to either side, with round ends.
    Line { points: Vec<Point>, radius: f64 },
    /// A circle's outline, `half` thick to either side.
    Ring { centre: Point, radius: f64, half: f64 },
}

impl Shape {
    /// The same shape on the picture.
    pub fn place(&self, to: &Placement) -> Shape {
        let all = |points: &[Point]| points.iter().map(|&p| to.point(p)).collect();
        let s = to.scale;
        match self {
            Shape::Ellipse { centre, radii, axis } => {
                let turned = to.vector(*axis);
                Shape::Ellipse {
                    centre: to.point(*centre),
                    radii: [radii[0] * s, radii[1] * s],
                    axis: [turned[0] / s, turned[1] / s],
                }
            }
            Shape::Polygon { points, radius } => Shape::Polygon { points: all(points), radius: radius * s },
            Shape::Line { points, radius } => Shape::Line { points: all(points), radius: radius * s },
            Shape::Ring { centre, radius, half } => {
                Shape::Ring { centre: to.point(*centre), radius: radius * s, half: half * s }
            }
        }
    }

    /// A box that holds the shape.
    pub fn bounds(&self) -> Bounds {
        match self {
            Shape::Ellipse { centre, radii, axis } => {
                let reach = |i: usize| {
                    let (along, across) = (radii[0] * axis[i], radii[1] * axis[1 - i]);
                    (along * along + across * across).sqrt()
                };
                let (x, y) = (reach(0), reach(1));
                Bounds { low: [centre[0] - x, centre[1] - y], high: [centre[0] + x, centre[1] + y] }
            }
            Shape::Polygon { points, radius } | Shape::Line { points, radius } => Bounds::around(points, *radius),
            Shape::Ring { centre, radius, half } => Bounds::around(&[*centre], radius + half),
        }
    }

    /// Distance to the outline, negative inside. For ellipses to first order, which is exact where it matters: at it.
    pub fn distance(&self, p: Point) -> f64 {
        match self {
            Shape::Ellipse { centre, radii, axis } => {
                let d = [p[0] - centre[0], p[1] - centre[1]];
                let q = [d[0] * axis[0] + d[1] * axis[1], d[1] * axis[0] - d[0] * axis[1]];
                let unit = length([q[0] / radii[0], q[1] / radii[1]]);
                let slope = length([q[0] / (radii[0] * radii[0]), q[1] / (radii[1] * radii[1])]);
                if slope > 0.0 { unit * (unit - 1.0) / slope } else { -radii[0].min(radii[1]) }
            }
            Shape::Polygon { points, radius } => polygon_distance(points, p) - radius,
            Shape::Line { points, radius } => {
                let nearest = points.windows(2).map(|ends| segment_distance(ends[0], ends[1], p));
                nearest.fold(f64::INFINITY, f64::min) - radius
            }
            Shape::Ring { centre, radius, half } => {
                (length([p[0] - centre[0], p[1] - centre[1]]) - radius).abs() - half
            }
        }
    }
}

/// Euclidean length.
fn length(v: Point) -> f64 {
    (v[0] * v[0] + v[1] * v[1]).sqrt()
}

/// Distance from `p` to the segment from `a` to `b`.
fn segment_distance(a: Point, b: Point, p: Point) -> f64 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let from = [p[0] - a[0], p[1] - a[1]];
    let square = along[0] * along[0] + along[1] * along[1];
    let t = if square > 0.0 { ((from[0] * along[0] + from[1] * along[1]) / square).clamp(0.0, 1.0) } else { 0.0 };
    length([from[0] - t * along[0], from[1] - t * along[1]])
}

/// Signed distance from `p` to a closed polygon, inside by the even-odd rule.
fn polygon_distance(points: &[Point], p: Point) -> f64 {
    let mut nearest = f64::INFINITY;
    let mut inside = false;
    for (i, &b) in points.iter().enumerate() {
        let a = points[(i + points.len() - 1) % points.len()];
        nearest = nearest.min(segment_distance(a, b, p));
        if (a[1] > p[1]) != (b[1] > p[1]) && p[0] < a[0] + (p[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) {
            inside = !inside;
        }
    }
    if inside { -nearest } else { nearest }
}

/// A picture being drawn.
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    /// Row by row, `width * height` of them.
    pub pixels: Vec<Colour>,
    /// How much of the background still shows at each pixel, from 1 to 0.
    ground: Vec<f32>,
}

impl Canvas {
    /// A picture whose pixel (x, y) is `colour(x, y)`.
    pub fn new(width: usize, height: usize, colour: impl Fn(f64, f64) -> Colour) -> Self {
        let pixels = (0..width * height).map(|i| colour((i % width) as f64, (i / width) as f64)).collect();
        Canvas { width, height, pixels, ground: vec![1.0; width * height] }
    }

    /// Declares everything painted so far background.
    pub fn settle(&mut self) {
        self.ground.fill(1.0);
    }

    /// Shifts the background alone until the picture's mean colour is `target`.
    pub fn balance(&mut self, target: Colour) {
        let count = self.pixels.len() as f64;
        let ground = self.ground.iter().map(|&g| f64::from(g)).sum::<f64>() / count;
        let shift: Colour = std::array::from_fn(|i| {
            let mean = self.pixels.iter().map(|p| f64::from(p[i])).sum::<f64>() / count;
            ((f64::from(target[i]) - mean) / ground.max(0.1)) as f32
        });
        for (pixel, &ground) in self.pixels.iter_mut().zip(&self.ground) {
            for (value, shift) in pixel.iter_mut().zip(shift) {
                *value += shift * ground;
            }
        }
    }

    /// Blends `shape` in and returns the box of the pixel centres that it covers by half or more.
    pub fn paint(&mut self, shape: &Shape, colour: Colour, opacity: f32) -> Option<Bounds> {
        let reach = shape.bounds();
        let first = |low: f64| (low - 1.0).floor().max(0.0) as usize;
        let past = |high: f64, end: usize| ((high + 2.0).ceil().max(0.0) as usize).min(end);
        let mut covered: Option<Bounds> = None;
        // Distances to ellipses may be overestimated far away; all others tell how many pixels are safe to pass over.
        let exact = !matches!(shape, Shape::Ellipse { .. });
        for y in first(reach.low[1])..past(reach.high[1], self.height) {
            let mut x = first(reach.low[0]);
            while x < past(reach.high[0], self.width) {
                let at = [x as f64, y as f64];
                let distance = shape.distance(at);
                if distance >= 0.5 {
                    x += if exact { (distance - 0.5).ceil().max(1.0) as usize } else { 1 };
                    continue;
                }
                if distance <= 0.0 {
                    let here = Bounds { low: at, high: at };
                    covered = Some(covered.map_or(here, |c| c.union(here)));
                }
                let alpha = (0.5 - distance).min(1.0) as f32 * opacity;
                self.ground[y * self.width + x] *= 1.0 - alpha;
                let pixel = &mut self.pixels[y * self.width + x];
                for (old, new) in pixel.iter_mut().zip(colour) {
                    *old += alpha * (new - *old);
                }
                x += 1;
            }
        }
        covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Area that a white shape covers on black, in pixels.
    fn area(shape: &Shape) -> f64 {
        let mut canvas = Canvas::new(200, 160, |_, _| [0.0; 3]);
        canvas.paint(shape, [1.0; 3], 1.0);
        canvas.pixels.iter().map(|p| f64::from(p[0])).sum()
    }

    #[test]
    fn painted_areas_are_the_areas_of_geometry() {
        use std::f64::consts::PI;
        let place = Placement { scale: 50.0, mirror: true, turn: [0.8, 0.6], shift: [95.3, 78.6] };
        let square = vec![[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]];
        let cases = [
            (Shape::Ellipse { centre: [0.1, 0.0], radii: [1.0, 0.4], axis: [1.0, 0.0] }, 0.4 * PI),
            (Shape::Polygon { points: square.clone(), radius: 0.0 }, 1.0),
            (Shape::Polygon { points: square, radius: 0.2 }, 1.0 + 4.0 * 0.2 + PI * 0.04),
            (Shape::Line { points: vec![[-0.8, 0.0], [0.8, 0.0]], radius: 0.1 }, 1.6 * 0.2 + PI * 0.01),
            (Shape::Ring { centre: [0.0, 0.0], radius: 0.9, half: 0.05 }, 2.0 * PI * 0.9 * 0.1),
        ];
        for (shape, expected) in cases {
            let relative = area(&shape.place(&place)) / (expected * 2500.0) - 1.0;
            // A box filter in place of exact coverage errs by less than a pixel per fifty of outline.
            assert!(relative.abs() < 0.01, "{shape:?} is off by {relative}");
        }
    }

    #[test]
    fn balance_moves_the_background_and_nothing_else() {
        let mut canvas = Canvas::new(60, 40, |x, _| [0.3, 0.4 + x as f32 * 0.001, 0.5]);
        canvas.paint(&Shape::Ring { centre: [20.0, 20.0], radius: 9.0, half: 2.0 }, [0.9; 3], 1.0);
        canvas.settle();
        canvas.paint(&Shape::Ellipse { centre: [40.0, 20.0], radii: [9.0, 12.0], axis: [1.0, 0.0] }, [1.0; 3], 1.0);
        canvas.balance([0.6, 0.45, 0.5]);
        for (i, wanted) in [0.6, 0.45, 0.5].into_iter().enumerate() {
            let mean = canvas.pixels.iter().map(|p| f64::from(p[i])).sum::<f64>() / 2400.0;
            assert!((mean - wanted).abs() < 1e-6, "channel {i}: {mean}");
        }
        assert_eq!(canvas.pixels[20 * 60 + 40], [1.0; 3]);
    }

    #[test]
    fn covered_box_is_tight_and_clipped_to_the_picture() {
        let mut canvas = Canvas::new(40, 30, |_, _| [0.5; 3]);
        let disc = Shape::Ellipse { centre: [20.0, 12.0], radii: [8.0, 5.0], axis: [1.0, 0.0] };
        assert_eq!(canvas.paint(&disc, [1.0; 3], 1.0), Some(Bounds { low: [12.0, 7.0], high: [28.0, 17.0] }));
        let beyond = Shape::Ring { centre: [39.0, 29.0], radius: 6.0, half: 1.0 };
        let covered = canvas.paint(&beyond, [0.0; 3], 1.0).unwrap();
        assert_eq!(covered.high, [39.0, 29.0]);
        let outside = Shape::Line { points: vec![[-90.0, -90.0], [-80.0, -80.0]], radius: 2.0 };
        assert_eq!(canvas.paint(&outside, [0.0; 3], 1.0), None);
    }
}
