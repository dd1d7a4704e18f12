//! `bench --kernels`: where a step's time on a card goes, kernel by kernel, beside what the card could do.
#![forbid(unsafe_code)]

use super::print;
use crate::device::cuda::{Gpu, Launched, Store};
use crate::error::Result;
use crate::ops::attention::cuda::HEAD_WIDTH;
use serde::Serialize;
use std::collections::BTreeMap;

/// Beginnings of the names of kernels that pick rows or patches out of larger buffers.
const PICKING: &[&str] = &["gather", "patchify", "assemble", "attention_fwd_rows", "attention_bwd_rows"];

/// All launches of one kernel in a step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KernelTime {
    pub name: &'static str,
    pub launches: u64,
    /// On the card; the virtual one tells how long it simulated.
    pub milliseconds: f64,
    /// Of its products; 0 for kernels that only move and transform values.
    pub flops: u64,
    /// Of the buffers that it was given: what it moves when it touches each value of them once.
    pub bytes: u64,
    /// What the virtual card saw it read and write; null on a real one.
    pub moved_bytes: Option<u64>,
    /// The larger of the shares of the card's arithmetic and of its memory's speed that it reached; null where the
    /// card's speed is not known, and for kernels that touch a part of what they are given.
    pub share_of_bound: Option<f64>,
}

/// FLOPs of a launch by the counts that it was given, for a batch of `images`.
fn flops(launched: &Launched, images: u64) -> u64 {
    let name = launched.entry.name;
    let count = |name| launched.count(name).unwrap_or(0);
    if name.starts_with("matmul") {
        return 2 * count("m") * count("n") * count("k");
    }
    if !name.starts_with("attention") {
        return 0;
    }
    let keys = launched.count("s").unwrap_or_else(|| count("keys"));
    let queries = launched.count("s").unwrap_or_else(|| count("queries"));
    // Scores and values on the way there; dq, dk, dv, dp and the scores again on the way back, of which the split kernels
    // each do their own and repeat what they share.
    let products = match name {
        _ if name.contains("_bwd_dq") => 3,
        _ if name.contains("_bwd_dkv") => 4,
        _ if name.contains("_bwd") => 5,
        _ => 2,
    };
    2 * products * images * count("heads") * queries * keys * HEAD_WIDTH as u64
}

/// The launches of a step by kernel, the longest first.
pub fn by_kernel(gpu: &Gpu, launches: &[Launched], images: usize) -> Result<Vec<KernelTime>> {
    let mut kernels: BTreeMap<&'static str, KernelTime> = BTreeMap::new();
    for launched in launches {
        let name = launched.entry.name;
        let kernel = kernels.entry(name).or_insert_with(|| KernelTime { name, ..KernelTime::default() });
        kernel.launches += 1;
        kernel.milliseconds += launched.milliseconds;
        kernel.flops += flops(launched, images as u64);
        kernel.bytes += launched.bytes;
    }
    let counters = cuda_driver::counters();
    let (arithmetic, memory) = (gpu.peak_flops()?.filter(|_| gpu.compute() != Store::F32), gpu.peak_bytes()?);
    for kernel in kernels.values_mut() {
        kernel.moved_bytes = counters.get(kernel.name).map(|c| c.global_read_bytes + c.global_write_bytes);
        let share = |of: u64, peak: f64| of as f64 / (kernel.milliseconds / 1e3) / peak;
        kernel.share_of_bound = match (arithmetic, memory) {
            _ if PICKING.iter().any(|name| kernel.name.starts_with(name)) => None,
            (Some(arithmetic), Some(memory)) => Some(share(kernel.flops, arithmetic).max(share(kernel.bytes, memory))),
            _ => None,
        };
    }
    let mut kernels: Vec<KernelTime> = kernels.into_values().collect();
    kernels.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    Ok(kernels)
}

/// The kernels as a table.
pub fn table(kernels: &[KernelTime]) -> Result<()> {
    let total: f64 = kernels.iter().map(|kernel| kernel.milliseconds).sum();
    let launches: u64 = kernels.iter().map(|kernel| kernel.launches).sum();
    print::line(&format!("{launches} launches a step, {total:.3} ms in kernels"))?;
    let width = kernels.iter().map(|kernel| kernel.name.len()).max().unwrap_or(0);
    print::line(&format!("{:width$} launches        ms   part   TFLOP/s    GB/s  of bound  moved/given", "kernel"))?;
    for kernel in kernels {
        let KernelTime { name, launches, milliseconds, flops, bytes, moved_bytes, share_of_bound } = kernel;
        let seconds = milliseconds / 1e3;
        let share = share_of_bound.map_or("-".into(), |share| format!("{:.1} %", share * 100.0));
        let moved = moved_bytes.map_or("-".into(), |moved| format!("{:.2}", moved as f64 / (*bytes).max(1) as f64));
        print::line(&format!(
            "{name:width$} {launches:8} {milliseconds:9.3} {:4.1} % {:9.2} {:7.1} {share:>9} {moved:>12}",
            milliseconds / total * 100.0,
            *flops as f64 / seconds / 1e12,
            *bytes as f64 / seconds / 1e9,
        ))?;
    }
    Ok(())
}
