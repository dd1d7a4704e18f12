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
    /// Whether each branch of a block is scaled channel by channel before it is added (timm's `ls1`, `ls2`).
    #[serde(default)]
    pub layer_scale: bool,
}

/// Largest side of an image in pixels.
pub const MAX_IMAGE_SIZE: usize = 4096;

/// What makes a family: D, H and L. F = 4D and Dh = 64 in all of them.
type Family = (usize, usize, usize);

const MICRO: Family = (128, 2, 4);
const TINY: Family = (192, 3, 12);
const SMALL: Family = (384, 6, 12);
const BASE: Family = (768, 12, 12);
const LARGE: Family = (1024, 16, 24);

/// Name, family, P, image size. Of models alike in all of these, the first is the one that shapes are called by.
const MODELS: [(&str, Family, usize, usize); 23] = [
    ("vit_micro_patch16_224", MICRO, 16, 224),
    ("vit_tiny_patch16_224", TINY, 16, 224),
    ("vit_tiny_patch16_384", TINY, 16, 384),
    ("vit_small_patch16_224", SMALL, 16, 224),
    ("vit_small_patch16_384", SMALL, 16, 384),
    ("vit_small_patch32_224", SMALL, 32, 224),
    ("vit_small_patch32_384", SMALL, 32, 384),
    ("vit_base_patch16_224", BASE, 16, 224),
    ("vit_base_patch16_384", BASE, 16, 384),
    ("vit_base_patch32_224", BASE, 32, 224),
    ("vit_base_patch32_384", BASE, 32, 384),
    ("vit_large_patch14_224", LARGE, 14, 224),
    ("vit_large_patch16_224", LARGE, 16, 224),
    ("vit_large_patch16_384", LARGE, 16, 384),
    ("vit_large_patch32_224", LARGE, 32, 224),
    ("vit_large_patch32_384", LARGE, 32, 384),
    ("deit_tiny_patch16_224", TINY, 16, 224),
    ("deit_small_patch16_224", SMALL, 16, 224),
    ("deit_base_patch16_224", BASE, 16, 224),
    ("deit_base_patch16_384", BASE, 16, 384),
    ("vit_small_patch14_dinov2", SMALL, 14, 518),
    ("vit_base_patch14_dinov2", BASE, 14, 518),
    ("vit_large_patch14_dinov2", LARGE, 14, 518),
];

/// Whether the models of this name scale their branches.
fn scales_layers(name: &str) -> bool {
    name.ends_with("_dinov2")
}

impl VitConfig {
    /// The configuration of a timm name, with or without the tag of its weights (`.augreg_in21k`), or of
    /// `vit_micro_patch16_224`, which is ours. An unknown name is an error that lists the known ones.
    pub fn named(name: &str, classes: usize) -> Result<Self> {
        let bare = name.split('.').next().unwrap_or(name);
        let Some(&(name, (width, heads, depth), patch, image_size)) = MODELS.iter().find(|model| model.0 == bare)
        else {
            let extra = [("_distilled", "a distillation token"), ("_reg4", "register tokens")];
            let (reason, remedy) = match extra.iter().find(|(part, _)| bare.contains(part)) {
                Some((part, what)) => (
                    format!("{name} has {what}, which this program does not know"),
                    format!("take the model without {part} in its name"),
                ),
                None => (
                    format!("there is no model {name:?}"),
                    format!("choose one of {}", Self::names().collect::<Vec<_>>().join(", ")),
                ),
            };
            return Err(Error::usage("--model", reason, remedy));
        };
        let (channels, mlp, layer_scale) = (3, 4 * width, scales_layers(name));
        let name = name.into();
        Ok(VitConfig { name, image_size, patch, channels, width, heads, mlp, depth, classes, layer_scale })
    }

