//! Whether pruning by pixels survives corruption: what runs lose to K = 100 on corrupted images, beside clean ones.
#![forbid(unsafe_code)]

use super::assess::{Condition, Evaluation, Split};
use super::record::Record;
use super::stats::{Spread, holm, two_sided};
use super::study::{Group, LEVEL, Study};
use super::table::Table;
use super::tables::{p_value, words};
use crate::chart::lines::{Chart, Curve, Point};
use crate::data::corrupt::Kind;
use crate::explain::coverage::mean_and_error;
use crate::prune::Keep;

/// A corruption whatever its seed, which is the run's.
type Dose = (Kind, u8);

/// What was measured on corrupted images of one split.
pub struct Robustness<'a> {
    study: &'a Study,
    split: Split,
    /// Measured on every run that counts.
    doses: Vec<Dose>,
}

/// What a group loses to K = 100, on clean and on corrupted images. Shares, not points; negative where it loses.
pub struct Toll {
    pub label: String,
    pub images: usize,
    /// Accuracy less that of K = 100, over seeds.
    pub clean: Spread,
    /// The same under corruption, mean over corruptions.
    pub corrupted: Spread,
    /// The second less the first: what corruption adds, over seeds.
    pub added: Spread,
    /// Of `added`, images being the units: normal approximation.
    pub p: f64,
    /// `p` after Holm's correction over the groups.
    pub p_holm: f64,
}

impl Toll {
    /// Whether corruption changes what pruning costs: the images must show it, and the seeds where there are several.
    pub fn shown(&self) -> bool {
        self.p_holm < LEVEL && self.added.interval.is_none_or(|(low, high)| low > 0.0 || high < 0.0)
    }
}

fn dose(evaluation: &Evaluation) -> Option<Dose> {
    evaluation.corruption.map(|corruption| (corruption.kind, corruption.severity))
}

/// A run's verdicts at its own K on clean images (None) or under a dose.
fn verdict(run: &Record, split: Split, dose: Option<Dose>) -> Option<&Evaluation> {
    let corruption =
        dose.map(|(kind, severity)| crate::data::corrupt::Corruption { kind, severity, seed: run.config.seed });
    run.evaluation(&Condition { split, keep: run.config.keep, corruption })
}

impl<'a> Robustness<'a> {
    /// None where no run was evaluated on corrupted images of `split`.
    pub fn of(study: &'a Study, split: Split) -> Option<Self> {
        let of = |run: &Record| -> Vec<Dose> {
            run.evaluations.iter().filter(|e| e.split == split && e.keep == run.config.keep).filter_map(dose).collect()
        };
        let mut measured = study.runs().map(of).filter(|doses| !doses.is_empty());
        let first = measured.next()?;
        let doses = measured.fold(first, |all, some| all.into_iter().filter(|dose| some.contains(dose)).collect());
        (!doses.is_empty()).then_some(Robustness { study, split, doses })
    }

