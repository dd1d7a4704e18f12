//! `dynavit doctor`: what this machine offers, and whether the chosen device works.
#![forbid(unsafe_code)]

use super::print;
use crate::device::cuda::{self, Gpu, Target};
use crate::error::{Error, Result};
use crate::ops::ptx;
use crate::train::DeviceName;
use clap::Args;
use serde::Serialize;
use std::fmt::Write;

/// Flags of `dynavit doctor`.
#[derive(Args)]
#[command(after_help = "Exit code 0 when the chosen device works, 1 when it does not.\n\n\
    Example:\n  dynavit doctor --device ptx-vm    load every kernel on the virtual GPU")]
pub struct DoctorArgs {
    /// Device to try: auto takes a card when there is one
    #[arg(long, value_name = "DEVICE", default_value = "auto",
          value_parser = clap::builder::PossibleValuesParser::new(["auto", "cpu", "cuda", "ptx-vm"]))]
    device: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Everything found.
#[derive(Serialize)]
struct Report {
    cpu: Cpu,
    /// Null when no driver was found, or when the virtual GPU was asked for.
    driver: Option<Driver>,
    /// Why the driver that was looked for does not serve.
    driver_problem: Option<String>,
    /// Null when there is no card, or when another device was asked for.
    card: Option<Card>,
    /// The kernels as the card takes them; empty without one.
    modules: Vec<Module>,
    /// What was tried in the end.
    device: String,
    works: bool,
    /// Why it does not work.
    problem: Option<String>,
}

#[derive(Serialize)]
struct Cpu {
    architecture: String,
    features: Vec<String>,
    threads: usize,
    memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Driver {
    cuda: String,
    cards: u32,
}

#[derive(Serialize)]
struct Card {
    name: String,
    capability: String,
    memory_bytes: u64,
    free_bytes: u64,
    is_virtual: bool,
}

#[derive(Serialize)]
struct Module {
    file: String,
    loads: bool,
    problem: Option<String>,
}

/// Looks, prints, and leaves with 1 when the chosen device does not work.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let report = examine(&args.device);
    if args.json {
        print::json(&report)?;
    } else {
        print::line(describe(&report).trim_end())?;
    }
    if report.works { Ok(()) } else { std::process::exit(1) }
}

fn examine(device: &str) -> Report {
    let device = match device {
        "cpu" => DeviceName::Cpu,
        "cuda" => DeviceName::Cuda,
        "ptx-vm" => DeviceName::PtxVm,
        _ => DeviceName::Auto,
    };
    let mut report = Report {
        cpu: cpu(),
        driver: None,
        driver_problem: None,
        card: None,
        modules: Vec::new(),
        device: "cpu".into(),
        works: true,
        problem: None,
    };
    let target = if device == DeviceName::PtxVm { Target::PtxVm } else { Target::Cuda };
    // A process has one target; the driver is looked for unless the virtual GPU is asked for.
    let driver = cuda::driver(target);
    let cards = driver.as_ref().map_or(0, |driver| driver.cards);
    if let (Target::Cuda, Ok(driver)) = (target, &driver) {
        report.driver = Some(Driver { cuda: driver.version.clone(), cards: driver.cards });
    }
    if let Err(error) = &driver {
        report.driver_problem = Some(match error {
            Error::Usage { reason, .. } => reason.clone(),
            other => other.to_string(),
        });
    }
    let wanted = match device {
        DeviceName::Cpu => false,
        DeviceName::Auto => cards > 0,
        DeviceName::Cuda | DeviceName::PtxVm => true,
    };
    if wanted {
        report.device = target.name().into();
        if let Err(error) = driver.and_then(|_| try_card(target, &mut report)) {
            report.works = false;
            report.problem = Some(error.to_string());
        }
    }
    report
}

/// Opens the card and loads every module on it.
fn try_card(target: Target, report: &mut Report) -> Result<()> {
    let gpu = Gpu::open(target)?;
    let (free_bytes, memory_bytes) = gpu.memory()?;
    let (major, minor) = gpu.capability();
    let capability = format!("{major}.{minor}");
    report.card = Some(Card { name: gpu.name(), capability, memory_bytes, free_bytes, is_virtual: gpu.is_virtual() });
    for ptx in ptx::ALL {
        let outcome = gpu.load(ptx);
        let problem = outcome.err().map(|error| error.to_string());
        report.modules.push(Module { file: ptx.of(gpu.capability()).1, loads: problem.is_none(), problem });
    }
    let failed = report.modules.iter().filter(|module| !module.loads).count();
    if failed > 0 {
        return Err(Error::gpu("modules", format!("{failed} of {} do not load", report.modules.len())));
    }
    Ok(())
}

fn cpu() -> Cpu {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let features = features().into_iter().filter(|(_, has)| *has).map(|(name, _)| name.into()).collect();
    Cpu { architecture: std::env::consts::ARCH.into(), features, threads, memory_bytes: memory() }
}

/// The vector instructions that matter to matrix products and to what is done element by element.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512bw", std::is_x86_feature_detected!("avx512bw")),
        ("avx512dq", std::is_x86_feature_detected!("avx512dq")),
        ("avx512vl", std::is_x86_feature_detected!("avx512vl")),
        ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
        // As far as the system lets this process use it.
        ("amx-bf16", crate::device::cpu::gemm::Operands::Bf16.in_tile_registers()),
    ]
}

/// The vector instructions that matter to matrix products: NEON is part of the architecture.
#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<(&'static str, bool)> {
    vec![("neon", cfg!(target_arch = "aarch64"))]
}

/// Bytes of memory, where the system tells.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn describe(report: &Report) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<9}{text}");
    };
    let cpu = &report.cpu;
    let memory = cpu.memory_bytes.map_or(String::new(), |bytes| format!(", {}", gib(bytes)));
    row("cpu", format!("{}, {} threads{memory}", cpu.architecture, cpu.threads));
    row("", format!("vector instructions: {}", cpu.features.join(" ")));
    let is_virtual = report.card.as_ref().is_some_and(|card| card.is_virtual) || report.device == "ptx-vm";
    match &report.driver {
        Some(driver) => row("driver", format!("CUDA {}, cards: {}", driver.cuda, driver.cards)),
        None if is_virtual => row("driver", "not looked for: the virtual GPU takes its place".into()),
        None => row("driver", report.driver_problem.clone().unwrap_or_default()),
    }
    if let Some(card) = &report.card {
        let (total, free) = (gib(card.memory_bytes), gib(card.free_bytes));
        row("card", format!("{}, capability {}, {total}, {free} free", card.name, card.capability));
    }
    for (i, module) in report.modules.iter().enumerate() {
        let outcome = module.problem.as_deref().unwrap_or("loads");
        row(if i == 0 { "kernels" } else { "" }, format!("{}: {outcome}", module.file));
    }
    let outcome = match &report.problem {
        None => "works".into(),
        Some(problem) => format!("does not work: {problem}"),
    };
    row("device", format!("{} {outcome}", report.device));
    out
}
