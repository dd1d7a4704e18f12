//! candle as a rival: ViT-B/16 on the first k patches, inference or a training step with AdamW.
//!
//! `candle_vit infer|train MODEL K BATCH THREADS`; a step at each line of stdin, answered with its seconds.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Init, Linear, Module, Optimizer, VarBuilder, VarMap, linear, ops};
use std::io::BufRead;
use std::time::Instant;

const WIDTH: usize = 768;
const HEADS: usize = 12;
const PATCHES: usize = 196;

/// Layer norm by candle's fused op, or by its slow one: the fused op has no backward, and training through it would
/// be fast and wrong.
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    train: bool,
}

impl LayerNorm {
    fn new(vb: VarBuilder, train: bool) -> Result<Self> {
        let weight = vb.get_with_hints(WIDTH, "weight", Init::Const(1.0))?;
        Ok(LayerNorm { weight, bias: vb.get_with_hints(WIDTH, "bias", Init::Const(0.0))?, train })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let norm = if self.train { ops::layer_norm_slow } else { ops::layer_norm };
        norm(x, &self.weight, &self.bias, 1e-6)
    }
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn new(vb: VarBuilder, train: bool) -> Result<Self> {
        Ok(Block {
            norm1: LayerNorm::new(vb.pp("norm1"), train)?,
            qkv: linear(WIDTH, 3 * WIDTH, vb.pp("qkv"))?,
            proj: linear(WIDTH, WIDTH, vb.pp("proj"))?,
            norm2: LayerNorm::new(vb.pp("norm2"), train)?,
            fc1: linear(WIDTH, 4 * WIDTH, vb.pp("fc1"))?,
            fc2: linear(4 * WIDTH, WIDTH, vb.pp("fc2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, s, d) = x.dims3()?;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let qkv = qkv.reshape((b, s, 3, HEADS, d / HEADS))?.permute((2, 0, 3, 1, 4))?;
        let part = |i: usize| qkv.get(i)?.contiguous();
        let scores = (part(0)?.matmul(&part(1)?.t()?)? * (HEADS as f64 / d as f64).sqrt())?;
        let weights =
            if self.norm1.train { ops::softmax(&scores, D::Minus1)? } else { ops::softmax_last_dim(&scores)? };
        let mixed = weights.matmul(&part(2)?)?.transpose(1, 2)?.reshape((b, s, d))?;
        let x = (x + self.proj.forward(&mixed)?)?;
        let hidden = self.fc1.forward(&self.norm2.forward(&x)?)?.gelu_erf()?;
        &x + self.fc2.forward(&hidden)?
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, mode, model, keep, batch, _threads] = &args[..] else { panic!("usage: candle_vit MODE MODEL K BATCH THREADS") };
    assert_eq!(model, "vit_base_patch16_224", "only ViT-B is written here");
    let (train, keep, batch) = (mode == "train", keep.parse::<f64>().expect("K"), batch.parse::<usize>().expect("B"));
    let k = ((PATCHES as f64 * keep / 100.0 + 1e-9) as usize).max(1);
    let device = Device::Cpu;
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &device);
    let small = Init::Randn { mean: 0.0, stdev: 0.02 };
    let embed = linear(WIDTH, WIDTH, vb.pp("embed"))?;
    let positions = vb.get_with_hints((1, PATCHES + 1, WIDTH), "positions", small)?;
    let cls = vb.get_with_hints((1, 1, WIDTH), "cls", small)?;
    let blocks = (0..12).map(|i| Block::new(vb.pp(format!("block{i}")), train)).collect::<Result<Vec<_>>>()?;
    let norm = LayerNorm::new(vb.pp("norm"), train)?;
    let head = linear(WIDTH, 5, vb.pp("head"))?;
    let params = candle_nn::ParamsAdamW { lr: 3e-5, weight_decay: 0.05, ..Default::default() };
    let mut optim = candle_nn::AdamW::new(vars.all_vars(), params)?;
    let patches = Tensor::randn(0f32, 1.0, (batch, PATCHES, WIDTH), &device)?;
    let labels = Tensor::zeros(batch, DType::U32, &device)?;

    println!("candle 0.11.1 f32");
    for _ in std::io::stdin().lock().lines() {
        let clock = Instant::now();
        let tokens = embed.forward(&patches)?.narrow(1, 0, k)?;
        let cls = cls.broadcast_as((batch, 1, WIDTH))?;
        let mut x = Tensor::cat(&[&cls, &tokens], 1)?.broadcast_add(&positions.narrow(1, 0, k + 1)?)?;
        for block in &blocks {
            x = block.forward(&x)?;
        }
        let logits = head.forward(&norm.forward(&x)?.narrow(1, 0, 1)?.squeeze(1)?)?;
        if train {
            let gradients = candle_nn::loss::cross_entropy(&logits, &labels)?.backward()?;
            assert!(gradients.get(&positions).is_some(), "no gradient reaches the position table");
            optim.step(&gradients)?;
        } else {
            logits.to_vec2::<f32>()?;
        }
        println!("{}", clock.elapsed().as_secs_f64());
    }
    Ok(())
}
