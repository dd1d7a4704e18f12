//! The ops' CUDA launches through `cust` on ragged shapes, against their f64 references: the path that ships.
//!
//! The card is the virtual one with all checks on; with `DYNAVIT_REQUIRE_GPU=1` it is the machine's own.
#![forbid(unsafe_code)]

mod attentions;
mod bytes;
mod layer_norms;
mod products;
mod support;
mod tapes;
mod updates;

use dynavit::device::cuda::{Arena, Gpu, Half, Store, Target};
use dynavit::ops::{layer_norm, ptx};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use support::BYTES;

/// Opens the card of the process.
fn card(store: Store) -> Arc<Gpu> {
    let real = std::env::var("DYNAVIT_REQUIRE_GPU").is_ok_and(|v| v == "1");
    let gpu = Gpu::open(if real { Target::Cuda } else { Target::PtxVm }).unwrap();
    Arc::new(gpu.computing_in(store).unwrap())
}

/// The types that the card's matrix units multiply.
fn halves(gpu: &Gpu) -> Vec<Half> {
    if gpu.capability() >= (8, 0) { vec![Half::F16, Half::Bf16] } else { vec![Half::F16] }
}

#[test]
fn ops_on_the_card_match_their_references() {
    let gpu = card(Store::F32);
    tapes::check(&gpu);
    updates::check(&gpu);
    let mut called: BTreeSet<&str> = gpu.called().into_iter().collect();
    for half in halves(&gpu) {
        let gpu = card(half.into());
        tapes::check(&gpu);
        updates::check(&gpu);
        products::check(&gpu, half);
        attentions::check(&gpu, half);
        layer_norms::check(&gpu, half);
        bytes::check(&gpu, half);
        called.extend(gpu.called());
    }
    attentions::check_f32(&gpu);
    attentions::check_refusals(&gpu);
    called.extend(gpu.called());
    let (major, minor) = gpu.capability();
    let there = ptx::ALL.iter().flat_map(|ptx| ptx.entries(gpu.capability()));
    let idle: Vec<&str> = there.filter(|entry| !called.contains(entry)).collect();
    assert!(idle.is_empty(), "no test runs {idle:?} of compute capability {major}.{minor}");
    // Wrong lengths are refused before anything is launched.
    let arena = Arena::new(&gpu, BYTES).unwrap();
    let (x, f) = (arena.zeros::<u16>(64).unwrap(), arena.zeros::<f32>(8).unwrap());
    let [x, y] = [x, x.window(0, 8)].map(|slice| slice.values(Half::F16));
    let error = layer_norm::cuda::forward(&gpu, x, f, f, 1e-6, y, f, f).unwrap_err();
    assert!(error.to_string().contains("y has 8 elements, not 64"), "{error}");
}

/// A process has one card, so the older virtual one gets a process of its own.
#[test]
fn ops_on_the_older_virtual_card_match_too() {
    if std::env::var_os("DYNAVIT_PTX_VM").is_some() || std::env::var_os("DYNAVIT_REQUIRE_GPU").is_some() {
        println!("skipped: the variables name another card");
        return;
    }
    let outcome = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ops_on_the_card_match_their_references"])
        .env("DYNAVIT_PTX_VM", "sm_75")
        .output()
        .unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stdout));
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("1 passed"));
}
