//! The micro-kernels of the matrix product: one small rectangle of the output, held in registers.
#![allow(unsafe_code)]

use std::sync::LazyLock;

/// The most elements of a rectangle.
const MOST: usize = 96;

/// `c[i * stride + j] (+)= alpha * sum over l < k of a[l * mr + i] * b[l * nr + j]`.
///
/// # Safety
/// `a` and `b` hold k * mr and k * nr readable elements; `c` reaches mr rows of nr writable ones, `stride` apart; the
/// processor has the instructions that the kernel was compiled for.
type Run = unsafe fn(k: usize, a: *const f32, b: *const f32, c: *mut f32, stride: usize, alpha: f32, add: bool);

/// A micro-kernel and the size of its rectangle.
pub(super) struct Kernel {
    /// Rows.
    pub mr: usize,
    /// Columns.
    pub nr: usize,
    run: Run,
}

/// The best kernel of this processor.
pub(super) static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return Kernel { mr: 6, nr: 16, run: avx2::run };
    }
    portable()
});

/// The kernel for any processor.
fn portable() -> Kernel {
    Kernel { mr: 4, nr: 8, run: run_portable::<4, 8> }
}

/// The rectangle of the output that a call covers: where it begins and how much of it is inside the output.
pub(super) struct Rectangle {
    pub c: *mut f32,
    /// Elements from row to row.
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Kernel {
    /// Adds to (or sets) a rectangle from packed panels `a` (k, mr) and `b` (k, nr). What the panels hold beyond the
    /// rectangle is computed and dropped, so that an element's bits do not depend on where a tile ends.
    ///
    /// # Safety
    /// `out.c` reaches `out.rows` rows of `out.cols` writable elements that no other thread touches.
    pub unsafe fn run(&self, a: &[f32], b: &[f32], out: Rectangle, alpha: f32, add: bool) {
        let Kernel { mr, nr, run } = *self;
        let k = a.len() / mr;
        assert!(a.len() == k * mr && b.len() == k * nr && out.rows <= mr && out.cols <= nr, "panels do not fit");
        assert!(mr * nr <= MOST, "a rectangle of {mr} x {nr}");
        if out.rows == mr && out.cols == nr {
            // SAFETY: the panels' lengths are asserted above, the whole rectangle is the caller's promise, and
            // `KERNEL` picked `run` by what the processor has.
            unsafe { run(k, a.as_ptr(), b.as_ptr(), out.c, out.stride, alpha, add) };
            return;
        }
        let mut whole = [0.0; MOST];
        // SAFETY: as above; the output is `whole`, which holds mr * nr elements.
        unsafe { run(k, a.as_ptr(), b.as_ptr(), whole.as_mut_ptr(), nr, alpha, false) };
        for (i, row) in whole.chunks_exact(nr).take(out.rows).enumerate() {
            // SAFETY: row i of the rectangle holds `cols` writable elements by the caller's promise.
            let c = unsafe { std::slice::from_raw_parts_mut(out.c.add(i * out.stride), out.cols) };
            for (c, &value) in c.iter_mut().zip(row) {
                *c = if add { *c + value } else { value };
            }
        }
    }
}

/// Plain loops that the compiler turns into whatever vectors the target has.
///
/// # Safety
/// See `Run`.
unsafe fn run_portable<const MR: usize, const NR: usize>(
    k: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    alpha: f32,
    add: bool,
) {
    // SAFETY: the caller promises these lengths.
    let (a, b) = unsafe { (std::slice::from_raw_parts(a, k * MR), std::slice::from_raw_parts(b, k * NR)) };
    let mut sums = [[0.0f32; NR]; MR];
    for (a, b) in a.chunks_exact(MR).zip(b.chunks_exact(NR)) {
        for (sums, &x) in sums.iter_mut().zip(a) {
            for (sum, &y) in sums.iter_mut().zip(b) {
                *sum = if cfg!(target_arch = "aarch64") { x.mul_add(y, *sum) } else { *sum + x * y };
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: the caller promises MR rows of NR elements.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * stride), NR) };
        for (c, &sum) in c.iter_mut().zip(sums) {
            *c = if add { *c + alpha * sum } else { alpha * sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    /// Steps of the inner loop that are written out.
    const UNROLL: usize = 4;

    /// 6 x 16: twelve sums, two vectors of b and one broadcast of a fill fifteen of the sixteen registers.
    ///
    /// # Safety
    /// See `super::Run`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run(
        k: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        alpha: f32,
        add: bool,
    ) {
        for i in 0..6 {
            // A prefetch reads nothing; the lines arrive while the sums are made.
            _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride + 15).cast());
        }
        let mut sums = [[_mm256_setzero_ps(); 2]; 6];
        let mut step = |l: usize| {
            // SAFETY: l < k, so row l of both panels is inside (the caller's promise).
            unsafe {
                let (b0, b1) = (_mm256_loadu_ps(b.add(16 * l)), _mm256_loadu_ps(b.add(16 * l + 8)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_broadcast_ss(&*a.add(6 * l + i));
                    sums[0] = _mm256_fmadd_ps(x, b0, sums[0]);
                    sums[1] = _mm256_fmadd_ps(x, b1, sums[1]);
                }
            }
        };
        // Four at a time: the loop's own instructions then cost nothing that can be measured.
        let whole = k / UNROLL * UNROLL;
        for l in (0..whole).step_by(UNROLL) {
            (l..l + UNROLL).for_each(&mut step);
        }
        (whole..k).for_each(&mut step);
        let alpha = _mm256_set1_ps(alpha);
        for (i, sums) in sums.iter().enumerate() {
            for (half, &sum) in sums.iter().enumerate() {
                // SAFETY: the caller promises six rows of sixteen elements.
                unsafe {
                    let c = c.add(i * stride + 8 * half);
                    let value = _mm256_mul_ps(alpha, sum);
                    _mm256_storeu_ps(c, if add { _mm256_add_ps(_mm256_loadu_ps(c), value) } else { value });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::vector::UNIT_F32;

    #[test]
    fn kernels_match_loops_inside_the_rectangle_and_touch_nothing_else() {
        for kernel in [&portable(), &*KERNEL] {
            let (mr, nr, stride) = (kernel.mr, kernel.nr, kernel.nr + 3);
            for (rows, cols) in [(mr, nr), (1, nr), (mr, 1), (mr - 1, nr - 1)] {
                for k in [0, 1, 7, 64] {
                    let a: Vec<f32> = (0..k * mr).map(|i| (i as f32 * 0.37).sin()).collect();
                    let b: Vec<f32> = (0..k * nr).map(|i| (i as f32 * 0.71).cos()).collect();
                    for add in [false, true] {
                        let start: Vec<f32> = (0..mr * stride).map(|i| i as f32 * 1e-2).collect();
                        let mut c = start.clone();
                        let out = Rectangle { c: c.as_mut_ptr(), stride, rows, cols };
                        // SAFETY: `c` holds mr rows of `stride` elements and belongs to this test.
                        unsafe { kernel.run(&a, &b, out, 0.5, add) };
                        for (at, (&got, &old)) in c.iter().zip(&start).enumerate() {
                            let (i, j) = (at / stride, at % stride);
                            if i >= rows || j >= cols {
                                assert_eq!(got, old, "element ({i},{j}) is outside");
                                continue;
                            }
                            let terms = (0..k).map(|l| f64::from(a[l * mr + i]) * f64::from(b[l * nr + j]));
                            let exact = 0.5 * terms.sum::<f64>() + if add { f64::from(old) } else { 0.0 };
                            let budget = (k as f64 + 2.0) * UNIT_F32 * (0.5 * k as f64 + f64::from(old) + 1.0);
                            assert!((f64::from(got) - exact).abs() <= budget, "({i},{j}): {got} not {exact}");
                        }
                    }
                }
            }
        }
    }
}
