//! The differentiable ops and AdamW against PyTorch's outputs and gradients (fixtures/ops.safetensors).
#![forbid(unsafe_code)]

mod support;

use dynavit::error::Result;
use dynavit::ops::matmul::Epilogue;
use dynavit::ops::{assemble, attention, cross_entropy, gelu, layer_norm, matmul, softmax};
use dynavit::optim::{AdamW, AdamWConfig};
use dynavit::tape::{ParamArena, Tape, Var};
use dynavit::tensor::Tensor;
use dynavit::tensor::compare::UNIT_F32;
use std::sync::Arc;
use support::Fixture;

/// The inputs of a case as parameters, so that each gets its gradient.
struct Case<'a> {
    fixture: &'a Fixture,
    prefix: String,
    inputs: &'a [&'a str],
    params: ParamArena,
    /// Relative error that the inputs' own rounding brings, beside the engine's: see the layer norm of large means.
    conditioning: f64,
}

impl<'a> Case<'a> {
    fn new(fixture: &'a Fixture, prefix: &str, inputs: &'a [&'a str]) -> Self {
        let specs: Vec<_> =
            inputs.iter().map(|name| (name.to_string(), fixture.shape(&format!("{prefix}.{name}")))).collect();
        let mut params = ParamArena::new(&specs);
        for (id, name) in params.ids().zip(inputs) {
            params.values_mut(id).copy_from_slice(&fixture.f32(&format!("{prefix}.{name}")));
        }
        Case { fixture, prefix: prefix.to_string(), inputs, params, conditioning: 0.0 }
    }

    fn get(&self, name: &str) -> Vec<f64> {
        self.fixture.f64(&format!("{}.{name}", self.prefix))
    }

    /// Runs the op, then compares its output `y` and the gradient `d<input>` of each input.
    ///
    /// The fixture is the f64 result rounded once. The engine's own rounding on these small shapes stays within 200
    /// half units of the largest value: sums of at most 200 terms, or the exponent of a softmax.
    fn check(&self, y: &str, op: impl Fn(&mut Tape, &[Var]) -> Result<Var>) {
        self.check_but(&[], y, op);
    }

    /// As `check`, without the gradients named in `skipped`.
    fn check_but(&self, skipped: &[&str], y: &str, op: impl Fn(&mut Tape, &[Var]) -> Result<Var>) {
        let vars: Vec<Var> = self.params.ids().map(|id| self.params.var(id)).collect();
        let mut tape = Tape::new();
        let output = op(&mut tape, &vars).unwrap();
        self.near(y, output.value.data(), &self.get(y));
        let dy: Vec<f32> = self.get("dy").iter().map(|&v| v as f32).collect();
        let dy = Tensor::from_vec(dy, output.shape());
        let mut flat = Tensor::zeros(self.params.flat().shape());
        tape.backward(&output, dy, &self.params, &mut flat).unwrap();
        for (id, name) in self.params.ids().zip(self.inputs).filter(|(_, name)| !skipped.contains(*name)) {
            self.near(&format!("d{name}"), &flat.data()[self.params.range(id)], &self.get(&format!("d{name}")));
        }
    }

    fn near(&self, what: &str, got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len(), "{}.{what}", self.prefix);
        let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
            let error = (f64::from(g) - e).abs();
            assert!(
                error <= (200.0 * UNIT_F32 + self.conditioning) * (scale + 1e-3),
                "{}.{what}[{i}]: {g:e} against {e:e}",
                self.prefix
            );
        }
    }
}

/// Runs `body` on every case of `op`, and fails when there is none.
fn for_cases(op: &str, body: impl Fn(&Fixture, &str)) {
    let fixture = Fixture::open("ops.safetensors");
    let mut count = 0;
    while fixture.names().iter().any(|name| name.starts_with(&format!("{op}.case{count}."))) {
        body(&fixture, &format!("{op}.case{count}"));
        count += 1;
    }
    assert!(count > 0, "no fixture of {op}");
}

#[test]
fn matmul_and_its_epilogues() {
    for_cases("matmul_bias", |f, p| {
        let inputs = ["x", "w", "b"];
        Case::new(f, p, &inputs).check("y", |t, v| matmul::forward(Some(t), &v[0], &v[1], &v[2], Epilogue::Bias));
    });
    for_cases("matmul_gelu", |f, p| {
        let inputs = ["x", "w", "b"];
        Case::new(f, p, &inputs).check("y", |t, v| {
            let pre = matmul::forward(Some(t), &v[0], &v[1], &v[2], Epilogue::Bias)?;
            gelu::forward(Some(t), &pre)
        });
    });
    for_cases("matmul_residual", |f, p| {
        let inputs = ["x", "w", "b", "r"];
        Case::new(f, p, &inputs)
            .check("y", |t, v| matmul::forward(Some(t), &v[0], &v[1], &v[2], Epilogue::BiasResidual(&v[3])));
    });
}

