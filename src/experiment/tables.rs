//! The paper's Tables 2 to 6 from our runs, its figures beside them, and the tables that it promises.
#![forbid(unsafe_code)]

use super::assess::{Condition, Evaluation, Split};
use super::paper;
use super::record::scorer_name;
use super::robustness::Robustness;
use super::study::{Comparison, Group, Study};
use super::table::Table;
use crate::error::Result;
use crate::flops::{Cost, macs};
use crate::model::{VitConfig, VitOptions};
use crate::prune::{Keep, Scorer};
use crate::stats::{Spread, wilson};
use crate::train::DatasetName;

/// The paper's keep ratio.
pub fn seventy() -> Keep {
    "70".parse().expect("70 is a keep ratio")
}

/// A share in percent, or nothing.
pub fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

/// Mean, deviation and interval of shares, in percent.
fn shares(spread: Option<Spread>) -> [String; 4] {
    let Some(spread) = spread else { return Default::default() };
    let ends = |(low, high): (f64, f64)| format!("{} to {}", percent(low), percent(high));
    [
        spread.n.to_string(),
        percent(spread.mean),
        spread.deviation.map_or(String::new(), percent),
        spread.interval.map_or(String::new(), ends),
    ]
}

/// Mean and deviation over seeds in words: "75.4 ± 2.0 (n = 3)".
pub fn words(spread: Option<Spread>, scale: f64) -> String {
    let Some(Spread { n, mean, deviation, .. }) = spread else { return "no run".into() };
    let deviation = deviation.map_or(String::new(), |d| format!(" ± {:.2}", scale * d));
    format!("{:.2}{deviation} (n = {n})", scale * mean)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or(String::new(), |value| format!("{value:.digits$}"))
}

/// All tables of a study; `suffix` tells its files from those of other studies.
pub fn all(study: &Study, suffix: &str) -> Result<Vec<Table>> {
    let mut tables = vec![main(study)?];
    tables.extend(compute(study)?);
    tables.extend([by_keep(study)?, by_scorer(study)?, cells(study)?]);
    let comparisons: Vec<Comparison> = [Split::Val, Split::Test].iter().flat_map(|&s| study.comparisons(s)).collect();
    if !comparisons.is_empty() {
        tables.extend([differences(&comparisons), seeds(&comparisons)]);
    }
    tables.extend([Split::Val, Split::Test].into_iter().filter_map(|split| matrix(study, split)));
    for robustness in Robustness::all(study) {
        tables
            .extend([robustness.accuracies(), robustness.losses()].into_iter().filter(|table| !table.rows.is_empty()));
    }
    tables.push(runs(study));
    tables.iter_mut().for_each(|table| table.id += suffix);
    Ok(tables)
}

/// Tables 2 and 3, which are one.
fn main(study: &Study) -> Result<Table> {
    let head = ["method", "val %", "test %", "paper %", "s/epoch", "paper s/epoch", "tokens", "n"];
    let Some(any) = study.runs().next() else { return Ok(Table::new("table-2-3", "Tables 2 and 3", &head)) };
    let (dataset, model) = (any.config.dataset, &any.config.model);
    let printed = paper::MAIN.iter().find(|main| main.dataset == dataset);
    let name = printed.map_or(any.manifest.name.as_str(), |main| main.title);
    let mut table = Table::new("table-2-3", format!("Tables 2 and 3: main comparison, {name}"), &head);
    let mut row = |method: String, group: Option<&Group>, printed: Option<(f64, f64)>| -> Result<()> {
        let n = group.map_or(String::new(), |group| group.runs.len().to_string());
        let spread = |spread: Option<Spread>| match spread {
            Some(s) => {
                format!("{}{}", percent(s.mean), s.deviation.map_or(String::new(), |d| format!(" ± {}", percent(d))))
            }
            None => String::new(),
        };
        table.rows.push(vec![
            method,
            spread(group.and_then(Group::val)),
            spread(group.and_then(Group::test)),
            number(printed.map(|p| p.0), 1),
            number(group.and_then(|g| g.spread(|run| run.seconds_per_epoch())).map(|s| s.mean), 2),
            number(printed.map(|p| p.1), 1),
            group.map(Group::tokens).transpose()?.map_or(String::new(), |s| s.to_string()),
            n,
        ]);
        Ok(())
    };
    let scorer = study.main_scorer();
    row(format!("{model}, all patches"), study.group(Keep::ALL, scorer), printed.map(|main| main.baseline))?;
    row("DynamicViT, ToMe (empty in the paper, not built here)".into(), None, None)?;
    let pruned = format!("{model}, K = 70 %, {}", scorer_name(scorer));
    row(pruned, study.group(seventy(), scorer), printed.map(|main| main.pruned))?;
    table.note =
        "Mean ± sample deviation over seeds. The paper prints one table twice, without deviations; its times are of \
                  an NVIDIA T4 with PyTorch."
            .into();
    Ok(table)
}

