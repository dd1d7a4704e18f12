//! What a new run takes over from the weights that it begins with.
#![forbid(unsafe_code)]

use super::{print, source};
use crate::checkpoint::{ModelCard, resolve};
use crate::data::TransformConfig;
use crate::error::Result;
use crate::train::TrainConfig;
use crate::weights::Weights;
use toml::Table;

/// What goes with weights of ours, where nobody says otherwise: their model and how its images were prepared.
pub fn own_settings(config: &mut TrainConfig, card: ModelCard) {
    let TransformConfig { norm, interpolation, eval_resize, crop_pct, .. } = card.transform;
    (config.model, config.img_size) = (card.model.name, Some(card.model.image_size));
    (config.norm, config.interpolation) = (norm, interpolation);
    (config.eval_resize, config.crop_pct) = (eval_resize, crop_pct);
}

/// The settings that say how images are prepared.
const PREPARATION: [&str; 4] = ["norm", "interpolation", "eval-resize", "crop-pct"];

/// Tells when the images are prepared otherwise than those that the weights were trained on, or as those and not as the
/// data set's preset has it.
pub fn tell_of_preparation(config: &TrainConfig) -> Result<()> {
    let Some(path) = &config.weights else { return Ok(()) };
    let (file, card) = resolve(path)?;
    let Some(card) = card else {
        if let Some(text) = source::norm_warning(&Weights::open(&file)?, config.norm) {
            print::complain("warning", &text);
        }
        return Ok(());
    };
    let preset = TrainConfig::paper(config.dataset, config.keep);
    let mut own = config.clone();
    own_settings(&mut own, card);
    let file = file.display();
    match (beside(&own, config), beside(config, &preset)) {
        (Some(flags), _) => {
            print::complain("warning", &format!("{file} was trained with {flags}, and this run is not"))
        }
        (None, Some(flags)) => print::complain("notice", &format!("images are prepared as those of {file}: {flags}")),
        (None, None) => {}
    }
    Ok(())
}

/// The flags that say how `config` prepares images where `other` does not do so.
fn beside(config: &TrainConfig, other: &TrainConfig) -> Option<String> {
    let of = |config: &TrainConfig| Table::try_from(config).expect("settings are plain values");
    let (ours, theirs) = (of(config), of(other));
    let flag = |key: &&str| format!("--{key} {}", ours[*key].as_str().map_or(ours[*key].to_string(), String::from));
    let flags: Vec<String> = PREPARATION.iter().filter(|key| ours[**key] != theirs[**key]).map(flag).collect();
    (!flags.is_empty()).then(|| flags.join(" "))
}
