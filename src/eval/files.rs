//! The files of a report: tables as CSV, pictures as SVG and PNG.
#![forbid(unsafe_code)]

use super::calibration::{BINS, Calibration};
use super::{Report, mistakes_sheet};
use crate::chart;
use crate::data::{Dataset, Sample, TransformConfig};
use crate::error::{Error, Result};
use std::fmt::Write;

/// What the files tell of, beside the report: its samples in their order, and how they were made images.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub title: &'a str,
    pub dataset: &'a Dataset,
    pub samples: &'a [Sample],
    pub transform: &'a TransformConfig,
}

/// Name and contents of every file.
pub fn files(report: &Report, subject: &Subject) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let Subject { title, dataset, samples, transform } = *subject;
    let classes = &dataset.classes;
    let sheet = mistakes_sheet(title, report, samples, transform, classes)?;
    let sheet = sheet.png().map_err(|e| Error::data("mistakes.png", e.to_string(), "report this"))?;
    Ok(vec![
        ("confusion.csv", confusion_csv(report, classes).into_bytes()),
        ("confusion.svg", chart::confusion(title, classes, &report.confusion).into_bytes()),
        ("calibration.svg", reliability(title, &Calibration::new(&report.verdicts, BINS)).into_bytes()),
        ("predictions.csv", predictions_csv(report, dataset, samples).into_bytes()),
        ("mistakes.png", sheet),
    ])
}

/// A field of a CSV file (RFC 4180): in quotes where it holds a comma, a quote or a line break.
pub fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// One row a true class, one column a predicted class, names in the first row and column.
fn confusion_csv(report: &Report, classes: &[String]) -> String {
    let mut text = "true\\predicted".to_owned();
    classes.iter().for_each(|class| text += &format!(",{}", field(class)));
    text.push('\n');
    for (class, row) in classes.iter().zip(&report.confusion) {
        text += &field(class);
        row.iter().for_each(|count| text += &format!(",{count}"));
        text.push('\n');
    }
    text
}

/// One row an image: `path,label,predicted,confidence,rank`, rank being the number of classes ahead of the true one.
fn predictions_csv(report: &Report, dataset: &Dataset, samples: &[Sample]) -> String {
    let mut text = "path,label,predicted,confidence,rank\n".to_owned();
    for (sample, verdict) in samples.iter().zip(&report.verdicts) {
        let class = |index: usize| field(&dataset.classes[index]);
        let (path, label, predicted) = (field(&dataset.place(sample)), class(verdict.label), class(verdict.predicted));
        let _ = writeln!(text, "{path},{label},{predicted},{},{}", verdict.confidence, verdict.rank);
    }
    text
}

fn reliability(title: &str, calibration: &Calibration) -> String {
    let Calibration { ece, mce, bins } = calibration;
    let bar = |bin: &super::Bin| chart::Bar {
        low: bin.low,
        high: bin.high,
        images: bin.images,
        accuracy: bin.accuracy.unwrap_or(0.0),
        confidence: bin.confidence.unwrap_or(0.0),
    };
    let bars: Vec<chart::Bar> = bins.iter().map(bar).collect();
    let note = format!("expected calibration error {ece:.4}, largest {mce:.4}, {} bins", bins.len());
    chart::reliability(title, &note, &bars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;

    #[test]
    fn odd_names_stay_one_field() {
        assert_eq!(field("plain name"), "plain name");
        assert_eq!(field("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
    }

    #[test]
    fn tables_have_a_row_for_each_class_and_image() {
        let mut report = Report::new(2);
        report.add(&[0.0, 0.0], 1);
        let root = std::path::PathBuf::from("data");
        let sample = Sample { id: 0, source: Source::File(root.join("in").join("x, y.png")), label: 1 };
        let dataset = Dataset {
            name: "n".into(),
            root,
            classes: vec!["a,b".into(), "c".into()],
            train: vec![],
            val: vec![],
            test: vec![],
            notes: vec![],
        };
        let rows = predictions_csv(&report, &dataset, &[sample]);
        assert_eq!(rows, "path,label,predicted,confidence,rank\n\"in/x, y.png\",c,\"a,b\",0.5,1\n");
        assert_eq!(confusion_csv(&report, &dataset.classes), "true\\predicted,\"a,b\",c\n\"a,b\",0,0\nc,1,0\n");
    }
}
