//! The whole model against PyTorch: logits, loss, every gradient, ten steps of training; and the exactness promises.
#![forbid(unsafe_code)]

mod support;

use dynavit::model::{EmbedMode, PosMode, Vit, VitOptions};
use dynavit::optim::{AdamW, AdamWConfig, Decay, Schedule};
use dynavit::prune::{Kept, Pixels, PruneConfig, Round, SaliencyDomain, Scorer, select, top_k};
use dynavit::tensor::Tensor;
use dynavit::tensor::compare::relative_norm;
use support::{Fixture, json, tiny_images, tiny_vit};

const BATCH: usize = 4;
const LABELS: [usize; BATCH] = [0, 3, 1, 4];

/// The four images of fixtures/tiny_vit.json.
fn images() -> Tensor {
    Tensor::from_vec(tiny_images(), &[BATCH, 3, 64, 64])
}

fn keep(vit: &Vit, images: &Tensor, percent: &str) -> Kept {
    let config = PruneConfig {
        keep: percent.parse().unwrap(),
        round: Round::Floor,
        scorer: Scorer::L2,
        domain: SaliencyDomain::Normalized,
        entropy_bins: 256,
        seed: 0,
    };
    let rgb = vec![0; images.len()];
    let pixels = Pixels { normalized: images.data(), rgb: &rgb, ids: &[0, 1, 2, 3], epoch: 0 };
    select(&config, &vit.config.grid(), &pixels).unwrap()
}

fn assert_near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths differ");
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(g) - e).abs() <= tolerance, "{what}[{i}]: {g} against {e}");
    }
}

fn losses_and_gradients(options: VitOptions, percent: &str) -> (f32, Vec<f32>, Tensor, Vit) {
    let vit = tiny_vit(options);
    let images = images();
    let kept = keep(&vit, &images, percent);
    let mut grads = Tensor::zeros(vit.params.flat().shape());
    let (loss, logits) = vit.loss_and_gradients(&images, &kept, &LABELS, 0.0, 1.0, &mut grads).unwrap();
    (loss, logits.data().to_vec(), grads, vit)
}

#[test]
fn tiny_vit_gives_pytorchs_logits_loss_and_gradients() {
    let fixture = Fixture::open("tiny_vit.safetensors");
    let (loss, logits, grads, vit) = losses_and_gradients(VitOptions::default(), "70");
    let kept = keep(&vit, &images(), "70");
    assert_eq!(kept.indices, fixture.u32("kept"));
    // Logits are near 1; a forward pass of this depth in f32 loses a few units of 1e-7, in PyTorch as here.
    assert_near("logits", &logits, &fixture.f64("logits64"), 5e-6);
    assert_eq!(logits, vit.logits(&images(), &kept).unwrap().data(), "inference and training differ");
    let expected = fixture.f64("loss")[0];
    assert!((f64::from(loss) / expected - 1.0).abs() < 1e-6, "loss {loss} against {expected}");
    let mut worst = (0.0, String::new());
    for id in vit.params.ids() {
        let name = vit.params.name(id);
        let stored: Vec<f64> = fixture
            .bytes(&format!("grad.{name}"))
            .chunks(3)
            .map(|b| f64::from(f32::from_bits(u32::from_le_bytes([0, b[0], b[1], b[2]]))))
            .collect();
        let error = relative_norm(&grads.data()[vit.params.range(id)], &stored);
        assert!(error.is_finite() && error <= 1e-4, "gradient of {name}: relative norm {error:e}");
        if error > worst.0 {
            worst = (error, name.to_string());
        }
    }
    println!("worst gradient: {} at {:e}", worst.1, worst.0);

    let all = keep(&vit, &images(), "100");
    assert_near("logits at K=100", vit.logits(&images(), &all).unwrap().data(), &fixture.f64("logits64_k100"), 5e-6);
}

