//! Which ranges of the arena are spared the weight decay, from groups of timm's parameter names.
#![forbid(unsafe_code)]

use crate::tape::ParamArena;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A group of parameters that `--no-decay` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NoDecay {
    /// Every bias.
    Bias,
    /// Weight and bias of every norm.
    Norm,
    /// The position table.
    Pos,
    /// The [CLS] token.
    Cls,
}

impl NoDecay {
    /// Whether the group holds the parameter of this timm name.
    pub fn holds(self, name: &str) -> bool {
        let (module, leaf) = name.rsplit_once('.').unwrap_or(("", name));
        match self {
            NoDecay::Bias => leaf == "bias",
            NoDecay::Norm => module.rsplit('.').next().is_some_and(|layer| layer.contains("norm")),
            NoDecay::Pos => leaf == "pos_embed",
            NoDecay::Cls => leaf == "cls_token",
        }
    }
}

/// The elements of all parameters that belong to any of `groups`: ascending ranges, neighbours joined.
pub fn no_decay_ranges(params: &ParamArena, groups: &[NoDecay]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for id in params.ids().filter(|&id| groups.iter().any(|group| group.holds(params.name(id)))) {
        let range = params.range(id);
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> ParamArena {
        let sizes = [
            ("cls_token", 2),
            ("pos_embed", 3),
            ("patch_embed.proj.weight", 10),
            ("patch_embed.proj.bias", 2),
            ("blocks.0.norm1.weight", 2),
            ("blocks.0.norm1.bias", 2),
            ("blocks.0.attn.qkv.weight", 12),
            ("norm.weight", 2),
            ("head.bias", 1),
        ];
        ParamArena::new(&sizes.map(|(name, len)| (name.to_string(), vec![len])))
    }

    #[test]
    fn each_group_takes_its_own() {
        let params = arena();
        assert!(no_decay_ranges(&params, &[]).is_empty());
        assert_eq!(no_decay_ranges(&params, &[NoDecay::Cls]), std::slice::from_ref(&(0..2)));
        assert_eq!(no_decay_ranges(&params, &[NoDecay::Pos]), std::slice::from_ref(&(2..5)));
        assert_eq!(no_decay_ranges(&params, &[NoDecay::Bias]), [15..17, 19..21, 35..36]);
        assert_eq!(no_decay_ranges(&params, &[NoDecay::Norm]), [17..21, 33..35]);
    }

    #[test]
    fn groups_join_without_overlap() {
        let all = [NoDecay::Bias, NoDecay::Norm, NoDecay::Pos, NoDecay::Cls];
        assert_eq!(no_decay_ranges(&arena(), &all), [0..5, 15..21, 33..36]);
    }
}
