//! How fast the virtual card is on one core: warp instructions a second of a scalar kernel, multiply-adds a second of
//! the tensor-core product that dynavit ships. All checks but that for races between blocks are on, then that one too;
//! each result is proved before it is timed.
//!
//! `cargo run --release -p ptx-vm --example speed [RUNS [scalar|product]]`
#![forbid(unsafe_code)]

use std::sync::Arc;

use ptx_vm::{Card, Kernel, LaunchShape, Limits, Options, f16_from_f32, f32_from_f16};

const SCALAR: &str = include_str!("speed.ptx");
const PRODUCT: &str = include_str!("../../../ptx/matmul.sm80.ptx");

/// Sizes (m, n, k) of the two products.
const SCALAR_SIZE: [usize; 3] = [64, 512, 256];
const PRODUCT_SIZE: [usize; 3] = [256, 768, 768];

/// Seconds that this thread had a core; the time of day where the system does not tell.
fn seconds() -> f64 {
    let own = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = own.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0.0, |t| t.as_secs_f64()), |n| n / 1e9)
}

/// A launch that can be repeated, and where its result lies.
struct Case {
    card: Card,
    kernel: Arc<Kernel>,
    shape: LaunchShape,
    params: Vec<u8>,
    out: u64,
}

fn value(i: usize) -> f32 {
    ((i * 7919 + i / 31) % 17) as f32 / 8.0 - 1.0
}

fn buffer(card: &Card, bytes: &[u8]) -> u64 {
    let address = card.alloc(bytes.len() as u64).expect("memory of the card");
    card.write(address, bytes).expect("a copy to the card");
    address
}

impl Case {
    fn new(races: bool, ptx: &str, entry: &str, operands: &[&[u8]], out: usize, sizes: &[usize]) -> Self {
        let card = Card::new(Limits::of_capability(8, 0), Options { global_races: races, ..Options::default() });
        let kernel = card.load(entry, ptx).expect("PTX").kernel(entry).expect("the kernel");
        let mut addresses: Vec<u64> = operands.iter().map(|bytes| buffer(&card, bytes)).collect();
        let out = card.alloc(out as u64).expect("memory of the card");
        addresses.push(out);
        let mut params: Vec<u8> = addresses.iter().flat_map(|a| a.to_le_bytes()).collect();
        params.extend(sizes.iter().flat_map(|n| (*n as u32).to_le_bytes()));
        let shape = LaunchShape { grid: [1; 3], block: [1; 3], dynamic_shared: 0 };
        Self { card, kernel, shape, params, out }
    }

    fn scalar(races: bool) -> Self {
        let [m, n, k] = SCALAR_SIZE;
        let floats = |count| (0..count).flat_map(|i| value(i).to_le_bytes()).collect::<Vec<u8>>();
        let mut case = Self::new(races, SCALAR, "product", &[&floats(m * k), &floats(k * n)], 4 * m * n, &[n, k]);
        case.shape.grid = [n as u32 / 128, m as u32, 1];
        case.shape.block = [128, 1, 1];
        case
    }

    fn product(races: bool) -> Self {
        let [m, n, k] = PRODUCT_SIZE;
        let halves = |count| (0..count).flat_map(|i| f16_from_f32(value(i)).to_le_bytes()).collect::<Vec<u8>>();
        let operands: [&[u8]; 3] = [&halves(m * k), &halves(n * k), &vec![0; 4 * n]];
        let mut case = Self::new(races, PRODUCT, "matmul_fwd_bias_f16", &operands, 2 * m * n, &[m, n, k]);
        case.shape.grid = [(m / 128 * n / 128) as u32, 1, 1];
        case.shape.block = [256, 1, 1];
        case
    }

    fn launch(&self) {
        self.card.launch(&self.kernel, self.shape, &self.params).unwrap_or_else(|fault| panic!("{fault}"));
    }

    /// Holds every 61st value against a sum in f64 of `a[i, r] b(r, j)`; both kernels multiply the same kind of numbers.
    fn prove(&self, [m, n, k]: [usize; 3], bytes: usize, b: impl Fn(usize, usize) -> usize) {
        self.launch();
        let mut found = vec![0; bytes * m * n];
        self.card.read(self.out, &mut found).expect("a result");
        for at in (0..m * n).step_by(61) {
            let found = match found[bytes * at..][..bytes] {
                [a, b] => f32_from_f16(u16::from_le_bytes([a, b])),
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                _ => f32::NAN,
            };
            let (i, j) = (at / n, at % n);
            let sum: f64 = (0..k).map(|r| value(i * k + r) as f64 * value(b(r, j)) as f64).sum();
            let off = (found as f64 - sum).abs();
            assert!(off <= 1e-3 * sum.abs() + 1e-3, "({i}, {j}): {found}, not {sum}");
        }
    }

    /// The median over the runs of what `count` counts, a second.
    fn rate(&self, runs: usize, count: impl Fn(&ptx_vm::Counters) -> u64) -> f64 {
        let mut rates: Vec<f64> = (0..runs)
            .map(|_| {
                self.card.reset_counters();
                let start = seconds();
                self.launch();
                let spent = seconds() - start;
                count(&self.card.counters()[self.kernel.name()]) as f64 / spent
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        rates[runs / 2]
    }
}

fn measure(runs: usize, case: Option<&str>) {
    let wanted = |name| case.is_none_or(|case| case == name);
    for (races, checks) in [(false, "checks"), (true, "checks, and races between blocks")] {
        if wanted("scalar") {
            let (scalar, n) = (Case::scalar(races), SCALAR_SIZE[1]);
            scalar.prove(SCALAR_SIZE, 4, |r, j| r * n + j);
            let rate = scalar.rate(runs, |c| c.warp_instructions) / 1e6;
            println!("scalar   {rate:6.1} million warp instructions a second and core ({checks})");
        }
        if wanted("product") {
            let (product, k) = (Case::product(races), PRODUCT_SIZE[2]);
            product.prove(PRODUCT_SIZE, 2, |r, j| j * k + r);
            let rate = product.rate(runs, |c| c.mma_macs) / 1e9;
            println!("product  {rate:6.2} GMAC a second and core ({checks})");
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runs = arguments.first().and_then(|runs| runs.parse().ok()).unwrap_or(9).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| measure(runs, arguments.get(1).map(String::as_str)));
}
