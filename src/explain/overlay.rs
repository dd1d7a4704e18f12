//! What is drawn over an image: dropped patches, scores, boxes, LIME's weights, rollout.
#![forbid(unsafe_code)]

use super::boxes::Boxed;
use super::canvas::{
    BLACK, BLUE, Canvas, Colour, GREEN, ORANGE, PURPLE, SKY, VERMILION, WHITE, YELLOW, mix, ramp, text_size,
};
use super::segments::Segments;
use crate::prune::Grid;

/// How dark a dropped patch becomes.
const DROPPED: f64 = 0.75;

/// Colours of boxes by class, in order of appearance of the five classes.
pub fn class_colour(class: &str) -> Colour {
    match class {
        "bicycle" => GREEN,
        "car" => ORANGE,
        "cat" => PURPLE,
        "dog" => SKY,
        "person" => YELLOW,
        _ => WHITE,
    }
}

/// The luma of a colour as a grey.
fn grey(colour: Colour) -> Colour {
    let [r, g, b] = colour.map(u32::from);
    [((299 * r + 587 * g + 114 * b + 500) / 1000) as u8; 3]
}

/// Whether each patch is kept, (N,).
pub fn is_kept(kept: &[u32], patches: usize) -> Vec<bool> {
    let mut flags = vec![false; patches];
    kept.iter().for_each(|&i| flags[i as usize] = true);
    flags
}

/// rgb (h, w, 3) with dropped patches grey and dark and fine lines between them; kept patches are untouched.
pub fn kept_patches(rgb: &[u8], grid: &Grid, kept: &[u32], scale: usize) -> Canvas {
    let mut canvas = Canvas::of(rgb, grid.width, scale);
    let flags = is_kept(kept, grid.patches());
    let step = grid.patch * scale;
    for y in 0..grid.height * scale {
        for x in 0..grid.width * scale {
            if flags[y / step * grid.columns() + x / step] {
                continue;
            }
            let line = x % step == 0 || y % step == 0;
            let dark = mix(grey(canvas.at(x, y)), BLACK, DROPPED);
            canvas.set(x, y, if line { mix(dark, WHITE, 0.25) } else { dark });
        }
    }
    canvas
}

/// Boxes with the names of their classes, two pixels wide and dark at the edge so that they show on any ground.
pub fn draw_boxes(canvas: &mut Canvas, boxes: &[Boxed], scale: usize) {
    for object in boxes {
        let [left, top, right, bottom] = object.rect.map(|v| (v * scale as f64).round() as usize);
        if right <= left || bottom <= top {
            continue;
        }
        let colour = class_colour(&object.class);
        canvas.outline([left, top, right, bottom], scale + 2, BLACK);
        canvas.outline([left, top, right, bottom], scale + 1, colour);
        let dots = scale;
        let (width, height) = text_size(&object.class, dots);
        canvas.fill([left, top, left + width + 2 * dots + 2, top + height + 2], colour);
        canvas.text(&object.class, (left + dots + 1, top + dots), dots, BLACK);
    }
}

/// A value for each patch as colour from blue (least) to yellow (most) over the grey image.
pub fn heat(rgb: &[u8], grid: &Grid, values: &[f64], scale: usize) -> Canvas {
    let finite = values.iter().copied().filter(|v| v.is_finite());
    let (least, most) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    let span = if most > least { most - least } else { 1.0 };
    let mut canvas = Canvas::of(rgb, grid.width, scale);
    let step = grid.patch * scale;
    for y in 0..grid.height * scale {
        for x in 0..grid.width * scale {
            let value = values[y / step * grid.columns() + x / step];
            let below = grey(canvas.at(x, y));
            let colour = if value.is_finite() {
                mix(below, ramp((value - least) / span), 0.65)
            } else {
                mix(below, BLACK, DROPPED)
            };
            canvas.set(x, y, colour);
        }
    }
    canvas
}

/// Weights by segment over the grey image: blue speaks for the class, vermilion against it, the stronger the more.
pub fn weights(rgb: &[u8], side: usize, segments: &Segments, weights: &[f64], scale: usize) -> Canvas {
    let most = weights.iter().fold(0.0f64, |most, weight| most.max(weight.abs())).max(f64::MIN_POSITIVE);
    let mut canvas = Canvas::of(rgb, side, scale);
    for y in 0..side * scale {
        for x in 0..side * scale {
            let weight = weights[segments.labels[y / scale * side + x / scale] as usize] / most;
            let below = mix(grey(canvas.at(x, y)), WHITE, 0.3);
            canvas.set(x, y, mix(below, if weight >= 0.0 { BLUE } else { VERMILION }, 0.85 * weight.abs()));
        }
    }
    canvas
}

