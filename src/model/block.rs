//! The encoder block: pre-norm attention and MLP, each with its residual; and its short form for the last block.
#![forbid(unsafe_code)]

use super::{LAYER_NORM_EPS, Vit};
use crate::error::Result;
use crate::ops::matmul::{self, Epilogue};
use crate::ops::{attention, drop_path, gather, layer_norm};
use crate::tape::{Tape, Var};
use std::sync::Arc;

impl Vit {
    /// Block `l` on x (B,S,D), all tokens.
    pub fn block(&self, mut tape: Option<&mut Tape>, x: &Var, l: usize) -> Result<Var> {
        let p = |name: &str| self.param(&format!("blocks.{l}.{name}"));
        let normal = layer_norm::forward(tape.as_deref_mut(), x, &p("norm1.weight"), &p("norm1.bias"), LAYER_NORM_EPS)?;
        let (weight, bias) = (p("attn.qkv.weight"), p("attn.qkv.bias"));
        let qkv = matmul::forward(tape.as_deref_mut(), &normal, &weight, &bias, Epilogue::Bias)?;
        let mixed = attention::packed(tape.as_deref_mut(), &qkv, self.config.heads)?;
        self.rest_of_block(tape, x, &mixed, l)
    }

    /// Block `l` for [CLS] alone, which is all that the head reads of the last block: keys and values of all tokens,
    /// but query, projection and MLP of the first. x (B,S,D) gives (B,1,D), the first row of what `block` gives.
    pub(super) fn short_block(&self, mut tape: Option<&mut Tape>, x: &Var, l: usize) -> Result<Var> {
        let p = |name: &str| self.param(&format!("blocks.{l}.{name}"));
        let d = self.config.width;
        let first: Arc<[u32]> = vec![0; x.shape()[0]].into();
        let normal = layer_norm::forward(tape.as_deref_mut(), x, &p("norm1.weight"), &p("norm1.bias"), LAYER_NORM_EPS)?;
        let cls = gather::forward(tape.as_deref_mut(), &normal, &first, 1)?;
        let rows = |name: &str, first: usize, count: usize| {
            self.params.rows(self.id(&format!("blocks.{l}.attn.qkv.{name}")), first, count)
        };
        let q = matmul::forward(tape.as_deref_mut(), &cls, &rows("weight", 0, d), &rows("bias", 0, d), Epilogue::Bias)?;
        let (weight, bias) = (rows("weight", d, 2 * d), rows("bias", d, 2 * d));
        let kv = matmul::forward(tape.as_deref_mut(), &normal, &weight, &bias, Epilogue::Bias)?;
        let mixed = attention::split(tape.as_deref_mut(), &q, &kv, self.config.heads)?;
        let x = gather::forward(tape.as_deref_mut(), x, &first, 1)?;
        self.rest_of_block(tape, &x, &mixed, l)
    }

    /// Projection, residual, MLP, residual; rows of x and of the mixed values alike.
    fn rest_of_block(&self, mut tape: Option<&mut Tape>, x: &Var, mixed: &Var, l: usize) -> Result<Var> {
        let p = |name: &str| self.param(&format!("blocks.{l}.{name}"));
        let (weight, bias) = (p("attn.proj.weight"), p("attn.proj.bias"));
        let x = self.join(tape.as_deref_mut(), x, mixed, [&weight, &bias], l, 0)?;
        let normal =
            layer_norm::forward(tape.as_deref_mut(), &x, &p("norm2.weight"), &p("norm2.bias"), LAYER_NORM_EPS)?;
        let (weight, bias) = (p("mlp.fc1.weight"), p("mlp.fc1.bias"));
        let hidden = matmul::forward(tape.as_deref_mut(), &normal, &weight, &bias, Epilogue::BiasGelu)?;
        let (weight, bias) = (p("mlp.fc2.weight"), p("mlp.fc2.bias"));
        self.join(tape, &x, &hidden, [&weight, &bias], l, 1)
    }

    /// The end of residual branch `n` of block `l`: its last linear layer and the sum with x, where the branch may count
    /// differently for each image in training.
    fn join(
        &self,
        mut tape: Option<&mut Tape>,
        x: &Var,
        hidden: &Var,
        [weight, bias]: [&Var; 2],
        l: usize,
        n: usize,
    ) -> Result<Var> {
        let drop = self.drop_path.as_ref().filter(|_| tape.is_some());
        let Some(scales) = drop.and_then(|drop| drop.scales(l, n)) else {
            return matmul::forward(tape, hidden, weight, bias, Epilogue::BiasResidual(x));
        };
        let branch = matmul::forward(tape.as_deref_mut(), hidden, weight, bias, Epilogue::Bias)?;
        drop_path::forward(tape, x, &branch, scales)
    }
}
