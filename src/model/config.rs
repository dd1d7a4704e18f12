//! Shapes of the Vision Transformers that we know by name, and their parameters under timm's names.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::prune::Grid;
use serde::{Deserialize, Serialize};

/// Shape of a ViT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VitConfig {
    pub name: String,
    /// Side of the square image in pixels.
    pub image_size: usize,
    /// P.
    pub patch: usize,
    /// C.
    pub channels: usize,
    /// D.
    pub width: usize,
    /// H.
    pub heads: usize,
    /// F.
    pub mlp: usize,
    /// L.
    pub depth: usize,
    pub classes: usize,
}

/// Name, D, H, L of the models at patch 16 and 224 pixels; F = 4D.
const MODELS: [(&str, usize, usize, usize); 5] = [
    ("vit_micro_patch16_224", 128, 2, 4),
    ("vit_tiny_patch16_224", 192, 3, 12),
    ("vit_small_patch16_224", 384, 6, 12),
    ("vit_base_patch16_224", 768, 12, 12),
    ("vit_large_patch16_224", 1024, 16, 24),
];

impl VitConfig {
    /// The configuration of a timm name, or of `vit_micro_patch16_224`, which is ours. An unknown name is an error that
    /// lists the known ones.
    pub fn named(name: &str, classes: usize) -> Result<Self> {
        let Some(&(name, width, heads, depth)) = MODELS.iter().find(|model| model.0 == name) else {
            let known = Self::names().join(", ");
            return Err(Error::usage(
                "--model",
                format!("there is no model {name:?}"),
                format!("choose one of {known}"),
            ));
        };
        let (image_size, patch, channels) = (224, 16, 3);
        Ok(VitConfig { name: name.into(), image_size, patch, channels, width, heads, mlp: 4 * width, depth, classes })
    }

    /// Names that `named` knows.
    pub fn names() -> [&'static str; MODELS.len()] {
        MODELS.map(|model| model.0)
    }

    /// Why no model has this shape, if so. The bounds keep every count of parameters far from overflow.
    pub fn check(&self) -> std::result::Result<(), String> {
        let sizes = [
            ("image_size", self.image_size, 1 << 14),
            ("patch", self.patch, self.image_size),
            ("channels", self.channels, 1 << 10),
            ("width", self.width, 1 << 16),
            ("heads", self.heads, self.width),
            ("mlp", self.mlp, 1 << 18),
            ("depth", self.depth, 1 << 10),
            ("classes", self.classes, 1 << 20),
        ];
        if let Some((name, value, most)) = sizes.into_iter().find(|(_, value, most)| *value == 0 || value > most) {
            return Err(format!("{name} is {value}, not from 1 to {most}"));
        }
        if !self.image_size.is_multiple_of(self.patch) {
            return Err(format!("patches of side {} do not tile {} pixels", self.patch, self.image_size));
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(format!("{} heads do not share a width of {}", self.heads, self.width));
        }
        Ok(())
    }

    /// N, the number of patches.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch).pow(2)
    }

    /// The patch grid of the model's images.
    pub fn grid(&self) -> Grid {
        Grid { height: self.image_size, width: self.image_size, patch: self.patch }
    }

    /// (name, shape) of every parameter, timm's names, in the order of the forward pass.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (d, f, c, p) = (self.width, self.mlp, self.channels, self.patch);
        let mut all = vec![
            ("cls_token".to_string(), vec![1, 1, d]),
            ("pos_embed".into(), vec![1, self.patches() + 1, d]),
            ("patch_embed.proj.weight".into(), vec![d, c, p, p]),
            ("patch_embed.proj.bias".into(), vec![d]),
        ];
        for l in 0..self.depth {
            for (name, shape) in [
                ("norm1.weight", vec![d]),
                ("norm1.bias", vec![d]),
                ("attn.qkv.weight", vec![3 * d, d]),
                ("attn.qkv.bias", vec![3 * d]),
                ("attn.proj.weight", vec![d, d]),
                ("attn.proj.bias", vec![d]),
                ("norm2.weight", vec![d]),
                ("norm2.bias", vec![d]),
                ("mlp.fc1.weight", vec![f, d]),
                ("mlp.fc1.bias", vec![f]),
                ("mlp.fc2.weight", vec![d, f]),
                ("mlp.fc2.bias", vec![d]),
            ] {
                all.push((format!("blocks.{l}.{name}"), shape));
            }
        }
        all.push(("norm.weight".into(), vec![d]));
        all.push(("norm.bias".into(), vec![d]));
        all.push(("head.weight".into(), vec![self.classes, d]));
        all.push(("head.bias".into(), vec![self.classes]));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_has_timms_number_of_parameters() {
        let count = |name: &str, classes| -> usize {
            let config = VitConfig::named(name, classes).unwrap();
            config.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
        };
        // timm's models at 1000 classes.
        assert_eq!(count("vit_base_patch16_224", 1000), 86_567_656);
        assert_eq!(count("vit_small_patch16_224", 1000), 22_050_664);
        assert_eq!(count("vit_tiny_patch16_224", 1000), 5_717_416);
        assert_eq!(count("vit_large_patch16_224", 1000), 304_326_632);
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = VitConfig::named("resnet50", 5).unwrap_err().to_string();
        assert!(error.contains("resnet50") && error.contains("vit_base_patch16_224"), "{error}");
    }
}
