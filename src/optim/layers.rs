//! Which share of the learning rate each layer gets, and which layers are not trained at all.
#![forbid(unsafe_code)]

use super::NoDecay;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What stays as it is in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// Nothing: all parameters are trained
    #[default]
    None,
    /// Everything but the head
    Backbone,
}

impl Freeze {
    /// Whether the parameter of this timm name stays as it is.
    pub fn holds(self, name: &str) -> bool {
        self == Freeze::Backbone && !name.starts_with("head.")
    }
}

/// Neighbouring parameters that are trained alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// "stem", "block 3" (counted from 0, as in the names), "head".
    pub name: String,
    /// Elements of the flat arena.
    pub range: Range<usize>,
    /// The share of the learning rate; 0 for a frozen layer.
    pub rate: f64,
    /// Elements with weight decay, and without.
    pub decayed: usize,
    pub spared: usize,
}

/// The block that a timm name belongs to.
fn block(name: &str) -> Option<usize> {
    name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
}

/// The layers of a model with these (name, shape) parameters, in the arena's order.
///
/// Layer i of 0 to m has the share `decay^(m - i)`, as timm's `param_groups_layer_decay` gives a ViT: [CLS], positions and
/// patch embedding are layer 0, block l is layer l + 1, the last norm belongs to the last block, the head is layer m.
pub fn layers(parameters: &[(String, Vec<usize>)], decay: f64, freeze: Freeze, no_decay: &[NoDecay]) -> Vec<Layer> {
    let depth = parameters.iter().filter_map(|(name, _)| block(name)).map(|l| l + 1).max().unwrap_or(0);
    let mut layers: Vec<Layer> = Vec::new();
    let mut begin = 0;
    for (name, shape) in parameters {
        let id = match block(name) {
            Some(l) => l + 1,
            None if name.starts_with("head.") => depth + 1,
            None if name.starts_with("norm.") => depth,
            None => 0,
        };
        let shown = match id {
            0 => "stem".into(),
            id if id == depth + 1 => "head".into(),
            id => format!("block {}", id - 1),
        };
        let rate = if freeze.holds(name) { 0.0 } else { (id..=depth).fold(1.0, |rate, _| rate * decay) };
        let end = begin + shape.iter().product::<usize>();
        if layers.last().is_none_or(|last| last.name != shown || last.rate != rate) {
            layers.push(Layer { name: shown, range: begin..begin, rate, decayed: 0, spared: 0 });
        }
        let last = layers.last_mut().expect("pushed above");
        last.range.end = end;
        let spared = no_decay.iter().any(|group| group.holds(name));
        *(if spared { &mut last.spared } else { &mut last.decayed }) += end - begin;
        begin = end;
    }
    layers
}

/// The trained elements by their share of the rate: ascending, neighbours of one share joined.
pub fn rates(layers: &[Layer]) -> Vec<(Range<usize>, f64)> {
    let mut rates: Vec<(Range<usize>, f64)> = Vec::new();
    for layer in layers.iter().filter(|layer| layer.rate > 0.0) {
        match rates.last_mut() {
            Some((range, rate)) if range.end == layer.range.start && *rate == layer.rate => {
                range.end = layer.range.end;
            }
            _ => rates.push((layer.range.clone(), layer.rate)),
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VitConfig;

    fn parameters() -> Vec<(String, Vec<usize>)> {
        VitConfig { depth: 3, ..VitConfig::named("vit_micro_patch16_224", 5).unwrap() }.parameters()
    }

    #[test]
    fn shares_are_those_of_timm() {
        let fixture: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/recipe.json")).unwrap();
        for case in fixture["layer_scales"].as_array().unwrap() {
            let scales = case["scales"].as_object().unwrap();
            let layers = layers(&parameters(), case["decay"].as_f64().unwrap(), Freeze::None, &[]);
            let mut begin = 0;
            for (name, shape) in parameters() {
                let layer = layers.iter().find(|layer| layer.range.contains(&begin)).unwrap();
                assert_eq!(layer.rate, scales[&name].as_f64().unwrap(), "{name}");
                begin += shape.iter().product::<usize>();
            }
            assert_eq!(scales.len(), parameters().len());
            let counted: usize = layers.iter().map(|layer| layer.decayed).sum();
            assert_eq!((counted, layers.last().unwrap().range.end), (begin, begin));
        }
    }

    #[test]
    fn without_decay_all_parameters_are_one_part_and_frozen_ones_are_in_none() {
        let all = layers(&parameters(), 1.0, Freeze::None, &[NoDecay::Bias]);
        let len = all.last().unwrap().range.end;
        assert_eq!(rates(&all), [(0..len, 1.0)]);
        assert_eq!(all[0].spared, 128);
        let head = layers(&parameters(), 0.5, Freeze::Backbone, &[]);
        assert_eq!(rates(&head), [(len - 5 * 128 - 5..len, 1.0)]);
        assert_eq!(rates(&layers(&parameters(), 0.5, Freeze::None, &[])).len(), 5);
    }
}
