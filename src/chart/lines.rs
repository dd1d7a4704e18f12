//! Lines and points over a pair of axes, with intervals where there are some, and the legend below.
#![forbid(unsafe_code)]

use super::escaped;
use crate::error::{Error, Result};
use plotters::coord::CoordTranslate;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

/// A place on a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// Lower and upper end of an interval of y.
    pub interval: Option<(f64, f64)>,
}

/// A named curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    pub name: String,
    pub points: Vec<Point>,
    pub joined: Joined,
}

/// How the points of a curve hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Markers on a line.
    Line,
    /// A line without markers, for what is computed and not measured.
    Bare,
    /// Markers alone.
    Not,
}

/// One pair of axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    pub title: String,
    /// What the axis across shows, with its unit.
    pub x: String,
    /// What the upright axis shows, with its unit.
    pub y: String,
    /// Whether both axes begin at 0, so that lengths can be compared.
    pub from_zero: bool,
    pub curves: Vec<Curve>,
}

/// Colours that stay apart for colour-blind eyes (Okabe and Ito).
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

const WIDTH: u32 = 520;
const HEIGHT: u32 = 350;
/// Height of a row of the legend, and the letters of a name that leaves room for another beside it.
const ROW: u32 = 24;
const HALF: usize = 20;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Axes<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl From<(f64, f64)> for Point {
    fn from((x, y): (f64, f64)) -> Self {
        Point { x, y, interval: None }
    }
}

impl Curve {
    /// Markers on a line.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Curve { name: name.into(), points: points.into_iter().map(Point::from).collect(), joined: Joined::Line }
    }
}

impl Chart {
    /// The chart for a page: without ground, as wide as its place, titled for those who cannot see it.
    pub fn inline(&self, told: &str) -> Result<String> {
        let text = svg(std::slice::from_ref(self), None)?;
        let (head, body) = text.split_once(">\n").ok_or_else(|| fault("the back end wrote no SVG"))?;
        let view = head.find("viewBox").map_or(head, |at| &head[at..]);
        Ok(format!(
            "<svg role=\"img\" {view}>\n<title>{}</title>\n<desc>{}</desc>\n{body}",
            escaped(&self.title),
            escaped(told)
        ))
    }

    /// Names in a row of the legend.
    fn names(&self) -> usize {
        if self.curves.iter().any(|curve| curve.name.chars().count() > HALF) { 1 } else { 2 }
    }
}

/// The charts side by side as the text of an SVG file, on white.
pub fn file(charts: &[Chart]) -> Result<String> {
    svg(charts, Some(WHITE))
}

fn fault(error: impl Display) -> Error {
    Error::shape("chart", error.to_string())
}

fn svg(charts: &[Chart], ground: Option<RGBColor>) -> Result<String> {
    let rows = charts.iter().map(|chart| chart.curves.len().div_ceil(chart.names())).max().unwrap_or(0) as u32;
    let mut text = String::new();
    {
        let size = (WIDTH * charts.len() as u32, HEIGHT + ROW * rows + 8);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        if let Some(ground) = ground {
            root.fill(&ground).map_err(fault)?;
        }
        for (chart, area) in charts.iter().zip(root.split_evenly((1, charts.len()))) {
            let (axes, names) = area.split_vertically(HEIGHT);
            draw(chart, &axes)?;
            legend(chart, &names)?;
        }
        root.present().map_err(fault)?;
    }
    Ok(text)
}

/// A range around all of `values`, with some room.
fn range(values: impl Iterator<Item = f64> + Clone, from_zero: bool) -> Range<f64> {
    let finite = || values.clone().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
    if from_zero && low >= 0.0 {
        return 0.0..if high > 0.0 { 1.06 * high } else { 1.0 };
    }
    let room = if high > low { 0.06 * (high - low) } else { high.abs().max(1.0) * 0.1 };
    low - room..high + room
}

fn draw(chart: &Chart, area: &Area) -> Result<()> {
    let points = || chart.curves.iter().flat_map(|curve| &curve.points);
    let ends = points().flat_map(|p| [p.y, p.interval.map_or(p.y, |i| i.0), p.interval.map_or(p.y, |i| i.1)]);
    let (x, y) = (range(points().map(|p| p.x), chart.from_zero), range(ends, chart.from_zero));
    let digits = |range: &Range<f64>| (0.8 - (range.end - range.start).log10()).ceil().clamp(0.0, 6.0) as usize;
    let (x_digits, y_digits) = (digits(&x), digits(&y));
    let mut axes = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 23))
        .margin(10)
        .margin_right(32)
        .x_label_area_size(54)
        .y_label_area_size(74)
        .build_cartesian_2d(x, y)
        .map_err(fault)?;
    axes.configure_mesh()
        .x_desc(&chart.x)
        .y_desc(&chart.y)
        .x_labels(7)
        .y_labels(7)
        .x_label_formatter(&|v| format!("{v:.x_digits$}"))
        .y_label_formatter(&|v| format!("{v:.y_digits$}"))
        .axis_desc_style(("sans-serif", 19))
        .label_style(("sans-serif", 18))
        .max_light_lines(0)
        .draw()
        .map_err(fault)?;
    for (i, curve) in chart.curves.iter().enumerate() {
        trace(&mut axes, curve, i).map_err(fault)?;
    }
    Ok(())
}

