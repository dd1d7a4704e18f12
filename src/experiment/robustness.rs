//! Whether pruning by pixels survives corruption: what runs lose to K = 100 on corrupted images, beside clean ones.
#![forbid(unsafe_code)]

use super::assess::{Condition, Evaluation, Split};
use super::charts::place;
use super::record::Record;
use super::study::{Group, LEVEL, Study};
use super::table::Table;
use super::tables::{p_value, percent, words};
use super::words::equals;
use crate::chart::lines::{Chart, Curve};
use crate::data::corrupt::Kind;
use crate::prune::Keep;
use crate::stats::{Spread, holm, mean_and_error, sign_flips, two_sided};

/// A corruption whatever its seed, which is the run's.
type Dose = (Kind, u8);

/// What was measured on corrupted images of one split.
pub struct Robustness<'a> {
    study: &'a Study,
    split: Split,
    /// Measured on some run. Runs that lack one do not count.
    doses: Vec<Dose>,
}

/// What a group loses to K = 100, on clean and on corrupted images. Shares, not points; negative where it loses.
pub struct Toll {
    pub label: String,
    pub images: usize,
    /// Accuracy of K = 100 under corruption, mean over seeds.
    pub whole: f64,
    /// What naming the commonest class would reach.
    pub commonest: f64,
    /// Accuracy less that of K = 100, over seeds.
    pub clean: Spread,
    /// The same under corruption, mean over corruptions.
    pub corrupted: Spread,
    /// The second less the first: what corruption adds, over seeds.
    pub added: Spread,
    /// Of `added`, images being the units: the sign-flip test, or Student's where that would take too long.
    pub p: f64,
    /// `p` after Holm's correction over the groups.
    pub p_holm: f64,
}

/// Steps that an exact test may take.
const MOST_STEPS: usize = 1 << 29;

