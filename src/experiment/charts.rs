//! The charts of a study.
#![forbid(unsafe_code)]

use super::paper;
use super::record::{Record, scorer_name};
use super::robustness::Robustness;
use super::study::{Group, Study};
use crate::chart::lines::{Chart, Curve, Joined, Point};
use crate::error::Result;
use crate::flops::macs;
use crate::prune::Scorer;
use crate::stats::Spread;
use crate::train::DatasetName;

/// A chart and its words for those who do not see it.
pub struct Told {
    pub chart: Chart,
    pub words: String,
}

/// All charts of a study; those of times only where times are wanted.
pub fn all(study: &Study, without_times: bool) -> Result<Vec<Told>> {
    let mut charts = vec![accuracy(study)];
    if !without_times {
        charts.extend([
            against_keep(study, "Time of an epoch", "training seconds an epoch", Record::seconds_per_epoch),
            against_keep(study, "Training speed", "images a second", Record::images_per_second),
        ]);
    }
    charts.extend(Robustness::all(study).map(|robustness| robustness.chart()));
    charts.extend([
        losses(study, "Training loss", |row| row.train_loss),
        losses(study, "Validation loss", |row| row.val_loss),
        compute(study)?,
    ]);
    if !without_times {
        charts.push(throughput(study)?);
    }
    Ok(charts.into_iter().filter(|chart| !chart.curves.is_empty()).map(told).collect())
}

