//! Weight files under timm's names, whichever of the usual names they use themselves.
#![forbid(unsafe_code)]

use super::VitConfig;
use crate::error::{Error, Result};
use crate::weights::Weights;
use serde::Serialize;
use std::collections::HashSet;

/// Whose names a weight file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Naming {
    /// timm's: `blocks.0.attn.qkv.weight`.
    #[serde(rename = "timm")]
    Timm,
    /// Those of transformers' ViT: `encoder.layer.0.attention.attention.query.weight`, `layernorm_before`.
    #[serde(rename = "huggingface-vit")]
    HuggingFaceVit,
    /// Those of transformers' Dinov2: the same but `norm1`, `mlp.fc1`, `layer_scale1.lambda1`.
    #[serde(rename = "huggingface-dinov2")]
    HuggingFaceDinov2,
}

impl std::fmt::Display for Naming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Naming::Timm => "timm",
            Naming::HuggingFaceVit => "Hugging Face ViT",
            Naming::HuggingFaceDinov2 => "Hugging Face Dinov2",
        })
    }
}

/// What the names of transformers' models may begin with, but those of the classifier.
const PREFIXES: [&str; 4] = ["", "vit.", "deit.", "dinov2."];
/// Tokens beside [CLS] that some models have, by their tensors' last names.
const EXTRA_TOKENS: [&str; 4] = ["dist_token", "distillation_token", "reg_token", "register_tokens"];
/// A token of pre-training that no later pass reads.
const MASK_TOKEN: &str = "mask_token";

/// A weight file that answers to timm's names. Separate queries, keys and values are stacked to `attn.qkv`.
pub struct Named<'a> {
    weights: &'a Weights,
    naming: Naming,
    prefix: &'static str,
}

impl<'a> Named<'a> {
    /// Finds out whose names the file uses; timm's when no others are seen.
    pub fn new(weights: &'a Weights) -> Self {
        let has = |prefix: &str, name: &str| weights.info(&format!("{prefix}{name}")).is_some();
        let found = PREFIXES.into_iter().find(|prefix| has(prefix, "embeddings.patch_embeddings.projection.weight"));
        let Some(prefix) = found else { return Named { weights, naming: Naming::Timm, prefix: "" } };
        let dinov2 = has(prefix, "encoder.layer.0.norm1.weight");
        Named { weights, naming: if dinov2 { Naming::HuggingFaceDinov2 } else { Naming::HuggingFaceVit }, prefix }
    }

    /// Whose names the file uses.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The file's own names of what timm calls `name`: one, or three that make up timm's when stacked.
    fn sources(&self, name: &str) -> Vec<String> {
        if self.naming == Naming::Timm {
            return vec![name.into()];
        }
        // The classifier stands outside the backbone, so it has no prefix.
        if let Some(leaf) = name.strip_prefix("head.") {
            return vec![format!("classifier.{leaf}")];
        }
        let own = match name {
            "cls_token" => "embeddings.cls_token".into(),
            "pos_embed" => "embeddings.position_embeddings".into(),
            _ => match name.split_once('.') {
                Some(("patch_embed", leaf)) => {
                    format!("embeddings.patch_embeddings.{}", leaf.replacen("proj", "projection", 1))
                }
                Some(("norm", leaf)) => format!("layernorm.{leaf}"),
                Some(("blocks", rest)) => {
                    let (l, inner) = rest.split_once('.').unwrap_or((rest, ""));
                    let place = format!("{}encoder.layer.{l}.", self.prefix);
                    if let Some(leaf) = inner.strip_prefix("attn.qkv.") {
                        return ["query", "key", "value"]
                            .map(|part| format!("{place}attention.attention.{part}.{leaf}"))
                            .to_vec();
                    }
                    return vec![place + &self.inside_block(inner)];
                }
                _ => name.into(),
            },
        };
        vec![format!("{}{own}", self.prefix)]
    }

    /// transformers' name inside a block for timm's.
    fn inside_block(&self, inner: &str) -> String {
        let vit = self.naming == Naming::HuggingFaceVit;
        let table = [
            ("attn.proj.", "attention.output.dense."),
            ("norm1.", if vit { "layernorm_before." } else { "norm1." }),
            ("norm2.", if vit { "layernorm_after." } else { "norm2." }),
            ("mlp.fc1.", if vit { "intermediate.dense." } else { "mlp.fc1." }),
            ("mlp.fc2.", if vit { "output.dense." } else { "mlp.fc2." }),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
        ];
        let row = table.into_iter().find_map(|(timm, own)| Some((own, inner.strip_prefix(timm)?)));
        row.map_or(inner.into(), |(own, leaf)| format!("{own}{leaf}"))
    }