    fn kinds(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|&kind| self.doses.iter().any(|dose| dose.0 == kind)).collect()
    }

    /// Mean accuracy of a run over the severities of a kind, or over all corruptions.
    fn accuracy(&self, run: &Record, kind: Option<Kind>) -> Option<f64> {
        let doses = self.doses.iter().filter(|dose| kind.is_none_or(|kind| dose.0 == kind));
        let found: Option<Vec<f64>> =
            doses.map(|&dose| verdict(run, self.split, Some(dose)).map(|e| e.accuracy)).collect();
        found.map(|values| mean_and_error(&values).0)
    }

    fn clean(&self, run: &Record) -> Option<f64> {
        self.accuracy(run, None).and(verdict(run, self.split, None).map(|e| e.accuracy))
    }

    /// What was done to the images, in words.
    fn told(&self) -> String {
        let severities = |kind: Kind| -> Vec<String> {
            self.doses.iter().filter(|dose| dose.0 == kind).map(|dose| dose.1.to_string()).collect()
        };
        let kinds = self.kinds();
        let all: Vec<Vec<String>> = kinds.iter().map(|&kind| severities(kind)).collect();
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        if all.iter().all(|some| *some == all[0]) {
            return format!("{} at severity {}", names.join(", "), all[0].join(", "));
        }
        let each: Vec<String> =
            names.iter().zip(&all).map(|(name, some)| format!("{name} {}", some.join(", "))).collect();
        each.join("; ")
    }

    /// Accuracy of each group by kind of corruption.
    pub fn accuracies(&self) -> Table {
        let (kinds, split) = (self.kinds(), self.split.name());
        let title = format!("Accuracy in % on corrupted images, {split}");
        let mut table = Table::new(&format!("corruption-{split}"), title, &["trained with", "clean"]);
        table.head.extend(kinds.iter().map(|kind| kind.name().to_string()));
        table.head.push("mean of the corrupted".into());
        for group in &self.study.groups {
            let clean = group.spread(|run| self.clean(run));
            if clean.is_none() {
                continue;
            }
            let by_kind = kinds.iter().map(|&kind| group.spread(|run| self.accuracy(run, Some(kind))));
            let all = group.spread(|run| self.accuracy(run, None));
            let cells = [clean].into_iter().chain(by_kind).chain([all]).map(|spread| words(spread, 100.0));
            table.rows.push(std::iter::once(group.label()).chain(cells).collect());
        }
        table.note = format!(
            "ImageNet-C's definitions: {}. Images are corrupted after the resize and before patches are scored. Mean ± sample \
             deviation over seeds of the mean over severities.",
            self.told()
        );
        table
    }

    /// What pruning costs on clean and on corrupted images.
    pub fn tolls(&self) -> Vec<Toll> {
        let Some(whole) = self.study.groups.iter().find(|group| group.keep == Keep::ALL) else { return Vec::new() };
        let pruned = self.study.groups.iter().filter(|group| group.keep != Keep::ALL);
        let mut tolls: Vec<Toll> = pruned.filter_map(|group| self.toll(whole, group)).collect();
        let corrected = holm(&tolls.iter().map(|toll| toll.p).collect::<Vec<_>>());
        tolls.iter_mut().zip(corrected).for_each(|(toll, p)| toll.p_holm = p);
        tolls
    }

    fn toll(&self, whole: &Group, pruned: &Group) -> Option<Toll> {
        let (mut clean, mut corrupted, mut added) = (Vec::new(), Vec::new(), Vec::new());
        let mut by_image: Vec<f64> = Vec::new();
        for run in &whole.runs {
            let Some(other) = pruned.runs.iter().find(|other| other.config.seed == run.config.seed) else { continue };
            let shift = |dose: Option<Dose>| -> Option<Vec<f64>> {
                let (x, y) = (verdict(run, self.split, dose)?, verdict(other, self.split, dose)?);
                let same = (&x.sha256, &x.names) == (&y.sha256, &y.names);
                same.then(|| x.hits().zip(y.hits()).map(|(x, y)| f64::from(y) - f64::from(x)).collect())
            };
            let each: Option<Vec<Vec<f64>>> = self.doses.iter().map(|&dose| shift(Some(dose))).collect();
            let (Some(plain), Some(each)) = (shift(None), each) else { continue };
            let under: Vec<f64> = (0..plain.len())
                .map(|image| each.iter().map(|shifts| shifts[image]).sum::<f64>() / each.len() as f64)
                .collect();
            let mean = |values: &[f64]| mean_and_error(values).0;
            clean.push(mean(&plain));
            corrupted.push(mean(&under));
            added.push(mean(&under) - mean(&plain));
            by_image.resize(plain.len(), 0.0);
            by_image.iter_mut().zip(under.iter().zip(&plain)).for_each(|(sum, (u, p))| *sum += u - p);
        }
        let (mean, error) = mean_and_error(&by_image);
        let p = two_sided(mean, error);
        Some(Toll {
            label: pruned.label(),
            images: by_image.len(),
            clean: Spread::of(&clean)?,
            corrupted: Spread::of(&corrupted)?,
            added: Spread::of(&added)?,
            p,
            p_holm: p,
        })
    }

    /// The tolls as a table.
    pub fn losses(&self) -> Table {
        let split = self.split.name();
        let head =
            ["compared with K = 100 %", "images", "seeds", "clean, points", "corrupted, points", "added, points"];
        let title = format!("What pruning costs on corrupted images, {split}");
        let mut table = Table::new(&format!("corruption-cost-{split}"), title, &head);
        table.head.extend(["95 % interval", "p", "p, Holm", "shown"].map(String::from));
        let points = |value: f64| format!("{:+.2}", 100.0 * value);
        for toll in self.tolls() {
            let interval = toll.added.interval;
            table.rows.push(vec![
                toll.label.clone(),
                toll.images.to_string(),
                toll.clean.n.to_string(),
                points(toll.clean.mean),
                points(toll.corrupted.mean),
                points(toll.added.mean),
                interval.map_or(String::new(), |(low, high)| format!("{} to {}", points(low), points(high))),
                p_value(toll.p),
                p_value(toll.p_holm),
                if toll.shown() { "yes" } else { "no" }.into(),
            ]);
        }
        table.note = format!(
            "Accuracy less that of K = 100 % of the same seed on the same images; added: under corruption less clean. Mean over \
             {}. The interval of what is added is Student's over seeds; p has images as units, by the normal distribution. Shown \
             as in the table of differences.",
            self.told()
        );
        table
    }

    /// One sentence a group.
    pub fn findings(&self) -> Vec<String> {
        let say = |toll: Toll| {
            let points = |value: f64| format!("{:+.2}", 100.0 * value);
            let (n, added) = (toll.added.n, points(toll.added.mean));
            let seeds = match toll.added.interval {
                Some((low, high)) => format!("{n} seeds, 95 % interval {} to {}", points(low), points(high)),
                None => "one seed".into(),
            };
            let verdict = match (toll.shown(), toll.added.mean < 0.0) {
                (false, _) => format!("no change shown ({added}; {seeds})"),
                (true, true) => format!("corruption makes it cost more ({added}; {seeds})"),
                (true, false) => format!("corruption makes it cost less ({added}; {seeds})"),
            };
            format!(
                "{} against K = 100 % on {} {} images: {} points clean, {} corrupted ({}): {verdict}.",
                toll.label,
                toll.images,
                self.split.name(),
                points(toll.clean.mean),
                points(toll.corrupted.mean),
                self.told()
            )
        };
        self.tolls().into_iter().map(say).collect()
    }

    /// Accuracy against K, clean and by kind of corruption, of the main scorer.
    pub fn chart(&self) -> Chart {
        let scorer = self.study.main_scorer();
        let curve = |name: &str, of: &dyn Fn(&Record) -> Option<f64>| {
            let groups = self.study.groups.iter().filter(|g| g.scorer.is_none_or(|s| s == scorer));
            let place = |group: &Group| {
                let spread = group.spread(of)?;
                Some(Point { x: group.keep.percent(), y: 100.0 * spread.mean, interval: None })
            };
            Curve { points: groups.filter_map(place).collect(), ..Curve::new(name, []) }
        };
        let kinds = self.kinds();
        let clean = curve("clean", &|run| self.clean(run));
        let by_kind = kinds.iter().map(|&kind| curve(kind.name(), &move |run: &Record| self.accuracy(run, Some(kind))));
        Chart {
            title: format!("Accuracy on corrupted {} images", self.split.name()),
            x: "kept patches K, %".into(),
            y: "accuracy, %".into(),
            from_zero: false,
            curves: std::iter::once(clean).chain(by_kind).filter(|curve| !curve.points.is_empty()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::corrupt::Corruption;
    use crate::experiment::record::Manifest;
    use crate::prune::Scorer;
    use crate::train::{DatasetName, TrainConfig};

    /// A run of four images whose verdicts under each condition are given as right (true) or wrong.
    fn run(keep: &str, seed: u64, clean: [bool; 4], corrupted: &[(Kind, u8, [bool; 4])]) -> Record {
        let names = ["a", "b", "c", "d"].map(String::from).to_vec();
        let mut config = TrainConfig::paper(DatasetName::Voc, keep.parse().unwrap());
        config.seed = seed;
        let verdict = |hits: [bool; 4], corruption| Evaluation {
            version: 1,
            dataset: "d".into(),
            sha256: "s".into(),
            split: Split::Val,
            keep: config.keep,
            corruption,
            scorer: Scorer::L2,
            checkpoint: "best".into(),
            accuracy: hits.iter().filter(|&&hit| hit).count() as f64 / 4.0,
            loss: 1.0,
            milliseconds_per_image: 1.0,
            names: names.clone(),
            labels: vec![0; 4],
            predicted: hits.iter().map(|&hit| usize::from(!hit)).collect(),
            confidence: vec![0.9; 4],
            rank: vec![0; 4],
        };
        let mut evaluations = vec![verdict(clean, None)];
        evaluations.extend(
            corrupted.iter().map(|&(kind, severity, hits)| verdict(hits, Some(Corruption { kind, severity, seed }))),
        );
        let manifest = Manifest {
            name: "d".into(),
            classes: names.clone(),
            sha256: "s".into(),
            train: 4,
            val: names.clone(),
            test: Vec::new(),
        };
        let (dir, name) = (keep.into(), format!("k{keep}-s{seed}"));
        Record { dir, name, config, rows: Vec::new(), manifest, evaluations, cpu: None }
    }

    const ALL: [bool; 4] = [true; 4];
    const HALF: [bool; 4] = [true, true, false, false];
    const ONE: [bool; 4] = [true, false, false, false];

    #[test]
    fn what_corruption_adds_is_the_difference_of_differences() {
        let (jpeg, noise) = (Kind::Jpeg, Kind::Noise);
        let study = Study::sort(vec![
            run("100", 1, ALL, &[(noise, 3, ALL), (jpeg, 3, HALF)]),
            run("100", 2, ALL, &[(noise, 3, ALL), (jpeg, 3, ALL)]),
            run("70", 1, HALF, &[(noise, 3, ONE), (jpeg, 3, ONE)]),
            run("70", 2, ALL, &[(noise, 3, HALF), (jpeg, 3, ALL), (jpeg, 5, ONE)]),
            run("50", 1, HALF, &[]),
        ])
        .remove(0);
        assert!(Robustness::of(&study, Split::Test).is_none());
        let robustness = Robustness::of(&study, Split::Val).unwrap();
        let tolls = robustness.tolls();
        // K = 50 was not measured under corruption, and severity 5 on one run only.
        assert_eq!(tolls.len(), 1);
        let toll = &tolls[0];
        // Seed 1 loses 2 of 4 images clean, and under corruption 3 and 1; seed 2 none, and 2 and none.
        assert_eq!((toll.images, toll.clean.n), (4, 2));
        assert_eq!((toll.clean.mean, toll.corrupted.mean, toll.added.mean), (-0.25, -0.375, -0.125));
        assert!(!toll.shown() && toll.p > 0.05);
        let table = robustness.accuracies();
        assert_eq!(table.head[1..], ["clean", "noise", "jpeg", "mean of the corrupted"]);
        assert_eq!(table.rows.len(), 2);
        assert!(table.rows[1][2].starts_with("100.00 ± 0.00"), "{:?}", table.rows);
        assert!(table.note.contains("noise, jpeg at severity 3"));
        let findings = robustness.findings();
        assert!(
            findings[0].contains("-25.00 points clean, -37.50 corrupted") && findings[0].contains("no change shown")
        );
        let curves: Vec<(String, usize)> =
            robustness.chart().curves.into_iter().map(|curve| (curve.name, curve.points.len())).collect();
        assert_eq!(curves, [("clean".into(), 2), ("noise".into(), 2), ("jpeg".into(), 2)]);
    }
}