/// p of differences of images, which are whole numbers of no matter what unit.
fn p_of_images(differences: &[i64]) -> f64 {
    let gcd = |a: u64, b: u64| {
        let (mut a, mut b) = (a, b);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let unit = differences.iter().fold(0, |unit, d| gcd(unit, d.unsigned_abs())).max(1) as i64;
    let units: Vec<i64> = differences.iter().map(|d| d / unit).collect();
    let reach: usize = units.iter().map(|d| d.unsigned_abs() as usize).sum();
    if reach.saturating_mul(units.len()) <= MOST_STEPS {
        return sign_flips(&units);
    }
    let (mean, error) = mean_and_error(&units.iter().map(|&d| d as f64).collect::<Vec<_>>());
    two_sided(units.len(), mean, error)
}

impl Toll {
    /// Whether there is anything left that pruning could cost: K = 100 itself beats naming the commonest class.
    pub fn tells(&self) -> bool {
        self.whole > self.commonest
    }

    /// Whether corruption changes what pruning costs: the images must show it, and the seeds where there are several.
    pub fn shown(&self) -> bool {
        self.tells() && self.p_holm < LEVEL && self.added.interval.is_none_or(|(low, high)| low > 0.0 || high < 0.0)
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
    /// Of each split whose images were corrupted for some run.
    pub fn all(study: &'a Study) -> impl Iterator<Item = Self> {
        [Split::Val, Split::Test].into_iter().filter_map(|split| Self::of(study, split))
    }

    /// None where no run was evaluated on corrupted images of `split`.
    pub fn of(study: &'a Study, split: Split) -> Option<Self> {
        let of = |run: &Record| -> Vec<Dose> {
            run.evaluations.iter().filter(|e| e.split == split && e.keep == run.config.keep).filter_map(dose).collect()
        };
        let mut doses: Vec<Dose> = study.runs().flat_map(of).collect();
        doses.sort_by_key(|&(kind, severity)| (kind as usize, severity));
        doses.dedup();
        (!doses.is_empty()).then_some(Robustness { study, split, doses })
    }

    /// The runs that lack what others have, in words; None where there are none.
    pub fn missing(&self) -> Option<String> {
        let lacks = |run: &&Record| self.doses.iter().any(|&dose| verdict(run, self.split, Some(dose)).is_none());
        let names: Vec<&str> = self.study.runs().filter(lacks).map(|run| run.name.as_str()).collect();
        let all: Vec<String> =
            self.doses.iter().map(|(kind, severity)| format!("{}:{severity}", kind.name())).collect();
        let (split, of) = (self.split.name(), self.study.runs().count());
        (!names.is_empty()).then(|| {
            format!(
                "corrupted {split} images of {} of {of} runs, which do not count there (--evaluate --corrupt {} makes them): {}",
                names.len(),
                all.join(","),
                names.join(", ")
            )
        })
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
            "ImageNet-C's definitions: {}. Images are corrupted after the resize and before patches are scored. At each \
             run's own K. Mean ± sample deviation over seeds; the last column is the mean over all that was measured.",
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
        let (mut clean, mut corrupted, mut added, mut base) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // Of each image, in units of 1 over the number of doses, summed over seeds.
        let mut by_image: Vec<i64> = Vec::new();
        let mut labels: &[usize] = &[];
        let doses = self.doses.len() as i64;
        for run in &whole.runs {
            let Some(other) = pruned.runs.iter().find(|other| other.config.seed == run.config.seed) else { continue };
            let shift = |dose: Option<Dose>| -> Option<Vec<i64>> {
                let (x, y) = (verdict(run, self.split, dose)?, verdict(other, self.split, dose)?);
                let same = (&x.sha256, &x.names) == (&y.sha256, &y.names);
                same.then(|| x.hits().zip(y.hits()).map(|(x, y)| i64::from(y) - i64::from(x)).collect())
            };
            let each: Option<Vec<Vec<i64>>> = self.doses.iter().map(|&dose| shift(Some(dose))).collect();
            let (Some(plain), Some(each), Some(reference)) = (shift(None), each, verdict(run, self.split, None)) else {
                continue;
            };
            let under: Vec<i64> = (0..plain.len()).map(|image| each.iter().map(|shifts| shifts[image]).sum()).collect();
            let mean =
                |values: &[i64], unit: i64| values.iter().sum::<i64>() as f64 / (unit * values.len() as i64) as f64;
            clean.push(mean(&plain, 1));
            corrupted.push(mean(&under, doses));
            added.push(mean(&under, doses) - mean(&plain, 1));
            base.extend(self.accuracy(run, None));
            labels = &reference.labels;
            by_image.resize(plain.len(), 0);
            by_image.iter_mut().zip(under.iter().zip(&plain)).for_each(|(sum, (u, p))| *sum += u - doses * p);
        }
        let mut counts = vec![0usize; labels.iter().max().map_or(0, |most| most + 1)];
        labels.iter().for_each(|&label| counts[label] += 1);
        let p = p_of_images(&by_image);
        Some(Toll {
            label: pruned.label(),
            images: by_image.len(),
            whole: mean_and_error(&base).0,
            commonest: counts.iter().max().map_or(0.0, |&most| most as f64 / labels.len() as f64),
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
        let head = [
            "compared with K = 100 %",
            "images",
            "seeds",
            "K = 100 % corrupted, %",
            "clean, points",
            "corrupted, points",
            "added, points",
            "95 % interval",
            "p",
            "p, Holm",
            "shown",
        ];
        let title = format!("What pruning costs on corrupted images, {split}");
        let mut table = Table::new(&format!("corruption-cost-{split}"), title, &head);
        let points = |value: f64| format!("{:+.2}", 100.0 * value);
        for toll in self.tolls() {
            let interval = toll.added.interval;
            table.rows.push(vec![
                toll.label.clone(),
                toll.images.to_string(),
                toll.clean.n.to_string(),
                percent(toll.whole),
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
             {}. The interval of what is added is Student's over seeds; p has images as units, whose signs are flipped. Shown when \
             p after Holm's correction over this table is below 0.05, the interval of several seeds leaves 0 out, and K = 100 % \
             itself still beats naming the commonest class.",
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
            let verdict = match (toll.tells(), toll.shown(), toll.added.mean < 0.0) {
                (false, ..) => {
                    format!("K = 100 % itself is no better than the commonest class ({seeds}), so nothing follows")
                }
                (_, false, _) => format!("no change shown ({added}; {seeds}, p {} after Holm)", equals(toll.p_holm)),
                (_, true, less) => {
                    let word = if less { "wider" } else { "narrower" };
                    let p = equals(toll.p_holm);
                    format!("corruption makes the gap {word} ({added}; {seeds}, p {p} after Holm)")
                }
            };
            let limit = match toll.shown() && n == 1 {
                true => " That is of these two models; more seeds must tell of the settings.",
                false => "",
            };
            format!(
                "{} against K = 100 % on {} {} images: {} points clean, {} corrupted ({}), where K = 100 % reaches {} %: \
                 {verdict}.{limit}",
                toll.label,
                toll.images,
                self.split.name(),
                points(toll.clean.mean),
                points(toll.corrupted.mean),
                self.told(),
                percent(toll.whole)
            )
        };
        self.tolls().into_iter().map(say).collect()
    }

    /// Accuracy against K, clean and by kind of corruption, of the main scorer.
    pub fn chart(&self) -> Chart {
        let scorer = self.study.main_scorer();
        let curve = |name: &str, of: &dyn Fn(&Record) -> Option<f64>| {
            let groups = self.study.groups.iter().filter(|g| g.scorer.is_none_or(|s| s == scorer));
            let points = groups.filter_map(|group| Some(place(group.keep.percent(), group.spread(of)?, 100.0)));
            Curve { points: points.collect(), ..Curve::new(name, []) }
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
        Record { dir, name, config, rows: Vec::new(), best_step: None, manifest, evaluations, cpu: None }
    }

    const ALL: [bool; 4] = [true; 4];
    const HALF: [bool; 4] = [true, true, false, false];
    const ONE: [bool; 4] = [true, false, false, false];

    #[test]
    fn p_is_exact_where_few_images_change() {
        let few = |changed: usize| (0..134).map(|i| if i < changed { -6 } else { 0 }).collect::<Vec<i64>>();
        approx::assert_relative_eq!(p_of_images(&few(4)), 0.125, max_relative = 1e-12);
        approx::assert_relative_eq!(p_of_images(&few(1)), 1.0, max_relative = 1e-12);
        // Too many for the exact test.
        let many = |middle: i64| (0..41_000).map(|i| i % 41 - middle).collect::<Vec<i64>>();
        approx::assert_relative_eq!(p_of_images(&many(20)), 1.0, max_relative = 1e-9);
        assert!(p_of_images(&many(18)) < 1e-10);
    }

    #[test]
    fn images_and_seeds_must_both_show_a_change() {
        let toll = |added: &[f64], p_holm: f64, whole: f64| {
            let spread = Spread::of(added).unwrap();
            let (label, images, commonest) = (String::new(), 134, 0.3);
            Toll { label, images, whole, commonest, clean: spread, corrupted: spread, added: spread, p: p_holm, p_holm }
        };
        let (agree, differ) = ([-0.10, -0.12, -0.11], [-0.30, 0.10, -0.02]);
        assert!(toll(&agree, 0.01, 0.8).shown());
        assert!(
            !toll(&agree, 0.06, 0.8).shown() && !toll(&differ, 0.01, 0.8).shown() && !toll(&agree, 0.01, 0.3).shown()
        );
    }

    #[test]
    fn conditions_that_some_runs_lack_are_told() {
        let study = Study::sort(vec![
            run("100", 1, ALL, &[(Kind::Noise, 3, ALL)]),
            run("70", 1, HALF, &[(Kind::Contrast, 5, ONE)]),
        ])
        .remove(0);
        let robustness = Robustness::of(&study, Split::Val).unwrap();
        assert!(robustness.tolls().is_empty() && robustness.accuracies().rows.is_empty());
        assert!(robustness.missing().unwrap().contains("2 of 2 runs"));
    }

    #[test]
    fn what_corruption_adds_is_the_difference_of_differences() {
        let (jpeg, noise) = (Kind::Jpeg, Kind::Noise);
        let study = Study::sort(vec![
            run("100", 1, ALL, &[(noise, 3, ALL), (jpeg, 3, HALF)]),
            run("100", 2, ALL, &[(noise, 3, ALL), (jpeg, 3, ALL)]),
            run("70", 1, HALF, &[(noise, 3, ONE), (jpeg, 3, ONE)]),
            run("70", 2, ALL, &[(noise, 3, HALF), (jpeg, 3, ALL)]),
            run("50", 1, HALF, &[]),
        ])
        .remove(0);
        assert!(Robustness::of(&study, Split::Test).is_none());
        let robustness = Robustness::of(&study, Split::Val).unwrap();
        let tolls = robustness.tolls();
        // K = 50 was not measured under corruption.
        assert_eq!(tolls.len(), 1);
        let missing = robustness.missing().unwrap();
        assert!(missing.contains("1 of 5 runs") && missing.contains("noise:3,jpeg:3") && missing.ends_with("k50-s1"));
        let toll = &tolls[0];
        // Seed 1 loses 2 of 4 images clean, and under corruption 3 and 1; seed 2 none, and 2 and none.
        assert_eq!((toll.images, toll.clean.n), (4, 2));
        assert_eq!((toll.clean.mean, toll.corrupted.mean, toll.added.mean), (-0.25, -0.375, -0.125));
        assert!(!toll.shown() && toll.p > 0.05);
        // Every label is 0, so nothing beats the commonest class.
        assert_eq!((toll.whole, toll.commonest, toll.tells()), (0.875, 1.0, false));
        let table = robustness.accuracies();
        assert_eq!(table.head[1..], ["clean", "noise", "jpeg", "mean of the corrupted"]);
        assert_eq!(table.rows.len(), 2);
        assert!(table.rows[1][2].starts_with("100.00 ± 0.00"), "{:?}", table.rows);
        assert!(table.note.contains("noise, jpeg at severity 3"));
        let losses = robustness.losses();
        let told = |name: &str| losses.rows[0][losses.head.iter().position(|head| head == name).unwrap()].as_str();
        assert_eq!((told("K = 100 % corrupted, %"), told("clean, points")), ("87.50", "-25.00"));
        assert_eq!((told("corrupted, points"), told("added, points"), told("shown")), ("-37.50", "-12.50", "no"));
        assert_eq!(losses.rows[0].len(), losses.head.len());
        let findings = robustness.findings();
        assert!(
            findings[0].contains("-25.00 points clean, -37.50 corrupted") && findings[0].contains("nothing follows")
        );
        let curves: Vec<(String, usize)> =
            robustness.chart().curves.into_iter().map(|curve| (curve.name, curve.points.len())).collect();
        assert_eq!(curves, [("clean".into(), 2), ("noise".into(), 2), ("jpeg".into(), 2)]);
    }
}
