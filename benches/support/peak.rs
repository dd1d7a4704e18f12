//! The most multiply-adds a second that this processor does from registers: what products are measured against.

use std::hint::black_box;
use std::time::Instant;

use dynavit::device::cpu::gemm::Operands;

/// Independent sums, enough to hide the latency of a multiply-add.
const CHAINS: usize = 12;

/// Steps of a thread's loop: a few tens of milliseconds.
const STEPS: usize = 10_000_000;

/// Products that an instruction of AMX adds up: 16 x 16 sums of 32 each.
#[cfg(target_arch = "x86_64")]
const TILE_PRODUCTS: usize = 16 * 16 * 32;

/// Steps of the other loops that take about as long as one of tile products.
#[cfg(target_arch = "x86_64")]
const TILE_STEPS: usize = 32;

/// GFLOP/s of `threads` threads that only multiply and add in registers, operands and sums as in a product that reads
/// its operands so; of f32 always by fused multiply-adds, which a kernel that takes it apart may outrun.
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
        if operands == Operands::Bf16 && operands.in_tile_registers() {
            // SAFETY: the engine multiplies with AMX, so the processor has it and the process may use it.
            return (|steps| unsafe { x86::tiles(steps / TILE_STEPS) }, TILE_PRODUCTS / TILE_STEPS);
        }
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

    /// Products of tile registers with nothing loaded between them, `CHAINS` a step as in the other loops.
    ///
    /// # Safety
    /// The processor has AMX, and the system lets the process use it.
    pub unsafe fn tiles(steps: usize) -> f32 {
        const { assert!(CHAINS == 12) };
        /// Intel SDM, `LDTILECFG`: palette 1, 64 bytes a row, 16 rows, of eight registers.
        #[repr(C, align(64))]
        struct Configuration([u8; 64]);
        let mut configuration = Configuration([0; 64]);
        configuration.0[0] = 1;
        for register in 0..8 {
            configuration.0[16 + 2 * register] = 64;
            configuration.0[48 + register] = 16;
        }
        // SAFETY: the caller's promise; `configuration` is valid, and the loop reads no memory.
        unsafe {
            std::arch::asm!(
                "ldtilecfg [{configuration}]",
                "2:",
                ".rept 3",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ".endr",
                "dec {steps}",
                "jnz 2b",
                "tilerelease",
                configuration = in(reg) &configuration,
                steps = inout(reg) steps.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        0.0
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
