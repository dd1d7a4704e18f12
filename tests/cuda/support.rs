//! Values, their 16-bit forms, and the comparison with a reference.
#![forbid(unsafe_code)]

use dynavit::device::cuda::Half;
use dynavit::rng::{Purpose, Stream};
use half::{bf16, f16};

/// Half a unit in the last place of f32 at 1.
pub const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Room for the buffers of one case.
pub const BYTES: u64 = 1 << 26;

pub fn values(len: usize, salt: u32) -> Vec<f32> {
    let mut stream = Stream::new(5, Purpose::Fixture, salt, 0);
    (0..len).map(|_| stream.uniform24() * 2.0 - 1.0).collect()
}

/// Half a unit in the last place of the type at 1.
pub fn unit(half: Half) -> f64 {
    match half {
        Half::F16 => f64::from(f16::EPSILON.to_f32()) / 2.0,
        Half::Bf16 => f64::from(bf16::EPSILON.to_f32()) / 2.0,
    }
}

pub fn bits(half: Half, values: &[f32]) -> Vec<u16> {
    let bits = |&v: &f32| match half {
        Half::F16 => f16::from_f32(v).to_bits(),
        Half::Bf16 => bf16::from_f32(v).to_bits(),
    };
    values.iter().map(bits).collect()
}

pub fn wide(half: Half, bits: &[u16]) -> Vec<f64> {
    let wide = |&b: &u16| match half {
        Half::F16 => f16::from_bits(b).to_f64(),
        Half::Bf16 => bf16::from_bits(b).to_f64(),
    };
    bits.iter().map(wide).collect()
}

pub fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Each value within its bound of the reference.
#[track_caller]
pub fn close(what: &str, got: &[f64], reference: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), reference.len(), "{what}");
    for (i, (g, r)) in got.iter().zip(reference).enumerate() {
        assert!((g - r).abs() <= bound(i), "{what}[{i}] is {g}, not {r}: beyond {:e}", bound(i));
    }
}
