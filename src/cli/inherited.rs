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

/// Tells when the images are prepared otherwise than those that the weights were trained on.
pub fn warn_of_preparation(config: &TrainConfig) -> Result<()> {
    let Some(path) = &config.weights else { return Ok(()) };
    let text = match resolve(path)? {
        (file, None) => source::norm_warning(&Weights::open(&file)?, config.norm),
        (file, Some(card)) => {
            let mut own = config.clone();
            own_settings(&mut own, card);
            let of = |config: &TrainConfig| Table::try_from(config).expect("settings are plain values");
            let (own, now) = (of(&own), of(config));
            let other = ["norm", "interpolation", "eval-resize", "crop-pct"].map(|key| match own[key] == now[key] {
                true => None,
                false => Some(format!("--{key} {}", own[key].as_str().map_or(own[key].to_string(), String::from))),
            });
            let other: Vec<String> = other.into_iter().flatten().collect();
            let text = format!("{} was trained with {}, and this run is not", file.display(), other.join(" "));
            (!other.is_empty()).then_some(text)
        }
    };
    if let Some(text) = text {
        print::complain("warning", &text);
    }
    Ok(())
}
