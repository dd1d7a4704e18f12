//! Settings that deserve a word before they cost a run: flags that change nothing under the others, and slips.
#![forbid(unsafe_code)]

use crate::data::EvalResize;
use crate::error::Result;
use crate::optim::{Freeze, ScheduleKind};
use crate::prune::{Keep, Round, Scorer};
use crate::train::{DatasetName, TrainConfig};
use toml::Table;

/// What to say of a run under `config` for which `given` was asked on the command line, by long names.
pub fn doubts(given: &Table, config: &TrainConfig) -> Result<Vec<String>> {
    let mut found: Vec<String> = given.keys().filter_map(|key| idle(key, config)).collect();
    found.extend(small(config.keep, config.vit(1)?.patches(), config.round));
    if let Some(epochs) = config.keeping.keep_schedule_epochs.filter(|&epochs| epochs > config.epochs) {
        let last = config.keep_in(config.epochs - 1);
        found.push(format!(
            "the run ends before its keep schedule: {} epochs of {epochs}, the last at {}",
            config.epochs,
            last.words()
        ));
    }
    Ok(found)
}

/// What of the settings is hardly meant in a run on so many images.
pub fn doubts_of_length(config: &TrainConfig, images: usize) -> Vec<String> {
    let mut doubts = Vec::new();
    if config.warmup_epochs >= f64::from(config.epochs) && config.epochs > 0 {
        doubts.push("the warm-up is as long as the run: --lr is never reached".to_string());
    }
    let (decay, updates) = (config.recipe.model_ema_decay, f64::from(config.epochs) * config.updates(images) as f64);
    if config.recipe.model_ema && updates * (1.0 - decay) < 3.0 {
        doubts.push(format!(
            "--model-ema-decay {decay} looks back over {:.0} updates, the run has {updates}: the averaged weights, which \
             are validated and kept, stay near the first; {:.4} would look back over a tenth of it",
            1.0 / (1.0 - decay),
            1.0 - 10.0 / updates.max(20.0)
        ));
    }
    doubts
}

/// What to say of a K that looks like a share, with so many patches.
pub fn small(keep: Keep, patches: usize, round: Round) -> Option<String> {
    (keep.mass().is_none() && keep.percent() <= 1.0).then(|| {
        let (k, share) = (keep.count(patches, round), keep.with_millionths(100 * keep.millionths()));
        format!("K is in percent: {keep} keeps {k} of {patches} patches; for the share {keep} of them give {share}")
    })
}

/// What to say of a flag that changes nothing in a run under `config`.
fn idle(key: &str, config: &TrainConfig) -> Option<String> {
    Some(format!("--{key} changes nothing {}", reason(key, config)?))
}

