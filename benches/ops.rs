//! The ops of one ViT-B step: each proven against a plain loop on a few elements, then timed beside the chip's peak.

mod support;

use dynavit::device::cpu::gemm::{Mat, Panels, Write, par_gemm};
use std::hint::black_box;
use support::{alternate, peak, values};

/// Rows of a batch of 8 images at K = 70: 8 x 138 tokens.
const ROWS: usize = 8 * 138;

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(7);
    for threads in [1, std::thread::available_parallelism().map_or(1, usize::from)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        let peak = peak::f32_gflops(threads);
        println!("{threads} threads, peak {peak:.0} GFLOP/s in f32");
        for (what, m, n, k) in [
            ("qkv", ROWS, 2304, 768),
            ("proj", ROWS, 768, 768),
            ("fc1", ROWS, 3072, 768),
            ("fc2", ROWS, 768, 3072),
            ("dW fc1", 3072, 768, ROWS),
            ("qkv B=1", 138, 2304, 768),
            ("fc2 B=1", 138, 768, 3072),
        ] {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let mut out = vec![0.0; m * n];
            let packed = Panels::new(Mat::new(&b, n, k).t());
            let mut whole = || {
                pool.install(|| {
                    let panels = Panels::new(Mat::new(&b, n, k).t());
                    par_gemm(&mut out, &mut [], Mat::new(&a, m, k), &panels, Write::Set, &|_| {});
                });
                black_box(&out);
            };
            let mut again = vec![0.0; m * n];
            let mut kept = || {
                pool.install(|| par_gemm(&mut again, &mut [], Mat::new(&a, m, k), &packed, Write::Set, &|_| {}));
                black_box(&again);
            };
            let times = alternate(rounds, &mut [&mut whole, &mut kept]);
            let rate = |t: f64| 2.0 * (m * n * k) as f64 / t / 1e6;
            println!(
                "{what:10} {m:5} x {n:4} x {k:4}  {:8.2} ms  {:6.1} GFLOP/s  {:4.0} % of peak (best {:4.0} %)  packed before {:6.1}",
                times[0].median,
                rate(times[0].median),
                100.0 * rate(times[0].median) / peak,
                100.0 * rate(times[0].min) / peak,
                rate(times[1].median)
            );
        }
    }
}
