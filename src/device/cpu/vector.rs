//! Elementwise mathematics and ordered reductions over slices, compiled for AVX-512, for AVX2 and for the baseline.
//!
//! All builds do the same operations in the same order. e^x fuses products and sums where the processor can, as AVX2 and AVX-512 do
//! alike; everything else gives the same bits everywhere.
#![allow(unsafe_code)]

use rayon::prelude::*;

/// The unit roundoff of f32: half a unit in the last place at 1.
pub const UNIT_F32: f64 = (f32::EPSILON / 2.0) as f64;

/// Mean of a row and the reciprocal of its deviation.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// The mean.
    pub mean: f32,
    /// 1 / sqrt(variance + eps).
    pub rstd: f32,
}

/// The coefficients of AdamW's element-wise arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Coefficients {
    /// What an element is multiplied by before its step: 1 - lr * weight_decay.
    pub decay: f32,
    /// 1 - beta1.
    pub weight1: f32,
    pub beta2: f32,
    /// 1 - beta2.
    pub weight2: f32,
    /// lr / (1 - beta1^step).
    pub rate: f32,
    /// sqrt(1 - beta2^step).
    pub root2: f32,
    pub eps: f32,
}

/// Elements of which is asked at a time whether they are finite.
pub const FINITE_CHUNK: usize = 16_384;

/// Whether every element is finite, on all threads; the first chunk that is not ends the search.
pub fn all_finite(x: &[f32]) -> bool {
    x.par_chunks(FINITE_CHUNK).all(finite)
}

/// Lanes of an ordered reduction: element i goes to lane i mod LANES, lanes are added pairwise at the end.
pub const LANES: usize = 16;
/// Sums that each lane of a long reduction is split into, so that one addition need not wait for the last.
const CHAINS: usize = 4;

/// Declares functions whose body is compiled for AVX-512, for AVX2 and for the baseline, chosen at run time. Bodies loop
/// with `for`, not with `for_each`, which may stay a function of its own and is then compiled for the baseline alone. In a body
/// `FUSED` tells whether the processor multiplies and adds in one.
macro_rules! vectorised {
    ($($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    body::<true>($($arg),*)
                }
                use std::arch::is_x86_feature_detected as has;
                let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                if wide && has!("fma") {
                    // SAFETY: the processor has these features, checked on the line above.
                    return unsafe { avx512($($arg),*) };
                }
                if has!("avx2") && has!("fma") {
                    // SAFETY: the processor has both, checked on the line above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    )*};
}

/// x * y + z, in one rounding where `FUSED`.
#[inline(always)]
pub(super) fn mul_add<const FUSED: bool>(x: f32, y: f32, z: f32) -> f32 {
    if FUSED { x.mul_add(y, z) } else { x * y + z }
}

/// The polynomial of these coefficients, the highest power's first.
#[inline(always)]
pub(super) fn horner<const FUSED: bool, const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut p = coefficients[0];
    for &c in &coefficients[1..] {
        p = mul_add::<FUSED>(p, x, c);
    }
    p
}

/// e^x for one value: 2^n times a degree-6 polynomial on [-ln 2 / 2, ln 2 / 2] (relative error 3e-9 before rounding).
/// Inputs are held to [-87.3, 88.3], where the result is a normal number: so the least is 1.2e-38, the largest 2.2e38,
/// also at the infinities. NaN stays NaN.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with trailing zero bits so that n times it is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Written as comparisons, not `clamp`, so that NaN passes through and the loop vectorises.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = mul_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FUSED>(n, -LN2_LOW, mul_add::<FUSED>(n, -LN2_HIGH, x));
    let p = horner::<FUSED, 5>([1.394_858e-3, 8.375_129e-3, 4.166_622e-2, 1.666_641_5e-1, 0.5], r);
    // The small terms are summed before 1 is added, which alone rounds at full size.
    let p = 1.0 + mul_add::<FUSED>(r * r, p, r);
    let power = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    p * power
}

