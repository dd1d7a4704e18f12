//! What the numbers say, in sentences that are made from them. Nothing is claimed that a test does not show.
#![forbid(unsafe_code)]

use super::assess::{More, Split, missing as missing_of};
use super::paper;
use super::record::{Record, scorer_name};
use super::robustness::Robustness;
use super::study::{Comparison, Group, Study};
use super::tables::{p_value, percent, seventy, words};
use crate::error::Result;
use crate::prune::{Keep, Scorer};
use crate::stats::wilson;
use crate::train::{DatasetName, TrainConfig};
use toml::Table;

/// Sentences on accuracy, chance, the paper, and (unless `without_times`) speed.
pub fn findings(study: &Study, without_times: bool) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for split in [Split::Val, Split::Test] {
        said.extend(study.comparisons(split).iter().map(compared));
    }
    if said.is_empty() {
        said.push(
            "No two cells were evaluated on the same images with the same seed, so no difference of accuracy is claimed.".into(),
        );
    } else if study.runs().count() > 0 {
        said.push(
            "Best epochs were chosen on the validation images that they are judged on, which flatters every cell alike; only \
             a test split is free of that."
                .into(),
        );
    }
    for robustness in Robustness::all(study) {
        said.extend(robustness.findings());
    }
    if !without_times {
        said.extend(speeds(study)?);
    }
    said.extend(beside_paper(study));
    Ok(said)
}

fn compared(c: &Comparison) -> String {
    let (points, n) = (100.0 * c.difference.mean, c.seeds.len());
    let seeds = match c.difference.interval {
        Some((low, high)) => {
            format!("{n} seeds, 95 % interval over them {:+.2} to {:+.2}", 100.0 * low, 100.0 * high)
        }
        None => format!("seed {} alone", c.seeds[0].seed),
    };
    let tested = format!("{seeds}; p {}, {} after Holm", equals(c.p), equals(c.p_holm));
    let place = format!("{} {} images", c.images, c.split.name());
    let (base, other) = (&c.base, &c.other);
    match c.significant() {
        true => {
            let word = if points < 0.0 { "worse" } else { "better" };
            let limit = if n == 1 { " That is of these two models; more seeds must tell of the settings." } else { "" };
            format!("{other} is {word} than {base} by {:.2} points on {place} ({tested}).{limit}", points.abs())
        }
        false => format!("{other} against {base}: {points:+.2} points on {place}, no difference shown ({tested})."),
    }
}

/// A p-value after the letter.
pub fn equals(p: f64) -> String {
    let text = p_value(p);
    if text.starts_with('<') { text.replace('<', "< ") } else { format!("= {text}") }
}

/// How far above the ratio of the work a ratio of times may lie by noise and by what the work does not count.
const BELIEVED: f64 = 1.25;

/// Time and work against K = 100. Faster is said only where the slowest run beats the fastest of all patches.
fn speeds(study: &Study) -> Result<Vec<String>> {
    let scorer = study.main_scorer();
    let Some(whole) = study.group(Keep::ALL, scorer) else { return Ok(Vec::new()) };
    let Some(base) = whole.spread(Record::seconds_per_epoch) else { return Ok(Vec::new()) };
    let ends = |group: &Group| {
        let seconds = group.runs.iter().filter_map(Record::seconds_per_epoch);
        seconds.fold((f64::INFINITY, 0.0f64), |(low, high), s| (low.min(s), high.max(s)))
    };
    let mut said = Vec::new();
    for group in study.groups.iter().filter(|g| g.scorer == Some(scorer)) {
        let Some(time) = group.spread(Record::seconds_per_epoch) else { continue };
        let work = whole.cost()?.executed as f64 / group.cost()?.executed as f64;
        let voc = group.runs[0].config.dataset == DatasetName::Voc;
        let printed = paper::BY_KEEP.iter().find(|row| voc && f64::from(row.0) == group.keep.percent());
        let paper = printed.map_or(String::new(), |row| format!("; the paper's times give {:.2}", 16.7 / row.2));
        let ((least, most), (least_whole, most_whole)) = (ends(group), ends(whole));
        let gain = base.mean / time.mean;
        let verdict = match (most < least_whole, least > most_whole) {
            (true, _) if gain > BELIEVED * work => format!(
                "{gain:.2} times as fast, more than the work saved explains: something else slowed the runs of all patches"
            ),
            (true, _) => format!("{gain:.2} times as fast"),
            (_, true) => format!("{:.2} times as slow", time.mean / base.mean),
            _ => "the times of the runs overlap, so no gain is claimed".into(),
        };
        said.push(format!(
            "An epoch took {} at {} and {} at K = 100 %, in seconds: {verdict}. The multiply-adds executed allow {work:.2}{paper}.",
            words(Some(time), 1.0),
            group.label(),
            words(Some(base), 1.0)
        ));
    }
    let cpus: Vec<&String> = study.runs().filter_map(|run| run.cpu.as_ref()).collect();
    if let Some(first) = cpus.first() {
        let all = if cpus.iter().all(|cpu| cpu == first) { "all on" } else { "not all on one machine, the first on" };
        said.push(format!(
            "Times are wall times of the training steps, {all} {first}; whatever else ran there at the time is in them."
        ));
    }
    Ok(said)
}

