//! Runs that may be compared: one recipe on one data set, apart in K, scorer and seed alone.
#![forbid(unsafe_code)]

use super::assess::{Condition, Evaluation, Split};
use super::record::{Record, scorer_name};
use crate::error::Result;
use crate::flops::Cost;
use crate::model::VitConfig;
use crate::prune::{Keep, Scorer};
use crate::stats::{Spread, holm, mcnemar, sign_flips};
use serde::Serialize;
use toml::Table;

/// Settings that change no number of a run.
pub const WITHOUT_EFFECT: [&str; 8] =
    ["threads", "workers", "cache", "tensorboard", "save-every", "save-steps", "keep-checkpoints", "data"];

/// Level of the tests, after Holm's correction over the comparisons of a study on one split.
pub const LEVEL: f64 = 0.05;

/// Runs of one recipe on the same images.
#[derive(Clone, Debug)]
pub struct Study {
    /// What sets it apart from the report's other studies; empty where there is one.
    pub title: String,
    pub groups: Vec<Group>,
    /// Things to know: runs left out and why.
    pub notes: Vec<String>,
}

/// The runs of one K and scorer, by seed.
#[derive(Clone, Debug)]
pub struct Group {
    pub keep: Keep,
    /// None where all patches are kept.
    pub scorer: Option<Scorer>,
    pub runs: Vec<Record>,
}

/// Two groups on the same images.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub base: String,
    pub other: String,
    pub split: Split,
    pub images: usize,
    pub seeds: Vec<SeedTest>,
    /// Accuracy of the other less that of the base, over seeds.
    pub difference: Spread,
    /// The sign-flip test over images, whose differences are summed over seeds: images are its units.
    pub p: f64,
    /// `p` after Holm's correction over the comparisons of the study on that split.
    pub p_holm: f64,
}

/// One seed's pair of models: images that the base alone (b) or the other alone (c) got right, and McNemar's exact p.
#[derive(Clone, Debug, Serialize)]
pub struct SeedTest {
    pub seed: u64,
    pub b: u64,
    pub c: u64,
    pub p: f64,
}

impl Comparison {
    /// Whether a difference is shown. The images must show it, and where there are several seeds, so must they: a
    /// difference that the next seed may turn around is none.
    pub fn significant(&self) -> bool {
        let seeds_agree = self.difference.interval.is_none_or(|(low, high)| low > 0.0 || high < 0.0);
        self.p_holm < LEVEL && seeds_agree
    }
}

impl Group {
    /// K, and the scorer where one has a say.
    pub fn label(&self) -> String {
        match self.scorer {
            Some(scorer) => format!("K = {} %, {}", self.keep, scorer_name(scorer)),
            None => format!("K = {} %", self.keep),
        }
    }

    /// Spread over seeds of what `of` finds in a run.
    pub fn spread(&self, of: impl Fn(&Record) -> Option<f64>) -> Option<Spread> {
        Spread::of(&self.runs.iter().filter_map(of).collect::<Vec<_>>())
    }

    /// Best validation accuracy.
    pub fn val(&self) -> Option<Spread> {
        self.spread(|run| run.best().map(|row| row.val_accuracy))
    }

    /// Test accuracy of the best epoch.
    pub fn test(&self) -> Option<Spread> {
        self.spread(|run| own(run, Split::Test).map(|e| e.accuracy))
    }

    /// The model that the runs train.
    pub fn model(&self) -> Result<VitConfig> {
        self.runs[0].config.vit(self.runs[0].manifest.classes.len())
    }

    /// Tokens, with [CLS].
    pub fn tokens(&self) -> Result<usize> {
        Ok(1 + self.keep.count(self.model()?.patches(), self.runs[0].config.round))
    }

    /// Multiply-adds of a forward pass.
    pub fn cost(&self) -> Result<Cost> {
        Ok(Cost::new(&self.model()?, &self.runs[0].config.options(), self.tokens()? - 1))
    }
}

/// A run's verdicts on clean images at the K that it was trained with.
fn own(run: &Record, split: Split) -> Option<&Evaluation> {
    run.evaluation(&Condition { split, keep: run.config.keep, corruption: None })
}

impl Study {
    /// Sorts finished runs into studies. Groups are ordered by K, then scorer as declared; runs by seed.
    pub fn sort(records: Vec<Record>) -> Vec<Study> {
        let mut studies: Vec<(Table, String, Study)> = Vec::new();
        for record in records {
            let recipe = recipe(&record);
            let sha = &record.manifest.sha256;
            let place = match studies.iter().position(|(table, hash, _)| *table == recipe && hash == sha) {
                Some(place) => place,
                None => {
                    let study = Study { title: String::new(), groups: Vec::new(), notes: Vec::new() };
                    studies.push((recipe, sha.clone(), study));
                    studies.len() - 1
                }
            };
            studies[place].2.add(record);
        }
        let titles: Vec<String> = (0..studies.len()).map(|i| title(&studies, i)).collect();
        studies.into_iter().zip(titles).map(|((_, _, study), title)| Study { title, ..study }.ordered()).collect()
    }

    fn add(&mut self, record: Record) {
        let (keep, scorer) = (record.config.keep, record.scorer());
        let place = match self.groups.iter().position(|group| (group.keep, group.scorer) == (keep, scorer)) {
            Some(place) => place,
            None => {
                self.groups.push(Group { keep, scorer, runs: Vec::new() });
                self.groups.len() - 1
            }
        };
        let runs = &mut self.groups[place].runs;
        match runs.iter().find(|run| run.config.seed == record.config.seed) {
            None => runs.push(record),
            Some(first) => {
                self.notes.push(format!("{} repeats the seed of {} and is left out", record.name, first.name))
            }
        }
    }

