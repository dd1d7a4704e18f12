//! A warp's addresses as spans: neighbouring lanes that ask for bytes beside one another, or all for the same ones.
//! What holds for a span is checked once, whatever its length.
#![forbid(unsafe_code)]

use super::lanes::{FULL, V64, bits};

/// Lanes from `lane` on, each `step` bytes after the one before; `step` is the size of an access, or 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub lane: usize,
    pub lanes: usize,
    pub at: u64,
    pub step: u64,
    /// Bytes that a lane asks for.
    pub each: u32,
}

impl Span {
    /// Of a single lane.
    pub fn one(lane: usize, at: u64, each: u32) -> Self {
        Self { lane, lanes: 1, at, step: 0, each }
    }

    /// Bytes from `at` on.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        (self.lanes as u64 - 1) * self.step + self.each as u64
    }

    /// The lowest lane that asks for the byte `offset` bytes into the span.
    pub fn lane_of(&self, offset: u64) -> usize {
        self.lane + offset.checked_div(self.step).unwrap_or(0) as usize
    }

    /// What a lane of the span asks for, from the span's begin on.
    pub fn offset_of(&self, lane: usize) -> u64 {
        (lane - self.lane) as u64 * self.step
    }

    pub fn range(&self) -> std::ops::Range<usize> {
        self.lane..self.lane + self.lanes
    }
}

/// The step from lane to lane where one step holds for the whole warp and makes a span: `each`, or 0.
#[inline(always)]
pub fn step_of(at: impl Fn(usize) -> u64, each: u32) -> Option<u64> {
    let step = at(1).wrapping_sub(at(0));
    if step != 0 && step != each as u64 {
        return None;
    }
    let mut wanted: [u64; 4] = std::array::from_fn(|i| at(0).wrapping_add(i as u64 * step));
    let mut apart = [0; 4];
    for four in 0..8 {
        for i in 0..4 {
            apart[i] |= wanted[i] ^ at(4 * four + i);
            wanted[i] = wanted[i].wrapping_add(4 * step);
        }
    }
    // What is hidden from the compiler stays vector code; seen through, it becomes 32 comparisons.
    (std::hint::black_box(apart) == [0; 4]).then_some(step)
}

/// The spans of a warp's access, from the lowest lane on.
#[derive(Clone, Copy)]
pub struct Spans<'a> {
    pub at: &'a V64,
    pub mask: u32,
    pub each: u32,
    left: u32,
    /// Lanes that continue a span: with the next bytes, with the same.
    next: u32,
    same: u32,
}

impl<'a> Spans<'a> {
    #[inline(always)]
    pub fn new(at: &'a V64, mask: u32, each: u32) -> Self {
        // Most often all lanes make one span, which shows without a look at each.
        if mask == FULL
            && let Some(step) = step_of(|lane| at[lane], each)
        {
            let (next, same) = if step == 0 { (0, !1) } else { (!1, 0) };
            return Self { at, mask, each, left: mask, next, same };
        }
        let mut before = [0; 32];
        before[1..].copy_from_slice(&at[..31]);
        let pairs = mask & mask << 1;
        let next = bits(|i| at[i].wrapping_sub(before[i]) == each as u64) & pairs;
        let same = bits(|i| at[i] == before[i]) & pairs;
        Self { at, mask, each, left: mask, next, same }
    }

    /// Whether one span holds all lanes that ask.
    #[inline(always)]
    pub fn is_single(&self) -> bool {
        let rest = self.mask & self.mask.wrapping_sub(1);
        self.next == rest || self.same == rest
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    #[inline(always)]
    fn next(&mut self) -> Option<Span> {
        if self.left == 0 {
            return None;
        }
        let lane = self.left.trailing_zeros();
        let after = |lanes: u32| (lanes >> lane >> 1).trailing_ones();
        let (more, step) = match after(self.next) {
            0 => (after(self.same), 0),
            more => (more, self.each as u64),
        };
        let end = lane + more + 1;
        self.left = if end == 32 { 0 } else { self.left >> end << end };
        let (lane, lanes) = (lane as usize, more as usize + 1);
        Some(Span { lane, lanes, at: self.at[lane & 31], step, each: self.each })
    }
}
