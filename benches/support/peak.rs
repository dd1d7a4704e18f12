//! The most multiply-adds a second that this processor does from registers: what products are measured against.

use std::hint::black_box;
use std::time::Instant;

/// Independent sums, enough to hide the latency of a multiply-add.
const CHAINS: usize = 12;

/// GFLOP/s in f32 of `threads` threads that only multiply and add in registers, for some 40 ms.
pub fn f32_gflops(threads: usize) -> f64 {
    let steps = 20_000_000;
    let (run, lanes) = kernel();
    let clock = Instant::now();
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(|| black_box(run(black_box(steps))));
        });
    });
    (2 * steps * CHAINS * lanes * threads) as f64 / clock.elapsed().as_secs_f64() / 1e9
}

/// The loop for this processor, and how many lanes each of its chains has.
fn kernel() -> (fn(usize) -> f32, usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has both features, checked on the line above.
        return (|steps| unsafe { avx2(steps) }, 8);
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
#[target_feature(enable = "avx2,fma")]
fn avx2(steps: usize) -> f32 {
    use std::arch::x86_64::*;
    let mut sums: [__m256; CHAINS] = std::array::from_fn(|i| _mm256_set1_ps(black_box(i as f32)));
    let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
    for _ in 0..steps {
        for v in &mut sums {
            *v = _mm256_fmadd_ps(*v, x, y);
        }
    }
    let mut lanes = [0.0f32; 8];
    let sum = sums.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b));
    // SAFETY: `lanes` holds eight floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    lanes.iter().sum()
}