/// The paper's claim at K = 70, ours, and what differs between the experiments.
fn beside_paper(study: &Study) -> Vec<String> {
    let Some(any) = study.runs().next() else { return Vec::new() };
    let Some(main) = paper::MAIN.iter().find(|main| main.dataset == any.config.dataset) else {
        return vec![format!("The paper has no figures on {}.", any.manifest.name)];
    };
    let scorer = study.main_scorer();
    let mean = |group: Option<&Group>| group.and_then(Group::val);
    let mut said = Vec::new();
    let hits = |accuracy: f64| (accuracy / 100.0 * main.images as f64).round() as u64;
    let (whole, pruned) = (hits(main.baseline.0), hits(main.pruned.0));
    let (low, high) = wilson(pruned, main.images);
    let inside = (low..high).contains(&(whole as f64 / main.images as f64));
    said.push(format!(
        "The paper prints {} % for all patches and {} % for K = 70 % on {} images of {}: {} images apart. The 95 % interval of \
         the latter on so many images, {} to {} %, {} the former.",
        main.baseline.0,
        main.pruned.0,
        main.images,
        main.title,
        whole.abs_diff(pruned),
        percent(low),
        percent(high),
        if inside { "holds" } else { "leaves out" }
    ));
    said.push(format!(
        "Ours: {} for all patches, {} for K = 70 %, {}, best validation accuracy in percent, mean ± sample deviation over seeds.",
        words(mean(study.group(Keep::ALL, scorer)), 100.0),
        words(mean(study.group(seventy(), scorer)), 100.0),
        scorer_name(scorer)
    ));
    said.push(format!("What differs from the paper's experiment: {}.", differences(&any.config, any).join("; ")));
    said
}

/// The settings of a run that are not the paper's.
fn differences(config: &TrainConfig, run: &Record) -> Vec<String> {
    let paper = TrainConfig::paper(config.dataset, config.keep);
    let (ours, theirs) = (Table::try_from(config).unwrap_or_default(), Table::try_from(&paper).unwrap_or_default());
    let beside = ["data", "seed", "scorer", "device", "precision", "weights"];
    let aside = |key: &str| beside.contains(&key) || super::study::WITHOUT_EFFECT.contains(&key);
    let show = |value: Option<&toml::Value>| value.map_or("unset".into(), |v| v.to_string().replace('"', ""));
    let mut found: Vec<String> = ours
        .iter()
        .filter(|(key, value)| !aside(key) && theirs.get(*key) != Some(value))
        .map(|(key, value)| format!("{key} is {}, not {}", show(Some(value)), show(theirs.get(key))))
        .collect();
    if config.weights.is_none() {
        found.push("the model starts from random weights, not from ImageNet-21k's".into());
    }
    let images = (run.manifest.train, run.manifest.val.len(), run.manifest.test.len());
    if config.dataset == DatasetName::Voc && images != (3875, 647, 653) {
        let (train, val, test) = images;
        found.push(format!(
            "the images are {train} to train, {val} to validate and {test} to test of {}, not 3875, 647 and 653 of VOC2012",
            run.manifest.name
        ));
    }
    let cpu = run.cpu.as_deref().unwrap_or("an unnamed processor");
    found.push(format!("it ran on {cpu} (device {}), not on an NVIDIA T4 with PyTorch", show(ours.get("device"))));
    found
}

/// What a reader would look for and does not find.
pub fn missing(study: &Study) -> Vec<String> {
    let mut lacking = Vec::new();
    let has = |keep: &str| study.groups.iter().any(|g| Ok(g.keep) == keep.parse());
    let keeps: Vec<&str> = ["30", "50", "70", "90", "100"].into_iter().filter(|keep| !has(keep)).collect();
    if !keeps.is_empty() {
        lacking.push(format!("K = {} % of the paper's sweep", keeps.join(", ")));
    }
    let scorers = [Scorer::L2, Scorer::Sobel, Scorer::Entropy, Scorer::Random, Scorer::Center];
    let at_70 = |scorer: &Scorer| study.groups.iter().any(|g| g.keep == seventy() && g.scorer == Some(*scorer));
    let absent: Vec<String> =
        scorers.iter().filter(|scorer| !at_70(scorer)).map(|scorer| scorer_name(*scorer)).collect();
    if !absent.is_empty() {
        lacking.push(format!("scorers at K = 70 %: {}", absent.join(", ")));
    }
    let mut seeds: Vec<u64> = study.runs().map(|run| run.config.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    for group in &study.groups {
        let absent = seeds.iter().filter(|&&seed| group.runs.iter().all(|run| run.config.seed != seed));
        let absent: Vec<String> = absent.map(u64::to_string).collect();
        if !absent.is_empty() {
            lacking.push(format!("{}: seeds {} that other cells have", group.label(), absent.join(", ")));
        }
    }
    for split in [Split::Val, Split::Test] {
        let lacks = |run: &&Record| missing_of(run, More::default()).iter().any(|condition| condition.split == split);
        let open: Vec<&str> = study.runs().filter(lacks).map(|run| run.name.as_str()).collect();
        if !open.is_empty() {
            let (all, name) = (study.runs().count(), split.name());
            let names = if open.len() < all { format!(": {}", open.join(", ")) } else { String::new() };
            let n = open.len();
            lacking.push(format!("verdicts on {name} of {n} of {all} runs (--evaluate makes them){names}"));
        }
    }
    lacking.extend(Robustness::all(study).filter_map(|robustness| robustness.missing()));
    if study.runs().all(|run| run.manifest.test.is_empty()) {
        lacking.push("a test split: none of the runs has one".into());
    }
    lacking
}
