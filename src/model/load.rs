//! Parameters from nothing and from weight files.
#![forbid(unsafe_code)]

use super::naming::{Named, table_side};
use super::positions::resample;
use super::{Vit, VitConfig, VitOptions};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use crate::tape::ParamArena;
use crate::weights::Weights;
use std::collections::HashSet;

/// Deviation of initial weights (readings.md, 4.3 head). timm's `trunc_normal_(std=0.02)` cuts at -2 and 2, a hundred
/// deviations away, so a plain normal equals it.
const INIT_STD: f64 = 0.02;
/// Initial scale of a branch, as timm's DINOv2 models have it.
const INIT_LAYER_SCALE: f32 = 1e-5;

/// What loading found, to be told to the user.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Why the head was initialised instead of loaded, if it was.
    pub fresh_head: Option<String>,
    /// Tensors of the file that the model has no place for.
    pub unexpected: Vec<String>,
    /// Patches along a side, in the file's position table and in the model's, when the first was resampled.
    pub resampled: Option<(usize, usize)>,
}

impl LoadReport {
    /// What to say of a resampled position table.
    pub fn resampled_note(&self) -> Option<String> {
        self.resampled
            .map(|(from, to)| format!("the position table of {from} x {from} patches is resampled to {to} x {to}"))
    }
}

/// What to do when the file's head is missing or has another number of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPolicy {
    /// Initialise a new head (training).
    Replace,
    /// Initialise a new head whatever the file holds: its head is for other classes (training).
    Renew,
    /// Refuse (eval, predict).
    Require,
}

/// The stream number of a parameter: FNV-1a of its name, so that initial values do not depend on the order of names.
fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Unit norms, zero biases, small scales of branches, normal of deviation 0.02 elsewhere.
fn initialise(name: &str, values: &mut [f32], seed: u64) {
    if name.ends_with(".bias") {
        values.fill(0.0);
    } else if name.contains("norm") {
        values.fill(1.0);
    } else if name.ends_with(".gamma") {
        values.fill(INIT_LAYER_SCALE);
    } else {
        let mut stream = Stream::new(seed, Purpose::Init, name_hash(name), 0);
        values.iter_mut().for_each(|v| *v = (stream.normal() * INIT_STD) as f32);
    }
}

impl Vit {
    /// Random weights; they depend on seed and names alone.
    pub fn init(config: VitConfig, options: VitOptions, seed: u64) -> Self {
        let mut params = ParamArena::new(&config.parameters());
        for id in params.ids() {
            let name = params.name(id).to_string();
            initialise(&name, params.values_mut(id), seed);
        }
        Vit { config, options, params, drop_path: None, recompute: false }
    }

    /// Weights by timm's names or those that `Named` translates. One error lists every missing or mis-shaped tensor;
    /// `seed` is that of a head that has to be initialised. Whether branches are scaled is the weights' to say; a
    /// position table of another size is resampled as timm does.
    pub fn load(
        mut config: VitConfig,
        options: VitOptions,
        weights: &Weights,
        head: HeadPolicy,
        seed: u64,
    ) -> Result<(Self, LoadReport)> {
        let named = Named::new(weights);
        named.refuse_extra_tokens()?;
        config.layer_scale = named.shape("blocks.0.ls1.gamma").is_some();
        let mut report = LoadReport::default();
        let mut problems = Vec::new();
        let mut absent = HashSet::new();
        // Memory is taken only once the file is known to hold what fills it.
        let parameters = config.parameters();
        for (name, shape) in &parameters {
            let is_head = name.starts_with("head.");
            let own = named.own_name(name);
            let problem = match named.shape(name) {
                _ if is_head && head == HeadPolicy::Renew => "the file's is for other classes".into(),
                None if is_head => format!("{own} is missing"),
                None => format!("{own} {shape:?} is missing"),
                Some(found) if found == *shape => continue,
                Some(found) if name == "pos_embed" && found.last() == shape.last() && table_side(&found).is_some() => {
                    report.resampled = table_side(&found).zip(table_side(shape));
                    continue;
                }
                Some(found) => format!("{own} is {found:?}, not {shape:?}"),
            };
            absent.insert(name.as_str());
            if is_head && head != HeadPolicy::Require {
                report.fresh_head.get_or_insert(problem);
            } else {
                problems.push(problem);
            }
        }
        if !problems.is_empty() {
            let only_head = absent.iter().all(|name| name.starts_with("head."));
            return Err(misfit(&config, weights, &problems, only_head));
        }
        let mut params = ParamArena::new(&parameters);
        let fresh_head = report.fresh_head.is_some();
        for id in params.ids() {
            let name = params.name(id).to_string();
            if absent.contains(name.as_str()) || (fresh_head && name.starts_with("head.")) {
                initialise(&name, params.values_mut(id), seed);
            } else if let (Some((from, to)), "pos_embed") = (report.resampled, name.as_str()) {
                let mut table = vec![0.0; (1 + from * from) * config.width];
                named.read_f32(&name, &mut table)?;
                params.values_mut(id).copy_from_slice(&resample(&table, from, to));
            } else {
                named.read_f32(&name, params.values_mut(id))?;
            }
        }
        report.unexpected = named.unplaced(params.ids().map(|id| params.name(id)));
        let elsewhere = |name: &&String| {
            let name = name.as_str();
            ["blocks.", "norm_pre.", "fc_norm.", "attn_pool."].iter().any(|part| name.starts_with(part))
                || name.contains("encoder.layer.")
        };
        if let Some(name) = report.unexpected.iter().find(elsewhere) {
            let reason = format!("tensor {name} belongs to another kind of ViT, which would compute something else");
            return Err(Error::data(weights.path(), reason, "take weights of timm's plain VisionTransformer"));
        }
        Ok((Vit { config, options, params, drop_path: None, recompute: false }, report))
    }
}

/// One error for all tensors that do not fit; the first few by name.
fn misfit(config: &VitConfig, weights: &Weights, problems: &[String], only_head: bool) -> Error {
    const SHOWN: usize = 4;
    let mut list = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if problems.len() > SHOWN {
        list += &format!("; and {} more", problems.len() - SHOWN);
    }
    let remedy = if only_head {
        "a checkpoint with a fitting head is needed here; `train` makes one".to_string()
    } else {
        format!(
            "choose the --model that these weights belong to (`dynavit inspect FILE` tells); {} was asked for",
            config.name
        )
    };
    Error::data(weights.path(), list, remedy)
}
