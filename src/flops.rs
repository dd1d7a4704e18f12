//! The analytic model of compute: what a forward pass of one image costs, by several conventions.
//!
//! All counts are multiply-accumulates (MACs), exact integers; a MAC is two FLOPs. `docs/readings.md` defines them.
#![forbid(unsafe_code)]

mod fit;

pub use fit::Fit;

use crate::model::{EmbedMode, VitConfig, VitOptions};
use crate::prune::Kept;
use serde::{Deserialize, Serialize};

/// The cost of one image, in MACs, by each convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Every product of the unmodified ViT on S tokens, all N patches embedded: `macs`.
    pub macs: u64,
    /// fvcore's count when attention is written out as two products: `fvcore_unfused`.
    pub fvcore_unfused: u64,
    /// fvcore's count when attention is one fused operator, which it counts as nothing: `fvcore_fused`.
    pub fvcore_fused: u64,
    /// What this engine computes: `macs_executed`.
    pub executed: u64,
}

impl Cost {
    /// The cost of a forward pass with k kept patches, S = 1 + k.
    pub fn new(config: &VitConfig, options: &VitOptions, k: usize) -> Self {
        let s = k + 1;
        Cost {
            macs: macs(config, s, config.patches()),
            fvcore_unfused: fvcore_unfused(config, s),
            fvcore_fused: fvcore_fused(config, s),
            executed: macs_executed(config, options, k),
        }
    }

    /// FLOPs of `macs`: a multiplication and an addition each.
    pub fn flops(&self) -> u64 {
        2 * self.macs
    }
}

/// `L*(S*(4*D^2 + 2*D*F) + 2*S^2*D) + n*P*P*C*D + D*classes` for S tokens and n embedded patches.
///
/// With F = 4D the bracket is the `12*S*D^2 + 2*S^2*D` of readings.md.
pub fn macs(config: &VitConfig, s: usize, embedded: usize) -> u64 {
    let Sizes { d, f, depth, classes, patch_values, .. } = Sizes::of(config);
    let (s, n) = (s as u64, embedded as u64);
    depth * (s * (4 * d * d + 2 * d * f) + 2 * s * s * d) + n * patch_values * d + d * classes
}

/// fvcore 0.1.5 on timm's model with attention written out: `macs`, and 5 for each element of the 2L+1 layer norms.
pub fn fvcore_unfused(config: &VitConfig, s: usize) -> u64 {
    let Sizes { d, depth, .. } = Sizes::of(config);
    macs(config, s, config.patches()) + (2 * depth + 1) * 5 * s as u64 * d
}

/// fvcore 0.1.5 on timm's model with fused attention, which it does not know and leaves out.
pub fn fvcore_fused(config: &VitConfig, s: usize) -> u64 {
    let Sizes { d, depth, .. } = Sizes::of(config);
    fvcore_unfused(config, s) - depth * 2 * (s as u64).pow(2) * d
}

/// What this engine computes for k kept patches.
///
/// Sparse embedding embeds only those k. The short last block computes [CLS] alone: its query meets all S tokens without keys and
/// values (`ops::single_query`), so each weight meets one token. A card makes keys and values, 2 (S - 1) D^2 - 2 (H - 1) S D more,
/// which is not counted: what it does in a second, and its share of the peak, are understated by up to 1.5 %.
pub fn macs_executed(config: &VitConfig, options: &VitOptions, k: usize) -> u64 {
    let Sizes { d, f, heads, .. } = Sizes::of(config);
    let s = k as u64 + 1;
    let embedded = match options.embed {
        EmbedMode::Sparse => k,
        EmbedMode::Dense => config.patches(),
    };
    let full = macs(config, k + 1, embedded);
    if options.full_last_block || config.depth == 0 {
        return full;
    }
    let full_block = s * (4 * d * d + 2 * d * f) + 2 * s * s * d;
    let short_block = 4 * d * d + 2 * d * f + 2 * heads * s * d;
    full - full_block + short_block
}

/// How long the sequences of several images were, and what their forward passes cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    pub images: u64,
    /// S over all images.
    pub tokens: u64,
    /// `macs_executed` over all images.
    pub macs: u64,
}

impl Looked {
    /// The images of a batch.
    pub fn at(config: &VitConfig, options: &VitOptions, kept: &Kept) -> Self {
        let cost = kept.spans.lengths().map(|k| macs_executed(config, options, k)).sum();
        let (images, tokens) = (kept.batch(), kept.spans.rows() + kept.batch());
        Looked { images: images as u64, tokens: tokens as u64, macs: cost }
    }

    /// These and those.
    pub fn add(&mut self, more: Looked) {
        self.images += more.images;
        self.tokens += more.tokens;
        self.macs += more.macs;
    }

    /// Mean S; none without images.
    pub fn mean_seq_len(&self) -> Option<f64> {
        (self.images > 0).then(|| self.tokens as f64 / self.images as f64)
    }

    /// Mean `macs_executed` of an image's forward pass; none without images.
    pub fn mean_macs(&self) -> Option<f64> {
        (self.images > 0).then(|| self.macs as f64 / self.images as f64)
    }
}

