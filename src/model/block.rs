//! The encoder block: pre-norm attention and MLP, each with its residual; and its short form for the last block.
#![forbid(unsafe_code)]

use super::{LAYER_NORM_EPS, Vit};
use crate::error::Result;
use crate::ops::matmul::{self, Epilogue, Left};
use crate::ops::mlp::{self, Layers};
use crate::ops::{drop_path, gather, layer_norm, layer_scale, residual, self_attention, single_query};
use crate::tape::{Tape, Var};
use crate::tensor::Spans;
use std::sync::Arc;

impl Vit {
    /// Block `l` on x (B,S,D), all tokens; where images differ in length, which `spans` tells, on x (tokens,D).
    pub fn block(&self, mut tape: Option<&mut Tape>, x: &Var, spans: &Spans, l: usize) -> Result<Var> {
        let p = |name: &str| self.param(&format!("blocks.{l}.{name}"));
        let (heads, read) = (self.config.heads, self.params.operands());
        let norm = [&p("norm1.weight"), &p("norm1.bias")];
        let normal = layer_norm::forward_left(tape.as_deref_mut(), x, norm, LAYER_NORM_EPS, read)?;
        let (weight, bias) = (p("attn.qkv.weight"), p("attn.qkv.bias"));
        let mixed = self_attention::forward(tape.as_deref_mut(), &normal, &weight, &bias, spans, heads)?;
        drop(normal);
        self.rest_of_block(tape, x, &mixed, spans, l)
    }

    /// Block `l` for [CLS] alone, which is all that the head reads of the last block: attention of its query over all
    /// tokens, projection and MLP of the first. x as in `block` gives (B,1,D), the first row of what `block` gives.
    pub(super) fn short_block(&self, mut tape: Option<&mut Tape>, x: &Var, spans: &Spans, l: usize) -> Result<Var> {
        let p = |name: &str| self.param(&format!("blocks.{l}.{name}"));
        let d = self.config.width;
        let first: Arc<[u32]> = vec![0; spans.images()].into();
        let ones = Spans::even(spans.images(), 1);
        let normal = layer_norm::forward(tape.as_deref_mut(), x, &p("norm1.weight"), &p("norm1.bias"), LAYER_NORM_EPS)?;
        let cls = gather::forward_within(tape.as_deref_mut(), &normal, &first, [spans, &ones])?;
        let rows = |name: &str, first: usize, count: usize| {
            self.params.rows(self.id(&format!("blocks.{l}.attn.qkv.{name}")), first, count)
        };
        let q = matmul::forward(tape.as_deref_mut(), &cls, &rows("weight", 0, d), &rows("bias", 0, d), Epilogue::Bias)?;
        let kv = [&rows("weight", d, 2 * d), &rows("bias", d, 2 * d)];
        let (heads, read) = (self.config.heads, self.params.operands());
        let mixed = single_query::forward(tape.as_deref_mut(), &q, &normal, kv, spans, heads, read)?;
        let x = gather::forward_within(tape.as_deref_mut(), x, &first, [spans, &ones])?;
        self.rest_of_block(tape, &x, &Left::Values(mixed), &ones, l)
    }

    /// Projection, residual, MLP, residual; rows of x and of the mixed values alike.
    fn rest_of_block(
        &self,
        mut tape: Option<&mut Tape>,
        x: &Var,
        mixed: &Left,
        spans: &Spans,
        l: usize,
    ) -> Result<Var> {
        let p = |name: &str| self.param(&format!("blocks.{l}.{name}"));
        let (weight, bias) = (p("attn.proj.weight"), p("attn.proj.bias"));
        let x = self.join(tape.as_deref_mut(), x, spans, (l, 0), |tape, residual| {
            matmul::forward_left(tape, mixed, &weight, &bias, residual.map_or(Epilogue::Bias, Epilogue::BiasResidual))
        })?;
        let (norm, read) = ([&p("norm2.weight"), &p("norm2.bias")], self.params.operands());
        let normal = layer_norm::forward_left(tape.as_deref_mut(), &x, norm, LAYER_NORM_EPS, read)?;
        let (weight1, bias1) = (&p("mlp.fc1.weight"), &p("mlp.fc1.bias"));
        let (weight2, bias2) = (&p("mlp.fc2.weight"), &p("mlp.fc2.bias"));
        let layers = Layers { weight1, bias1, weight2, bias2 };
        self.join(tape, &x, spans, (l, 1), |tape, residual| mlp::forward(tape, &normal, layers, residual))
    }

    /// x and residual branch `n` of block `l`, which `branch` computes: with the sum in its last product, unless the model
    /// scales its branches, or training leaves this one out for some images.
    fn join(
        &self,
        mut tape: Option<&mut Tape>,
        x: &Var,
        spans: &Spans,
        (l, n): (usize, usize),
        branch: impl FnOnce(Option<&mut Tape>, Option<&Var>) -> Result<Var>,
    ) -> Result<Var> {
        let drop = self.drop_path.as_ref().filter(|_| tape.is_some());
        let scales = drop.and_then(|drop| drop.scales(l, n));
        if scales.is_none() && !self.config.layer_scale {
            return branch(tape, Some(x));
        }
        let mut branch = branch(tape.as_deref_mut(), None)?;
        if self.config.layer_scale {
            let gamma = self.param(&format!("blocks.{l}.ls{}.gamma", n + 1));
            branch = layer_scale::forward(tape.as_deref_mut(), &branch, &gamma)?;
        }
        match scales {
            Some(scales) => drop_path::forward_within(tape, x, &branch, spans, scales),
            None => residual::forward(tape, x, &branch),
        }
    }
}