fn trace(axes: &mut Axes, curve: &Curve, i: usize) -> Result<()> {
    let colour = COLOURS[i % COLOURS.len()];
    let area = axes.plotting_area();
    if curve.joined != Joined::Not {
        let places: Vec<(f64, f64)> = curve.points.iter().map(|p| (p.x, p.y)).collect();
        area.draw(&PathElement::new(places, colour.stroke_width(2))).map_err(fault)?;
    }
    for point in &curve.points {
        if let Some((low, high)) = point.interval {
            let bar = PathElement::new([(point.x, low), (point.x, high)], colour.stroke_width(1));
            area.draw(&bar).map_err(fault)?;
        }
        if curve.joined != Joined::Bare {
            marker(area, (point.x, point.y), i)?;
        }
    }
    Ok(())
}

/// The sign of curve i: its colour and, for those who see no colours, its shape.
fn marker<C: CoordTranslate>(area: &DrawingArea<SVGBackend, C>, at: C::From, i: usize) -> Result<()>
where
    C::From: Clone + 'static,
{
    let colour = COLOURS[i % COLOURS.len()];
    match i % 4 {
        0 => area.draw(&Circle::new(at, 4, colour.filled())),
        1 => area.draw(&TriangleMarker::new(at, 6, colour.filled())),
        2 => area.draw(&Cross::new(at, 4, colour.stroke_width(2))),
        _ => area.draw(&Circle::new(at, 4, colour.stroke_width(2))),
    }
    .map_err(fault)
}

/// The names of the curves, below the axes.
fn legend(chart: &Chart, area: &Area) -> Result<()> {
    let names = chart.names();
    for (i, curve) in chart.curves.iter().enumerate() {
        let across = WIDTH - 80;
        let (x, y) = ((60 + across / names as u32 * (i % names) as u32) as i32, (8 + ROW * (i / names) as u32) as i32);
        let colour = COLOURS[i % COLOURS.len()];
        if curve.joined != Joined::Not {
            let line = PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2));
            area.draw(&line).map_err(fault)?;
        }
        if curve.joined != Joined::Bare {
            marker(area, (x + 12, y), i)?;
        }
        area.draw(&Text::new(curve.name.clone(), (x + 32, y - 8), ("sans-serif", 19))).map_err(fault)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart {
            title: "Accuracy <& more>".into(),
            x: "kept patches, K in %".into(),
            y: "accuracy in %".into(),
            from_zero: false,
            curves: vec![
                Curve {
                    name: "l2 \"quoted\"".into(),
                    points: vec![Point { x: 30.0, y: 48.5, interval: Some((40.0, 57.0)) }, (70.0, 75.0).into()],
                    joined: Joined::Line,
                },
                Curve { joined: Joined::Not, ..Curve::new("random", [(70.0, 75.5)]) },
                Curve { joined: Joined::Bare, ..Curve::new("model", [(30.0, 50.0), (70.0, 70.0)]) },
            ],
        }
    }

    #[test]
    fn charts_are_sound_xml_with_title_axes_and_legend() {
        let text = chart().inline("K against accuracy & so on").unwrap();
        let tree = roxmltree::Document::parse(&text).unwrap();
        let svg = tree.root_element();
        assert!(svg.attribute("viewBox").is_some() && svg.attribute("width").is_none());
        let texts: Vec<&str> = svg.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        for part in ["Accuracy <& more>", "kept patches, K in %", "accuracy in %", "l2 \"quoted\"", "random", "model"] {
            assert!(texts.contains(&part), "{part} is not in {texts:?}");
        }
        assert_eq!(svg.children().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "title"))).count(), 1);
    }

    #[test]
    fn charts_of_nothing_and_of_one_point_are_drawn() {
        let one = Chart { curves: vec![Curve::new("one", [(100.0, 0.0)])], ..chart() };
        let none = Chart { curves: Vec::new(), from_zero: true, ..chart() };
        let text = file(&[one, none, Chart { from_zero: true, ..chart() }]).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        roxmltree::Document::parse(&text).unwrap();
    }

    #[test]
    fn a_long_name_has_its_row_of_the_legend_to_itself() {
        let mut chart = chart();
        assert_eq!(chart.names(), 2);
        chart.curves[1].name = "alpha S² + beta S + gamma".into();
        assert_eq!(chart.names(), 1);
    }

    #[test]
    fn ranges_hold_every_value() {
        assert_eq!(range([2.0, 4.0].into_iter(), true), 0.0..4.24);
        let around = range([2.0, f64::NAN, 4.0].into_iter(), false);
        assert!(around.start < 2.0 && around.start > 1.5 && around.end > 4.0);
        assert!(range([5.0].into_iter(), false).contains(&5.0));
    }
}