/// x rounded to bf16, to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// Asks for the cache lines of `len` values from `start` on, as far as they are inside, whose first use is some time away.
/// Rows are short and far apart, so that the processor does not guess by itself which come next.
pub fn fetch(values: &[f32], start: usize, len: usize) {
    let inside = values.get(start..values.len().min(start + len)).unwrap_or_default();
    fetch_from(inside.as_ptr(), inside.len());
}

/// [`fetch`] of the lines of `len` values at an address, which need not be there.
#[inline(always)]
pub(super) fn fetch_from(start: *const f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, which faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len);
}

/// Copies past the caches, where the processor can, what is not read soon: old lines are not read first. Who copies lets nobody read what
/// was copied, on this thread or another, before this is dropped.
#[derive(Default)]
pub(super) struct PastCaches {
    copied: bool,
}

impl PastCaches {
    /// y = x.
    pub fn copy(&mut self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "as many values");
        self.copied = true;
        #[cfg(target_arch = "x86_64")]
        {
            use crate::device::cpu::pack::LINE;
            use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
            // Whole cache lines: parts of one take longer than ordinary stores.
            let whole = y.as_ptr().align_offset(LINE * size_of::<f32>()).min(y.len());
            let (x_before, x) = x.split_at(whole);
            let (y_before, y) = y.split_at_mut(whole);
            y_before.copy_from_slice(x_before);
            let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LINE>(), y.as_chunks_mut::<LINE>());
            for (x, y) in x.iter().zip(y) {
                for (x, y) in x.as_chunks::<4>().0.iter().zip(y.as_chunks_mut::<4>().0) {
                    // SAFETY: every x86-64 processor has SSE; x and y are four values each, y's on a multiple of sixteen bytes as
                    // its line begins on one of 64. Nobody reads y before the fence in `drop`: `gemm::tile`, which alone copies so, hands
                    // out its rows only after it.
                    unsafe { _mm_stream_ps(y.as_mut_ptr(), _mm_loadu_ps(x.as_ptr())) };
                }
            }
            y_rest.copy_from_slice(x_rest);
        }
        #[cfg(not(target_arch = "x86_64"))]
        y.copy_from_slice(x);
    }
}

impl Drop for PastCaches {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.copied {
            // SAFETY: every x86-64 processor has SSE.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

#[inline(always)]
fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn reduce2(x: &[f32], y: &[f32], map: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; CHAINS * LANES];
    let (x, y) = (&x[..x.len().min(y.len())], &y[..x.len().min(y.len())]);
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<{ CHAINS * LANES }>(), y.as_chunks::<{ CHAINS * LANES }>());
    for (x, y) in x.iter().zip(y) {
        for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
            *sum += map(x, y);
        }
    }
    let mut lanes: [f32; LANES] =
        std::array::from_fn(|i| (sums[i] + sums[i + LANES]) + (sums[i + 2 * LANES] + sums[i + 3 * LANES]));
    let ((x, x_tail), (y, y_tail)) = (x_rest.as_chunks::<LANES>(), y_rest.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += map(x, y);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane += map(x, y);
    }
    add_lanes(lanes)
}

#[inline(always)]
fn reduce(x: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    reduce2(x, x, |x, _| map(x))
}

pub(super) use vectorised;

