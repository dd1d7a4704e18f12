//! GELU, the exact form, x Phi(x), and its slope, Phi(x) + x phi(x): of the standard normal's distribution Phi and density phi.
//!
//! With AVX-512 both come from a table that lies in registers, of polynomials of degree four, each for a part of the line; elsewhere
//! from one long polynomial. The two differ in their last bits.
#![allow(unsafe_code)]

use super::pairs;
use super::vector::{horner, mul_add, vectorised};

/// 1/2 + x P(x^2) up to `limit` in size, P by its coefficients in 2 (x / limit)^2 - 1, the highest power's first; beyond, 0 and 1.
#[inline(always)]
fn rise<const FUSED: bool, const N: usize>(coefficients: [f32; N], limit: f32, x: f32) -> f32 {
    let near = if x < -limit { -limit } else { x };
    let near = if near > limit { limit } else { near };
    let u = mul_add::<FUSED>(near * near, 2.0 / (limit * limit), -1.0);
    let y = mul_add::<FUSED>(near, horner::<FUSED, N>(coefficients, u), 0.5);
    let y = if x > limit { 1.0 } else { y };
    if x < -limit { 0.0 } else { y }
}

/// The standard normal's distribution at x, Phi(x) = (1 + erf(x / sqrt 2)) / 2: the polynomial's error is 1.6e-8 before
/// rounding, beyond its end 7.6e-8.
#[inline(always)]
fn normal<const FUSED: bool>(x: f32) -> f32 {
    const P: [f32; 15] = [
        2.399_478_1e-4,
        -6.565_829_4e-4,
        6.647_398_7e-4,
        -1.039_537_3e-3,
        2.892_351_5e-3,
        -5.448_517e-3,
        8.417_877e-3,
        -1.277_525_2e-2,
        1.853_864_6e-2,
        -2.504_193_2e-2,
        3.203_144e-2,
        -3.976_341_3e-2,
        4.964_578_5e-2,
        -6.712_682e-2,
        1.346_593_5e-1,
    ];
    rise::<FUSED, 15>(P, 5.25, x)
}

/// GELU's slope, Phi(x) + x phi(x), which goes to 0 and 1 as Phi does: 2.4e-8 before rounding, beyond its end 1.5e-7.
#[inline(always)]
fn slope<const FUSED: bool>(x: f32) -> f32 {
    const P: [f32; 18] = [
        -2.445_333_6e-3,
        6.217_048_5e-3,
        -2.832_423_2e-3,
        1.062_188_2e-3,
        -1.622_003_3e-2,
        3.169_302e-2,
        -3.492_867e-2,
        4.316_305_4e-2,
        -5.935_912_6e-2,
        6.938_504e-2,
        -7.057_826e-2,
        6.675_456e-2,
        -5.952_444e-2,
        5.170_648_5e-2,
        -4.729_423_7e-2,
        4.936_722_3e-2,
        -6.228_140_7e-2,
        1.230_718_3e-1,
    ];
    rise::<FUSED, 18>(P, 5.75, x)
}

/// y = gelu(x).
pub fn gelu(x: &[f32], y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked on the line above.
        return unsafe { avx512::gelu(x, y) };
    }
    plain::gelu(x, y);
}

/// x = gelu(x).
pub fn gelu_in_place(x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked on the line above.
        return unsafe { avx512::gelu_in_place(x) };
    }
    plain::gelu_in_place(x);
}

/// `out` holds the pairs of gelu(x) in bf16, as packed rows of such do; the last of an odd number has a zero beside it.
pub(super) fn gelu_pairs(x: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), x.len().div_ceil(2), "pairs of {} elements", x.len());
    #[cfg(target_arch = "x86_64")]
    if avx512::there() && pairs::avx512::there() {
        // SAFETY: the processor has the features, checked on the line above, and the lengths are asserted.
        return unsafe { avx512::gelu_pairs(x, out) };
    }
    gelu_then_pairs(x, out);
}

