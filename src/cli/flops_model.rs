//! What `dynavit flops` tells beyond counts: the fitted model with Eq. 10, ratios to K = 100, and the curve over S.
#![forbid(unsafe_code)]

use crate::chart::{Line, curve};
use crate::checkpoint::replace;
use crate::error::{Error, Result};
use crate::flops::{Cost, Fit};
use crate::model::{VitConfig, VitOptions};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// One value a convention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Each<T> {
    pub macs: T,
    pub fvcore_unfused: T,
    pub fvcore_fused: T,
    pub macs_executed: T,
}

impl<T> Each<T> {
    /// Makes the four from the four counts of a cost.
    fn of(make: impl Fn(fn(&Cost) -> u64) -> T) -> Self {
        Each {
            macs: make(|cost| cost.macs),
            fvcore_unfused: make(|cost| cost.fvcore_unfused),
            fvcore_fused: make(|cost| cost.fvcore_fused),
            macs_executed: make(|cost| cost.executed),
        }
    }

    fn map<U>(&self, make: impl Fn(&T) -> U) -> Each<U> {
        Each {
            macs: make(&self.macs),
            fvcore_unfused: make(&self.fvcore_unfused),
            fvcore_fused: make(&self.fvcore_fused),
            macs_executed: make(&self.macs_executed),
        }
    }

    /// With names for people.
    fn named(&self) -> [(&'static str, &T); 4] {
        [
            ("MACs", &self.macs),
            ("fvcore, unfused", &self.fvcore_unfused),
            ("fvcore, fused", &self.fvcore_fused),
            ("executed", &self.macs_executed),
        ]
    }
}

/// Every length that the model can run at, S from 2 to N + 1, and its cost.
fn all(config: &VitConfig, options: &VitOptions) -> Vec<(usize, Cost)> {
    (1..=config.patches()).map(|k| (k + 1, Cost::new(config, options, k))).collect()
}

/// The paper's model, fitted to every length.
pub fn fits(config: &VitConfig, options: &VitOptions) -> Result<Each<Fit>> {
    let all = all(config, options);
    if all.len() < 3 {
        let reason = format!("{} patches give {} lengths, and a parabola needs three", config.patches(), all.len());
        return Err(Error::usage("--fit", reason, "give a larger --img-size"));
    }
    Ok(Each::of(|count| {
        let counts: Vec<(usize, f64)> = all.iter().map(|(s, cost)| (*s, count(cost) as f64)).collect();
        Fit::new(&counts).unwrap_or_else(|| unreachable!("three lengths decide a parabola"))
    }))
}

/// Eq. 10 at length S.
pub fn eq10(fits: &Each<Fit>, s: usize) -> Each<f64> {
    fits.map(|fit| fit.ratio(s))
}

/// The cost of k kept patches relative to that of all of them.
pub fn ratio(config: &VitConfig, options: &VitOptions, k: usize) -> Each<f64> {
    let (part, whole) = (Cost::new(config, options, k), Cost::new(config, options, config.patches()));
    Each::of(|count| count(&part) as f64 / count(&whole) as f64)
}

/// The fit for people.
pub fn fit_table(fits: &Each<Fit>) -> String {
    let base = fits.macs.base;
    let mut text = format!("alpha S^2 + beta S + gamma over S = 2 to {base}; weights of Eq. 10 at S = {base}\n");
    let _ = writeln!(
        text,
        "{:15} {:>9} {:>11} {:>11} {:>7} {:>7} {:>7} {:>6}",
        "", "alpha", "beta", "gamma", "w_attn", "w_mlp", "w_other", "worst"
    );
    for (name, fit) in fits.named() {
        // What the fit leaves of a true zero.
        let small = |value: f64, whole: f64| if value.abs() < 1e-9 * whole { 0.0 } else { value };
        let whole = fit.alpha * (base * base) as f64 + fit.beta * base as f64 + fit.gamma;
        let (alpha, gamma) = (small(fit.alpha, whole / (base * base) as f64), small(fit.gamma, whole));
        let shares = [fit.w_attn, fit.w_mlp, fit.w_other].map(|w| format!("{:>7.4}", small(w, 1.0))).join(" ");
        let _ = writeln!(
            text,
            "{name:15} {alpha:>9.0} {:>11.0} {gamma:>11.0} {shares} {:>6.0e}",
            fit.beta,
            fit.worst.max(1e-16)
        );
    }
    text.trim_end().to_owned()
}

/// Ratios for people: K, S and the four conventions.
pub fn ratio_table(title: &str, rows: &[(String, usize, Each<f64>)]) -> String {
    let label = rows.iter().map(|(label, ..)| label.len()).max().unwrap_or(1).max(4);
    let mut text = format!("{title}\n{:>label$} {:>4}", "K %", "S");
    for (name, _) in rows.first().map(|(_, _, each)| each.named()).into_iter().flatten() {
        let _ = write!(text, " {name:>15}");
    }
    for (keep, s, each) in rows {
        let _ = write!(text, "\n{keep:>label$} {s:>4}");
        each.named().iter().for_each(|(_, value)| text += &format!(" {value:>15.4}"));
    }
    text
}

/// Writes the four counts over S as the ending of `path` says; `marks` are the lengths asked for, with words.
pub fn write_curve(path: &Path, config: &VitConfig, options: &VitOptions, marks: &[(f64, String)]) -> Result<()> {
    let all = all(config, options);
    let text = match path.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => csv(config, &all),
        Some("svg") => svg(config, &all, marks),
        _ => {
            let reason = format!("{} ends in neither .svg nor .csv", path.display());
            return Err(Error::usage("--curve", reason, "name a file ending in .svg or .csv"));
        }
    };
    replace(path, text.as_bytes())
}

