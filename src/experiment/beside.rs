//! What a report shows beside its runs: the documents that `coverage --json` and `explain --compare --json` print.
#![forbid(unsafe_code)]

use super::charts::{Told, told};
use super::record::scorer_name;
use super::report::Section;
use super::study::LEVEL;
use super::table::Table;
use crate::chart::lines::{Chart, Curve, Point};
use crate::error::{Error, Result};
use crate::explain::coverage::{CONTROLS, Difference};
use crate::explain::{compare, coverage};
use crate::prune::Scorer;
use crate::stats::{half_width, holm, t_quantile, two_sided};
use serde::Deserialize;
use std::path::Path;

/// What is needed of a document.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Coverage {
        dataset: String,
        split: String,
        images: usize,
        object_share: f64,
        rows: Vec<coverage::Row>,
    },
    Lime {
        model: String,
        /// A number, or the text of a mass.
        keep: serde_json::Value,
        segments: String,
        samples: usize,
        asked: usize,
        images: Vec<serde::de::IgnoredAny>,
        lime_overlap: Vec<compare::Row>,
    },
}

/// A line of either table: a share of something that lies in kept patches, mean over images.
struct Line<'a> {
    scorer: Scorer,
    keep: f64,
    chance: f64,
    images: usize,
    share: f64,
    standard_error: f64,
    enrichment: f64,
    minus: &'a [Difference],
}

/// The words of a section.
struct Words<'a> {
    title: String,
    id: &'a str,
    /// What the share is of, as the head of its column.
    share: &'a str,
    /// The same in a sentence: "of ...".
    of: &'a str,
    note: String,
}

/// Reads a document and makes a section of it.
pub fn section(path: &Path) -> Result<Section> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
    let refused = |reason: String| {
        Error::data(path, reason, "give what `coverage --json` or `explain --compare ... --json` prints")
    };
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| refused(format!("is no whole JSON document ({e})")))?;
    let document: Document = serde_json::from_value(value)
        .map_err(|_| refused("is neither a document of `coverage` nor one of `explain --compare`".into()))?;
    Ok(match &document {
        Document::Coverage { dataset, split, images, object_share, rows } => {
            let lines: Vec<Line> = rows.iter().filter(|row| row.class.is_none()).map(of_coverage).collect();
            let note = format!(
                "Share of the area of the annotated boxes that lies in kept patches: mean over {images} images of {dataset} \
                 (split {split}), whose boxes take {:.1} % of the square. No model is in it.",
                100.0 * object_share
            );
            let words = Words {
                title: format!("Coverage of annotated objects, {dataset}"),
                id: "coverage",
                share: "of the objects' area, %",
                of: "of the annotated objects' area",
                note,
            };
            build(&words, &lines)
        }
        Document::Lime { model, keep, segments, samples, asked, images, lime_overlap } => {
            let lines: Vec<Line> = lime_overlap.iter().map(of_lime).collect();
            let n = images.len();
            let seen = match keep.as_f64() {
                Some(k) => format!("K = {k} %"),
                None => keep.as_str().unwrap_or_default().to_string(),
            };
            let short = if n < *asked { format!(" of {asked} asked for") } else { String::new() };
            let note = format!(
                "Share of LIME's positive weight that lies in patches that the scorer would keep. LIME ({segments}, {samples} \
                 samples) explains {model} at {seen}, {n} images{short}; images where nothing speaks for the class do \
                 not count."
            );
            let words = Words {
                title: format!("Overlap with LIME, {model} at {seen}"),
                id: "lime",
                share: "of the positive weight, %",
                of: "of what speaks for the class by LIME",
                note,
            };
            build(&words, &lines)
        }
    })
}

fn of_coverage(row: &coverage::Row) -> Line<'_> {
    let coverage::Mean { images, coverage: share, standard_error, enrichment } = row.mean;
    let coverage::Row { scorer, keep, chance, ref minus, .. } = *row;
    Line { scorer, keep, chance, images, share, standard_error, enrichment, minus }
}

fn of_lime(row: &compare::Row) -> Line<'_> {
    let compare::Row {
        scorer,
        keep,
        chance,
        images,
        positive_weight: share,
        standard_error,
        enrichment,
        ref minus,
        ..
    } = *row;
    Line { scorer, keep, chance, images, share, standard_error, enrichment, minus }
}

fn build(words: &Words, lines: &[Line]) -> Section {
    let missing = match lines.is_empty() {
        true => vec!["images: none has anything to measure".to_string()],
        false => Vec::new(),
    };
    Section {
        title: words.title.clone(),
        findings: findings(words.of, lines),
        tables: vec![table(words, lines)],
        missing,
        comparisons: Vec::new(),
        charts: if lines.is_empty() { Vec::new() } else { vec![chart(words, lines)] },
        bars: "Bars are Student's 95 % intervals of the mean over images; a point without a bar is one image.",
    }
}

