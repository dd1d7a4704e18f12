//! Caricatures of the five classes and of two others, as lists of parts in coordinates of about [-1, 1].
#![forbid(unsafe_code)]

use super::canvas::{Point, Shape};
use crate::rng::Stream;
use std::f64::consts::PI;

/// Which of a picture's colours a part is painted in. No colour belongs to a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stands out from the background.
    Main,
    /// Stands out from `Main`.
    Second,
    /// Stands out from `Main` too, in another shade.
    Detail,
}

/// An object, parts in the order of painting.
pub type Parts = Vec<(Role, Shape)>;

use Role::{Detail, Main, Second};

/// An ellipse whose first radius points along `angle` (radians).
fn ellipse(centre: Point, radii: Point, angle: f64) -> Shape {
    Shape::Ellipse { centre, radii, axis: [libm::cos(angle), libm::sin(angle)] }
}

fn disc(centre: Point, radius: f64) -> Shape {
    ellipse(centre, [radius, radius], 0.0)
}

fn ring(centre: Point, radius: f64, half: f64) -> Shape {
    Shape::Ring { centre, radius, half }
}

fn polygon(points: &[Point], radius: f64) -> Shape {
    Shape::Polygon { points: points.to_vec(), radius }
}

fn line(points: &[Point], radius: f64) -> Shape {
    Shape::Line { points: points.to_vec(), radius }
}

/// A quadratic Bezier curve as a thick line.
fn curve(from: Point, bend: Point, to: Point, radius: f64) -> Shape {
    let at = |i: usize| {
        let t = i as f64 / 8.0;
        let mix = |a: f64, b: f64, c: f64| (1.0 - t) * (1.0 - t) * a + 2.0 * t * (1.0 - t) * b + t * t * c;
        [mix(from[0], bend[0], to[0]), mix(from[1], bend[1], to[1])]
    };
    Shape::Line { points: (0..=8).map(at).collect(), radius }
}

/// The point at `distance` from `p` towards `angle`.
fn toward(p: Point, angle: f64, distance: f64) -> Point {
    [p[0] + distance * libm::cos(angle), p[1] + distance * libm::sin(angle)]
}

/// Two thin-rimmed wheels with spokes, a diamond frame, saddle, handlebar and cranks.
pub fn bicycle(random: &mut Stream) -> Parts {
    let wheel = random.range(0.38, 0.44);
    let (rear, front) = ([-0.56, 0.3], [0.56, 0.3]);
    let spokes = 4 + random.below(3);
    let first = random.range(0.0, PI);
    let tube = random.range(0.03, 0.042);
    let mut parts = Vec::new();
    for hub in [rear, front] {
        for i in 0..spokes {
            let angle = first + PI * f64::from(i) / f64::from(spokes);
            parts.push((Main, line(&[toward(hub, angle, wheel), toward(hub, angle + PI, wheel)], 0.013)));
        }
        parts.push((Main, ring(hub, wheel, random.range(0.036, 0.048))));
        parts.push((Main, disc(hub, 0.06)));
    }
    let crank = [random.range(-0.1, -0.02), 0.34];
    let seat = [random.range(-0.26, -0.18), random.range(-0.24, -0.16)];
    let head = [random.range(0.34, 0.4), random.range(-0.28, -0.22)];
    let grip = [head[0] - 0.03, head[1] - 0.16];
    parts.push((Main, line(&[seat, head, crank, seat, rear, crank], tube)));
    parts.push((Main, line(&[grip, head, front], tube)));
    parts.push((Main, line(&[seat, [seat[0] - 0.03, seat[1] - 0.1]], tube)));
    parts.push((Main, line(&[[seat[0] - 0.15, seat[1] - 0.12], [seat[0] + 0.09, seat[1] - 0.1]], 0.05)));
    parts.push((Main, curve(grip, [grip[0] + 0.22, grip[1] - 0.06], [grip[0] + 0.16, grip[1] + 0.12], 0.035)));
    parts.push((Main, ring(crank, 0.09, 0.03)));
    let pedal = random.range(0.0, PI);
    parts.push((Main, line(&[toward(crank, pedal, 0.17), toward(crank, pedal + PI, 0.17)], 0.025)));
    parts
}

