//! Flags that change nothing under the other settings: whoever gave one should know.
#![forbid(unsafe_code)]

use crate::optim::{Freeze, ScheduleKind};
use crate::prune::Scorer;
use crate::train::{DatasetName, TrainConfig};
use toml::Table;

/// What to say of each flag of `given`, long names in the order of the alphabet, that changes nothing in a run under
/// `config`.
pub fn idle(given: &Table, config: &TrainConfig) -> Vec<String> {
    given.keys().filter_map(|key| Some(format!("--{key} changes nothing {}", reason(key, config)?))).collect()
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
        let idle_in = |key: &str, config: &TrainConfig| {
            let given = [(key.to_owned(), 1.into())].into_iter().collect();
            idle(&given, config)
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
        let cases: [(&str, &TrainConfig, &TrainConfig); 13] = [
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
            ("label-policy", &folder, &plain),
            ("split", &folder, &plain),
        ];
        for (key, idle, at_work) in cases {
            let said = idle_in(key, idle);
            assert!(said.len() == 1 && said[0].starts_with(&format!("--{key} changes nothing ")), "{key}: {said:?}");
            assert_eq!(idle_in(key, at_work), [""; 0], "{key}");
        }
        assert_eq!(idle_in("lr", &cosine), [""; 0]);
        assert_eq!(idle(&Table::new(), &cosine), [""; 0]);
    }
}
