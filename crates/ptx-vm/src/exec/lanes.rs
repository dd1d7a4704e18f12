//! Loops over the 32 lanes of a warp, written so that they become vector code.
#![forbid(unsafe_code)]

/// One value a lane.
pub type V32 = [u32; 32];
pub type V64 = [u64; 32];

pub const FULL: u32 = u32::MAX;

/// Writes `value` where the mask is set.
#[inline(always)]
fn put<T: Copy>(out: &mut [T; 32], mask: u32, value: impl Fn(usize) -> T) {
    if mask == FULL {
        for (i, out) in out.iter_mut().enumerate() {
            *out = value(i);
        }
    } else {
        for (i, out) in out.iter_mut().enumerate() {
            let v = value(i);
            *out = if mask >> i & 1 != 0 { v } else { *out };
        }
    }
}

#[inline(always)]
pub fn map1<T: Copy>(r: &mut [[T; 32]], d: usize, a: usize, mask: u32, f: impl Fn(T) -> T) {
    let a = r[a];
    put(&mut r[d], mask, |i| f(a[i]));
}

#[inline(always)]
pub fn map2<T: Copy>(r: &mut [[T; 32]], d: usize, a: usize, b: usize, mask: u32, f: impl Fn(T, T) -> T) {
    let (a, b) = (r[a], r[b]);
    put(&mut r[d], mask, |i| f(a[i], b[i]));
}

#[inline(always)]
pub fn map3<T: Copy>(r: &mut [[T; 32]], d: usize, s: [usize; 3], mask: u32, f: impl Fn(T, T, T) -> T) {
    let (a, b, c) = (r[s[0]], r[s[1]], r[s[2]]);
    put(&mut r[d], mask, |i| f(a[i], b[i], c[i]));
}

/// Fills a destination in another file.
#[inline(always)]
pub fn set<T: Copy>(out: &mut [T; 32], mask: u32, f: impl Fn(usize) -> T) {
    put(out, mask, f);
}

/// A bit for every lane in which the test holds.
#[inline(always)]
pub fn bits(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0;
    for i in 0..32 {
        bits |= if f(i) { 1 << i } else { 0 };
    }
    bits
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub fn each(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        (left != 0).then(|| {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            lane
        })
    })
}