/// The chart with its words, which are its points.
pub fn told(chart: Chart) -> Told {
    let curve = |curve: &Curve| {
        // A computed curve has many points; its ends tell enough.
        let points: Vec<&Point> = match curve.joined {
            Joined::Bare => [curve.points.first(), curve.points.last()].into_iter().flatten().collect(),
            _ => curve.points.iter().collect(),
        };
        let places: Vec<String> = points.iter().map(|p| format!("{} at {}", short(p.y), short(p.x))).collect();
        format!("{}: {}", curve.name, places.join(", "))
    };
    let curves: Vec<String> = chart.curves.iter().map(curve).collect();
    Told { words: format!("{} against {}. {}.", chart.y, chart.x, curves.join(". ")), chart }
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A curve for each scorer over its K, all ending in K = 100, of what `of` makes of a group.
fn by_scorer(study: &Study, of: impl Fn(&Group) -> Option<Point>) -> Vec<Curve> {
    let mut scorers: Vec<Scorer> = study.scorers();
    if scorers.is_empty() {
        scorers.push(study.main_scorer());
    }
    let curve = |scorer: Scorer| {
        let groups = study.groups.iter().filter(|g| g.scorer.is_none_or(|s| s == scorer));
        let control = if matches!(scorer, Scorer::Random | Scorer::Center) { " (control)" } else { "" };
        Curve { points: groups.filter_map(&of).collect(), ..Curve::new(scorer_name(scorer) + control, []) }
    };
    scorers.into_iter().map(curve).filter(|curve| !curve.points.is_empty()).collect()
}

/// Mean, with the sample deviation as the interval.
pub fn place(x: f64, spread: Spread, scale: f64) -> Point {
    let interval = spread.deviation.map(|d| (scale * (spread.mean - d), scale * (spread.mean + d)));
    Point { x, y: scale * spread.mean, interval }
}

fn accuracy(study: &Study) -> Chart {
    let mut curves = by_scorer(study, |group| Some(place(group.keep.percent(), group.val()?, 100.0)));
    let same = |run: &Record| run.config.dataset == DatasetName::Voc && run.config.model == paper::MODEL;
    if study.runs().next().is_some_and(same) {
        let printed = paper::BY_KEEP.iter().map(|row| (f64::from(row.0), row.1));
        curves.push(Curve { joined: Joined::Bare, ..Curve::new("paper, l2", printed) });
    }
    Chart {
        title: "Accuracy against K".into(),
        x: "kept patches K, %".into(),
        y: "best validation accuracy, %".into(),
        from_zero: false,
        curves,
    }
}

fn against_keep(study: &Study, title: &str, y: &str, of: fn(&Record) -> Option<f64>) -> Chart {
    let curves = by_scorer(study, |group| Some(place(group.keep.percent(), group.spread(of)?, 1.0)));
    let title = format!("{title} against K");
    Chart { title, x: "kept patches K, %".into(), y: y.into(), from_zero: true, curves }
}

/// A curve for each K of the main scorer, mean over its seeds.
fn losses(study: &Study, title: &str, of: fn(&crate::checkpoint::EpochMetrics) -> f64) -> Chart {
    let scorer = study.main_scorer();
    let curve = |group: &Group| {
        let epochs = group.runs.iter().map(|run| run.rows.len()).max().unwrap_or(0);
        let mean = |epoch: usize| group.spread(|run| run.rows.get(epoch).map(of)).map(|s| s.mean);
        Curve::new(
            format!("K = {} %", group.keep),
            (0..epochs).filter_map(|epoch| Some(((epoch + 1) as f64, mean(epoch)?))),
        )
    };
    let groups = study.groups.iter().filter(|g| g.scorer.is_none_or(|s| s == scorer));
    Chart {
        title: format!("{title}, {}", scorer_name(scorer)),
        x: "epoch".into(),
        y: "mean cross-entropy, nats".into(),
        from_zero: false,
        curves: groups.map(curve).filter(|curve| !curve.points.is_empty()).collect(),
    }
}

/// The count over S, and where the study's K lie on it.
fn compute(study: &Study) -> Result<Chart> {
    let title = "Compute against tokens".to_string();
    let mut chart = Chart {
        title,
        x: "tokens S, with [CLS]".into(),
        y: "GMACs of a forward pass".into(),
        from_zero: true,
        curves: Vec::new(),
    };
    let Some(any) = study.groups.first() else { return Ok(chart) };
    let model = any.model()?;
    let n = model.patches();
    let giga = |s: usize| macs(&model, s, n) as f64 / 1e9;
    let steps = (0..=40).map(|i| 1 + i * n / 40).map(|s| (s as f64, giga(s)));
    chart.curves.push(Curve { joined: Joined::Bare, ..Curve::new("alpha S² + beta S + gamma", steps) });
    let mut formula = Vec::new();
    let mut executed = Vec::new();
    for group in study.groups.iter().filter(|g| g.scorer.is_none_or(|s| s == study.main_scorer())) {
        let (s, cost) = (group.tokens()? as f64, group.cost()?);
        formula.push((s, cost.macs as f64 / 1e9));
        executed.push((s, cost.executed as f64 / 1e9));
    }
    chart.curves.push(Curve { joined: Joined::Not, ..Curve::new("these runs", formula) });
    chart.curves.push(Curve { joined: Joined::Not, ..Curve::new("executed here", executed) });
    Ok(chart)
}

fn throughput(study: &Study) -> Result<Chart> {
    let mut points = Vec::new();
    for group in study.groups.iter().filter(|g| g.scorer.is_none_or(|s| s == study.main_scorer())) {
        let giga = group.cost()?.executed as f64 / 1e9;
        points.extend(group.spread(Record::images_per_second).map(|spread| place(giga, spread, 1.0)));
    }
    let whole = points.last().map_or(0.0, |p| p.x * p.y);
    let measured = Curve { points: points.clone(), ..Curve::new("measured", []) };
    let ends = points.first().zip(points.last()).map_or((1.0, 1.0), |(a, b)| (a.x, b.x));
    let steps = (0..=30).map(|i| ends.0 + (ends.1 - ends.0) * f64::from(i) / 30.0);
    let ideal = Curve {
        joined: Joined::Bare,
        ..Curve::new("as at the most GMACs", steps.filter(|x| *x > 0.0).map(|x| (x, whole / x)))
    };
    Ok(Chart {
        title: "Training speed against compute".into(),
        x: "GMACs executed an image, forward".into(),
        y: "images a second".into(),
        from_zero: true,
        curves: if points.is_empty() { Vec::new() } else { vec![measured, ideal] },
    })
}