/// The pixels of `mask` (side, side) as they are, framed; the rest grey and dark.
pub fn spotlight(rgb: &[u8], side: usize, mask: &[bool], scale: usize) -> Canvas {
    let mut canvas = Canvas::of(rgb, side, scale);
    let shown = |x: usize, y: usize| x < side && y < side && mask[y * side + x];
    for y in 0..side * scale {
        for x in 0..side * scale {
            let (u, v) = (x / scale, y / scale);
            if !shown(u, v) {
                let edge =
                    shown(u + 1, v) || (u > 0 && shown(u - 1, v)) || shown(u, v + 1) || (v > 0 && shown(u, v - 1));
                let dark = mix(grey(canvas.at(x, y)), BLACK, DROPPED);
                canvas.set(x, y, if edge { YELLOW } else { dark });
            }
        }
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { height: 32, width: 32, patch: 16 };

    fn image() -> Vec<u8> {
        (0..32 * 32 * 3).map(|i| (i % 239) as u8).collect()
    }

    #[test]
    fn kept_patches_are_untouched_and_dropped_ones_are_dark_and_grey() {
        let rgb = image();
        for scale in [1, 3] {
            let (plain, canvas) = (Canvas::of(&rgb, 32, scale), kept_patches(&rgb, &GRID, &[0, 3], scale));
            for y in 0..32 * scale {
                for x in 0..32 * scale {
                    let kept = (y / (16 * scale) == 0) == (x / (16 * scale) == 0);
                    let [r, g, b] = canvas.at(x, y);
                    assert!(if kept { canvas.at(x, y) == plain.at(x, y) } else { r == g && g == b && r < 130 });
                }
            }
        }
    }

    #[test]
    fn heat_goes_from_blue_to_yellow_and_leaves_out_what_has_no_value() {
        let flat = vec![0; 32 * 32 * 3];
        let canvas = heat(&flat, &GRID, &[1.0, 5.0, 3.0, f64::NAN], 1);
        let at = |x, y| canvas.at(x, y);
        assert_eq!(
            [at(0, 0), at(20, 0), at(0, 20), at(20, 20)],
            [mix(BLACK, BLUE, 0.65), mix(BLACK, YELLOW, 0.65), mix(BLACK, SKY, 0.65), BLACK]
        );
        // A flat map has no scale, and no division by nothing.
        assert_eq!(heat(&flat, &GRID, &[2.0; 4], 1).at(0, 0), mix(BLACK, BLUE, 0.65));
    }

    #[test]
    fn weights_and_spotlight_follow_the_segments() {
        let segments = Segments::grid(&GRID);
        let flat = vec![100; 32 * 32 * 3];
        let canvas = weights(&flat, 32, &segments, &[2.0, -1.0, 0.0, 0.5], 2);
        let [[r0, _, b0], [r1, _, b1], none] = [canvas.at(0, 0), canvas.at(40, 0), canvas.at(0, 40)];
        assert!(b0 > r0 && r1 > b1 && none[0] == none[2], "{:?}", canvas.at(0, 0));
        let mask: Vec<bool> = segments.labels.iter().map(|&label| label == 3).collect();
        let lit = spotlight(&flat, 32, &mask, 1);
        assert_eq!([lit.at(20, 20), lit.at(15, 20), lit.at(0, 0)], [[100; 3], YELLOW, [25; 3]]);
    }

    #[test]
    fn boxes_outside_are_not_drawn() {
        let mut canvas = Canvas::of(&image(), 32, 1);
        let before = canvas.picture.clone();
        draw_boxes(&mut canvas, &[Boxed { class: "cat".into(), rect: [32.0, 0.0, 32.0, 9.0] }], 1);
        assert_eq!(canvas.picture, before);
        draw_boxes(&mut canvas, &[Boxed { class: "cat".into(), rect: [2.0, 2.0, 30.0, 30.0] }], 1);
        assert_eq!(canvas.at(29, 29), PURPLE);
    }
}
