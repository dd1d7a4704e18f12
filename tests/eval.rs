//! The report as scikit-learn makes it (fixtures/eval.json).
#![forbid(unsafe_code)]

mod support;

use dynavit::eval::{BINS, Calibration, Report};
use serde_json::Value;
use support::{generated, json};

/// The report of a case: logits and labels are made as the fixture's script says.
fn report(case: &Value) -> Report {
    let whole = |key: &str| case[key].as_u64().unwrap() as usize;
    let real = |key: &str| case[key].as_f64().unwrap() as f32;
    let (number, images, classes) = (whole("number"), whole("images"), whole("classes"));
    let logits = generated(5000 + number as u32, images * classes, real("amplitude"));
    let mut report = Report::new(classes);
    for (i, row) in logits.chunks_exact(classes).enumerate() {
        let label = (7 * i + number) % classes % whole("used");
        let mut row = row.to_vec();
        if i % 3 != 0 {
            row[label] += real("boost");
        }
        report.add(&row, label);
    }
    report
}

#[test]
fn tables_equal_classification_report_to_the_printed_digit() {
    for case in json("eval.json")["cases"].as_array().unwrap() {
        let report = report(case);
        let images = report.images();
        let row = |name: &str, [p, r, f]: [f64; 3], n: u64| format!("{name} {p:.4} {r:.4} {f:.4} {n}");
        let classes = report.per_class();
        let mut rows: Vec<String> = (0..classes.len())
            .map(|c| row(&c.to_string(), [classes[c].precision, classes[c].recall, classes[c].f1], classes[c].support))
            .collect();
        rows.push(format!("accuracy {:.4} {images}", report.accuracy()));
        for (name, mean) in [("macro avg", report.macro_average()), ("weighted avg", report.weighted_average())] {
            rows.push(row(name, [mean.precision, mean.recall, mean.f1], images as u64));
        }
        let want: Vec<String> = serde_json::from_value(case["rows"].clone()).unwrap();
        assert_eq!(rows, want);
        let micro = report.micro_average();
        let want: Vec<f64> = serde_json::from_value(case["micro"].clone()).unwrap();
        assert_eq!(vec![micro.precision, micro.recall, micro.f1], want);
        assert_eq!(report.top(5), case["top5"].as_f64().unwrap());
    }
}

#[test]
fn calibration_and_confusions_are_scikit_learns() {
    for case in json("eval.json")["cases"].as_array().unwrap() {
        let report = report(case);
        let got = Calibration::new(&report.verdicts, BINS);
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} for {want}: {}", case["number"]);
        near(got.ece, case["ece"].as_f64().unwrap());
        let bins: Vec<(usize, u64, f64, f64)> = serde_json::from_value(case["bins"].clone()).unwrap();
        assert_eq!(bins.iter().map(|bin| bin.1).sum::<u64>(), got.bins.iter().map(|bin| bin.images).sum::<u64>());
        for (place, images, accuracy, confidence) in bins {
            let bin = got.bins[place];
            assert_eq!(bin.images, images);
            near(bin.accuracy.unwrap(), accuracy);
            near(bin.confidence.unwrap(), confidence);
        }
        let confused: Vec<(usize, usize, u64)> = serde_json::from_value(case["confused"].clone()).unwrap();
        let pairs = report.confused(8).into_iter().map(|pair| (pair.label, pair.predicted, pair.images));
        assert_eq!(pairs.collect::<Vec<_>>(), confused);
    }
}