    fn ordered(mut self) -> Self {
        let place = |group: &Group| group.scorer.map_or(0, |scorer| scorer as usize);
        self.groups.sort_by(|a, b| a.keep.percent().total_cmp(&b.keep.percent()).then(place(a).cmp(&place(b))));
        self.groups.iter_mut().for_each(|group| group.runs.sort_by_key(|run| run.config.seed));
        self
    }

    /// All runs.
    pub fn runs(&self) -> impl Iterator<Item = &Record> {
        self.groups.iter().flat_map(|group| &group.runs)
    }

    /// The group of K and scorer; of K = 100 whatever the scorer.
    pub fn group(&self, keep: Keep, scorer: Scorer) -> Option<&Group> {
        self.groups.iter().find(|g| g.keep == keep && g.scorer.is_none_or(|s| s == scorer))
    }

    /// The scorers in it, as declared.
    pub fn scorers(&self) -> Vec<Scorer> {
        let mut scorers: Vec<Scorer> = self.groups.iter().filter_map(|group| group.scorer).collect();
        scorers.sort_by_key(|&scorer| scorer as usize);
        scorers.dedup();
        scorers
    }

    /// The scorer of Table 5: the paper's where there is one.
    pub fn main_scorer(&self) -> Scorer {
        let scorers = self.scorers();
        if scorers.contains(&Scorer::L2) { Scorer::L2 } else { scorers.first().copied().unwrap_or_default() }
    }

    /// Every group against K = 100, and every scorer against chance at its K, on the images of `split`.
    pub fn comparisons(&self, split: Split) -> Vec<Comparison> {
        let whole = self.groups.iter().find(|group| group.keep == Keep::ALL);
        let mut found = Vec::new();
        for group in self.groups.iter().filter(|group| group.keep != Keep::ALL) {
            found.extend(whole.and_then(|whole| compare(whole, group, split)));
        }
        for group in self.groups.iter().filter(|g| g.scorer.is_some_and(|scorer| scorer != Scorer::Random)) {
            let chance = self.groups.iter().find(|g| g.keep == group.keep && g.scorer == Some(Scorer::Random));
            found.extend(chance.and_then(|chance| compare(chance, group, split)));
        }
        let corrected = holm(&found.iter().map(|c: &Comparison| c.p).collect::<Vec<_>>());
        found.iter_mut().zip(corrected).for_each(|(comparison, p)| comparison.p_holm = p);
        found
    }
}

/// What a run's numbers follow from, K, scorer and seed apart.
fn recipe(record: &Record) -> Table {
    let mut table = Table::try_from(&record.config).unwrap_or_default();
    table.retain(|key, _| !WITHOUT_EFFECT.contains(&key) && !["keep", "scorer", "seed"].contains(&key));
    table
}

/// What sets study i apart from the first, or the first from the second.
fn title(studies: &[(Table, String, Study)], i: usize) -> String {
    if studies.len() < 2 {
        return String::new();
    }
    let (ours, sha, study) = &studies[i];
    let name = study.groups.first().map_or("", |group| group.runs[0].manifest.name.as_str());
    let mut parts = vec![name.to_string()];
    if studies.iter().any(|(_, other, s)| other != sha && s.runs().any(|run| run.manifest.name == name)) {
        parts.push(format!("images {}", &sha[..sha.len().min(8)]));
    }
    let mut keys: Vec<&String> = studies.iter().flat_map(|(table, _, _)| table.keys()).collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &&&String| studies.iter().any(|(table, _, _)| table.get(**key) != ours.get(**key));
    parts.extend(keys.iter().filter(differs).filter(|key| **key != "dataset").map(|key| {
        let value = ours.get(*key).map_or("unset".into(), toml::Value::to_string);
        format!("{key} {}", value.trim_matches('"'))
    }));
    parts.join(", ")
}

/// Two groups by the seeds and images that both have; none where there are none.
fn compare(base: &Group, other: &Group, split: Split) -> Option<Comparison> {
    let mut seeds = Vec::new();
    let mut differences: Vec<i64> = Vec::new();
    let mut shifts = Vec::new();
    for run in &base.runs {
        let pair = other.runs.iter().find(|other| other.config.seed == run.config.seed);
        let Some((x, y)) = pair.and_then(|other| Some((own(run, split)?, own(other, split)?))) else { continue };
        if (&x.sha256, &x.names) != (&y.sha256, &y.names) {
            continue;
        }
        let shift: Vec<i64> = x.hits().zip(y.hits()).map(|(x, y)| i64::from(y) - i64::from(x)).collect();
        let count = |sign: i64| shift.iter().filter(|&&s| s == sign).count() as u64;
        let (b, c) = (count(-1), count(1));
        seeds.push(SeedTest { seed: run.config.seed, b, c, p: mcnemar(b, c) });
        shifts.push((c as f64 - b as f64) / shift.len() as f64);
        differences.resize(shift.len(), 0);
        differences.iter_mut().zip(shift).for_each(|(sum, s)| *sum += s);
    }
    let p = sign_flips(&differences);
    let (images, difference) = (differences.len(), Spread::of(&shifts)?);
    Some(Comparison { base: base.label(), other: other.label(), split, images, seeds, difference, p, p_holm: p })
}