fn csv(config: &VitConfig, all: &[(usize, Cost)]) -> String {
    let mut text = "seq_len,keep,macs,fvcore_unfused,fvcore_fused,macs_executed\n".to_owned();
    for (s, cost) in all {
        let keep = 100.0 * (s - 1) as f64 / config.patches() as f64;
        let Cost { macs, fvcore_unfused, fvcore_fused, executed } = cost;
        let _ = writeln!(text, "{s},{keep},{macs},{fvcore_unfused},{fvcore_fused},{executed}");
    }
    text
}

fn svg(config: &VitConfig, all: &[(usize, Cost)], marks: &[(f64, String)]) -> String {
    // As many points as a picture can show.
    let step = all.len().div_ceil(400);
    let shown = || all.iter().rev().step_by(step).collect::<Vec<_>>().into_iter().rev();
    let points =
        Each::of(|count| shown().map(|(s, cost)| (*s as f64, count(cost) as f64 / 1e9)).collect::<Vec<(f64, f64)>>());
    let words = [
        "MACs: all patches embedded, every block on all S tokens",
        "fvcore, attention unfused: 5 more for each element of a layer norm",
        "fvcore, attention fused: attention's products left out",
        "executed by dynavit",
    ];
    let dashes = ["", "2 4", "8 4", ""];
    let lines = points.named().into_iter().zip(words).zip(dashes).map(|(((_, points), name), dash)| Line {
        name: name.into(),
        points: points.clone(),
        dash,
    });
    let VitConfig { name, image_size, classes, .. } = config;
    let title = format!("{name}, {image_size} x {image_size} pixels, {classes} classes: cost of one image");
    curve(&title, ["S, tokens with [CLS]", "GMACs"], &lines.collect::<Vec<_>>(), marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> (VitConfig, VitOptions) {
        (VitConfig::named("vit_base_patch16_224", 5).unwrap(), VitOptions::default())
    }

    #[test]
    fn the_fit_finds_the_formula() {
        let (config, options) = base();
        let fits = fits(&config, &options).unwrap();
        // L blocks of 2 S^2 D and 12 S D^2; the embedding of 196 patches and the head.
        approx::assert_relative_eq!(fits.macs.alpha, 12.0 * 2.0 * 768.0, max_relative = 1e-6);
        approx::assert_relative_eq!(fits.macs.beta, 12.0 * 12.0 * 768.0 * 768.0, max_relative = 1e-9);
        approx::assert_relative_eq!(fits.macs.gamma, 196.0 * 768.0 * 768.0 + 768.0 * 5.0, max_relative = 1e-6);
        approx::assert_relative_eq!(fits.macs.w_attn, 0.0407, epsilon = 1e-4);
        assert!(fits.fvcore_fused.w_attn.abs() < 1e-9, "fused attention counts as nothing");
        for k in [1, 58, 137, 196] {
            let (eq10, counted) = (eq10(&fits, k + 1), ratio(&config, &options, k));
            for ((_, a), (_, b)) in eq10.named().into_iter().zip(counted.named()) {
                assert!((a - b).abs() < 1e-9, "{a} for {b}");
            }
        }
    }

    #[test]
    fn tables_fit_80_columns_and_curves_are_sound() {
        let (config, options) = base();
        let large = VitConfig::named("vit_large_patch16_224", 1000).unwrap().with_image_size(1024).unwrap();
        for config in [&config, &large] {
            let fits = fits(config, &options).unwrap();
            let rows = [("33.333333".to_owned(), 66, eq10(&fits, 66))];
            let text = fit_table(&fits) + "\n" + &ratio_table("Eq. 10", &rows);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| write_curve(&folder.path().join(name), &config, &options, &[(138.0, "K".into())]);
        write("a.svg").unwrap();
        write("a.csv").unwrap();
        let text = std::fs::read_to_string(folder.path().join("a.csv")).unwrap();
        assert!(text.lines().count() == 197 && text.contains("\n138,69.89"), "{text}");
        let text = std::fs::read_to_string(folder.path().join("a.svg")).unwrap();
        roxmltree::Document::parse(&text).unwrap();
        assert_eq!(write("a.png").unwrap_err().exit_code(), 2);
        let tiny = config.with_image_size(16).unwrap();
        assert_eq!(super::fits(&tiny, &options).unwrap_err().exit_code(), 2);
    }
}
