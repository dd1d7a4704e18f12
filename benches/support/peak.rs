//! The most multiply-adds a second that this processor does from registers: what products are measured against.

use std::hint::black_box;
use std::time::Instant;

use dynavit::device::cpu::gemm::Operands;

/// Independent sums, enough to hide the latency of a multiply-add.
const CHAINS: usize = 12;

/// Steps of a thread's loop: a few tens of milliseconds.
const STEPS: usize = 10_000_000;

/// GFLOP/s of `threads` threads that only multiply and add in registers, operands and sums as in a product that reads
/// its operands so.
pub fn gflops(operands: Operands, threads: usize) -> f64 {
    let (run, products) = kernel(operands);
    let clock = Instant::now();
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(|| black_box(run(black_box(STEPS))));
        });
    });
    (2 * STEPS * CHAINS * products * threads) as f64 / clock.elapsed().as_secs_f64() / 1e9
}

/// The loop for this processor, and how many products each of its chains adds up in a step.
fn kernel(operands: Operands) -> (fn(usize) -> f32, usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if operands == Operands::Bf16 && has!("avx512f") && has!("avx512bf16") {
            // SAFETY: the processor has both features, checked on the line above.
            return (|steps| unsafe { x86::pairs(steps) }, 32);
        }
        if has!("avx512f") {
            // SAFETY: the processor has the feature, checked on the line above.
            return (|steps| unsafe { x86::avx512(steps) }, 16);
        }
        if has!("avx2") && has!("fma") {
            // SAFETY: the processor has both features, checked on the line above.
            return (|steps| unsafe { x86::avx2(steps) }, 8);
        }
    }
    (portable, 4)
}

fn portable(steps: usize) -> f32 {
    let mut sums = [[0.0f32; 4]; CHAINS];
    let (x, y) = (black_box(0.999), black_box(1e-3));
    for _ in 0..steps {
        for v in sums.as_flattened_mut() {
            *v = if cfg!(target_arch = "aarch64") { v.mul_add(x, y) } else { *v * x + y };
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(steps: usize) -> f32 {
        let mut sums: [__m256; CHAINS] = std::array::from_fn(|i| _mm256_set1_ps(black_box(i as f32)));
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        for _ in 0..steps {
            for v in &mut sums {
                *v = _mm256_fmadd_ps(*v, x, y);
            }
        }
        let sum = sums.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b));
        let mut lanes = [0.0f32; 8];
        // SAFETY: `lanes` holds eight floats.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        lanes.iter().sum()
    }

    #[target_feature(enable = "avx512f")]
    pub fn avx512(steps: usize) -> f32 {
        let mut sums: [__m512; CHAINS] = std::array::from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
        let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        for _ in 0..steps {
            for v in &mut sums {
                *v = _mm512_fmadd_ps(*v, x, y);
            }
        }
        sums.into_iter().map(|v| _mm512_reduce_add_ps(v)).sum()
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn pairs(steps: usize) -> f32 {
        let mut sums: [__m512; CHAINS] = std::array::from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
        let ones = _mm512_set1_ps(black_box(1e-3));
        let x = _mm512_cvtne2ps_pbh(ones, ones);
        for _ in 0..steps {
            for v in &mut sums {
                *v = _mm512_dpbf16_ps(*v, x, x);
            }
        }
        sums.into_iter().map(|v| _mm512_reduce_add_ps(v)).sum()
    }
}
