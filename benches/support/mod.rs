//! What the benches share: their flags, alternating runs, and values to compute on.
#![allow(dead_code)]

pub mod peak;

use clap::Parser;
use std::path::PathBuf;
use std::time::Instant;

/// Flags of a bench, after `--`: `cargo bench --bench attention -- --rounds 9`.
#[derive(Parser)]
pub struct Flags {
    /// Timed runs of each candidate; the median is shown
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Threads of the engine [default: all cores]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Folder for tables and pictures
    #[arg(long, default_value = "target/bench")]
    pub output: PathBuf,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Flags {
    /// Reads the flags, starts the engine's threads and makes the output folder; leaves with a word when that fails.
    pub fn start() -> Self {
        let flags = Flags::parse();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(flags.threads.unwrap_or(0)).build_global();
        let made = std::fs::create_dir_all(&flags.output);
        let faults = [pool.err().map(|e| e.to_string()), made.err().map(|e| e.to_string())];
        if let Some(fault) = faults.into_iter().flatten().next() {
            eprintln!("error: {fault}");
            std::process::exit(1);
        }
        flags
    }

    /// Writes a result file and says where.
    pub fn save(&self, name: &str, text: &str) {
        let path = self.output.join(name);
        match std::fs::write(&path, text) {
            Ok(()) => println!("wrote {}", path.display()),
            Err(error) => {
                eprintln!("error: {}: {error}", path.display());
                std::process::exit(1);
            }
        }
    }
}

/// Milliseconds that `run` took.
pub fn timed(run: impl FnOnce()) -> f64 {
    let clock = Instant::now();
    run();
    clock.elapsed().as_secs_f64() * 1e3
}

/// Milliseconds of one candidate's runs.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// Calls every candidate once to warm up, then `rounds` times in turn, so that a noisy spell of the machine falls on
/// all: what each returned, turn by turn.
pub fn turns(rounds: usize, candidates: &mut [&mut dyn FnMut() -> f64]) -> Vec<Vec<f64>> {
    candidates.iter_mut().for_each(|run| {
        run();
    });
    let mut times = vec![Vec::new(); candidates.len()];
    for _ in 0..rounds.max(1) {
        for (run, times) in candidates.iter_mut().zip(&mut times) {
            times.push(run());
        }
    }
    times
}

/// [`turns`] of candidates that return the milliseconds of their timed part.
pub fn alternate(rounds: usize, candidates: &mut [&mut dyn FnMut() -> f64]) -> Vec<Timing> {
    let summary = |times: Vec<f64>| {
        let (min, max) = times.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &t| (a.min(t), b.max(t)));
        Timing { median: median(times), min, max }
    };
    turns(rounds, candidates).into_iter().map(summary).collect()
}

/// The middle one, or the upper of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Values in [-1, 1) that differ from place to place.
pub fn values(len: usize, salt: u32) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / 2f32.powi(31) - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Panics unless `got` agrees with `reference` to `budget` of the largest value: a bench proves its result before it
/// times it. The tests hold the same ops to tighter, derived bounds.
#[track_caller]
pub fn prove(what: &str, got: &[f32], reference: &[f32], budget: f32) {
    assert_eq!(got.len(), reference.len(), "{what}: lengths differ");
    let largest = reference.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (&g, &r)) in got.iter().zip(reference).enumerate() {
        assert!((g - r).abs() <= budget * largest, "{what}[{i}] is {g}, not {r}");
    }
}
