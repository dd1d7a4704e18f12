//! Models beyond plain ViTs at their own size against timm and transformers: positions, layer scale, other names.
#![forbid(unsafe_code)]

mod support;

use dynavit::checkpoint::ModelCard;
use dynavit::data::TransformConfig;
use dynavit::model::{Found, HeadPolicy, Named, Naming, Vit, VitConfig, VitOptions, resample};
use dynavit::prune::Kept;
use dynavit::tensor::Tensor;
use dynavit::tensor::compare::{UNIT_F32, relative_norm};
use dynavit::weights::{Entry, Weights, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use support::{Fixture, generated, json};

const CLASSES: usize = 3;

/// The model that fixtures/make_family.py builds.
fn config(layer_scale: bool) -> VitConfig {
    VitConfig {
        name: "tiny".into(),
        image_size: 56,
        patch: 14,
        channels: 3,
        width: 32,
        heads: 2,
        mlp: 128,
        depth: 2,
        classes: CLASSES,
        layer_scale,
    }
}

fn images() -> Tensor {
    Tensor::from_vec(generated(2999, 2 * 3 * 56 * 56, 2.0), &[2, 3, 56, 56])
}

/// One tensor of a listed model: name, shape, values.
type Listed = (String, Vec<usize>, Vec<f32>);

/// The generator's tensors of `family.json`, under the names it lists.
fn listed(about: &Value, kind: &str) -> Vec<Listed> {
    let amplitude = about["config"]["amplitude"].as_f64().unwrap() as f32;
    let tensor = |entry: &Value| {
        let name = entry["name"].as_str().unwrap().to_string();
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
        let number = entry["tensor"].as_u64().unwrap() as u32;
        let mut values = generated(number, shape.iter().product(), amplitude);
        if name.contains("norm") && name.ends_with("weight") {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        (name, shape, values)
    };
    about[kind].as_array().unwrap().iter().map(tensor).collect()
}

fn save(path: &Path, tensors: &[Listed]) {
    let entries: Vec<Entry> = tensors.iter().map(|(name, shape, values)| Entry { name, shape, values }).collect();
    write(path, &entries, &BTreeMap::new()).unwrap();
}

fn load(path: &Path, config: VitConfig) -> Vit {
    Vit::load(config, VitOptions::default(), &Weights::open(path).unwrap(), HeadPolicy::Require, 0).unwrap().0
}

#[track_caller]
fn assert_near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths differ");
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(g) - e).abs() <= tolerance, "{what}[{i}]: {g} against {e}");
    }
}

#[test]
fn position_tables_are_resampled_as_timm_does() {
    let fixture = Fixture::open("family.safetensors");
    for (from, to) in [(14, 16), (14, 24), (14, 7), (16, 14), (37, 16)] {
        let table = generated(2000 + from as u32, (1 + from * from) * 4, 1.0);
        let expected = fixture.f64(&format!("positions.{from}-{to}"));
        // torch takes the places of the taps, up to `from`, in f32; the cubic's slope is at most 1.5, there are four taps
        // on each of two axes, and the values are below 1.
        let tolerance = 1.5 * 4.0 * 2.0 * from as f64 * UNIT_F32;
        assert_near(&format!("{from} to {to}"), &resample(&table, from, to), &expected, tolerance);
    }
}

#[test]
fn another_image_size_resamples_the_table_on_load_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    save(&path, &listed(&json("family.json"), "scaled"));
    let small = load(&path, config(true));
    let weights = Weights::open(&path).unwrap();
    let larger = config(true).with_image_size(84).unwrap();
    let (large, report) = Vit::load(larger, VitOptions::default(), &weights, HeadPolicy::Require, 0).unwrap();
    assert_eq!((report.resampled, large.config.patches()), (Some((4, 6)), 36));
    for id in large.params.ids() {
        let name = large.params.name(id);
        let before = small.params.values(small.params.find(name).unwrap());
        let expected = if name == "pos_embed" { resample(before, 4, 6) } else { before.to_vec() };
        assert_eq!(large.params.values(id), expected, "{name}");
    }
    let image = Tensor::from_vec(generated(1, 3 * 84 * 84, 1.0), &[1, 3, 84, 84]);
    assert!(large.logits(&image, &Kept::all(1, 36)).unwrap().data().iter().all(|z| z.is_finite()));
}