/// A long low body with a cabin, windows and two filled wheels.
pub fn car(random: &mut Stream) -> Parts {
    let roof = random.range(-0.46, -0.38);
    let waist = random.range(-0.1, -0.04);
    let sill = 0.26;
    let back = random.range(-0.78, -0.6);
    let (roof_back, roof_front) = (back + random.range(0.12, 0.24), random.range(0.1, 0.24));
    let front = roof_front + random.range(0.24, 0.34);
    let nose = random.range(0.0, 0.07);
    let hood = [[-0.95, waist], [front, waist], [0.88, waist + 0.04 + nose], [0.95, 0.08 + nose]];
    let mut body: Vec<Point> = hood.to_vec();
    body.extend([[0.95, sill], [-0.95, sill]]);
    let cabin = [[back, waist], [roof_back, roof], [roof_front, roof], [front, waist]];
    let mut parts = vec![(Main, polygon(&cabin, 0.05)), (Main, polygon(&body, 0.05))];
    let (top, bottom) = (roof + 0.05, waist - 0.02);
    let pillar = random.range(-0.22, -0.08);
    let rear_window = [[back + 0.09, bottom], [roof_back + 0.04, top], [pillar - 0.04, top], [pillar - 0.04, bottom]];
    let front_window = [[pillar + 0.04, bottom], [pillar + 0.04, top], [roof_front - 0.03, top], [front - 0.1, bottom]];
    parts.push((Second, polygon(&rear_window, 0.01)));
    parts.push((Second, polygon(&front_window, 0.01)));
    let wheel = random.range(0.2, 0.25);
    for x in [random.range(-0.62, -0.52), random.range(0.5, 0.6)] {
        parts.push((Second, disc([x, sill + 0.05], wheel)));
        parts.push((Main, disc([x, sill + 0.05], wheel * 0.45)));
    }
    parts.push((Detail, ellipse([0.92, 0.1 + nose], [0.06, 0.04], 0.0)));
    parts.push((Detail, line(&[[pillar + 0.06, 0.06], [pillar + 0.16, 0.06]], 0.018)));
    parts
}

/// Sits and looks at us: a large round head with pointed ears and whiskers, a small body, a curled tail.
pub fn cat(random: &mut Stream) -> Parts {
    let head = [random.range(-0.06, 0.06), -0.32];
    let round = random.range(0.43, 0.48);
    let belly = random.range(0.33, 0.4);
    let reach = random.range(0.62, 0.82);
    let lift = random.range(-0.1, 0.25);
    let mut parts = vec![
        (Main, curve([0.15, 0.82], [reach + 0.2, 0.95], [reach, lift], 0.07)),
        (Main, ellipse([0.0, 0.48], [belly, 0.46], 0.0)),
        (Main, ellipse([-0.16, 0.9], [0.15, 0.09], 0.0)),
        (Main, ellipse([0.16, 0.9], [0.15, 0.09], 0.0)),
    ];
    for i in 0..3 {
        let (y, bow) = (0.3 + 0.17 * f64::from(i), belly * 0.7 - 0.04 * f64::from(i));
        parts.push((Second, curve([-bow, y - 0.06], [0.0, y + 0.08], [bow, y - 0.06], 0.035)));
    }
    let tip = random.range(0.42, 0.52);
    for side in [-1.0, 1.0] {
        let at = |x: f64, y: f64| [head[0] + side * x, head[1] + y];
        parts.push((Main, polygon(&[at(0.1, -0.34), at(tip - 0.06, -tip - 0.2), at(0.42, -0.12)], 0.02)));
        parts.push((Second, polygon(&[at(0.2, -0.36), at(tip - 0.09, -tip - 0.08), at(0.36, -0.24)], 0.0)));
    }
    parts.push((Main, ellipse(head, [round, round * 0.88], 0.0)));
    let (gaze, eye) = (random.range(0.16, 0.2), random.range(0.075, 0.095));
    let tilt = random.range(-0.08, 0.08);
    for side in [-1.0, 1.0] {
        let at = |x: f64, y: f64| [head[0] + side * x, head[1] + y];
        parts.push((Second, ellipse(at(gaze, -0.06), [eye, eye * 1.15], 0.0)));
        parts.push((Main, ellipse(at(gaze, -0.06), [0.024, eye * 0.9], 0.0)));
        for i in -1..=1 {
            let fan = f64::from(i) * 0.14 + tilt;
            parts.push((Second, line(&[at(0.14, 0.17 + fan * 0.2), at(0.42, 0.16 + fan * 0.8)], 0.014)));
            parts.push((Main, line(&[at(0.42, 0.16 + fan * 0.8), at(0.7, 0.15 + fan * 1.4)], 0.014)));
        }
        parts.push((Second, curve(at(0.0, 0.2), at(0.08, 0.29), at(0.15, 0.22), 0.018)));
    }
    let nose = [[head[0] - 0.06, head[1] + 0.1], [head[0] + 0.06, head[1] + 0.1], [head[0], head[1] + 0.17]];
    parts.push((Second, polygon(&nose, 0.015)));
    parts
}