/// Table 4 for the study's model, and for the paper's where that is another.
fn compute(study: &Study) -> Result<Vec<Table>> {
    let Some(any) = study.groups.first() else { return Ok(Vec::new()) };
    let (model, options) = (any.model()?, any.runs[0].config.options());
    let mut keeps: Vec<Keep> = study.groups.iter().map(|group| group.keep).collect();
    keeps.extend(["60", "70", "100"].map(|k| k.parse::<Keep>().expect("a keep ratio")));
    keeps.sort_by(|a, b| a.percent().total_cmp(&b.percent()));
    keeps.dedup();
    let mut tables = vec![counted("table-4", &model, &options, &keeps)];
    if model.name != paper::MODEL {
        let theirs = VitConfig::named(paper::MODEL, 5)?;
        tables.push(counted("table-4-paper-model", &theirs, &VitOptions::default(), &keeps));
    }
    Ok(tables)
}

/// alpha, beta and gamma of MACs(S) = alpha S^2 + beta S + gamma: exact, since the count is a polynomial of degree 2.
pub fn polynomial(model: &VitConfig) -> [u64; 3] {
    let at = |s: usize| macs(model, s, model.patches());
    let [one, two, three] = [1, 2, 3].map(at);
    let alpha = (three + one - 2 * two) / 2;
    let beta = two - one - 3 * alpha;
    [alpha, beta, one - alpha - beta]
}

fn counted(id: &str, model: &VitConfig, options: &VitOptions, keeps: &[Keep]) -> Table {
    let head = [
        "K %",
        "S",
        "GMACs",
        "fvcore unfused",
        "fvcore fused",
        "executed",
        "of K = 100",
        "paper analytic",
        "paper tool",
    ];
    let mut table = Table::new(id, format!("Table 4: compute of {}", model.name), &head);
    let whole = Cost::new(model, options, model.patches()).macs as f64;
    let giga = |count: u64| format!("{:.3}", count as f64 / 1e9);
    for keep in keeps {
        let k = keep.count(model.patches(), crate::prune::Round::Floor);
        let cost = Cost::new(model, options, k);
        let is = |printed: &&(u32, usize, Option<f64>, f64)| keep.percent() == f64::from(printed.0);
        let printed = paper::COMPUTE.iter().find(is).filter(|_| model.name == paper::MODEL);
        table.rows.push(vec![
            keep.to_string(),
            (k + 1).to_string(),
            giga(cost.macs),
            giga(cost.fvcore_unfused),
            giga(cost.fvcore_fused),
            giga(cost.executed),
            format!("{:.3}", cost.macs as f64 / whole),
            number(printed.map(|p| p.3), 2),
            number(printed.and_then(|p| p.2), 2),
        ]);
    }
    let [alpha, beta, gamma] = polynomial(model).map(|v| v as f64);
    let s = (model.patches() + 1) as f64;
    table.note = format!(
        "Forward pass of one image, multiply-adds; FLOPs are twice that. GMACs(S) = alpha S^2 + beta S + gamma with alpha \
         {alpha:.0}, beta {beta:.0}, gamma {gamma:.0}, exactly; so Eq. 10's weights at S = {s} are attention {:.4}, MLP and \
         projections {:.4}, other {:.4}. Executed: only kept patches embedded, the last block for [CLS] alone.",
        alpha * s * s / whole,
        beta * s / whole,
        gamma / whole
    );
    table
}

/// Table 5: K with the main scorer.
fn by_keep(study: &Study) -> Result<Table> {
    let scorer = study.main_scorer();
    let printed = |keep: Keep, row: &(u32, f64, f64)| keep.percent() == f64::from(row.0);
    let groups = study.groups.iter().filter(|g| g.scorer.is_none_or(|s| s == scorer));
    let rows =
        groups.map(|group| (group, paper::BY_KEEP.iter().find(|row| printed(group.keep, row)).map(|p| (p.1, p.2))));
    let title = format!("Table 5: accuracy and time against K, {}", scorer_name(scorer));
    ablation("table-5", title, "K %", study, rows.map(|(g, p)| (g.keep.to_string(), g, p)).collect())
}