#[test]
fn layer_norm_of_every_case() {
    for_cases("layer_norm", |f, p| {
        let inputs = ["x", "weight", "bias"];
        let mut case = Case::new(f, p, &inputs);
        // The mean of a row is rounded to f32: half a unit of the mean, in units of the row's deviation.
        let largest = |name: &str| f.f64(&format!("{p}.{name}")).into_iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        case.conditioning = 2.0 * UNIT_F32 * largest("mean") * largest("rstd");
        // In a row of (nearly) equal elements the true dx is a difference of equal numbers times 1/sqrt(eps) = 1000,
        // which no f32 computation holds to the scale of the difference; everything else of such rows is compared.
        let skipped: &[&str] = if largest("rstd") > 100.0 { &["x"] } else { &[] };
        case.check_but(skipped, "y", |t, v| layer_norm::forward(Some(t), &v[0], &v[1], &v[2], 1e-6));
    });
}

#[test]
fn attention_of_every_case() {
    for_cases("attention", |f, p| {
        let heads = f.u32(&format!("{p}.heads"))[0] as usize;
        Case::new(f, p, &["qkv"]).check("y", |t, v| attention::packed(Some(t), &v[0], heads));
    });
}

#[test]
fn softmax_and_gelu() {
    for_cases("softmax", |f, p| Case::new(f, p, &["x"]).check("y", |t, v| softmax::forward(Some(t), &v[0])));
    for_cases("gelu", |f, p| Case::new(f, p, &["x"]).check("y", |t, v| gelu::forward(Some(t), &v[0])));
}

#[test]
fn cross_entropy_with_and_without_smoothing() {
    for_cases("cross_entropy", |f, p| {
        let labels: Vec<usize> = f.u32(&format!("{p}.labels")).into_iter().map(|l| l as usize).collect();
        let smoothing = f.f32(&format!("{p}.smoothing"))[0];
        Case::new(f, p, &["logits"]).check("loss", |t, v| cross_entropy::forward(Some(t), &v[0], &labels, smoothing));
    });
}

#[test]
fn assembly_with_gathered_and_prefix_positions() {
    let inputs = ["tokens", "cls", "pos"];
    for_cases("assemble", |f, p| {
        let rows: Arc<[u32]> = f.u32(&format!("{p}.kept")).into_iter().map(|i| 1 + i).collect();
        Case::new(f, p, &inputs).check("y", |t, v| assemble::forward(Some(t), &v[0], &v[1], &v[2], &rows));
    });
    for_cases("assemble_prefix", |f, p| {
        let &[b, k] = f.shape(&format!("{p}.kept")).as_slice() else { panic!("kept is (B,k)") };
        let rows: Arc<[u32]> = (0..b).flat_map(|_| 1..=k as u32).collect();
        Case::new(f, p, &inputs).check("y", |t, v| assemble::forward(Some(t), &v[0], &v[1], &v[2], &rows));
    });
}

#[test]
fn adamw_follows_torch_for_three_steps() {
    for_cases("adamw", |f, p| {
        let get = |name: &str| f.f32(&format!("{p}.{name}"));
        let n = get("param").len();
        let config =
            AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: f.f64(&format!("{p}.weight_decay"))[0] };
        let mut optim = AdamW::new(n, config, Vec::new());
        optim.exp_avg = Tensor::from_vec(get("exp_avg"), &[n]);
        optim.exp_avg_sq = Tensor::from_vec(get("exp_avg_sq"), &[n]);
        optim.step = u64::from(f.u32(&format!("{p}.step"))[0]);
        let mut params = Tensor::from_vec(get("param"), &[n]);
        for step in 0..3 {
            let grads = Tensor::from_vec(get("grad")[step * n..(step + 1) * n].to_vec(), &[n]);
            optim.update(&mut params, &grads, f.f64(&format!("{p}.lr"))[0]);
            let expected = &f.f64(&format!("{p}.param_after64"))[step * n..(step + 1) * n];
            for (i, (&got, &expected)) in params.data().iter().zip(expected).enumerate() {
                // Three updates of a parameter of size 1 round a few times each.
                let error = (f64::from(got) - expected).abs();
                assert!(
                    error <= 8.0 * UNIT_F32 * (1.0 + expected.abs()),
                    "{p} step {step}[{i}]: {got} against {expected}"
                );
            }
        }
    });
}