vectorised! {
    /// Rounds every element to bf16.
    pub fn round_bf16(x: &mut [f32]) {
        for x in x {
            *x = f32::from_bits(u32::from(bf16_bits(*x)) << 16);
        }
    }

    /// Whether every element is finite.
    pub fn finite(x: &[f32]) -> bool {
        let mut finite = true;
        for x in x {
            finite &= x.is_finite();
        }
        finite
    }

    /// The sum of x.
    pub fn sum(x: &[f32]) -> f32 {
        reduce(x, |v| v)
    }

    /// The sum of (x - mean)^2.
    pub fn sum_of_squared_deviations(x: &[f32], mean: f32) -> f32 {
        reduce(x, |v| (v - mean) * (v - mean))
    }

    /// The sum of x * y.
    pub fn dot(x: &[f32], y: &[f32]) -> f32 {
        reduce2(x, y, |x, y| x * y)
    }

    /// The largest element; NaN elements are passed over, an empty slice gives -infinity.
    pub fn max(x: &[f32]) -> f32 {
        let larger = |x: f32, y: f32| if y > x { y } else { x };
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (whole, tail) = x.as_chunks::<LANES>();
        for chunk in whole {
            for (lane, &v) in lanes.iter_mut().zip(chunk) {
                *lane = larger(*lane, v);
            }
        }
        for (lane, &v) in lanes.iter_mut().zip(tail) {
            *lane = larger(*lane, v);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = larger(lanes[i], lanes[i + width]);
            }
            width /= 2;
        }
        lanes[0]
    }

    /// x = e^(x * scale - shift), and the sum of the results.
    pub fn exp_scaled_sum(x: &mut [f32], scale: f32, shift: f32) -> f32 {
        for v in x.iter_mut() {
            *v = exp::<FUSED>(*v * scale - shift);
        }
        reduce(x, |v| v)
    }

    /// y = e^(x * scale - shift), and the sum of y, for whole numbers of lanes.
    pub fn exp_scaled_sum_to(x: &[f32], scale: f32, shift: f32, y: &mut [f32]) -> f32 {
        let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks_mut::<LANES>());
        assert!(x.len() == y.len() && x_rest.is_empty() && y_rest.is_empty(), "rows of exponents of broken lanes");
        let mut lanes = [0.0; LANES];
        for (x, y) in x.iter().zip(y) {
            for ((lane, &x), y) in lanes.iter_mut().zip(x).zip(y) {
                *y = exp::<FUSED>(x * scale - shift);
                *lane += *y;
            }
        }
        add_lanes(lanes)
    }

    /// y = x * factor.
    pub fn scaled(x: &[f32], factor: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * factor;
        }
    }

    /// x *= factor.
    pub fn scale(x: &mut [f32], factor: f32) {
        for v in x {
            *v *= factor;
        }
    }

    /// x += y.
    pub fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }

    /// z = (x + y) + more, where what is empty adds nothing; the others are as long as z.
    pub fn sum_to(x: &[f32], y: &[f32], more: &[f32], z: &mut [f32]) {
        match (y.is_empty(), more.is_empty()) {
            (true, true) => z.copy_from_slice(x),
            (false, true) => for ((z, x), y) in z.iter_mut().zip(x).zip(y) {
                *z = x + y;
            }
            (true, false) => for ((z, x), y) in z.iter_mut().zip(x).zip(more) {
                *z = x + y;
            }
            (false, false) => for (((z, x), y), more) in z.iter_mut().zip(x).zip(y).zip(more) {
                *z = (x + y) + more;
            }
        }
    }

    /// y = (x - mean) * rstd * weight + bias.
    pub fn normalise(x: &[f32], row: Moments, weight: &[f32], bias: &[f32], y: &mut [f32]) {
        for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - row.mean) * row.rstd * w + b;
        }
    }

    /// dweight += dy * (x - mean) * rstd; dbias += dy; scratch = dy * weight.
    pub fn normalise_backward(x: &[f32], dy: &[f32], row: Moments, weight: &[f32], dweight: &mut [f32], dbias: &mut [f32], scratch: &mut [f32]) {
        let rows = x.iter().zip(dy).zip(weight);
        let sums = dweight.iter_mut().zip(dbias.iter_mut()).zip(scratch.iter_mut());
        for (((&x, &dy), &w), ((dw, db), g)) in rows.zip(sums) {
            *dw += dy * ((x - row.mean) * row.rstd);
            *db += dy;
            *g = dy * w;
        }
    }

    /// The sum of g * (x - mean).
    pub fn dot_deviation(g: &[f32], x: &[f32], mean: f32) -> f32 {
        reduce2(g, x, |g, x| g * (x - mean))
    }

    /// dx = (g - a - (x - mean) * b) * rstd.
    pub fn centre(g: &[f32], x: &[f32], row: Moments, a: f32, b: f32, dx: &mut [f32]) {
        for ((dx, &g), &x) in dx.iter_mut().zip(g).zip(x) {
            *dx = (g - a - (x - row.mean) * b) * row.rstd;
        }
    }

    /// AdamW's update, in PyTorch's order. Products and sums stay apart: fused ones would round differently from chip to
    /// chip.
    pub fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: Coefficients) {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let first = *m + (g - *m) * c.weight1;
            let second = *v * c.beta2 + c.weight2 * g * g;
            let denom = second.sqrt() / c.root2 + c.eps;
            *p = *p * c.decay - c.rate * first / denom;
            *m = first;
            *v = second;
        }
    }

    /// ds = p * (ds - delta), the softmax's backward along a row.
    pub fn softmax_backward(p: &[f32], ds: &mut [f32], delta: f32) {
        for (ds, &p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - delta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp_is_accurate<const FUSED: bool>() {
        for i in -860_000..880_000 {
            let x = i as f32 * 1e-4;
            // Unit roundoff is 6e-8; the reduction, seven steps of Horner's rule and the last product may each lose a share.
            let error = (f64::from(exp::<FUSED>(x)) / f64::from(x).exp() - 1.0).abs();
            assert!(error < 2.0 * UNIT_F32, "{error:e} at {x}");
        }
        assert!(exp::<FUSED>(f32::NAN).is_nan());
        assert_eq!(exp::<FUSED>(0.0), 1.0);
        assert!(exp::<FUSED>(-1e30) < 1e-37 && exp::<FUSED>(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn exp_is_accurate_to_rounding() {
        exp_is_accurate::<false>();
        exp_is_accurate::<true>();
    }

    #[test]
    fn every_build_fuses_as_its_scalar_form_does() {
        #[cfg(target_arch = "x86_64")]
        let fused = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        #[cfg(not(target_arch = "x86_64"))]
        let fused = cfg!(target_arch = "aarch64");
        let scalar = |x: f32| if fused { exp::<true>(x) } else { exp::<false>(x) };
        let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 7.0).collect();
            let of = |f: &dyn Fn(f32) -> f32| x.iter().map(|&x| f(x)).collect::<Vec<f32>>();
            let mut powers = x.clone();
            exp_scaled_sum(&mut powers, 0.5, 1.0);
            assert_eq!(bits(&powers), bits(&of(&|x| scalar(x * 0.5 - 1.0))));
            if len % LANES == 0 {
                let mut again = vec![0.0; len];
                let total = f64::from(exp_scaled_sum_to(&x, 0.5, 1.0, &mut again));
                assert_eq!(bits(&again), bits(&powers));
                let exact: f64 = powers.iter().map(|&v| f64::from(v)).sum();
                assert!((total - exact).abs() <= UNIT_F32 * len as f64 * exact, "{total} not {exact}");
            }
            let mut halves = vec![0.0; len];
            scaled(&x, 0.5, &mut halves);
            assert_eq!(halves, of(&|x| 0.5 * x));
        }
    }

    #[test]
    fn reductions_of_every_tail_match_loops() {
        for len in (0..200).chain([767, 768, 3072]) {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let y: Vec<f32> = (0..len).map(|i| (i as f32 * 1.3).cos()).collect();
            let exact = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                x.iter().zip(&y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).sum()
            };
            let budget = UNIT_F32 * (len as f64 + 1.0) * 2.0;
            assert!((f64::from(sum(&x)) - exact(&|x, _| x)).abs() <= budget);
            assert!((f64::from(dot(&x, &y)) - exact(&|x, y| x * y)).abs() <= budget);
            assert!((f64::from(dot_deviation(&x, &y, 0.5)) - exact(&|x, y| x * (y - 0.5))).abs() <= budget);
            let deviations = f64::from(sum_of_squared_deviations(&x, 0.25));
            assert!((deviations - exact(&|x, _| (x - 0.25) * (x - 0.25))).abs() <= 2.0 * budget);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
