//! Kernels on the virtual card, called directly: what the tests of PTX share. Buffers are as large as they must be.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "each test crate uses its own part")]

use dynavit::device::launch_table::LaunchShape;
use dynavit::ops::{attention, layer_norm, matmul};
use ptx_vm::{Card, Counters, Fault, Limits, Options, f16_from_f32, f32_from_f16};
use std::path::Path;

/// A committed PTX file, by its path without the ending.
pub fn ptx(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.ptx"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A value for a kernel's parameter.
#[derive(Clone, Copy)]
pub enum Value {
    Address(u64),
    Count(u32),
    Number(f32),
}

fn params(values: &[Value]) -> Vec<u8> {
    let mut block = Vec::new();
    for value in values {
        match value {
            Value::Address(address) => {
                block.resize(block.len().next_multiple_of(8), 0);
                block.extend(address.to_le_bytes());
            }
            Value::Count(count) => block.extend(count.to_le_bytes()),
            Value::Number(number) => block.extend(number.to_le_bytes()),
        }
    }
    block
}

/// Numbers between -1 and 1, the same for the same seed.
pub fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = u64::from(seed) * 2 + 88_172_645_463_325_253;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| step(&mut state)).collect()
}

/// The values as f16 keeps them.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| f32_from_f16(f16_from_f32(x))).collect()
}

/// A card and the text that its kernels come from.
pub struct Rig {
    pub card: Card,
    capability: u32,
    text: String,
}

impl Rig {
    /// A card of this capability (as 75) with all checks on, for the kernels of `text`.
    pub fn new(capability: u32, text: String, seed: u64) -> Self {
        let limits = Limits::of_capability(capability / 10, capability % 10);
        let options = Options { global_races: true, seed, ..Options::default() };
        Rig { card: Card::new(limits, options), capability, text }
    }

    fn fill(&self, bytes: &[u8]) -> Value {
        let address = self.card.alloc(bytes.len() as u64).unwrap();
        self.card.write(address, bytes).unwrap();
        Value::Address(address)
    }