fn minus<'a>(line: &'a Line, control: Scorer) -> Option<&'a Difference> {
    line.minus.iter().find(|minus| minus.control == control)
}

fn table(words: &Words, lines: &[Line]) -> Table {
    let head = ["scorer", "K %", "by luck, %", "images", words.share, "standard error", "enrichment"];
    let mut table = Table::new(words.id, words.title.clone(), &head);
    for control in CONTROLS {
        let name = scorer_name(control);
        table.head.extend([format!("less {name}, points"), "95 % interval".into()]);
    }
    for line in lines {
        let percent = |share: f64| format!("{:.2}", 100.0 * share);
        let points = |share: f64| format!("{:+.2}", 100.0 * share);
        let mut row = vec![
            scorer_name(line.scorer),
            line.keep.to_string(),
            percent(line.chance),
            line.images.to_string(),
            percent(line.share),
            percent(line.standard_error),
            format!("{:.3}", line.enrichment),
        ];
        for control in CONTROLS {
            row.extend(match minus(line, control) {
                Some(d) => [points(d.mean), format!("{} to {}", points(d.low), points(d.high))],
                None => Default::default(),
            });
        }
        table.rows.push(row);
    }
    table.note = words.note.clone()
        + " Intervals are Student's, over images, not corrected for their \
                                       number; sentences are made of what Holm's correction leaves.";
    table
}

/// What each scorer keeps at K = 70, or at the largest K that drops something, against both controls.
fn findings(of: &str, lines: &[Line]) -> Vec<String> {
    let keeps = lines.iter().map(|line| line.keep).filter(|&keep| keep < 100.0);
    let at = match lines.iter().any(|line| line.keep == 70.0) {
        true => 70.0,
        false => keeps.fold(0.0, f64::max),
    };
    let told: Vec<&Line> = lines.iter().filter(|line| line.keep == at && !CONTROLS.contains(&line.scorer)).collect();
    let claims: Vec<(&Line, &Difference)> =
        told.iter().flat_map(|&line| line.minus.iter().map(move |d| (line, d))).collect();
    let p = |(line, d): &(&Line, &Difference)| {
        let error = (d.high - d.mean) / t_quantile(0.975, (line.images.max(2) - 1) as f64);
        two_sided(line.images, d.mean, error)
    };
    let corrected = holm(&claims.iter().map(p).collect::<Vec<_>>());
    let say = |line: &&Line| {
        let own = claims.iter().zip(&corrected).filter(|((other, _), _)| std::ptr::eq(*other, *line));
        let against: Vec<String> = own
            .map(|((_, d), &p)| {
                let word = match (p < LEVEL, d.mean > 0.0) {
                    (false, _) => "not shown to differ from",
                    (true, true) => "more than",
                    (true, false) => "less than",
                };
                let [mean, low, high] = [d.mean, d.low, d.high].map(|share| 100.0 * share);
                format!("{word} {} ({mean:+.1} points, {low:+.1} to {high:+.1})", scorer_name(d.control))
            })
            .collect();
        let (scorer, share, n) = (scorer_name(line.scorer), 100.0 * line.share, line.images);
        let colon = if against.is_empty() { "" } else { ": " };
        format!("{scorer} keeps {share:.1} % {of} at K = {at} % on {n} images{colon}{}.", against.join(", "))
    };
    told.iter().map(say).collect()
}

fn chart(words: &Words, lines: &[Line]) -> Told {
    let mut scorers: Vec<Scorer> = lines.iter().map(|line| line.scorer).collect();
    scorers.sort_by_key(|&scorer| scorer as usize);
    scorers.dedup();
    let curve = |scorer: Scorer| {
        let control = if CONTROLS.contains(&scorer) { " (control)" } else { "" };
        let point = |line: &Line| {
            let half = half_width(line.images, line.standard_error);
            let ends = (100.0 * (line.share - half), 100.0 * (line.share + half));
            Point { x: line.keep, y: 100.0 * line.share, interval: (line.images > 1).then_some(ends) }
        };
        let mut points: Vec<Point> = lines.iter().filter(|line| line.scorer == scorer).map(point).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Curve { points, ..Curve::new(scorer_name(scorer) + control, []) }
    };
    told(Chart {
        title: words.title.clone(),
        x: "kept patches K, %".into(),
        y: words.share.into(),
        from_zero: false,
        curves: scorers.into_iter().map(curve).collect(),
    })
}