#[test]
fn layer_scale_gives_timms_logits_loss_and_gradients() {
    let (fixture, about) = (Fixture::open("family.safetensors"), json("family.json"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    save(&path, &listed(&about, "scaled"));
    // What the configuration says of the scales gives way to the weights.
    let vit = load(&path, config(false));
    assert!(vit.config.layer_scale);
    let kept: Vec<Vec<u32>> = serde_json::from_value(about["config"]["kept"].clone()).unwrap();
    let kept = Kept::of_images(&kept);
    let labels: Vec<usize> = serde_json::from_value(about["config"]["labels"].clone()).unwrap();
    let mut grads = Tensor::zeros(vit.params.flat().shape());
    let (loss, logits) = vit.loss_and_gradients(&images(), &kept, &labels, 0.0, 1.0, &mut grads).unwrap();
    assert_near("logits", logits.data(), &fixture.f64("scaled.logits64"), 1e-5);
    assert!((f64::from(loss) / fixture.f64("scaled.loss")[0] - 1.0).abs() < 1e-5, "loss {loss}");
    let mut compared = 0;
    for id in vit.params.ids() {
        let stored = format!("scaled.grad.{}", vit.params.name(id));
        if !fixture.names().contains(&stored) {
            continue;
        }
        let error = relative_norm(&grads.data()[vit.params.range(id)], &fixture.f64(&stored));
        assert!(error.is_finite() && error <= 1e-4, "{stored}: relative norm {error:e}");
        compared += 1;
    }
    assert!(compared >= 20, "only {compared} gradients are compared");
    // The short last block and the full one agree on a scaled model too.
    let options = VitOptions { full_last_block: true, ..VitOptions::default() };
    let weights = Weights::open(&path).unwrap();
    let (long, _) = Vit::load(config(true), options, &weights, HeadPolicy::Require, 0).unwrap();
    assert_near("long", long.logits(&images(), &kept).unwrap().data(), &fixture.f64("scaled.logits64"), 1e-5);
}

/// The tensors of a listed transformers model under timm's names, stacked as the fixture says.
fn renamed(about: &Value, kind: &str) -> Vec<Listed> {
    let mut stacked: BTreeMap<String, BTreeMap<u64, Listed>> = BTreeMap::new();
    for (entry, tensor) in about[kind].as_array().unwrap().iter().zip(listed(about, kind)) {
        let Some(name) = entry["timm"].as_str() else { continue };
        stacked.entry(name.into()).or_default().insert(entry["part"].as_u64().unwrap_or(0), tensor);
    }
    let join = |(name, parts): (String, BTreeMap<u64, Listed>)| {
        let mut shape = parts[&0].1.clone();
        shape[0] *= parts.len();
        (name, shape, parts.into_values().flat_map(|(_, _, values)| values).collect())
    };
    stacked.into_iter().map(join).collect()
}

#[test]
fn the_names_of_transformers_load_as_timms_do() {
    let (fixture, about) = (Fixture::open("family.safetensors"), json("family.json"));
    let folder = tempfile::tempdir().unwrap();
    let [own, timm] = ["own.safetensors", "timm.safetensors"].map(|name| folder.path().join(name));
    for (kind, naming) in [("vit", Naming::HuggingFaceVit), ("dinov2", Naming::HuggingFaceDinov2)] {
        save(&timm, &renamed(&about, kind));
        let reference = load(&timm, config(false));
        // With and without the prefix of the backbone; it never stands before the classifier.
        for prefix in ["", kind] {
            let mut tensors = listed(&about, kind);
            for (name, ..) in &mut tensors {
                let bare = name.strip_prefix(&format!("{kind}.")).unwrap_or(name).to_string();
                let plain = prefix.is_empty() || bare.starts_with("classifier");
                *name = if plain { bare } else { format!("{prefix}.{bare}") };
            }
            save(&own, &tensors);
            let weights = Weights::open(&own).unwrap();
            let named = Named::new(&weights);
            assert_eq!(named.naming(), naming, "{prefix}");
            let found = Found::new(&named).unwrap();
            let shape = (found.width, found.depth, found.patch, found.mlp, found.image_size, found.classes);
            assert_eq!(shape, (32, 2, 14, Some(128), Some(56), Some(CLASSES)), "{prefix}");
            let (vit, report) =
                Vit::load(config(false), VitOptions::default(), &weights, HeadPolicy::Require, 0).unwrap();
            assert_eq!(report.unexpected, Vec::<String>::new());
            assert_eq!(vit.config.layer_scale, kind == "dinov2");
            assert_eq!(vit.params.flat().data(), reference.params.flat().data());
            let all = Kept::all(2, 16);
            let logits = vit.logits(&images(), &all).unwrap();
            assert_eq!(logits.data(), reference.logits(&images(), &all).unwrap().data());
            assert_near(kind, logits.data(), &fixture.f64(&format!("{kind}.logits64")), 2e-5);
        }
        // Parts that do not stack, or are not there, are named as the file names them.
        for rows in [0, 31] {
            let mut tensors = listed(&about, kind);
            let query = tensors.iter_mut().find(|(name, ..)| name.contains("layer.1") && name.ends_with("query.bias"));
            let (name, shape, values) = query.unwrap();
            values.truncate(rows);
            *shape = vec![rows];
            let name = name.clone();
            tensors.retain(|(_, shape, _)| shape != &[0]);
            save(&own, &tensors);
            let weights = Weights::open(&own).unwrap();
            let error = Vit::load(config(false), VitOptions::default(), &weights, HeadPolicy::Require, 0).err();
            assert!(error.unwrap().to_string().contains(&name));
        }
    }
}

#[test]
fn tokens_beside_cls_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    for extra in ["dist_token", "reg_token", "vit.embeddings.distillation_token", "embeddings.register_tokens"] {
        let mut tensors = listed(&json("family.json"), "scaled");
        tensors.push((extra.into(), vec![1, 1, 32], vec![0.0; 32]));
        save(&path, &tensors);
        let weights = Weights::open(&path).unwrap();
        let error = Vit::load(config(true), VitOptions::default(), &weights, HeadPolicy::Replace, 0).err().unwrap();
        assert!(error.exit_code() == 3 && error.to_string().contains(extra), "{error}");
    }
}

#[test]
fn a_missing_head_is_initialised_for_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut tensors = listed(&json("family.json"), "dinov2");
    tensors.retain(|(name, ..)| !name.starts_with("classifier"));
    save(&path, &tensors);
    let weights = Weights::open(&path).unwrap();
    let load = |policy| Vit::load(config(true), VitOptions::default(), &weights, policy, 3);
    assert!(load(HeadPolicy::Require).err().unwrap().to_string().contains("classifier.weight is missing"));
    let (vit, report) = load(HeadPolicy::Replace).unwrap();
    assert!(report.fresh_head.unwrap().contains("classifier.weight"));
    assert!(vit.params.values(vit.params.find("head.weight").unwrap()).iter().any(|&v| v != 0.0));
}

