//! A confusion matrix as a picture: rows are the true classes, colour is the share of the row.
#![forbid(unsafe_code)]

use super::svg::{Anchor, Svg, cut, width_of};

/// Most characters of a class's name.
const LONGEST: usize = 18;

/// White for none, dark blue for all of a row.
fn colour(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0).powf(0.7)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(255.0, 8.0), mix(255.0, 48.0), mix(255.0, 107.0))
}

/// The matrix `counts` (classes x classes). Counts stand in the cells where there is room, and show in a browser when the
/// pointer rests on a cell everywhere.
pub fn confusion(title: &str, classes: &[String], counts: &[Vec<u64>]) -> String {
    let names: Vec<String> = classes.iter().map(|class| cut(class, LONGEST)).collect();
    let cell = (640.0 / names.len().max(1) as f64).clamp(11.0, 64.0);
    let size = (cell * 0.8).min(13.0);
    let longest = names.iter().map(|name| width_of(name, size)).fold(40.0, f64::max);
    let side = cell * names.len() as f64;
    let (left, top) = (longest + 46.0, longest + 74.0);
    let width = (left + side + 110.0).max(width_of(title, 15.0) + 30.0);
    let mut svg = Svg::new(width, top + side + 24.0);
    let ink = "#1a1a1a";
    svg.text((16.0, 26.0), 15.0, Anchor::Start, ink, title);
    svg.text((left + side / 2.0, 52.0), 12.0, Anchor::Middle, ink, "predicted class");
    svg.turned((20.0, top + side / 2.0), 12.0, Anchor::Middle, ink, "true class", -90.0);
    for (i, name) in names.iter().enumerate() {
        let middle = (i as f64 + 0.5) * cell;
        svg.text((left - 6.0, top + middle + size * 0.35), size, Anchor::End, ink, name);
        svg.turned((left + middle + size * 0.35, top - 6.0), size, Anchor::Start, ink, name, -90.0);
    }
    for (y, row) in counts.iter().enumerate() {
        let support: u64 = row.iter().sum();
        for (x, &count) in row.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let share = count as f64 / support.max(1) as f64;
            let place = [left + x as f64 * cell, top + y as f64 * cell, cell, cell];
            let words = format!("true {}, predicted {}: {count} of {support}", classes[y], classes[x]);
            svg.rect(place, &colour(share), &words);
            let number = count.to_string();
            let fit = (cell * 0.36).min(cell * 0.85 / (0.62 * number.len() as f64));
            if fit >= 5.0 {
                let fill = if share > 0.45 { "#ffffff" } else { ink };
                let at = (place[0] + cell / 2.0, place[1] + cell / 2.0 + fit * 0.35);
                svg.text(at, fit, Anchor::Middle, fill, &number);
            }
        }
    }
    // Lines help the eye along; among many classes every tenth is darker.
    for i in 0..=names.len() {
        let at = i as f64 * cell;
        let tenth = names.len() > 20 && i.is_multiple_of(10);
        let stroke = if tenth || i == names.len() || i == 0 { "#808080" } else { "#e0e0e0" };
        svg.line([left + at, top, left + at, top + side], stroke, 0.6, "");
        svg.line([left, top + at, left + side, top + at], stroke, 0.6, "");
    }
    key(&mut svg, left + side + 24.0, top, side.clamp(60.0, 220.0));
    svg.finish()
}

/// What the colours mean.
fn key(svg: &mut Svg, x: f64, y: f64, height: f64) {
    let steps = 50;
    for i in 0..steps {
        let share = 1.0 - (f64::from(i) + 0.5) / f64::from(steps);
        let step = height / f64::from(steps);
        svg.rect([x, y + f64::from(i) * step, 14.0, step + 0.3], &colour(share), "");
    }
    for percent in [0.0, 50.0, 100.0] {
        let at = y + height * (1.0 - percent / 100.0) + 4.0;
        svg.text((x + 19.0, at), 11.0, Anchor::Start, "#1a1a1a", &format!("{percent:.0} %"));
    }
    svg.text((x, y - 8.0), 11.0, Anchor::Start, "#1a1a1a", "of the row");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_sound_and_names_what_it_shows() {
        let classes = ["a<b", "dog & cat", "a class with a very long name"].map(String::from);
        let text = confusion("t", &classes, &[vec![3, 1, 0], vec![0, 4, 0], vec![0, 0, 0]]);
        let document = roxmltree::Document::parse(&text).unwrap();
        let titles: Vec<_> = document.descendants().filter(|n| n.has_tag_name("title")).collect();
        assert_eq!(titles.len(), 3, "empty cells are not drawn");
        assert_eq!(titles[1].text(), Some("true a<b, predicted dog & cat: 1 of 4"));
    }

    #[test]
    fn a_hundred_classes_have_labels_of_some_size() {
        let classes: Vec<String> = (0..100).map(|i| format!("class_{i}")).collect();
        let text = confusion("t", &classes, &vec![vec![1; 100]; 100]);
        let document = roxmltree::Document::parse(&text).unwrap();
        let label = document.descendants().find(|n| n.text() == Some("class_42")).unwrap();
        assert!(label.attribute("font-size").unwrap().parse::<f64>().unwrap() >= 8.0);
    }
}
