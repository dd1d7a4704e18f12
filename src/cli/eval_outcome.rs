//! What `dynavit eval` says: the JSON document, the tables for people, and the table of corruptions.
#![forbid(unsafe_code)]

use super::options::{Split, word};
use super::print::printable;
use crate::data::corrupt::{Corruption, Kind};
use crate::eval::{BINS, Calibration, ClassReport, MacroReport, Report};
use crate::prune::{Keep, Scorer};
use crate::train::{DeviceName, Precision};
use serde::Serialize;
use std::fmt::Write;

/// Columns of a terminal.
const COLUMNS: usize = 80;
/// Most confused pairs that are listed: in JSON, and for people.
const PAIRS: usize = 20;
const SHOWN: usize = 5;

/// What is evaluated, and where.
#[derive(Serialize)]
pub struct About {
    pub model: String,
    pub dataset: String,
    pub split: Split,
    #[serde(serialize_with = "Keep::shown")]
    pub keep: Keep,
    pub scorer: Scorer,
    /// Null under a mass, whose lengths differ: see `mean_seq_len`.
    pub seq_len: Option<usize>,
    pub device: DeviceName,
    pub precision: Precision,
    /// Images that the run was trained on, by their content; null when the checkpoint lies in no run.
    pub trained_on: Option<usize>,
}

/// The result as `--json` prints it.
#[derive(Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    about: About,
    images: usize,
    accuracy: f64,
    loss: f64,
    classes: Vec<String>,
    per_class: Vec<Named>,
    #[serde(rename = "macro")]
    macro_average: MacroReport,
    /// Rows are the true classes, columns the predicted ones.
    confusion: Vec<Vec<u64>>,
    /// What the images were put through; null when nothing.
    corruption: Option<String>,
    /// Share of images whose class is among the five likeliest.
    top5_accuracy: f64,
    weighted: MacroReport,
    micro: MacroReport,
    calibration: Calibration,
    confused: Vec<Confused>,
    mean_seq_len: Option<f64>,
    /// Mean multiply-adds of an image, as executed.
    macs_executed: Option<f64>,
    /// The clean images and each corruption, when several were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corruptions: Option<Vec<Condition>>,
    /// Over the corruptions.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_corruption_accuracy: Option<f64>,
}

#[derive(Serialize)]
struct Named {
    class: String,
    #[serde(flatten)]
    report: ClassReport,
}

/// A class taken for another: so many images, and the share of the true class that they are.
#[derive(Serialize)]
struct Confused {
    class: String,
    predicted: String,
    images: u64,
    share: f64,
}

/// What was measured on images that were corrupted alike; neither kind nor severity when they were clean.
#[derive(Serialize)]
pub struct Condition {
    kind: Option<Kind>,
    severity: Option<u8>,
    pub accuracy: f64,
    top5_accuracy: f64,
    loss: f64,
    ece: f64,
}

impl Condition {
    /// The figures of a report.
    pub fn new(corruption: Option<Corruption>, report: &Report) -> Self {
        Condition {
            kind: corruption.map(|corruption| corruption.kind),
            severity: corruption.map(|corruption| corruption.severity),
            accuracy: report.accuracy(),
            top5_accuracy: report.top(5),
            loss: report.loss(),
            ece: Calibration::new(&report.verdicts, BINS).ece,
        }
    }

    /// As `noise:3`, or `clean`.
    pub fn name(&self) -> String {
        match (self.kind, self.severity) {
            (Some(kind), Some(severity)) => format!("{}:{severity}", kind.name()),
            _ => "clean".into(),
        }
    }
}

impl Outcome {
    /// The figures of a report on images that were corrupted so.
    pub fn new(about: About, classes: &[String], report: &Report, corruption: Option<Corruption>) -> Self {
        let named = classes.iter().cloned().zip(report.per_class());
        let pairs = report.confused(PAIRS).into_iter().map(|pair| Confused {
            class: classes[pair.label].clone(),
            predicted: classes[pair.predicted].clone(),
            images: pair.images,
            share: pair.images as f64 / pair.support as f64,
        });
        Outcome {
            about,
            images: report.images(),
            accuracy: report.accuracy(),
            loss: report.loss(),
            classes: classes.to_vec(),
            per_class: named.map(|(class, report)| Named { class, report }).collect(),
            macro_average: report.macro_average(),
            confusion: report.confusion.clone(),
            corruption: corruption.map(|corruption| corruption.to_string()),
            top5_accuracy: report.top(5),
            weighted: report.weighted_average(),
            micro: report.micro_average(),
            calibration: Calibration::new(&report.verdicts, BINS),
            confused: pairs.collect(),
            mean_seq_len: report.looked.mean_seq_len(),
            macs_executed: report.looked.mean_macs(),
            corruptions: None,
            mean_corruption_accuracy: None,
        }
    }