/// Stands sideways: a long body on four legs, a head with a snout and a hanging ear, a raised tail.
pub fn dog(random: &mut Stream) -> Parts {
    let girth = random.range(0.21, 0.26);
    let leg = random.range(0.07, 0.085);
    let hip = [-0.5, random.range(-0.02, 0.04)];
    let chest = [0.32, 0.0];
    let head = [random.range(0.56, 0.64), random.range(-0.5, -0.42)];
    let muzzle = toward(head, random.range(0.1, 0.35), random.range(0.32, 0.38));
    let wag = random.range(-2.4, -1.9);
    let bend = toward(hip, PI, 0.38);
    let mut parts = vec![(Main, curve(toward(hip, 3.6, 0.12), bend, toward(bend, wag, 0.45), 0.05))];
    for root in [hip, chest] {
        for base in [-0.12, 0.1] {
            let step = base + random.range(-0.1, 0.1);
            let knee = [root[0] + base + step * 0.5, 0.42];
            let paw = [root[0] + base + step, 0.74];
            parts.push((Main, line(&[[root[0] + base * 0.6, 0.08], knee, paw], leg)));
            parts.push((Main, line(&[paw, [paw[0] + 0.08, 0.76]], leg * 0.85)));
        }
    }
    parts.push((Main, line(&[hip, chest], girth)));
    parts.push((Main, line(&[[chest[0] + 0.04, -0.06], head], 0.16)));
    parts.push((Main, ellipse(head, [0.24, 0.21], 0.1)));
    parts.push((Main, line(&[head, muzzle], 0.11)));
    parts.push((Second, ellipse([muzzle[0] + 0.07, muzzle[1] - 0.05], [0.065, 0.05], 0.0)));
    parts.push((Second, disc([head[0] + 0.1, head[1] - 0.06], 0.04)));
    let spots = [[-0.52, -0.1], [-0.34, 0.08], [-0.18, -0.1], [0.02, 0.06], [0.2, -0.04]];
    for spot in spots {
        let shifted = [spot[0] + random.range(-0.03, 0.03), spot[1] + random.range(-0.03, 0.03)];
        parts.push((Second, disc(shifted, random.range(0.05, 0.07))));
    }
    let droop = random.range(1.5, 1.9);
    parts.push((Second, ellipse(toward([head[0] - 0.1, head[1] - 0.08], droop, 0.16), [0.22, 0.1], droop)));
    parts.push((Detail, line(&[[chest[0] - 0.02, -0.24], [chest[0] + 0.24, -0.12]], 0.035)));
    parts
}

/// A small head on a shirt, with two arms and two legs in any pose.
pub fn person(random: &mut Stream) -> Parts {
    let shoulder = random.range(0.19, 0.24);
    let hip = random.range(0.13, 0.16);
    let skull = [random.range(-0.04, 0.04), -0.78];
    let mut parts = Vec::new();
    for side in [-1.0, 1.0] {
        // Angles from straight down, outwards: a limb never crosses the body to the other side.
        let limb = |from: Point, bends: [f64; 2], lengths: [f64; 2]| {
            let aim = |from: Point, out: f64, far: f64| toward(from, PI / 2.0 - side * out, far);
            let joint = aim(from, bends[0], lengths[0]);
            [from, joint, aim(joint, bends[1], lengths[1])]
        };
        let swing = random.range(0.1, 0.4);
        let leg = limb([side * hip * 0.7, 0.12], [swing, swing - random.range(0.0, 0.3)], [0.42, 0.4]);
        parts.push((Main, line(&leg, 0.085)));
        parts.push((Main, line(&[leg[2], [leg[2][0] + side * 0.1, leg[2][1] + 0.01]], 0.06)));
        let raise = random.range(0.5, 1.6);
        let arm = limb([side * shoulder, -0.46], [raise, raise + random.range(-0.3, 0.8)], [0.32, 0.3]);
        parts.push((Second, line(&arm[..2], 0.075)));
        parts.push((Main, line(&arm[1..], 0.06)));
        parts.push((Main, disc(arm[2], 0.075)));
    }
    let torso = [[-shoulder, -0.46], [shoulder, -0.46], [hip, 0.1], [-hip, 0.1]];
    parts.push((Main, line(&[[0.0, -0.5], skull], 0.06)));
    parts.push((Second, polygon(&torso, 0.06)));
    parts.push((Detail, line(&[[-hip, 0.13], [hip, 0.13]], 0.045)));
    parts.push((Main, ellipse(skull, [0.15, 0.18], 0.0)));
    parts
}

/// A bottle: not one of the five.
pub fn bottle(random: &mut Stream) -> Parts {
    let belly = random.range(0.26, 0.36);
    let outline = [
        [-0.1, -1.0],
        [0.1, -1.0],
        [0.1, -0.5],
        [belly, -0.2],
        [belly, 1.0],
        [-belly, 1.0],
        [-belly, -0.2],
        [-0.1, -0.5],
    ];
    let label = [[-belly, 0.1], [belly, 0.1], [belly, 0.6], [-belly, 0.6]];
    vec![(Main, polygon(&outline, 0.04)), (Second, polygon(&label, 0.0))]
}

/// A chair: not one of the five.
pub fn chair(random: &mut Stream) -> Parts {
    let seat = random.range(0.05, 0.2);
    vec![
        (Main, line(&[[-0.5, -1.0], [-0.5, 1.0]], 0.08)),
        (Main, line(&[[0.5, seat], [0.5, 1.0]], 0.08)),
        (Main, line(&[[-0.5, seat], [0.5, seat]], 0.1)),
        (Second, line(&[[-0.5, -0.85], [-0.5, -0.35]], 0.13)),
    ]
}