/// Table 6: scorers at K = 70.
fn by_scorer(study: &Study) -> Result<Table> {
    let rows = study.groups.iter().filter(|group| group.keep == seventy()).filter_map(|group| {
        let scorer = group.scorer?;
        let printed = paper::BY_SCORER.iter().find(|row| row.0 == scorer).map(|p| (p.1, p.2));
        let control = if matches!(scorer, Scorer::Random | Scorer::Center) { " (control)" } else { "" };
        Some((scorer_name(scorer) + control, group, printed))
    });
    ablation("table-6", "Table 6: scorers at K = 70 %".into(), "scorer", study, rows.collect())
}

type Row<'a> = (String, &'a Group, Option<(f64, f64)>);

fn ablation(id: &str, title: String, first: &str, study: &Study, rows: Vec<Row>) -> Result<Table> {
    let head =
        [first, "tokens", "n", "val %", "deviation", "95 % interval", "s/epoch", "img/s", "paper %", "paper s/epoch"];
    let mut table = Table::new(id, title, &head);
    let voc = study.runs().any(|run| run.config.dataset == DatasetName::Voc);
    for (name, group, printed) in rows {
        let [n, mean, deviation, interval] = shares(group.val());
        let printed = printed.filter(|_| voc);
        let mean_of = |of: fn(&super::record::Record) -> Option<f64>| group.spread(of).map(|s| s.mean);
        table.rows.push(vec![
            name,
            group.tokens()?.to_string(),
            n,
            mean,
            deviation,
            interval,
            number(mean_of(|run| run.seconds_per_epoch()), 2),
            number(mean_of(|run| run.images_per_second()), 2),
            number(printed.map(|p| p.0), 1),
            number(printed.map(|p| p.1), 2),
        ]);
    }
    table.note =
        "Best epoch by validation; mean, sample deviation and Student's 95 % interval over n seeds. Seconds are of \
                  training alone."
            .into();
    Ok(table)
}

/// Every K and scorer.
fn cells(study: &Study) -> Result<Table> {
    let head = [
        "K %",
        "scorer",
        "tokens",
        "GMACs",
        "n",
        "val %",
        "val deviation",
        "val 95 % interval",
        "test n",
        "test %",
        "test deviation",
        "test 95 % interval",
        "s/epoch",
        "img/s",
    ];
    let mut table = Table::new("cells", "All cells", &head);
    for group in &study.groups {
        let mut row = vec![
            group.keep.to_string(),
            group.scorer.map_or("any".into(), scorer_name),
            group.tokens()?.to_string(),
            format!("{:.3}", group.cost()?.macs as f64 / 1e9),
        ];
        row.extend(shares(group.val()));
        row.extend(shares(group.test()));
        row.push(number(group.spread(|run| run.seconds_per_epoch()).map(|s| s.mean), 2));
        row.push(number(group.spread(|run| run.images_per_second()).map(|s| s.mean), 2));
        table.rows.push(row);
    }
    Ok(table)
}

/// The comparisons over seeds.
fn differences(comparisons: &[Comparison]) -> Table {
    let head = [
        "split",
        "against",
        "compared",
        "images",
        "seeds",
        "difference, points",
        "95 % interval",
        "p",
        "p, Holm",
        "shown",
    ];
    let mut table = Table::new("differences", "Differences on the same images", &head);
    for c in comparisons {
        let interval = |(low, high): (f64, f64)| format!("{:+.2} to {:+.2}", 100.0 * low, 100.0 * high);
        table.rows.push(vec![
            c.split.name().into(),
            c.base.clone(),
            c.other.clone(),
            c.images.to_string(),
            c.seeds.len().to_string(),
            format!("{:+.2}", 100.0 * c.difference.mean),
            c.difference.interval.map_or(String::new(), interval),
            p_value(c.p),
            p_value(c.p_holm),
            if c.significant() { "yes" } else { "no" }.into(),
        ]);
    }
    table.note = "p: exact sign-flip test with images as units; each image's difference is summed over the seeds' pairs, so \
                  that seeds do not count as further images (with one seed it is McNemar's exact test). The interval is \
                  Student's over seeds. A difference counts as shown when p after Holm's correction, over this split's comparisons, is \
                  below 0.05 and, with several seeds, the interval leaves 0 out."
        .into();
    table
}