/// Why a flag changes nothing; none when it does, or may.
fn reason(key: &str, config: &TrainConfig) -> Option<&'static str> {
    let (recipe, augment) = (&config.recipe, &config.augment);
    let decays = matches!(recipe.schedule, ScheduleKind::Step | ScheduleKind::MultiStep);
    let (mixes, cuts) = (augment.mixup > 0.0, augment.cutmix > 0.0);
    let (idle, reason) = match key {
        "gamma" => (!decays, "unless the schedule is step or multistep"),
        "step-size" => (recipe.schedule != ScheduleKind::Step, "unless the schedule is step"),
        "warmup-lr" => (config.warmup_epochs == 0.0, "without --warmup-epochs"),
        "model-ema-decay" => (!recipe.model_ema, "without --model-ema"),
        "layer-decay" => (recipe.freeze == Freeze::Backbone, "where the head alone is trained"),
        "remode" | "recount" => (augment.reprob == 0.0, "without --reprob"),
        "mixup-prob" | "mixup-off-epoch" => (!mixes && !cuts, "without --mixup or --cutmix"),
        "mixup-switch-prob" => (!mixes || !cuts, "unless both --mixup and --cutmix are on"),
        "saliency-domain" => (config.scorer != Scorer::L2, "unless the scorer is l2"),
        "entropy-bins" => (config.scorer != Scorer::Entropy, "unless the scorer is entropy"),
        "crop-pct" => (config.eval_resize != EvalResize::Crop, "without --eval-resize crop"),
        "label-policy" => (
            !matches!(config.dataset, DatasetName::Voc | DatasetName::Sample),
            "where no image is annotated with several classes",
        ),
        "split" => (config.dataset == DatasetName::Folder, "as the folders say what trains and what validates"),
        _ => (false, ""),
    };
    idle.then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_idle_under_what_makes_it_so_and_under_nothing_else() {
        let plain = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
        let told = |key: &str, config: &TrainConfig| {
            let given = [(key.to_owned(), 1.into())].into_iter().collect();
            doubts(&given, config).unwrap()
        };
        let with = |change: &dyn Fn(&mut TrainConfig)| {
            let mut config = plain.clone();
            change(&mut config);
            config
        };
        let cosine = with(&|c| c.recipe.schedule = ScheduleKind::Cosine);
        let folder = with(&|c| c.dataset = DatasetName::Folder);
        let mixed = with(&|c| c.augment.mixup = 0.8);
        let both = with(&|c| (c.augment.mixup, c.augment.cutmix) = (0.8, 1.0));
        let cases: [(&str, &TrainConfig, &TrainConfig); 14] = [
            ("gamma", &cosine, &plain),
            ("step-size", &with(&|c| c.recipe.schedule = ScheduleKind::MultiStep), &plain),
            ("warmup-lr", &plain, &with(&|c| c.warmup_epochs = 1.0)),
            ("model-ema-decay", &plain, &with(&|c| c.recipe.model_ema = true)),
            ("layer-decay", &with(&|c| c.recipe.freeze = Freeze::Backbone), &plain),
            ("remode", &plain, &with(&|c| c.augment.reprob = 0.25)),
            ("mixup-prob", &plain, &mixed),
            ("mixup-off-epoch", &plain, &with(&|c| c.augment.cutmix = 1.0)),
            ("mixup-switch-prob", &mixed, &both),
            ("saliency-domain", &with(&|c| c.scorer = Scorer::Sobel), &plain),
            ("entropy-bins", &plain, &with(&|c| c.scorer = Scorer::Entropy)),
            ("crop-pct", &plain, &with(&|c| c.eval_resize = EvalResize::Crop)),
            ("label-policy", &folder, &plain),
            ("split", &folder, &plain),
        ];
        for (key, idle, at_work) in cases {
            let said = told(key, idle);
            assert!(said.len() == 1 && said[0].starts_with(&format!("--{key} changes nothing ")), "{key}: {said:?}");
            assert_eq!(told(key, at_work), [""; 0], "{key}");
        }
        assert_eq!(told("lr", &cosine), [""; 0]);
    }

    #[test]
    fn slips_are_told() {
        let doubts_of = |keep: &str, change: &dyn Fn(&mut TrainConfig)| {
            let mut config = TrainConfig::paper(DatasetName::Voc, keep.parse().unwrap());
            change(&mut config);
            doubts(&Table::new(), &config).unwrap()
        };
        let share = "K is in percent: 0.7 keeps 1 of 196 patches; for the share 0.7 of them give 70";
        assert_eq!(doubts_of("0.7", &|_| ()), [share]);
        assert_eq!(doubts_of("1", &|_| ()).len(), 1);
        for keep in ["1.1", "70", "mass:0.5"] {
            assert_eq!(doubts_of(keep, &|_| ()), [""; 0]);
        }
        let ends_early = |epochs| {
            move |c: &mut TrainConfig| {
                c.keeping.keep_schedule = Some("100".parse().unwrap());
                (c.keeping.keep_schedule_epochs, c.epochs) = (Some(5), epochs);
            }
        };
        let said = "the run ends before its keep schedule: 3 epochs of 5, the last at K = 75 %";
        assert_eq!(doubts_of("50", &ends_early(3)), [said]);
        assert_eq!(doubts_of("50", &ends_early(5)), [""; 0]);
    }
}