    /// Takes the table of corruptions, the clean images first.
    pub fn compare(&mut self, rows: Vec<Condition>) {
        self.mean_corruption_accuracy = mean(rows.iter().filter(|row| row.kind.is_some()));
        self.corruptions = Some(rows);
    }

    /// What was measured on what, in one line.
    pub fn title(&self) -> String {
        let About { model, dataset, split, keep, seq_len, .. } = &self.about;
        let split = word(split);
        let corrupt = self.corruption.as_ref().map_or(String::new(), |name| format!(", {name}"));
        let (keep, images) = (keep.words(), self.images);
        let tokens = match seq_len {
            Some(s) => format!("S = {s}"),
            None => format!("mean S = {:.1}", self.mean_seq_len.unwrap_or_default()),
        };
        format!("{model} on {dataset} ({split}{corrupt}), {keep}, {tokens}: {images} images")
    }
}

fn mean<'a>(rows: impl Iterator<Item = &'a Condition>) -> Option<f64> {
    let (sum, count) = rows.fold((0.0, 0), |(sum, count), row| (sum + row.accuracy, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// The report for people, at most 80 columns wide where the names of the classes allow it.
pub fn table(outcome: &Outcome) -> String {
    let width = outcome.classes.iter().map(|class| class.chars().count()).max().unwrap_or(0).max(12);
    let mut text = format!("{}\n", printable(&outcome.title()));
    let top5 = match outcome.classes.len() {
        0..=5 => String::new(),
        _ => format!(", among the five likeliest {:.2} %", 100.0 * outcome.top5_accuracy),
    };
    let Calibration { ece, bins, .. } = &outcome.calibration;
    if let Some(count @ 1..) = outcome.about.trained_on {
        let _ = writeln!(text, "{count} of them are images that the run was trained on");
    }
    let _ = writeln!(text, "accuracy {:.2} %{top5}, loss {:.4}", 100.0 * outcome.accuracy, outcome.loss);
    let _ = writeln!(text, "expected calibration error {ece:.4} ({} bins)\n", bins.len());
    let _ = writeln!(text, "{:width$} {:>10} {:>10} {:>10} {:>8}", "class", "precision", "recall", "F1", "support");
    let mut row = |name: &str, [p, r, f]: [f64; 3], support: u64| {
        let _ = writeln!(text, "{name:width$} {p:>10.4} {r:>10.4} {f:>10.4} {support:>8}");
    };
    for Named { class, report: c } in &outcome.per_class {
        row(&printable(class), [c.precision, c.recall, c.f1], c.support);
    }
    let images = outcome.images as u64;
    for (name, mean) in [("macro avg", &outcome.macro_average), ("weighted avg", &outcome.weighted)] {
        row(name, [mean.precision, mean.recall, mean.f1], images);
    }
    text.push('\n');
    let cell = outcome.confusion.iter().flatten().max().unwrap_or(&0).to_string().len().max(3) + 1;
    if width + cell * outcome.classes.len() <= COLUMNS.max(width + 5 * cell) {
        let _ = writeln!(text, "{:width$}  (columns in the order of the rows)", "true \\ predicted");
        for (class, row) in outcome.classes.iter().zip(&outcome.confusion) {
            let cells: String = row.iter().map(|n| format!("{n:>cell$}")).collect();
            let _ = writeln!(text, "{:width$}{cells}", printable(class));
        }
    } else {
        let n = outcome.classes.len();
        let _ = writeln!(text, "the confusion matrix, {n} x {n}, is in --json and in the files of --report");
    }
    if !outcome.confused.is_empty() {
        text.push_str("\nmost confused\n");
    }
    for Confused { class, predicted, images, share } in outcome.confused.iter().take(SHOWN) {
        let (class, predicted, share) = (printable(class), printable(predicted), 100.0 * share);
        let _ = writeln!(text, "{class} taken for {predicted}: {images}, {share:.1} % of the class");
    }
    text.trim_end().to_owned()
}

/// Accuracy in percent: a row a kind, a column a severity, then means.
pub fn conditions_table(rows: &[Condition]) -> String {
    let percent = |value: Option<f64>| value.map_or("-".into(), |value| format!("{:.2}", 100.0 * value));
    let mut text = "accuracy in % by corruption and severity\n".to_owned();
    let _ = writeln!(text, "{:11}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}", "", 1, 2, 3, 4, 5, "mean");
    if let Some(clean) = rows.iter().find(|row| row.kind.is_none()) {
        let _ = writeln!(text, "{:11}{:>50}", "clean", percent(Some(clean.accuracy)));
    }
    for kind in Kind::ALL {
        let of = || rows.iter().filter(|row| row.kind == Some(kind));
        if of().next().is_none() {
            continue;
        }
        let _ = write!(text, "{:11}", kind.name());
        for severity in 1..=5 {
            let found = of().find(|row| row.severity == Some(severity)).map(|row| row.accuracy);
            let _ = write!(text, "{:>8}", percent(found));
        }
        let _ = writeln!(text, "{:>10}", percent(mean(of())));
    }
    let all = mean(rows.iter().filter(|row| row.kind.is_some()));
    let _ = write!(text, "{:11}{:>40}{:>10}", "corrupted", "mean of all measured", percent(all));
    text
}

/// The same as CSV: `corruption,severity,accuracy,top5_accuracy,loss,ece`, severity 0 for clean images.
pub fn conditions_csv(rows: &[Condition]) -> String {
    let mut text = "corruption,severity,accuracy,top5_accuracy,loss,ece\n".to_owned();
    for row in rows {
        let (name, severity) = (row.kind.map_or("clean", Kind::name), row.severity.unwrap_or(0));
        let _ = writeln!(text, "{name},{severity},{},{},{},{}", row.accuracy, row.top5_accuracy, row.loss, row.ece);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(classes: usize) -> (Outcome, Report) {
        let mut report = Report::new(classes);
        for i in 0..3 * classes {
            let logits: Vec<f32> = (0..classes).map(|c| ((c * 7 + i * 3) % classes) as f32).collect();
            report.add(&logits, i % classes);
        }
        let about = About {
            model: "vit_base_patch16_224".into(),
            dataset: "voc2012".into(),
            split: Split::Val,
            keep: "33.3333".parse().unwrap(),
            scorer: Scorer::Sobel,
            seq_len: Some(66),
            device: DeviceName::Cpu,
            precision: Precision::F32,
            trained_on: Some(0),
        };
        let names: Vec<String> = (0..classes).map(|c| format!("class_{c}")).collect();
        (Outcome::new(about, &names, &report, None), report)
    }

    #[test]
    fn tables_fit_80_columns_whatever_the_number_of_classes() {
        for classes in [2, 5, 20, 100] {
            let text = table(&filled(classes).0);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            assert_eq!(text.contains("five likeliest"), classes > 5);
        }
    }

    #[test]
    fn every_field_is_there() {
        let text = serde_json::to_string(&filled(3).0).unwrap();
        let keys = [
            "model",
            "dataset",
            "split",
            "keep",
            "scorer",
            "seq_len",
            "images",
            "accuracy",
            "loss",
            "classes",
            "per_class",
            "macro",
            "confusion",
            "device",
            "precision",
            "trained_on",
            "corruption",
            "top5_accuracy",
            "weighted",
            "micro",
            "calibration",
            "confused",
        ];
        assert!(keys.iter().all(|key| text.contains(&format!("\"{key}\":"))), "{text}");
        assert!(!text.contains("corruptions") && text.contains(r#""corruption":null"#));
    }

    #[test]
    fn corruptions_are_averaged_without_the_clean_images() {
        let (mut outcome, report) = filled(4);
        let list: crate::data::corrupt::Corruptions = "noise:1..2,jpeg:5".parse().unwrap();
        let mut rows: Vec<Condition> = list.0.iter().map(|&c| Condition::new(Some(c), &report)).collect();
        rows.insert(0, Condition::new(None, &report));
        for (row, accuracy) in rows.iter_mut().zip([1.0, 0.5, 0.25, 0.0]) {
            row.accuracy = accuracy;
        }
        let text = conditions_table(&rows);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let words = |name: &str| line(name).split_whitespace().map(String::from).collect::<Vec<_>>();
        assert_eq!(words("noise"), ["noise", "50.00", "25.00", "-", "-", "-", "37.50"]);
        assert_eq!(words("clean"), ["clean", "100.00"]);
        assert!(line("corrupted").ends_with(" 25.00") && !text.contains("blur"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80));
        assert!(conditions_csv(&rows).contains("\nclean,0,1,") && conditions_csv(&rows).contains("\njpeg,5,0,"));
        outcome.compare(rows);
        assert!(serde_json::to_string(&outcome).unwrap().contains(r#""mean_corruption_accuracy":0.25"#));
    }
}
