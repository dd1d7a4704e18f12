//! bf16 on the CPU: how far it is from f32, that it trains, and that a run keeps to it.
#![forbid(unsafe_code)]

#[path = "support/command.rs"]
mod command;

use command::run as line;
use dynavit::data::{Norm, noise};
use dynavit::device::cpu::gemm::Operands;
use dynavit::model::{Vit, VitConfig, VitOptions};
use dynavit::optim::AdamW;
use dynavit::prune::Kept;
use dynavit::tensor::Tensor;
use dynavit::tensor::compare::relative_norm;
use dynavit::train::{DatasetName, Learner, TrainConfig};

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn vit(operands: Operands) -> Vit {
    let config = VitConfig { image_size: 64, ..VitConfig::named("vit_micro_patch16_224", 5).unwrap() };
    let mut vit = Vit::init(config, VitOptions::default(), 3);
    vit.params.set_operands(operands);
    vit
}

/// A value passes about 6 products a block on its way through four blocks, and as many back. Each rounds both operands by
/// 2^-9 at most, which adds like a walk, with a factor of 2 for the steep places of softmax.
const FORWARD: f64 = 2.0 * 7.0 / 512.0;
const BACKWARD: f64 = 2.0 * FORWARD;

#[test]
fn logits_and_gradients_are_near_those_of_f32_and_not_the_same() {
    let both = |operands| {
        let mut vit = vit(operands);
        let images = Tensor::from_vec(noise(4, 64, Norm::Half, 5, 1).images, &[4, 3, 64, 64]);
        let logits = vit.logits(&images, &Kept::all(4, vit.config.patches())).unwrap().data().to_vec();
        let recipe = TrainConfig::paper(DatasetName::Voc, "70".parse().unwrap());
        let len = vit.params.flat().len();
        let (mut optim, mut grads) = (AdamW::new(len, recipe.adamw(), Vec::new()), Tensor::zeros(&[len]));
        let mut learner = Learner { vit: &mut vit, optim: &mut optim, grads: &mut grads, loss_scale: &mut None };
        learner.gradients(&recipe.prune(), noise(4, 64, Norm::Half, 5, 1), 0, 0.0, 1.0).unwrap();
        (logits, grads.data().to_vec())
    };
    let (whole, half) = (both(Operands::F32), both(Operands::Bf16));
    let (logits, gradients) = (relative_norm(&half.0, &wide(&whole.0)), relative_norm(&half.1, &wide(&whole.1)));
    println!("bf16 against f32: logits {logits:.2e}, gradients {gradients:.2e}");
    assert!(logits > 0.0 && logits < FORWARD, "logits {logits:e}");
    assert!(gradients > 0.0 && gradients < BACKWARD, "gradients {gradients:e}");
}

#[test]
fn a_pass_without_a_tape_gives_the_bits_of_one_with() {
    for operands in [Operands::F32, Operands::Bf16] {
        let vit = vit(operands);
        let patches = vit.config.patches();
        let images = Tensor::from_vec(noise(4, 64, Norm::Half, 5, 1).images, &[4, 3, 64, 64]);
        let ragged = [vec![0, 3, 4, 7, 15], vec![1], vec![2, 5], (0..16).collect()];
        for kept in [Kept::all(4, patches), Kept::of_images(&ragged)] {
            let mut grads = Tensor::zeros(&[vit.params.flat().len()]);
            let (_, with) = vit.loss_and_gradients(&images, &kept, &[0, 1, 2, 3][..], 0.0, 1.0, &mut grads).unwrap();
            let without = vit.logits(&images, &kept).unwrap();
            let bits = |x: &Tensor| x.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&without), bits(&with), "{operands:?}");
        }
    }
}

#[test]
fn a_run_in_bf16_learns_and_keeps_to_it_when_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let run = |text: &str| {
        let (code, out, err) = line(folder.path(), text);
        assert_eq!(code, Some(0), "{text}\nstdout: {out}\nstderr: {err}");
        (out, err)
    };
    run("data sample --output drawn --images 60 --seed 5");
    let train = |name: &str, more: &str| {
        format!(
            "train voc 10 --data drawn --model vit_micro_patch16_224 --lr 1e-3 --batch-size 12 --workers 2 \
             --device cpu --run-name {name} {more}"
        )
    };
    let (_, err) = run(&train("half", "--epochs 2 --precision bf16"));
    assert!(err.contains("cpu in bf16"), "{err}");
    run(&train("whole", "--epochs 2 --precision f32"));
    run(&train("parts", "--epochs 1 --precision bf16"));
    let (_, err) = run("train --resume runs/parts --epochs 2");
    assert!(err.contains("cpu in bf16"), "{err}");
    let model = |name: &str| std::fs::read(folder.path().join(format!("runs/{name}/last/model.safetensors"))).unwrap();
    assert!(model("half") == model("parts") && model("half") != model("whole"));
    let (out, _) = run("eval voc 10 --data drawn --checkpoint runs/half --precision bf16 --device cpu --json");
    assert!(out.contains("\"accuracy\""), "{out}");
}