#[test]
fn cards_from_before_layer_scale_still_load() {
    let card = ModelCard {
        model: config(false),
        options: VitOptions::default(),
        classes: Vec::new(),
        transform: TransformConfig::paper(56),
        prune: dynavit::train::TrainConfig::sample("70".parse().unwrap()).prune(),
    };
    let mut text = serde_json::to_value(&card).unwrap();
    text["model"].as_object_mut().unwrap().remove("layer_scale").unwrap();
    assert_eq!(serde_json::from_value::<ModelCard>(text).unwrap(), card);
}

#[test]
fn what_would_be_another_model_is_refused_and_scalars_are_no_panic() {
    let about = json("family.json");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let refusal = |tensors: &[Listed]| {
        save(&path, tensors);
        let weights = Weights::open(&path).unwrap();
        let loaded = Vit::load(config(true), VitOptions::default(), &weights, HeadPolicy::Require, 0);
        loaded.map(drop).unwrap_err().to_string()
    };
    for name in ["blocks.0.gamma_1", "blocks.1.attn.q_norm.weight", "norm_pre.weight", "fc_norm.bias"] {
        let mut tensors = listed(&about, "scaled");
        tensors.push((name.into(), vec![1], vec![1.0]));
        assert!(refusal(&tensors).contains(name), "{name}");
    }
    let mut tensors = listed(&about, "vit");
    for (name, shape, values) in &mut tensors {
        if ["query", "key", "value"].iter().any(|part| name.contains(part)) {
            (*shape, *values) = (Vec::new(), vec![1.0]);
        }
    }
    assert!(refusal(&tensors).contains("is missing"));
}
