//! AdamW on the CPU: f32, fixed chunks in parallel.
#![forbid(unsafe_code)]

use super::Coefficients;
use crate::device::cpu::vector;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of one piece of work: four arrays of it fit a second-level cache.
pub(super) const CHUNK: usize = 16_384;

/// One update in place; `spared` is ascending and disjoint.
pub(super) fn step(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: Coefficients, spared: &[Range<usize>]) {
    p.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK))
        .enumerate()
        .for_each(|(i, (((p, g), m), v))| {
            let (first, end) = (i * CHUNK, i * CHUNK + p.len());
            let mut at = first;
            while at < end {
                let (stop, decay) = segment(at, end, spared, c.decay);
                let part = at - first..stop - first;
                let (p, g, m) = (&mut p[part.clone()], &g[part.clone()], &mut m[part.clone()]);
                vector::adamw(p, g, m, &mut v[part], Coefficients { decay, ..c });
                at = stop;
            }
        });
}

/// Where the run of equally decayed elements that begins at `at` stops, and its factor.
fn segment(at: usize, end: usize, spared: &[Range<usize>], decay: f32) -> (usize, f32) {
    match spared.get(spared.partition_point(|range| range.end <= at)) {
        Some(range) if range.start <= at => (range.end.min(end), 1.0),
        Some(range) => (range.start.min(end), decay),
        None => (end, decay),
    }
}
