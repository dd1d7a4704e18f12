//! Kernels on the virtual card, called directly: what the tests of PTX share. Buffers are as large as they must be.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "each test crate uses its own part")]

use dynavit::device::cuda::Geometry;
use dynavit::ops::{attention, layer_norm, matmul};
use half::{bf16, f16};
use ptx_vm::{Card, Counters, Fault, Limits, Options};
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

/// What memory holds of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F16,
    Bf16,
    F32,
}

impl Stored {
    /// As the names of kernels end.
    pub fn name(self) -> &'static str {
        match self {
            Stored::F16 => "f16",
            Stored::Bf16 => "bf16",
            Stored::F32 => "f32",
        }
    }

    /// What a value may be off by when it is stored, of itself; for f32 what the arithmetic may.
    pub fn rounding(self) -> f64 {
        match self {
            Stored::F16 => 1.0 / 2048.0,
            Stored::Bf16 => 1.0 / 256.0,
            Stored::F32 => 1e-5,
        }
    }

    fn width(self) -> usize {
        if self == Stored::F32 { 4 } else { 2 }
    }

    fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Stored::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Stored::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            Stored::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    fn values(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            Stored::F16 => pairs.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Stored::Bf16 => pairs.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Stored::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        }
    }

    /// The values as memory keeps them.
    pub fn rounded(self, values: &[f32]) -> Vec<f32> {
        self.values(&self.bytes(values))
    }
}

/// What a product left, or what was found.
pub type MatmulResult = Result<Vec<f32>, Fault>;

/// No place in memory.
pub const NULL: Value = Value::Address(0);

/// A card and the text that its kernels come from.
pub struct Rig {
    pub card: Card,
    capability: u32,
    text: String,
    stored: Stored,
}

impl Rig {
    /// A card of this capability (as 75) with all checks on, for the kernels of `text`.
    pub fn new(capability: u32, text: String, stored: Stored, seed: u64) -> Self {
        let limits = Limits::of_capability(capability / 10, capability % 10);
        let options = Options { global_races: true, seed, ..Options::default() };
        Rig { card: Card::new(limits, options), capability, text, stored }
    }

    fn fill(&self, bytes: &[u8]) -> Value {
        let address = self.card.alloc(bytes.len() as u64).unwrap();
        self.card.write(address, bytes).unwrap();
        Value::Address(address)
    }

    /// Values in the type that the kernels store.
    pub fn stored(&self, values: &[f32]) -> Value {
        self.fill(&self.stored.bytes(values))
    }