    /// Names that `named` knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        MODELS.iter().map(|model| model.0)
    }

    /// The name of a model of this shape: that of its image size, else of any.
    pub fn name_of(
        width: usize,
        depth: usize,
        patch: usize,
        image_size: Option<usize>,
        scaled: bool,
    ) -> Option<&'static str> {
        let alike = || {
            MODELS.iter().filter(move |(name, family, p, _)| {
                (family.0, family.2, *p, scales_layers(name)) == (width, depth, patch, scaled)
            })
        };
        alike().find(|model| Some(model.3) == image_size).or_else(|| alike().next()).map(|model| model.0)
    }

    /// The same model for square images of this side; `--img-size` is to blame when patches do not tile it.
    pub fn with_image_size(mut self, side: usize) -> Result<Self> {
        let patch = self.patch;
        if side == 0 || side > MAX_IMAGE_SIZE || !side.is_multiple_of(patch) {
            let reason = format!("{} takes no images of {side} pixels", self.name);
            let remedy = format!("give a multiple of its patch, {patch}, up to {MAX_IMAGE_SIZE}");
            return Err(Error::usage("--img-size", reason, remedy));
        }
        self.image_size = side;
        Ok(self)
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
            let scale = |name| self.layer_scale.then(|| (name, vec![d]));
            let block = [
                ("norm1.weight", vec![d]),
                ("norm1.bias", vec![d]),
                ("attn.qkv.weight", vec![3 * d, d]),
                ("attn.qkv.bias", vec![3 * d]),
                ("attn.proj.weight", vec![d, d]),
                ("attn.proj.bias", vec![d]),
            ];
            let rest = [
                ("norm2.weight", vec![d]),
                ("norm2.bias", vec![d]),
                ("mlp.fc1.weight", vec![f, d]),
                ("mlp.fc1.bias", vec![f]),
                ("mlp.fc2.weight", vec![d, f]),
                ("mlp.fc2.bias", vec![d]),
            ];
            for (name, shape) in block.into_iter().chain(scale("ls1.gamma")).chain(rest).chain(scale("ls2.gamma")) {
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
        assert_eq!(count("vit_base_patch32_224", 1000), 88_224_232);
        assert_eq!(count("vit_large_patch14_224", 1000), 304_203_752);
        assert_eq!(count("deit_small_patch16_224", 1000), 22_050_664);
        assert_eq!(count("vit_base_patch16_384", 1000), 86_859_496);
        // timm's backbone without a head has 22,056,576.
        assert_eq!(count("vit_small_patch14_dinov2", 10), 22_056_192 + 10 * 385);
    }

    #[test]
    fn tags_are_left_off_and_models_with_extra_tokens_refused() {
        assert_eq!(VitConfig::named("vit_small_patch14_dinov2.lvd142m", 5).unwrap().image_size, 518);
        for (name, word) in [
            ("deit_base_distilled_patch16_224", "distillation token"),
            ("vit_small_patch14_reg4_dinov2.lvd142m", "register tokens"),
        ] {
            let error = VitConfig::named(name, 5).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn shapes_have_the_name_of_their_image_size_or_of_their_family() {
        let name = |d, l, p, side, scaled| VitConfig::name_of(d, l, p, side, scaled);
        assert_eq!(name(384, 12, 16, Some(384), false), Some("vit_small_patch16_384"));
        assert_eq!(name(384, 12, 16, Some(512), false), Some("vit_small_patch16_224"));
        assert_eq!(name(1024, 24, 14, None, true), Some("vit_large_patch14_dinov2"));
        assert_eq!(name(1024, 24, 14, None, false), Some("vit_large_patch14_224"));
        assert_eq!(name(383, 12, 16, Some(224), false), None);
    }

    #[test]
    fn image_sizes_are_multiples_of_the_patch() {
        let base = VitConfig::named("vit_base_patch16_224", 5).unwrap();
        assert_eq!(base.clone().with_image_size(384).unwrap().patches(), 576);
        for side in [0, 225, 4112] {
            let error = base.clone().with_image_size(side).unwrap_err().to_string();
            assert!(error.contains("--img-size") && error.contains("16"), "{error}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = VitConfig::named("resnet50", 5).unwrap_err().to_string();
        assert!(error.contains("resnet50") && error.contains("vit_base_patch16_224"), "{error}");
    }
}
