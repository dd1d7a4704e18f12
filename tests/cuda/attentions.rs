//! Attention.
#![forbid(unsafe_code)]

#[path = "../support/attention.rs"]
mod bounds;

use super::support::*;
use bounds::{Gradient, Rounding, gradients};
use dynavit::device::cuda::{Arena, Element, Gpu, Half, Slice, Values};
use dynavit::ops::attention;
use dynavit::ops::attention::cuda;
use dynavit::ops::attention::reference::Sizes;

/// (b, s, heads) of whole sequences.
const PACKED: [(usize, usize, usize); 8] =
    [(3, 1, 2), (5, 7, 1), (1, 16, 3), (1, 60, 3), (1, 138, 2), (1, 197, 1), (1, 256, 1), (1, 300, 1)];

/// (b, queries, keys, heads).
const SPLIT: [(usize, usize, usize, usize); 8] = [
    (3, 1, 1, 2),
    (5, 1, 7, 1),
    (1, 2, 16, 3),
    (1, 1, 60, 3),
    (1, 1, 138, 2),
    (2, 5, 197, 1),
    (1, 1, 256, 12),
    (1, 3, 300, 1),
];

/// Columns `part` of rows of `parts` times d.
fn part(x: &[f64], d: usize, parts: usize, part: usize) -> Vec<f64> {
    x.chunks(parts * d).flat_map(|row| row[part * d..(part + 1) * d].to_vec()).collect()
}

/// What the kernels round to: `tiny` is half the least number of f16.
fn rounding(half: Option<Half>) -> Rounding {
    match half {
        Some(Half::F16) => Rounding { relative: unit(Half::F16), tiny: 0.5 / f64::from(1 << 24) },
        Some(Half::Bf16) => Rounding { relative: unit(Half::Bf16), tiny: 0.0 },
        None => Rounding { relative: UNIT, tiny: 0.0 },
    }
}

/// The type of memory: how f32 gets there and back.
trait Stored: Element {
    fn store(half: Option<Half>, values: &[f32]) -> Vec<Self>;
    fn widen(half: Option<Half>, stored: &[Self]) -> Vec<f64>;
    fn values(half: Option<Half>, stored: Slice<Self>) -> Values;
}

impl Stored for u16 {
    fn store(half: Option<Half>, values: &[f32]) -> Vec<u16> {
        bits(half.unwrap(), values)
    }
    fn widen(half: Option<Half>, stored: &[u16]) -> Vec<f64> {
        wide(half.unwrap(), stored)
    }
    fn values(half: Option<Half>, stored: Slice<u16>) -> Values {
        stored.values(half.unwrap())
    }
}

impl Stored for f32 {
    fn store(_: Option<Half>, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }
    fn widen(_: Option<Half>, stored: &[f32]) -> Vec<f64> {
        f64s(stored)
    }
    fn values(_: Option<Half>, stored: Slice<f32>) -> Values {
        stored.into()
    }
}

/// One case: q, k, v and dy as the card has them, on which the results are judged.
struct Case {
    what: String,
    half: Option<Half>,
    z: Sizes,
    qkv: [Vec<f64>; 3],
    dy: Vec<f64>,
}

impl Case {
    fn results(&self, y: &[f64], lse: &[f32], dqkv: [Vec<f64>; 3]) {
        let [q, k, v] = &self.qkv;
        let r = rounding(self.half);
        let expected = attention::reference::forward(q, k, v, self.z);
        // The weights are rounded to the type before their product with v, whose values are below 2; the scores' rounding
        // in f32 (64 products below 4 each) moves a weight by as many units, relatively.
        let bound =
            |i: usize| r.relative * (2.1 + expected[i].abs()) + 2.0 * (66.0 * 256.0 + self.z.keys as f64) * UNIT;
        close(&self.what, y, &expected, bound);
        assert!(lse.iter().all(|v| v.is_finite()), "{}", self.what);
        let gradients = gradients(q, k, v, y, &self.dy, self.z, r);
        for ((name, got), Gradient { expected, bound }) in ["dq", "dk", "dv"].iter().zip(dqkv).zip(gradients) {
            close(&format!("{name} of {}", self.what), &got, &expected, |i| bound[i]);
        }
    }
}

fn doubled(len: usize, salt: u32) -> Vec<f32> {
    values(len, salt).iter().map(|v| 2.0 * v).collect()
}