    pub fn f16(&self, values: &[f32]) -> Value {
        self.fill(&values.iter().flat_map(|&x| f16_from_f32(x).to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn f32(&self, values: &[f32]) -> Value {
        self.fill(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn u32(&self, values: &[u32]) -> Value {
        self.fill(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Memory for a result, never written.
    pub fn blank(&self, bytes: usize) -> Value {
        Value::Address(self.card.alloc(bytes as u64).unwrap())
    }

    fn bytes(&self, from: Value, n: usize) -> Result<Vec<u8>, Fault> {
        let Value::Address(address) = from else { panic!("a result has an address") };
        let mut bytes = vec![0; n];
        self.card.read(address, &mut bytes)?;
        Ok(bytes)
    }

    pub fn read_f16(&self, from: Value, n: usize) -> Result<Vec<f32>, Fault> {
        let bytes = self.bytes(from, 2 * n)?;
        Ok(bytes.chunks(2).map(|b| f32_from_f16(u16::from_le_bytes([b[0], b[1]]))).collect())
    }

    pub fn read_f32(&self, from: Value, n: usize) -> Result<Vec<f32>, Fault> {
        let bytes = self.bytes(from, 4 * n)?;
        Ok(bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    }

    pub fn launch(&self, entry: &str, shape: LaunchShape, values: &[Value]) -> Result<(), Fault> {
        let module = self.card.load("kernel.ptx", &self.text).unwrap_or_else(|e| panic!("{e}"));
        let kernel = module.kernel(entry).unwrap_or_else(|| panic!("no {entry}"));
        kernel.set_dynamic_shared_limit(shape.dynamic_shared)?;
        let LaunchShape { grid, block, dynamic_shared } = shape;
        self.card.launch(&kernel, ptx_vm::LaunchShape { grid, block, dynamic_shared }, &params(values))
    }

    pub fn counters(&self, entry: &str) -> Counters {
        self.card.counters().remove(entry).unwrap_or_default()
    }

    /// y = x W^T + bias in f16, with the epilogue's further operand between weight and y where it has one.
    pub fn matmul(
        &self,
        entry: &str,
        tile: matmul::cuda::Tile,
        m: usize,
        n: usize,
        k: usize,
    ) -> Result<Vec<f32>, Fault> {
        let count = |n: usize| Value::Count(n as u32);
        let mut args = vec![self.f16(&values(m * k, 1)), self.f16(&values(n * k, 2)), self.f32(&values(n, 3))];
        if entry.contains("residual") {
            args.push(self.f16(&values(m * n, 4)));
        } else if entry.contains("gelu") {
            args.push(self.blank(2 * m * n));
        }
        let y = self.blank(2 * m * n);
        args.extend([y, count(m), count(n), count(k)]);
        self.launch(entry, matmul::cuda::forward_shape(m, n, k, tile).unwrap(), &args)?;
        self.read_f16(y, m * n)
    }

    /// (y, lse) of qkv in f16.
    pub fn attention(&self, entry: &str, b: usize, s: usize, heads: usize) -> Result<(Vec<f32>, Vec<f32>), Fault> {
        use attention::cuda::Kind;
        let kind = if entry.contains("online") { Kind::Online } else { Kind::Whole };
        let shape = attention::cuda::forward_shape(b, s, heads, kind, self.capability).unwrap();
        let d = 64 * heads;
        let (y, lse) = (self.blank(2 * b * s * d), self.blank(4 * b * s * heads));
        let qkv: Vec<f32> = values(b * s * 3 * d, 5).iter().map(|x| 3.0 * x).collect();
        let args = [self.f16(&qkv), y, lse, Value::Count(s as u32), Value::Count(heads as u32)];
        self.launch(entry, shape, &args)?;
        Ok((self.read_f16(y, b * s * d)?, self.read_f32(lse, b * s * heads)?))
    }

    /// (y, mean, rstd) of rows in f16.
    pub fn layer_norm(&self, rows: usize, d: usize) -> Result<[Vec<f32>; 3], Fault> {
        let (y, mean, rstd) = (self.blank(2 * rows * d), self.blank(4 * rows), self.blank(4 * rows));
        let [x, weight, bias] = [self.f16(&values(rows * d, 6)), self.f32(&values(d, 7)), self.f32(&values(d, 8))];
        let sizes = [Value::Count(rows as u32), Value::Count(d as u32), Value::Number(1e-6)];
        let args: Vec<Value> = [x, weight, bias, y, mean, rstd].into_iter().chain(sizes).collect();
        self.launch("layer_norm_fwd_f16", layer_norm::cuda::forward_shape(rows, d).unwrap(), &args)?;
        Ok([self.read_f16(y, rows * d)?, self.read_f32(mean, rows)?, self.read_f32(rstd, rows)?])
    }

    /// (dx, dweight, dbias) of rows in f16, the gradients added to zeros.
    pub fn layer_norm_backward(&self, rows: usize, d: usize) -> Result<[Vec<f32>; 3], Fault> {
        let partial = self.blank(4 * layer_norm::cuda::partial_len(rows, d).unwrap());
        let (dx, dweight, dbias) = (self.blank(2 * rows * d), self.f32(&vec![0.0; d]), self.f32(&vec![0.0; d]));
        let (dy, x, weight) = (self.f16(&values(rows * d, 9)), self.f16(&values(rows * d, 6)), self.f32(&values(d, 7)));
        let (mean, rstd) = (self.f32(&values(rows, 10)), self.f32(&values(rows, 11)));
        let shape = layer_norm::cuda::backward_dx_shape(rows, d).unwrap();
        let sizes = [Value::Count(rows as u32), Value::Count(d as u32)];
        let args: Vec<Value> = [dy, x, weight, mean, rstd, dx, partial].into_iter().chain(sizes).collect();
        self.launch("layer_norm_bwd_dx_f16", shape, &args)?;
        let sizes = [Value::Count(shape.grid[0]), Value::Count(d as u32)];
        let args: Vec<Value> = [partial, dweight, dbias].into_iter().chain(sizes).collect();
        let shape = layer_norm::cuda::backward_reduce_shape(d).unwrap();
        self.launch("layer_norm_bwd_reduce_f32", shape, &args)?;
        Ok([self.read_f16(dx, rows * d)?, self.read_f32(dweight, d)?, self.read_f32(dbias, d)?])
    }

    /// The counts of tests/kernels/count.cu over n values, by two blocks.
    pub fn count(&self, n: usize) -> Result<Vec<u32>, Fault> {
        let given: Vec<u32> = (0..n as u32).map(|i| i % 7).collect();
        let (given, counts) = (self.u32(&given), self.u32(&[0; 32]));
        let shape = LaunchShape::row("count", 2, 128, 0).unwrap();
        self.launch("count_fwd_u32", shape, &[given, counts, Value::Count(n as u32)])?;
        Ok(self.bytes(counts, 128)?.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
    }
}