/// The letters of readings.md as u64, so that no count of a sensible model wraps.
struct Sizes {
    d: u64,
    f: u64,
    heads: u64,
    depth: u64,
    classes: u64,
    /// P*P*C, the values of a patch.
    patch_values: u64,
}

impl Sizes {
    fn of(config: &VitConfig) -> Self {
        Sizes {
            d: config.width as u64,
            f: config.mlp as u64,
            heads: config.heads as u64,
            depth: config.depth as u64,
            classes: config.classes as u64,
            patch_values: (config.patch * config.patch * config.channels) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::Round;
    use proptest::prelude::*;

    fn base() -> VitConfig {
        VitConfig {
            name: "vit_base_patch16_224".into(),
            image_size: 224,
            patch: 16,
            channels: 3,
            width: 768,
            heads: 12,
            mlp: 3072,
            depth: 12,
            classes: 5,
            layer_scale: false,
        }
    }

    fn giga(count: u64) -> String {
        format!("{:.3}", count as f64 / 1e9)
    }

    #[test]
    fn the_table_of_readings() {
        for (s, macs, unfused, fused) in [
            (119, "10.484", "10.495", "10.234"),
            (118, "10.395", "10.406", "10.149"),
            (138, "12.188", "12.201", "11.850"),
            (197, "17.563", "17.582", "16.867"),
        ] {
            let cost = Cost::new(&base(), &VitOptions::default(), s - 1);
            let shown = [cost.macs, cost.fvcore_unfused, cost.fvcore_fused].map(giga);
            assert_eq!(shown, [macs, unfused, fused], "S = {s}");
            assert_eq!(cost.flops(), 2 * cost.macs);
        }
        // The table cuts 10.3945 to 10.394 instead of rounding it; the integer leaves no doubt.
        assert_eq!(macs(&base(), 118, 196), 10_394_545_920);
    }

    #[test]
    fn fvcores_own_counts() {
        let fixture: serde_json::Value = serde_json::from_str(include_str!("../fixtures/flops.json")).unwrap();
        for row in fixture["rows"].as_array().unwrap() {
            let config = VitConfig::named(row["model"].as_str().unwrap(), 5).unwrap();
            let s = row["seq_len"].as_u64().unwrap() as usize;
            let cost = Cost::new(&config, &VitOptions::default(), s - 1);
            let counted = ["macs", "fvcore_unfused", "fvcore_fused"].map(|key| row[key].as_u64().unwrap());
            assert_eq!([cost.macs, cost.fvcore_unfused, cost.fvcore_fused], counted, "{row}");
        }
    }

    #[test]
    fn keep_60_and_70_give_the_lengths_of_the_table() {
        let s = |keep: &str, round| 1 + keep.parse::<crate::prune::Keep>().unwrap().count(base().patches(), round);
        assert_eq!((s("60", Round::Floor), s("60", Round::Nearest), s("70", Round::Floor)), (118, 119, 138));
    }

    #[test]
    fn executed_is_the_sum_of_the_products_run() {
        // One by one at S = 138 for D = 768, F = 3072: rows x inner x columns.
        let (s, d, f) = (138u64, 768u64, 3072u64);
        let embed = 137 * (16 * 16 * 3) * d;
        let block = s * d * (3 * d) + 2 * s * s * d + s * d * d + s * d * f + s * f * d;
        // Query, key weight, scores, mixed tokens, value weight, projection, MLP.
        let last = d * d + d * d + 12 * s * d + 12 * s * d + d * d + d * d + d * f + f * d;
        let expected = embed + 11 * block + last + d * 5;
        assert_eq!(macs_executed(&base(), &VitOptions::default(), 137), expected);
    }

    #[test]
    fn the_long_way_with_all_patches_is_the_formula() {
        let long = VitOptions { embed: EmbedMode::Dense, full_last_block: true, ..VitOptions::default() };
        assert_eq!(macs_executed(&base(), &long, 137), macs(&base(), 138, 196));
        let share = macs_executed(&base(), &VitOptions::default(), 196) as f64 / macs(&base(), 197, 196) as f64;
        assert!((0.91..0.925).contains(&share), "the short last block saves about 8 %: {share}");
    }

    #[test]
    fn attention_is_four_percent_at_197_tokens() {
        let cost = Cost::new(&base(), &VitOptions::default(), 196);
        let share = (cost.fvcore_unfused - cost.fvcore_fused) as f64 / cost.macs as f64;
        assert_eq!(format!("{:.1}", share * 100.0), "4.1");
    }

    proptest! {
        #[test]
        fn more_patches_never_cost_less(
            k in 1usize..196, depth in 0usize..13, dense: bool, full_last_block: bool, width in 1usize..65,
        ) {
            let config = VitConfig { depth, width, mlp: 4 * width, ..base() };
            let embed = if dense { EmbedMode::Dense } else { EmbedMode::Sparse };
            let options = VitOptions { embed, full_last_block, ..VitOptions::default() };
            let (fewer, more) = (Cost::new(&config, &options, k), Cost::new(&config, &options, k + 1));
            prop_assert!(fewer.macs <= more.macs && fewer.executed <= more.executed);
            prop_assert!(fewer.executed <= fewer.macs && fewer.fvcore_fused <= fewer.fvcore_unfused);
        }
    }
}