    /// The shape of timm's tensor `name`; None when the file lacks any of its parts, or they do not stack.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let mut parts = self.sources(name).into_iter().map(|source| Some(self.weights.info(&source)?.shape.clone()));
        let mut shape = parts.next()??;
        let one = shape.clone();
        for part in parts {
            if part? != one {
                return None;
            }
            let rows = *one.first()?;
            shape[0] = shape[0].checked_add(rows)?;
        }
        Some(shape)
    }

    /// Writes timm's tensor `name`, widened to f32, into `out`, whose length must be that of its `shape`.
    pub fn read_f32(&self, name: &str, mut out: &mut [f32]) -> Result<()> {
        for source in self.sources(name) {
            let len = self.weights.info(&source).map_or(0, |info| info.shape.iter().product::<usize>());
            let (part, rest) = out.split_at_mut(len.min(out.len()));
            self.weights.read_f32(&source, part)?;
            out = rest;
        }
        Ok(())
    }

    /// The file's own name, for messages, of what timm calls `name`.
    pub fn own_name(&self, name: &str) -> String {
        self.sources(name).join(" + ")
    }

    /// Tensors that no parameter in `used` (timm's names) takes, but for the mask token.
    pub fn unplaced<'n>(&self, used: impl Iterator<Item = &'n str>) -> Vec<String> {
        let used: HashSet<String> = used.flat_map(|name| self.sources(name)).collect();
        let names = self.weights.names().into_iter();
        names.filter(|&name| !used.contains(name) && last(name) != MASK_TOKEN).map(String::from).collect()
    }

    /// Refuses weights whose model has tokens beside [CLS].
    pub fn refuse_extra_tokens(&self) -> Result<()> {
        match self.weights.names().into_iter().find(|&name| EXTRA_TOKENS.contains(&last(name))) {
            None => Ok(()),
            Some(name) => {
                let reason = format!("{name} is a token beside [CLS], which this program does not know");
                let remedy = "take weights without distillation or register tokens";
                Err(Error::data(self.weights.path(), reason, remedy))
            }
        }
    }
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// A ViT as far as the names and shapes of its weights tell. What they do not tell is None.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub width: usize,
    pub depth: usize,
    pub patch: usize,
    pub channels: usize,
    pub mlp: Option<usize>,
    /// From the position table, when it is that of a square.
    pub image_size: Option<usize>,
    /// None when there is no head.
    pub classes: Option<usize>,
    pub layer_scale: bool,
}

impl Found {
    /// Looks at the tensors' names and shapes; None when this is no ViT under names that `Named` knows.
    pub fn new(named: &Named) -> Option<Self> {
        let &[width, channels, patch, _] = named.shape("patch_embed.proj.weight")?.as_slice() else { return None };
        let (head, tail) = match named.naming {
            Naming::Timm => ("blocks.", ""),
            _ => ("encoder.layer.", named.prefix),
        };
        let block = |name: &str| name.strip_prefix(tail)?.strip_prefix(head)?.split('.').next()?.parse::<usize>().ok();
        let depth = named.weights.names().into_iter().filter_map(block).max().map_or(0, |last| last.saturating_add(1));
        let rows = |name: &str| named.shape(name).and_then(|shape| shape.first().copied());
        Some(Found {
            width,
            depth,
            patch,
            channels,
            mlp: rows("blocks.0.mlp.fc1.weight"),
            image_size: named.shape("pos_embed").and_then(|shape| table_side(&shape)?.checked_mul(patch)),
            classes: rows("head.weight"),
            layer_scale: named.shape("blocks.0.ls1.gamma").is_some(),
        })
    }

    /// The name of a model of this shape, if it has one.
    pub fn name(&self) -> Option<&'static str> {
        let found = |scaled| VitConfig::name_of(self.width, self.depth, self.patch, self.image_size, scaled);
        // Scales folded into the layers before them leave no trace, and scales can be added to any model.
        found(self.layer_scale).or_else(|| found(!self.layer_scale))
    }

    /// H, as all models that we know have it: D / 64.
    pub fn heads(&self) -> Option<usize> {
        (self.width > 0 && self.width.is_multiple_of(64)).then_some(self.width / 64)
    }

    /// The whole configuration, when names and shapes tell it.
    pub fn config(&self) -> Option<VitConfig> {
        let image_size = self.image_size?;
        let name = self
            .name()
            .map_or_else(|| format!("vit_d{}_l{}_patch{}", self.width, self.depth, self.patch), String::from);
        let config = VitConfig {
            name,
            image_size,
            patch: self.patch,
            channels: self.channels,
            width: self.width,
            heads: self.heads()?,
            mlp: self.mlp?,
            depth: self.depth,
            classes: self.classes?,
            layer_scale: self.layer_scale,
        };
        config.check().is_ok().then_some(config)
    }
}

/// Patches along a side of the square whose position table, [CLS] included, has this shape.
pub fn table_side(shape: &[usize]) -> Option<usize> {
    let &[1, rows, _] = shape else { return None };
    let side = rows.checked_sub(1)?.isqrt();
    (side > 0 && side * side + 1 == rows).then_some(side)
}
