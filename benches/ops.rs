//! The products of a ViT-B step beside the chip's measured peak, with one thread and with all, operands read as f32 and
//! as bf16. In the same turns, so that a neighbour on the machine slows all: the peak from registers (in f32 that of fused
//! multiply-adds, which tile registers outrun), and what the engine's kernel does on operands that the near caches hold.

mod support;

use dynavit::device::cpu::Buffer;
use dynavit::device::cpu::gemm::{Mat, Operands, Panels, Strip, Write, gemm_strip, par_gemm, ready};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;
use support::{Flags, median, peak, prove, timed, turns, values};

/// Rows of a batch of 8 images at K = 70: 8 x 138 tokens.
const ROWS: usize = 8 * 138;

/// What the product is for, its output's rows and columns, its inner size.
const PRODUCTS: [(&str, usize, usize, usize); 7] = [
    ("qkv", ROWS, 2304, 768),
    ("proj", ROWS, 768, 768),
    ("fc1", ROWS, 3072, 768),
    ("fc2", ROWS, 768, 3072),
    ("as dW of fc1", 3072, 768, ROWS),
    ("qkv, one image", 138, 2304, 768),
    ("fc2, one image", 138, 768, 3072),
];

fn main() {
    let flags = Flags::start();
    let all = rayon::current_num_threads();
    let mut csv = String::from(
        "operands,threads,product,m,n,k,peak_gflops,near_gflops,ms,gflops,share_of_peak,ms_packed,share_of_peak_packed,\
         share_of_near_packed\n",
    );
    let pools = if all == 1 { vec![1] } else { vec![1, all] };
    for (operands, threads) in
        [Operands::F32, Operands::Bf16].into_iter().flat_map(|o| pools.iter().map(move |&t| (o, t)))
    {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        let words = operands.words();
        println!(
            "{threads} threads, {words}; medians of {} turns; peak from registers, in the same turns",
            flags.rounds
        );
        println!(
            "product            m     n     k   peak   near GFLOP/s        ms  GFLOP/s  of peak   packed before: of peak  of near"
        );
        for (what, m, n, k) in PRODUCTS {
            let [whole, kept, peak, near] = measure(&pool, flags.rounds, operands, (m, n, k));
            let rates = |ms: &[f64]| ms.iter().map(|ms| 2.0 * (m * n * k) as f64 / ms / 1e6).collect::<Vec<_>>();
            // Turn by turn, so that what slows a turn slows both.
            let share = |ms: &[f64], of: &[f64]| median(rates(ms).iter().zip(of).map(|(rate, of)| rate / of).collect());
            let (rate, shares) = (median(rates(&whole)), [(&whole, &peak), (&kept, &peak), (&kept, &near)]);
            let [of_peak, kept_of_peak, kept_of_near] = shares.map(|(ms, of)| share(ms, of));
            let [whole, kept, peak, near] = [whole, kept, peak, near].map(median);
            println!(
                "{what:14} {m:5} {n:5} {k:5} {peak:6.0} {near:14.0} {whole:9.2} {rate:8.1} {:6.0} %  {:21.0} % {:6.0} %",
                100.0 * of_peak,
                100.0 * kept_of_peak,
                100.0 * kept_of_near
            );
            csv += &format!(
                "{operands:?},{threads},{what:?},{m},{n},{k},{peak:.2},{near:.2},{whole:.4},{rate:.2},{of_peak:.4},\
                 {kept:.4},{kept_of_peak:.4},{kept_of_near:.4}\n"
            );
        }
    }
    flags.save("ops.csv", &csv);
}

/// Turn by turn: milliseconds of x W^T, packing W each time and with W packed before; the peak, and the kernel's rate in
/// the near caches, both in GFLOP/s.
fn measure(
    pool: &rayon::ThreadPool,
    rounds: usize,
    operands: Operands,
    (m, n, k): (usize, usize, usize),
) -> [Vec<f64>; 4] {
    // In the engine's memory, whose pages are huge where the system has such.
    let filled = |len: usize, salt: u32| {
        let mut buffer = Buffer::scratch(len);
        buffer.as_mut_slice().copy_from_slice(&values(len, salt));
        buffer
    };
    let (x, w) = (filled(m * k, 1), filled(n * k, 2));
    let (x, w) = (x.as_slice(), w.as_slice());
    let pack = || Panels::new(Mat::new(w, n, k).t(), operands);
    let product = |out: &mut [f32], panels: &Panels| {
        pool.install(|| par_gemm(out, &mut [], Mat::new(x, m, k), panels, Write::Set, &|_| {}));
    };
    let (mut out, mut again, packed) = (Buffer::zeros(m * n), Buffer::zeros(m * n), pack());
    let (out, again) = (out.as_mut_slice(), again.as_mut_slice());
    product(out, &packed);
    let read = |v: f32| match operands {
        Operands::F32 => f64::from(v),
        Operands::Bf16 => half::bf16::from_f32(v).to_f64(),
    };
    let corners = [(0, 0), (m - 1, n - 1), (m / 2, n / 3)];
    let exact = corners.map(|(i, j)| (0..k).map(|l| read(x[i * k + l]) * read(w[j * k + l])).sum::<f64>());
    prove("a product", &corners.map(|(i, j)| out[i * n + j]), &exact.map(|v| v as f32), 1e-4);
    let times = turns(
        rounds,
        &mut [
            &mut || timed(|| product(out, &pool.install(pack))),
            &mut || timed(|| product(again, &packed)),
            &mut || peak::gflops(operands, pool.current_num_threads()),
            &mut || near(pool, operands),
        ],
    );
    black_box((out, again));
    times.try_into().expect("four candidates")
}

/// GFLOP/s of all threads of a pool, each with a strip of rows on a few panels that its near caches hold, over and over.
fn near(pool: &rayon::ThreadPool, operands: Operands) -> f64 {
    /// 432 KiB of panels at most.
    const N: usize = 96;
    const K: usize = 768;
    const SECONDS: f64 = 0.03;
    /// Products between looks at the clock.
    const TOGETHER: usize = 20;
    let all_ready = Barrier::new(pool.current_num_threads());
    let runs = pool.broadcast(|_| {
        let (rows, w) = (Strip::height(operands), values(N * K, 3));
        let panels = Panels::by_caller(Mat::new(&w, N, K).t(), operands);
        let mut strip = Strip::new(K, operands);
        (0..rows).for_each(|i| strip.pack(i, Mat::new(&w, N, K), i));
        let mut out = vec![0.0; rows * panels.width()];
        let _ready = ready(operands);
        let mut product = || gemm_strip(&mut out, panels.width(), strip.rows(rows), &panels);
        product();
        all_ready.wait();
        let (begun, mut times) = (Instant::now(), 0);
        while begun.elapsed().as_secs_f64() < SECONDS {
            (0..TOGETHER).for_each(|_| product());
            times += TOGETHER;
        }
        black_box(&out);
        (begun, Instant::now(), 2 * rows * panels.width() * K * times)
    });
    let (first, last) = runs.iter().fold((runs[0].0, runs[0].1), |(a, b), run| (a.min(run.0), b.max(run.1)));
    let seconds = last.duration_since(first).as_secs_f64();
    runs.iter().map(|run| run.2).sum::<usize>() as f64 / seconds / 1e9
}