/// McNemar's test, seed by seed.
fn seeds(comparisons: &[Comparison]) -> Table {
    let head = ["split", "against", "compared", "seed", "b", "c", "p"];
    let mut table = Table::new("mcnemar", "McNemar's exact test, seed by seed", &head);
    for c in comparisons {
        for seed in &c.seeds {
            let names = [c.split.name().into(), c.base.clone(), c.other.clone()];
            let counts = [seed.seed.to_string(), seed.b.to_string(), seed.c.to_string(), p_value(seed.p)];
            table.rows.push(names.into_iter().chain(counts).collect());
        }
    }
    table.note = "b: images that the first alone got right; c: images that the second alone got right.".into();
    table
}

/// A p-value to read.
pub fn p_value(p: f64) -> String {
    if p < 1e-4 { "<0.0001".into() } else { format!("{p:.4}") }
}

/// Accuracy by K of training (rows) and K of evaluation (columns), where more than one K was evaluated.
fn matrix(study: &Study, split: Split) -> Option<Table> {
    let clean = |e: &&Evaluation| e.split == split && e.corruption.is_none();
    let mut keeps: Vec<Keep> =
        study.runs().flat_map(|run| run.evaluations.iter().filter(clean)).map(|e| e.keep).collect();
    keeps.sort_by(|a, b| a.percent().total_cmp(&b.percent()));
    keeps.dedup();
    let crossed = study.runs().any(|run| run.evaluations.iter().filter(clean).any(|e| e.keep != run.config.keep));
    if !crossed {
        return None;
    }
    let mut table = Table::new(
        &format!("eval-keep-{}", split.name()),
        format!("Accuracy in % by K of training and K of evaluation, {} images", split.name()),
        &["trained with"],
    );
    table.head.extend(keeps.iter().map(|keep| format!("evaluated at {keep} %")));
    for group in &study.groups {
        let at = |keep: &Keep| {
            let of = Condition { split, keep: *keep, corruption: None };
            group.spread(|run| run.evaluation(&of).map(|e| e.accuracy))
        };
        let cell = |keep: &Keep| at(keep).map_or(String::new(), |_| words(at(keep), 100.0));
        table.rows.push(std::iter::once(group.label()).chain(keeps.iter().map(cell)).collect());
    }
    table.note = "The scorer is that of training.".into();
    Some(table)
}

/// Every run.
fn runs(study: &Study) -> Table {
    let head = [
        "run",
        "K %",
        "scorer",
        "seed",
        "epochs",
        "best epoch",
        "val %",
        "95 % interval",
        "val images",
        "test %",
        "s/epoch",
        "img/s",
    ];
    let mut table = Table::new("runs", "All runs", &head);
    for run in study.runs() {
        let (best, n) = (run.best(), run.manifest.val.len() as u64);
        let interval = best.map_or(String::new(), |row| {
            let (low, high) = wilson((row.val_accuracy * n as f64).round() as u64, n);
            format!("{} to {}", percent(low), percent(high))
        });
        let test = run.evaluation(&Condition { split: Split::Test, keep: run.config.keep, corruption: None });
        table.rows.push(vec![
            run.name.clone(),
            run.config.keep.to_string(),
            run.scorer().map_or("any".into(), scorer_name),
            run.config.seed.to_string(),
            run.rows.len().to_string(),
            best.map_or(String::new(), |row| row.epoch.to_string()),
            best.map_or(String::new(), |row| percent(row.val_accuracy)),
            interval,
            n.to_string(),
            test.map_or(String::new(), |e| percent(e.accuracy)),
            number(run.seconds_per_epoch(), 2),
            number(run.images_per_second(), 2),
        ]);
    }
    table.note =
        "The interval is Wilson's: what one model's accuracy on so many images leaves open. The best epoch is chosen \
                  on the images that it is reported on."
            .into();
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_is_the_count() {
        for name in ["vit_base_patch16_224", "vit_micro_patch16_224"] {
            let model = VitConfig::named(name, 5).unwrap();
            let [alpha, beta, gamma] = polynomial(&model);
            for s in [2, 60, 138, 197] {
                let n = s as u64;
                assert_eq!(alpha * n * n + beta * n + gamma, macs(&model, s, model.patches()));
            }
        }
        let base = polynomial(&VitConfig::named("vit_base_patch16_224", 5).unwrap());
        assert_eq!(base[0], 12 * 2 * 768, "alpha is 2 L D");
    }
}