/// A whole sequence.
fn packed<T: Stored>(gpu: &Gpu, half: Option<Half>, (b, s, heads): (usize, usize, usize)) {
    let arena = Arena::new(gpu, BYTES).unwrap();
    let d = 64 * heads;
    let (qkv, dy) = (T::store(half, &doubled(b * s * 3 * d, 6)), T::store(half, &values(b * s * d, 7)));
    let (y, lse) = (arena.alloc(b * s * d).unwrap(), arena.alloc(b * s * heads).unwrap());
    let z = Sizes { b, queries: s, keys: s, heads, head_width: 64 };
    let (delta, dqkv) = (arena.alloc(cuda::delta_len(gpu, z)).unwrap(), arena.alloc(b * s * 3 * d).unwrap());
    let of = |slice| T::values(half, slice);
    let (qkv_card, dy_card) = (of(arena.upload(&qkv).unwrap()), of(arena.upload(&dy).unwrap()));
    cuda::forward(gpu, qkv_card, z, of(y), lse).unwrap();
    cuda::backward(gpu, qkv_card, z, of(y), lse, dy_card, delta, of(dqkv)).unwrap();
    let qkv = T::widen(half, &qkv);
    let case = Case {
        what: format!("attention {half:?} {b} x {s} x {heads}"),
        half,
        z,
        qkv: [0, 1, 2].map(|i| part(&qkv, d, 3, i)),
        dy: T::widen(half, &dy),
    };
    let stream = gpu.stream();
    let dqkv = T::widen(half, &stream.download(dqkv).unwrap());
    let (y, lse) = (T::widen(half, &stream.download(y).unwrap()), stream.download(lse).unwrap());
    case.results(&y, &lse, [0, 1, 2].map(|i| part(&dqkv, d, 3, i)));
}

/// Queries over other keys.
fn split<T: Stored>(gpu: &Gpu, half: Option<Half>, (b, queries, keys, heads): (usize, usize, usize, usize)) {
    let arena = Arena::new(gpu, BYTES).unwrap();
    let d = 64 * heads;
    let z = Sizes { b, queries, keys, heads, head_width: 64 };
    let (n, kv_len) = (b * queries * d, b * keys * 2 * d);
    let (q, kv) = (T::store(half, &doubled(n, 8)), T::store(half, &doubled(kv_len, 9)));
    let dy = T::store(half, &values(n, 10));
    let (y, lse) = (arena.alloc(n).unwrap(), arena.alloc(b * queries * heads).unwrap());
    let (dq, dkv) = (arena.alloc(n).unwrap(), arena.alloc(kv_len).unwrap());
    let of = |slice| T::values(half, slice);
    let [q_card, kv_card, dy_card] = [&q, &kv, &dy].map(|x| of(arena.upload(x).unwrap()));
    cuda::forward_split(gpu, q_card, kv_card, z, of(y), lse).unwrap();
    cuda::backward_split(gpu, q_card, kv_card, z, of(y), lse, dy_card, [of(dq), of(dkv)]).unwrap();
    let kv = T::widen(half, &kv);
    let case = Case {
        what: format!("split attention {half:?} {b} x {queries} over {keys} x {heads}"),
        half,
        z,
        qkv: [T::widen(half, &q), part(&kv, d, 2, 0), part(&kv, d, 2, 1)],
        dy: T::widen(half, &dy),
    };
    let stream = gpu.stream();
    let [y, dq, dkv] = [y, dq, dkv].map(|x| T::widen(half, &stream.download(x).unwrap()));
    case.results(&y, &stream.download(lse).unwrap(), [dq, part(&dkv, d, 2, 0), part(&dkv, d, 2, 1)]);
}

/// Both forms in a 16-bit type.
pub fn check(gpu: &Gpu, half: Half) {
    PACKED.into_iter().for_each(|shape| packed::<u16>(gpu, Some(half), shape));
    SPLIT.into_iter().for_each(|shape| split::<u16>(gpu, Some(half), shape));
}

/// Both forms in f32.
pub fn check_f32(gpu: &Gpu) {
    PACKED.into_iter().for_each(|shape| packed::<f32>(gpu, None, shape));
    SPLIT.into_iter().for_each(|shape| split::<f32>(gpu, None, shape));
}

/// What the launchers refuse before anything runs.
pub fn check_refusals(gpu: &Gpu) {
    let arena = Arena::new(gpu, BYTES).unwrap();
    let (x, f) = (arena.zeros::<u16>(3 * 64).unwrap().values(Half::F16), arena.zeros::<f32>(1).unwrap());
    let row = x.window(0, 64);
    let z = Sizes { b: 1, queries: 1, keys: 1, heads: 1, head_width: 64 };
    let error = cuda::backward(gpu, x, z, row, f, row, f, x).unwrap_err();
    assert!(error.to_string().contains("delta has 1 elements, not 0"), "{error}");
    let error = cuda::forward_split(gpu, row, x, z, row, f).unwrap_err();
    assert!(error.to_string().contains("kv has 192 elements, not 128"), "{error}");
    let narrow = Sizes { heads: 2, head_width: 32, ..z };
    let error = cuda::forward_split(gpu, row, x.window(0, 128), narrow, row, f).unwrap_err();
    assert!(error.to_string().contains("heads of 64"), "{error}");
}
