//! Attention rollout (Abnar and Zuidema 2020): how much of each kept patch flows into [CLS] over all blocks.
//!
//! Each block's attention is averaged over its heads, the identity is added for the residual path, rows are normalised,
//! and the blocks are multiplied. The model's ops never write attention down, so this pass asks the model's own blocks
//! for the tokens and computes the attention beside them, in f64, from the queries and keys of the same ops.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::model::{LAYER_NORM_EPS, Vit};
use crate::ops::layer_norm;
use crate::ops::matmul::{self, Epilogue};
use crate::prune::Kept;
use crate::tape::Var;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// What [CLS] takes from each token.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// From itself.
    pub cls: f64,
    /// From each kept patch, (k,); together with `cls` they make 1.
    pub patches: Vec<f64>,
    /// The model's logits of the same pass.
    pub logits: Vec<f32>,
}

/// The rollout of one image, values (1,C,h,w), at its kept patches.
pub fn rollout(vit: &Vit, values: &Tensor, kept: &Kept) -> Result<Rollout> {
    let images = values.beside(vit.params.flat())?;
    let mut x = vit.embed(None, &crate::model::Images::Values(images), kept)?;
    let spans = kept.spans.longer(1);
    let mut blocks = Vec::with_capacity(vit.config.depth);
    for l in 0..vit.config.depth {
        blocks.push(mean_attention(vit, &x, l)?);
        x = vit.block(None, &x, &spans, l)?;
    }
    let logits = vit.head(None, &x, &spans)?.value.to_host()?.data().to_vec();
    let s = spans.rows();
    // Only the row of [CLS] is asked for, so it is carried down from the last block to the first.
    let mut flow = vec![0.0; s];
    flow[0] = 1.0;
    for attention in blocks.iter().rev() {
        let mut below = vec![0.0; s];
        for (row, amount) in attention.chunks_exact(s).zip(&flow) {
            below.iter_mut().zip(row).for_each(|(sum, a)| *sum += amount * a);
        }
        below.iter_mut().zip(&flow).for_each(|(sum, own)| *sum = (*sum + own) / 2.0);
        flow = below;
    }
    Ok(Rollout { cls: flow[0], patches: flow.split_off(1), logits })
}

/// The attention (S,S) of block `l` on x (1,S,D), averaged over heads.
fn mean_attention(vit: &Vit, x: &Var, l: usize) -> Result<Vec<f64>> {
    let heads = attention(vit, x, l)?;
    let mut mean = vec![0.0; heads[0].len()];
    for head in &heads {
        mean.iter_mut().zip(head).for_each(|(sum, a)| *sum += a / heads.len() as f64);
    }
    Ok(mean)
}

/// The attention (S,S) of each head of block `l` on x (1,S,D).
fn attention(vit: &Vit, x: &Var, l: usize) -> Result<Vec<Vec<f64>>> {
    let p = |name: &str| {
        let name = format!("blocks.{l}.{name}");
        vit.params.var(vit.params.find(&name).unwrap_or_else(|| panic!("the model has no parameter {name}")))
    };
    let normal = layer_norm::forward(None, x, &p("norm1.weight"), &p("norm1.bias"), LAYER_NORM_EPS)?;
    let qkv = matmul::forward(None, &normal, &p("attn.qkv.weight"), &p("attn.qkv.bias"), Epilogue::Bias)?;
    let qkv = qkv.value.to_host()?;
    let (d, heads) = (vit.config.width, vit.config.heads);
    let width = d / heads;
    let scale = 1.0 / (width as f64).sqrt();
    let rows: Vec<&[f32]> = qkv.data().chunks_exact(3 * d).collect();
    let head = |h: usize| {
        let part = |row: &[f32], first: usize| -> Vec<f64> {
            row[first + h * width..first + (h + 1) * width].iter().map(|&v| f64::from(v)).collect()
        };
        let keys: Vec<Vec<f64>> = rows.iter().map(|row| part(row, d)).collect();
        let attend = |row: &&[f32]| {
            let query = part(row, 0);
            let score = |key: &Vec<f64>| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * scale;
            let scores: Vec<f64> = keys.iter().map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = shares.iter().sum();
            shares.into_iter().map(move |share| share / sum)
        };
        rows.iter().flat_map(attend).collect()
    };
    Ok((0..heads).into_par_iter().map(head).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{VitConfig, VitOptions};
    use crate::ops::attention as op;

    fn model(full_last_block: bool) -> Vit {
        let config = VitConfig::named("vit_micro_patch16_224", 5).unwrap().with_image_size(64).unwrap();
        let mut vit = Vit::init(config, VitOptions { full_last_block, ..Default::default() }, 3);
        // Queries and keys of initial size attend evenly; larger ones have something to tell.
        let ids: Vec<_> = vit.params.ids().collect();
        for id in ids {
            if vit.params.name(id).ends_with("qkv.weight") {
                vit.params.values_mut(id).iter_mut().for_each(|v| *v *= 8.0);
            }
        }
        vit
    }

    fn image() -> (Tensor, Kept) {
        let values = (0..3 * 64 * 64).map(|i| ((i * 7919) % 251) as f32 / 100.0 - 1.2).collect();
        (Tensor::from_vec(values, &[1, 3, 64, 64]), Kept::even(vec![1, 2, 5, 9, 14], 1, 5))
    }

    #[test]
    fn the_pass_gives_the_models_logits() {
        let (values, kept) = image();
        let full = model(true);
        assert_eq!(rollout(&full, &values, &kept).unwrap().logits, full.logits(&values, &kept).unwrap().data());
        let short = model(false);
        let found = rollout(&short, &values, &kept).unwrap();
        for (a, b) in found.logits.iter().zip(short.logits(&values, &kept).unwrap().data()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        approx::assert_relative_eq!(found.cls + found.patches.iter().sum::<f64>(), 1.0, epsilon = 1e-12);
        let spread = found.patches.iter().copied().fold(0.0, f64::max) / found.patches[0];
        assert!(spread.is_finite() && found.patches.iter().all(|&share| share > 0.0), "{found:?}");
    }

    #[test]
    fn the_attention_is_the_one_that_the_op_applies() {
        let vit = model(true);
        let x = Var::constant(Tensor::from_vec(
            (0..6 * 128).map(|i| ((i * 31) % 17) as f32 / 9.0 - 0.9).collect(),
            &[1, 6, 128],
        ));
        let heads = attention(&vit, &x, 1).unwrap();
        let p = |name: &str| vit.params.var(vit.params.find(&format!("blocks.1.{name}")).unwrap());
        let normal = layer_norm::forward(None, &x, &p("norm1.weight"), &p("norm1.bias"), LAYER_NORM_EPS).unwrap();
        let qkv = matmul::forward(None, &normal, &p("attn.qkv.weight"), &p("attn.qkv.bias"), Epilogue::Bias).unwrap();
        let mixed = op::packed(None, &qkv, 2).unwrap();
        for (i, y) in mixed.value.data().iter().enumerate() {
            let (s, column) = (i / 128, i % 128);
            let row = &heads[column / 64][s * 6..(s + 1) * 6];
            let value = |t: usize| f64::from(qkv.value.data()[t * 384 + 256 + column]);
            let want: f64 = row.iter().enumerate().map(|(t, a)| a * value(t)).sum();
            assert!((f64::from(*y) - want).abs() < 1e-5, "{i}: {y} {want}");
        }
    }
}