/// [`gelu_pairs`] in two steps, for as many elements at a time as stay near.
fn gelu_then_pairs(x: &[f32], out: &mut [f32]) {
    let mut room = [0.0; 64];
    for (x, out) in x.chunks(room.len()).zip(out.chunks_mut(room.len() / 2)) {
        gelu(x, &mut room);
        pairs::neighbours::<1>(&room[..x.len()], out);
    }
}

/// dx *= gelu'(x).
pub fn gelu_backward(x: &[f32], dx: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx512::there() {
        // SAFETY: the processor has the features, checked on the line above.
        return unsafe { avx512::gelu_backward(x, dx) };
    }
    plain::gelu_backward(x, dx);
}

mod plain {
    use super::{normal, slope, vectorised};

    vectorised! {
        /// See `super::gelu`.
        pub fn gelu(x: &[f32], y: &mut [f32]) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x * normal::<FUSED>(x);
            }
        }

        /// See `super::gelu_in_place`.
        pub fn gelu_in_place(x: &mut [f32]) {
            for x in x {
                *x *= normal::<FUSED>(*x);
            }
        }

        /// See `super::gelu_backward`.
        pub fn gelu_backward(x: &[f32], dx: &mut [f32]) {
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx *= slope::<FUSED>(x);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use crate::device::cpu::pairs::avx512::{lanes, rounded};
    use std::arch::x86_64::*;
    use std::f64::consts::PI;
    use std::sync::LazyLock;

    /// Lanes of a register.
    const LANES: usize = 16;
    /// Parts of the half line: as many elements as an instruction looks up in two registers.
    const PARTS: usize = 2 * LANES;
    const DEGREE: usize = 4;

    pub fn there() -> bool {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512f") && has!("avx512dq")
    }

    /// What rises from 1/2 at 0 to 1: part `i` of the half line reaches half a step to both sides of `i` steps, and
    /// there with r the distance from its middle in steps the function is 1/2 + the sum of `coefficients[n][i]` r^n. It is 1 in the last
    /// part and beyond, and below 0 what is missing to 1 above.
    struct Rise {
        coefficients: [[f32; PARTS]; DEGREE + 1],
        /// Steps in 1.
        scale: f32,
    }

    /// The powers' factors of p'(x) - x p(x) for those of p, the lowest first: the derivative of p phi is that times phi.
    fn derived(p: &[f64]) -> Vec<f64> {
        let coefficient = |at: usize| p.get(at).copied().unwrap_or_default();
        (0..=p.len())
            .map(|n| (n + 1) as f64 * coefficient(n + 1) - if n > 0 { coefficient(n - 1) } else { 0.0 })
            .collect()
    }

    impl Rise {
        /// The function Phi + x phi times `density`, whose derivative is a polynomial of these factors times phi, up to `end`.
        fn new(density: f64, derivative: &[f64], end: f64) -> Self {
            let step = end / (PARTS as f64 - 1.5);
            let mut coefficients = [[0.0; PARTS]; DEGREE + 1];
            coefficients[0][PARTS - 1] = 0.5;
            for i in 0..PARTS - 1 {
                let x = i as f64 * step;
                let phi = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
                // Taylor's, of one degree more than there are. In place of r^5 stands 5/16 r^3 - 5/256 r, which on [-1/2, 1/2] differs
                // from it by a Chebyshev polynomial, and so the least.
                let mut powers =
                    [0.5 * libm::erf(x / std::f64::consts::SQRT_2) + density * x * phi, 0.0, 0.0, 0.0, 0.0, 0.0];
                let (mut p, mut factor) = (derivative.to_vec(), phi);
                for (n, power) in powers.iter_mut().enumerate().skip(1) {
                    factor *= step / n as f64;
                    *power = factor * p.iter().rev().fold(0.0, |sum, c| sum * x + c);
                    p = derived(&p);
                }
                powers[3] += 5.0 / 16.0 * powers[5];
                powers[1] -= 5.0 / 256.0 * powers[5];
                for (coefficients, power) in coefficients.iter_mut().zip(powers) {
                    coefficients[i] = power as f32;
                }
            }
            Rise { coefficients, scale: (1.0 / step) as f32 }
        }

        /// The function at x.
        #[inline]
        #[target_feature(enable = "avx512f,avx512dq")]
        fn of(&self, x: __m512) -> __m512 {
            /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
            const ROUND: f32 = 12_582_912.0;
            // In this order NaN stays NaN.
            let steps = _mm512_min_ps(
                _mm512_set1_ps((PARTS - 1) as f32),
                _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(self.scale)),
            );
            let shifted = _mm512_add_ps(steps, _mm512_set1_ps(ROUND));
            let part = _mm512_castps_si512(shifted);
            let r = _mm512_sub_ps(steps, _mm512_sub_ps(shifted, _mm512_set1_ps(ROUND)));
            let coefficient = |n: usize| {
                let halves = self.coefficients[n].as_chunks::<LANES>().0;
                // SAFETY: a chunk fills a register.
                let [low, high] = unsafe { [_mm512_loadu_ps(halves[0].as_ptr()), _mm512_loadu_ps(halves[1].as_ptr())] };
                _mm512_permutex2var_ps(low, part, high)
            };
            let mut y = coefficient(DEGREE);
            for n in (0..DEGREE).rev() {
                y = _mm512_fmadd_ps(y, r, coefficient(n));
            }
            let sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0));
            _mm512_add_ps(_mm512_xor_ps(y, sign), _mm512_set1_ps(0.5))
        }
    }

    /// Phi: within 3.7e-9 before rounding, beyond its end 1.9e-8.
    static NORMAL: LazyLock<Rise> = LazyLock::new(|| Rise::new(0.0, &[1.0], 5.5));
    /// Phi + x phi: within 3.4e-8 before rounding, beyond its end 3.6e-8.
    static SLOPE: LazyLock<Rise> = LazyLock::new(|| Rise::new(1.0, &[2.0, 0.0, -1.0], 6.0));

    /// `to = times * rise(of)` for `len` elements.
    ///
    /// # Safety
    /// All three hold so many, and the processor has AVX-512 F and DQ.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn each(rise: &Rise, of: *const f32, times: *const f32, to: *mut f32, len: usize) {
        let whole = len / LANES * LANES;
        for start in (0..whole).step_by(LANES) {
            // SAFETY: whole vectors are inside (the caller's promise).
            unsafe {
                let y = rise.of(_mm512_loadu_ps(of.add(start)));
                _mm512_storeu_ps(to.add(start), _mm512_mul_ps(_mm512_loadu_ps(times.add(start)), y));
            }
        }
        if whole < len {
            let mask = lanes(len - whole);
            // SAFETY: lanes of the mask are inside, others are not touched.
            unsafe {
                let y = rise.of(_mm512_maskz_loadu_ps(mask, of.add(whole)));
                let y = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, times.add(whole)), y);
                _mm512_mask_storeu_ps(to.add(whole), mask, y);
            }
        }
    }

    /// Phi and the slope at x.
    #[cfg(test)]
    pub fn values(x: f32) -> [f32; 2] {
        assert!(there(), "a processor without AVX-512");
        [&NORMAL, &SLOPE].map(|rise| {
            let mut y = 0.0;
            // SAFETY: one element each; the processor has the features, asserted above.
            unsafe { each(rise, &x, &1.0, &mut y, 1) };
            y
        })
    }

    /// See `super::gelu`.
    ///
    /// # Safety
    /// The processor has AVX-512 F and DQ.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub unsafe fn gelu(x: &[f32], y: &mut [f32]) {
        let len = x.len().min(y.len());
        // SAFETY: both hold as many elements.
        unsafe { each(&NORMAL, x.as_ptr(), x.as_ptr(), y.as_mut_ptr(), len) }
    }

    /// See `super::gelu_in_place`.
    ///
    /// # Safety
    /// As [`gelu`].
    #[target_feature(enable = "avx512f,avx512dq")]
    pub unsafe fn gelu_in_place(x: &mut [f32]) {
        let at = x.as_mut_ptr();
        // SAFETY: `x` holds so many elements; each is read before it is written.
        unsafe { each(&NORMAL, at, at, at, x.len()) }
    }

    /// See `super::gelu_pairs`.
    ///
    /// # Safety
    /// As [`gelu`], and AVX-512 BF16 too; `out` holds the pairs of `x`.
    #[target_feature(enable = "avx512f,avx512dq,avx512bf16")]
    pub unsafe fn gelu_pairs(x: &[f32], out: &mut [f32]) {
        let rise: &Rise = &NORMAL;
        let gelu = |x: __m512| _mm512_mul_ps(x, rise.of(x));
        let (whole, rest) = x.as_chunks::<{ 2 * LANES }>();
        let (out, out_rest) = out.split_at_mut(LANES * whole.len());
        for (x, out) in whole.iter().zip(out.as_chunks_mut::<LANES>().0) {
            // SAFETY: a chunk of x fills two registers, one of the output one.
            unsafe {
                let (low, high) = (gelu(_mm512_loadu_ps(x.as_ptr())), gelu(_mm512_loadu_ps(x.as_ptr().add(LANES))));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), rounded(low, high));
            }
        }
        if rest.is_empty() {
            return;
        }
        let (first, second) = (lanes(rest.len()), lanes(rest.len().saturating_sub(LANES)));
        // SAFETY: lanes of the masks are inside, others are not touched; the words of the rest are as many as the output's.
        unsafe {
            let low = gelu(_mm512_maskz_loadu_ps(first, rest.as_ptr()));
            let high = gelu(_mm512_maskz_loadu_ps(second, rest.as_ptr().wrapping_add(LANES)));
            _mm512_mask_storeu_epi32(out_rest.as_mut_ptr().cast(), lanes(out_rest.len()), rounded(low, high));
        }
    }

    /// See `super::gelu_backward`.
    ///
    /// # Safety
    /// As [`gelu`].
    #[target_feature(enable = "avx512f,avx512dq")]
    pub unsafe fn gelu_backward(x: &[f32], dx: &mut [f32]) {
        let (at, len) = (dx.as_mut_ptr(), x.len().min(dx.len()));
        // SAFETY: as above; both hold as many.
        unsafe { each(&SLOPE, x.as_ptr(), at, at, len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::vector::UNIT_F32;

    /// How far Phi and the slope may be from the truth, and what they are at x.
    fn hold(within: [f64; 2], of: impl Fn(f32) -> [f32; 2]) {
        let phi = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let mut worst = [0.0f64; 2];
        for i in -100_000..=100_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x);
            let exact = [phi(exact), phi(exact) + exact * density(exact)];
            for (((worst, within), got), exact) in worst.iter_mut().zip(within).zip(of(x)).zip(exact) {
                let error = (f64::from(got) - exact).abs();
                assert!(error < within, "{got} not {exact} at {x}");
                *worst = worst.max(error);
            }
        }
        eprintln!("Phi within {:.2e}, the slope within {:.2e}", worst[0], worst[1]);
        assert!(of(f32::NAN).iter().all(|y| y.is_nan()));
        assert_eq!(of(0.0), [0.5; 2]);
        for far in [6.1, 9.0, 1e30, f32::MAX, f32::INFINITY] {
            assert_eq!((of(far), of(-far)), ([1.0; 2], [0.0; 2]));
        }
    }

    #[test]
    fn long_polynomials_are_accurate_to_rounding() {
        // The last sum rounds by half a unit; a product of x up to 5.75 and a sum of up to 0.4 by three more. The slope is up
        // to 1.13, and what its polynomial leaves out comes on top.
        let within = [3.5 * UNIT_F32, 4.5 * UNIT_F32 + 2.4e-8];
        hold(within, |x| [normal::<false>(x), slope::<false>(x)]);
        hold(within, |x| [normal::<true>(x), slope::<true>(x)]);
    }

    #[test]
    fn every_build_of_the_long_polynomials_fuses_as_their_scalar_form_does() {
        #[cfg(target_arch = "x86_64")]
        let fused = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        #[cfg(not(target_arch = "x86_64"))]
        let fused = cfg!(target_arch = "aarch64");
        let scalar = |x: f32| match fused {
            true => (normal::<true>(x), slope::<true>(x)),
            false => (normal::<false>(x), slope::<false>(x)),
        };
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 7.0).collect();
            let (mut y, mut in_place, mut slopes) = (vec![0.5; len], x.clone(), vec![0.25; len]);
            plain::gelu(&x, &mut y);
            plain::gelu_in_place(&mut in_place);
            plain::gelu_backward(&x, &mut slopes);
            for (i, &x) in x.iter().enumerate() {
                let (phi, slope) = scalar(x);
                let want = (x * phi).to_bits();
                assert_eq!((y[i].to_bits(), in_place[i].to_bits()), (want, want), "{x}");
                assert_eq!(slopes[i].to_bits(), (0.25 * slope).to_bits(), "{x}");
            }
        }
    }

    #[test]
    fn every_length_is_covered_and_nothing_else() {
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 7.0).collect();
            let one = |f: &dyn Fn(&[f32], &mut [f32]), x: f32, y: f32| {
                let mut y = [y];
                f(&[x], &mut y);
                y[0].to_bits()
            };
            let (mut y, mut in_place, mut slopes) =
                (vec![0.5; len + 3], [&x[..], &[0.5; 3]].concat(), vec![0.25; len + 3]);
            gelu(&x, &mut y);
            gelu_in_place(&mut in_place[..len]);
            gelu_backward(&x, &mut slopes);
            for (i, &x) in x.iter().enumerate() {
                let want = one(&gelu, x, 0.0);
                assert_eq!((y[i].to_bits(), in_place[i].to_bits()), (want, want));
                assert_eq!(slopes[i].to_bits(), one(&gelu_backward, x, 0.25));
            }
            let pairs = len.div_ceil(2);
            let [mut words, mut in_steps, mut want] = [(); 3].map(|()| vec![0.5; pairs + 3]);
            gelu_pairs(&x, &mut words[..pairs]);
            gelu_then_pairs(&x, &mut in_steps[..pairs]);
            super::pairs::neighbours::<1>(&y[..len], &mut want[..pairs]);
            let bits = |x: &[f32]| x.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
            assert_eq!((bits(&words), bits(&in_steps)), (bits(&want), bits(&want)));
            assert!(in_place[len..].iter().all(|&y| y == 0.5));
            assert!(y[len..].iter().all(|&y| y == 0.5) && slopes[len..].iter().all(|&y| y == 0.25));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tables_are_accurate_to_rounding() {
        if !avx512::there() {
            return eprintln!("SKIPPED: this processor has no AVX-512");
        }
        // For Phi in units: the last sum 1/2; the sum before it and its constant 1/4 each; the steps round twice, by 2 |x| phi(x) or
        // 1/2 at most; the rest of Horner's rule less than 1/4. For the slope, which exceeds 1, the first three are twice as much,
        // 2 |x (2 - x^2)| phi(x) is below 2/3, and the rest below 1/3.
        hold([1.75 * UNIT_F32 + 3.7e-9, 3.0 * UNIT_F32 + 3.4e-8], avx512::values);
    }
}