    pub fn f32(&self, values: &[f32]) -> Value {
        self.fill(&Stored::F32.bytes(values))
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

    fn read(&self, stored: Stored, from: Value, n: usize) -> Result<Vec<f32>, Fault> {
        Ok(stored.values(&self.bytes(from, stored.width() * n)?))
    }

    pub fn launch(&self, entry: &str, shape: Geometry, values: &[Value]) -> Result<(), Fault> {
        let module = self.card.load("kernel.ptx", &self.text).unwrap_or_else(|e| panic!("{e}"));
        let kernel = module.kernel(entry).unwrap_or_else(|| panic!("no {entry}"));
        kernel.set_dynamic_shared_limit(shape.shared)?;
        let Geometry { grid, block, shared } = shape;
        self.card.launch(&kernel, ptx_vm::LaunchShape { grid, block, dynamic_shared: shared }, &params(values))
    }

    pub fn counters(&self, entry: &str) -> Counters {
        self.card.counters().remove(entry).unwrap_or_default()
    }

    /// y = x W^T + bias with the epilogue's further operand between weight and y where it has one; GELU keeps its input.
    pub fn matmul(&self, entry: &str, tile: matmul::cuda::Tile, m: usize, n: usize, k: usize) -> MatmulResult {
        let pre = if entry.contains("gelu") { self.blank(self.stored.width() * m * n) } else { NULL };
        self.matmul_beside(entry, tile, [m, n, k], pre)
    }

    /// The same, with this place for GELU's input.
    pub fn matmul_beside(
        &self,
        entry: &str,
        tile: matmul::cuda::Tile,
        [m, n, k]: [usize; 3],
        pre: Value,
    ) -> MatmulResult {
        let count = |n: usize| Value::Count(n as u32);
        let mut args = vec![self.stored(&values(m * k, 1)), self.stored(&values(n * k, 2)), self.f32(&values(n, 3))];
        if entry.contains("residual") {
            args.push(self.stored(&values(m * n, 4)));
        } else if entry.contains("gelu") {
            args.push(pre);
        }
        let y = self.blank(self.stored.width() * m * n);
        args.extend([y, count(m), count(n), count(k)]);
        self.launch(entry, matmul::cuda::Sizes { m, n, k }.forward(tile).unwrap(), &args)?;
        self.read(self.stored, y, m * n)
    }

    /// dx = g W, times gelu'(pre) where the entry has it.
    pub fn matmul_dx(&self, entry: &str, tile: matmul::cuda::Tile, m: usize, n: usize, k: usize) -> MatmulResult {
        let count = |n: usize| Value::Count(n as u32);
        let mut args = vec![self.stored(&values(m * n, 5)), self.stored(&values(n * k, 2))];
        if entry.contains("gelu") {
            args.push(self.stored(&values(m * k, 6)));
        }
        let dx = self.blank(self.stored.width() * m * k);
        args.push(dx);
        if entry.contains("gelu") {
            args.push(self.blank(4 * matmul::cuda::gelu_partial_len(matmul::cuda::Sizes { m, n, k })));
        }
        args.extend([m, n, k].map(count));
        self.launch(entry, matmul::cuda::Sizes { m, n, k }.backward_dx(tile).unwrap(), &args)?;
        self.read(self.stored, dx, m * k)
    }

    /// The parts of dweight = g^T x, added up in order.
    pub fn matmul_dweight(&self, entry: &str, tile: matmul::cuda::Tile, m: usize, n: usize, k: usize) -> MatmulResult {
        let count = |n: usize| Value::Count(n as u32);
        let (shape, parts) = matmul::cuda::Sizes { m, n, k }.backward_dweight(tile).unwrap();
        let out = self.blank(4 * parts.count * n * k);
        let (g, x) = (self.stored(&values(m * n, 5)), self.stored(&values(m * k, 1)));
        self.launch(entry, shape, &[g, x, out, count(m), count(n), count(k), count(parts.rows)])?;
        let parts = self.read(Stored::F32, out, parts.count * n * k)?;
        Ok((0..n * k).map(|i| parts.iter().skip(i).step_by(n * k).sum()).collect())
    }

    /// The sums of the columns of dy by parts, then over them.
    pub fn matmul_dbias(&self, entry: &str, m: usize, n: usize) -> MatmulResult {
        let count = |n: usize| Value::Count(n as u32);
        let (shape, parts) = matmul::cuda::Sizes { m, n, k: 1 }.backward_dbias().unwrap();
        let partial = self.blank(4 * parts.count * n);
        let args = [self.stored(&values(m * n, 5)), partial, count(m), count(n), count(parts.rows)];
        self.launch(entry, shape, &args)?;
        let dbias = self.f32(&vec![1.0; n]);
        let shape = matmul::cuda::Sizes { m, n, k: 1 }.dbias_reduce().unwrap();
        self.launch("matmul_bwd_dbias_reduce_add_f32", shape, &[partial, dbias, count(parts.count), count(n)])?;
        self.read(Stored::F32, dbias, n)
    }

    /// (y, lse) of qkv.
    pub fn attention(&self, entry: &str, b: usize, s: usize, heads: usize) -> Result<(Vec<f32>, Vec<f32>), Fault> {
        use attention::cuda::Method;
        let kind = if entry.contains("online") { Method::Online } else { Method::Whole };
        let shape = attention::cuda::forward_shape(b, s, heads, kind, self.capability).unwrap();
        let d = 64 * heads;
        let (y, lse) = (self.blank(self.stored.width() * b * s * d), self.blank(4 * b * s * heads));
        let qkv: Vec<f32> = values(b * s * 3 * d, 5).iter().map(|x| 3.0 * x).collect();
        let args = [self.stored(&qkv), y, lse, Value::Count(s as u32), Value::Count(heads as u32)];
        self.launch(entry, shape, &args)?;
        Ok((self.read(self.stored, y, b * s * d)?, self.read(Stored::F32, lse, b * s * heads)?))
    }

    /// dqkv of qkv as above, y, lse and dy = values of seed 12: by attention_bwd, or by the pair for any length.
    pub fn attention_backward(
        &self,
        kind: attention::cuda::Method,
        (b, s, heads): (usize, usize, usize),
        y: &[f32],
        lse: &[f32],
    ) -> Result<Vec<f32>, Fault> {
        use attention::cuda::Method;
        let shape = attention::cuda::backward_shape(b, s, heads, kind, self.capability).unwrap();
        let n = b * s * 64 * heads;
        let qkv: Vec<f32> = values(3 * n, 5).iter().map(|x| 3.0 * x).collect();
        let (qkv, y, dy) = (self.stored(&qkv), self.stored(y), self.stored(&values(n, 12)));
        let (lse, delta) = (self.f32(lse), self.blank(4 * b * s * heads));
        let dqkv = self.blank(self.stored.width() * 3 * n);
        let sizes = [Value::Count(s as u32), Value::Count(heads as u32)];
        let name = |what: &str| format!("attention_bwd{what}_{}", self.stored.name());
        let args = |buffers: &[Value]| buffers.iter().copied().chain(sizes).collect::<Vec<_>>();
        match kind {
            Method::Whole => self.launch(&name(""), shape, &args(&[qkv, y, dy, lse, dqkv]))?,
            Method::Online => {
                self.launch(&name("_dq"), shape, &args(&[qkv, y, dy, lse, dqkv, delta]))?;
                self.launch(&name("_dkv"), shape, &args(&[qkv, dy, lse, delta, dqkv]))?;
            }
        }
        self.read(self.stored, dqkv, 3 * n)
    }

    /// (y, dq, dk) of q over k and v, each of its own, by the kernels of ptx/attention_rows.cu.
    pub fn attention_rows(&self, z: attention::reference::Sizes) -> Result<[Vec<f32>; 3], Fault> {
        let (n, kv) = (z.b * z.queries * z.width(), z.b * z.keys * z.width());
        let [q, dy] = [1, 2].map(|seed| self.stored(&values(n, seed)));
        let [k, v] = [3, 4].map(|seed| self.stored(&values(kv, seed)));
        let blank = |n: usize| self.blank(self.stored.width() * n);
        let (y, dq, dk, dv) = (blank(n), blank(n), blank(kv), blank(kv));
        let lse = self.blank(4 * z.b * z.queries * z.heads);
        let row = Value::Count(z.width() as u32);
        let sizes = [z.queries, z.keys, z.heads].map(|n| Value::Count(n as u32)).into_iter().chain([row, row]);
        let args: Vec<Value> = [q, k, v, y, lse].into_iter().chain(sizes.clone()).collect();
        let shape = attention::cuda::forward_rows_shape(z).unwrap();
        self.launch(&format!("attention_fwd_rows_{}", self.stored.name()), shape, &args)?;
        let args: Vec<Value> = [q, k, v, y, dy, lse, dq, dk, dv].into_iter().chain(sizes).collect();
        let shape = attention::cuda::backward_rows_shape(z).unwrap();
        self.launch(&format!("attention_bwd_rows_{}", self.stored.name()), shape, &args)?;
        Ok([self.read(self.stored, y, n)?, self.read(self.stored, dq, n)?, self.read(self.stored, dk, kv)?])
    }

    /// (y, mean, rstd) of rows.
    pub fn layer_norm(&self, rows: usize, d: usize) -> Result<[Vec<f32>; 3], Fault> {
        let (y, mean, rstd) = (self.blank(self.stored.width() * rows * d), self.blank(4 * rows), self.blank(4 * rows));
        let [x, weight, bias] = [self.stored(&values(rows * d, 6)), self.f32(&values(d, 7)), self.f32(&values(d, 8))];
        let sizes = [Value::Count(rows as u32), Value::Count(d as u32), Value::Number(1e-6)];
        let args: Vec<Value> = [x, weight, bias, y, mean, rstd].into_iter().chain(sizes).collect();
        self.launch(
            &format!("layer_norm_fwd_{}", self.stored.name()),
            layer_norm::cuda::forward_shape(rows, d).unwrap(),
            &args,
        )?;
        Ok([
            self.read(self.stored, y, rows * d)?,
            self.read(Stored::F32, mean, rows)?,
            self.read(Stored::F32, rstd, rows)?,
        ])
    }

    /// (dx, dweight, dbias) of rows, the gradients added to zeros.
    pub fn layer_norm_backward(&self, rows: usize, d: usize) -> Result<[Vec<f32>; 3], Fault> {
        let partial = self.blank(4 * layer_norm::cuda::partial_len(rows, d).unwrap());
        let (dx, dweight, dbias) =
            (self.blank(self.stored.width() * rows * d), self.f32(&vec![0.0; d]), self.f32(&vec![0.0; d]));
        let (dy, x, weight) =
            (self.stored(&values(rows * d, 9)), self.stored(&values(rows * d, 6)), self.f32(&values(d, 7)));
        let (mean, rstd) = (self.f32(&values(rows, 10)), self.f32(&values(rows, 11)));
        let shape = layer_norm::cuda::backward_dx_shape(rows, d).unwrap();
        let sizes = [Value::Count(rows as u32), Value::Count(d as u32)];
        let args: Vec<Value> = [dy, x, weight, mean, rstd, dx, partial].into_iter().chain(sizes).collect();
        self.launch(&format!("layer_norm_bwd_dx_{}", self.stored.name()), shape, &args)?;
        let sizes = [Value::Count(shape.grid[0]), Value::Count(d as u32)];
        let args: Vec<Value> = [partial, dweight, dbias].into_iter().chain(sizes).collect();
        let shape = layer_norm::cuda::backward_reduce_shape(d).unwrap();
        self.launch("layer_norm_bwd_reduce_f32", shape, &args)?;
        Ok([
            self.read(self.stored, dx, rows * d)?,
            self.read(Stored::F32, dweight, d)?,
            self.read(Stored::F32, dbias, d)?,
        ])
    }

    /// The counts of tests/kernels/count.cu over n values, by two blocks.
    pub fn count(&self, n: usize) -> Result<Vec<u32>, Fault> {
        let given: Vec<u32> = (0..n as u32).map(|i| i % 7).collect();
        let (given, counts) = (self.u32(&given), self.u32(&[0; 32]));
        let shape = Geometry::row("count", 2, 128, 0).unwrap();
        self.launch("count_fwd_u32", shape, &[given, counts, Value::Count(n as u32)])?;
        Ok(self.bytes(counts, 128)?.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
    }
}