#[test]
fn ten_steps_follow_pytorch() {
    let mut vit = tiny_vit(VitOptions::default());
    let (images, kept) = (images(), keep(&vit, &images(), "70"));
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.05 };
    let mut optim = AdamW::new(vit.params.flat().len(), config, Vec::new());
    let decay = Decay::Step { size: 3, gamma: 0.5 };
    let schedule = Schedule { lr: 1e-3, decay, warmup_steps: 0, warmup_lr: None };
    let mut grads = Tensor::zeros(vit.params.flat().shape());
    let expected = json("tiny_vit.json");
    let losses = expected["losses_f64"].as_array().unwrap();
    assert_eq!(losses.len(), 10);
    let mut worst = 0.0f64;
    for (step, expected) in losses.iter().enumerate() {
        let (loss, _) = vit.loss_and_gradients(&images, &kept, &LABELS, 0.0, 1.0, &mut grads).unwrap();
        let expected = expected.as_f64().unwrap();
        let error = (f64::from(loss) / expected - 1.0).abs();
        worst = worst.max(error);
        assert!(error <= 1e-5, "loss of step {step}: {loss} against {expected}, {error:e}");
        // The fixture steps its schedule after each update: a "epoch" of one step.
        optim.update(vit.params.flat_mut(), &grads, schedule.at(step as u32, step as u64));
    }
    println!("worst loss of ten: {worst:e} off");
}

#[test]
fn shortcuts_agree_with_the_long_way() {
    for percent in ["100", "70", "30"] {
        let (loss, logits, grads, vit) = losses_and_gradients(VitOptions::default(), percent);
        for options in [
            VitOptions { embed: EmbedMode::Dense, ..VitOptions::default() },
            VitOptions { full_last_block: true, ..VitOptions::default() },
        ] {
            let (long_loss, long_logits, long_grads, _) = losses_and_gradients(options, percent);
            assert!((loss - long_loss).abs() <= 2e-6, "{options:?}: loss {loss} against {long_loss}");
            let wide: Vec<f64> = long_logits.iter().map(|&v| f64::from(v)).collect();
            assert_near("logits", &logits, &wide, 5e-6);
            for id in vit.params.ids() {
                let wide: Vec<f64> = long_grads.data()[vit.params.range(id)].iter().map(|&v| f64::from(v)).collect();
                let error = relative_norm(&grads.data()[vit.params.range(id)], &wide);
                assert!(error <= 1e-5, "{options:?} at K={percent}: gradient of {}: {error:e}", vit.params.name(id));
            }
        }
    }
}

#[test]
fn keeping_all_patches_equals_the_unpruned_model_bit_for_bit() {
    let vit = tiny_vit(VitOptions::default());
    let (images, n) = (images(), vit.config.patches());
    let kept = keep(&vit, &images, "100");
    // `select` does not score at K=100, so the way through the ranking is walked here as well.
    let energy = |b: usize| (0..n).map(|i| ((i * 7 + b * 5) % 16) as f64).collect::<Vec<_>>();
    let ranked: Vec<u32> = (0..BATCH).flat_map(|b| top_k(&energy(b), n)).collect();
    assert_eq!(kept, Kept::even(ranked, BATCH, n));
    // The unpruned model embeds all patches in raster order and gathers nothing away.
    let dense = tiny_vit(VitOptions { embed: EmbedMode::Dense, ..VitOptions::default() });
    let unpruned = dense.logits(&images, &Kept::all(BATCH, n)).unwrap();
    assert_eq!(vit.logits(&images, &kept).unwrap().data(), unpruned.data());
    // All patches kept, the first k position rows are the gathered ones.
    let prefix = tiny_vit(VitOptions { pos: PosMode::Prefix, ..VitOptions::default() });
    assert_eq!(prefix.logits(&images, &kept).unwrap().data(), unpruned.data());
    let kept = keep(&vit, &images, "70");
    let differs = prefix.logits(&images, &kept).unwrap().data() != vit.logits(&images, &kept).unwrap().data();
    assert!(differs, "prefix positions must matter once patches are dropped");
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            // Sixteen images make several chunks of every ordered sum.
            let vit = tiny_vit(VitOptions::default());
            let values = [images().data(); 4].concat();
            let all = Tensor::from_vec(values, &[4 * BATCH, 3, 64, 64]);
            let kept = keep(&vit, &images(), "70");
            let k = kept.spans.common().unwrap();
            let kept = Kept::even(kept.indices.repeat(4), 4 * BATCH, k);
            let mut grads = Tensor::zeros(vit.params.flat().shape());
            let (loss, _) = vit.loss_and_gradients(&all, &kept, &LABELS.repeat(4), 0.0, 1.0, &mut grads).unwrap();
            (loss.to_bits(), grads.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>())
        })
    };
    let alone = run(1);
    assert!(alone == run(2) && alone == run(3), "the number of threads changes the gradient");
}
