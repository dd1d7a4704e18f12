//! What the benches share: alternating runs, the chip's measured peak, and one line a result.
#![allow(dead_code)]

pub mod peak;

use std::time::Instant;

/// Milliseconds of the timed runs of one candidate.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Timing {
    /// From milliseconds in any order; panics when there are none.
    pub fn of(mut milliseconds: Vec<f64>) -> Self {
        milliseconds.sort_by(f64::total_cmp);
        let last = milliseconds.len() - 1;
        Timing { median: milliseconds[milliseconds.len() / 2], min: milliseconds[0], max: milliseconds[last] }
    }
}

/// Runs every candidate once to warm up, then `rounds` times in turn, so that a noisy spell of the machine falls on all.
pub fn alternate(rounds: usize, candidates: &mut [&mut dyn FnMut()]) -> Vec<Timing> {
    candidates.iter_mut().for_each(|run| run());
    let mut milliseconds = vec![Vec::new(); candidates.len()];
    for _ in 0..rounds.max(1) {
        for (run, times) in candidates.iter_mut().zip(&mut milliseconds) {
            let clock = Instant::now();
            run();
            times.push(clock.elapsed().as_secs_f64() * 1e3);
        }
    }
    milliseconds.into_iter().map(Timing::of).collect()
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
