//! Buffers of f32 that return to a pool when dropped, so that large values of a step reuse the last step's memory.
#![forbid(unsafe_code)]

use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Buffers smaller than this are left to the allocator.
const POOLED_FROM: usize = 4096;

/// Buffers of at least so many values are mapped in whole huge pages: fewer faults when they are first touched, fewer misses when rows
/// far apart are read in turn.
const MAPPED_FROM: usize = Buffer::HUGE_PAGE;

/// The values of a buffer, 0 at first.
#[derive(Debug)]
enum Memory {
    Heap(Vec<f32>),
    Mapped(MmapMut),
}

impl Memory {
    fn new(len: usize) -> Self {
        let map = (len >= MAPPED_FROM).then(|| MmapMut::map_anon(len * size_of::<f32>()).ok()).flatten();
        let Some(map) = map else { return Memory::Heap(vec![0.0; len]) };
        // Advice: a system without huge pages serves small ones.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Memory::Mapped(map)
    }

    fn values(&self) -> &[f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Mapped(map) => bytemuck::cast_slice(map),
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// Free memory by its length. Steps over images that keep different numbers of patches ask for slightly different lengths
/// every time, so memory comes in few lengths, a little longer is good enough, and what is a little too short makes room
/// for what is asked for instead.
#[derive(Default)]
struct Pool(BTreeMap<usize, Vec<Memory>>);

/// Shared by all threads.
static POOL: Mutex<Pool> = Mutex::new(Pool(BTreeMap::new()));

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(|e| e.into_inner())
}

impl Pool {
    /// What memory for `len` values is made as long as: a sixteenth longer at most, or the rest of a huge page.
    fn rounded(len: usize) -> usize {
        let step = if len >= MAPPED_FROM { MAPPED_FROM } else { 1 };
        len.next_multiple_of(step.max(1 << len.ilog2().saturating_sub(4)))
    }

    /// Memory of at least `len` values and at most a quarter more, or what is made for so many, the shortest there is. Where
    /// there is none, memory that is up to a fifth shorter is given up.
    fn take(&mut self, len: usize) -> Option<Memory> {
        let fits = self.0.range_mut(len..=Self::rounded(len).max(len + len / 4)).find_map(|(_, free)| free.pop());
        if fits.is_none() {
            drop(self.0.range_mut(len - len / 5..len).rev().find_map(|(_, free)| free.pop()));
        }
        fits
    }

    fn give(&mut self, memory: Memory) {
        self.0.entry(memory.values().len()).or_default().push(memory);
    }
}

/// An owned run of f32 whose memory is reused by later buffers of about the same length.
#[derive(Debug)]
pub struct Buffer {
    /// At least `len` values.
    memory: Memory,
    len: usize,
    /// Only memory that the pool is asked for again goes back to it: an adopted vector never is.
    pooled: bool,
}

impl Buffer {
    /// Values of a huge page of most processors: 2 MiB.
    pub const HUGE_PAGE: usize = 1 << 19;

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        match Self::recycled(len) {
            Some(mut buffer) => {
                buffer.as_mut_slice().fill(0.0);
                buffer
            }
            None => Self::fresh(len),
        }
    }

    /// `len` values left over from an earlier buffer, or zeros.
    pub fn scratch(len: usize) -> Self {
        Self::recycled(len).unwrap_or_else(|| Self::fresh(len))
    }

    /// Takes ownership of `values`.
    pub fn from_vec(values: Vec<f32>) -> Self {
        Buffer { len: values.len(), memory: Memory::Heap(values), pooled: false }
    }

    fn fresh(len: usize) -> Self {
        let pooled = len >= POOLED_FROM;
        Buffer { memory: Memory::new(if pooled { Pool::rounded(len) } else { len }), len, pooled }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements.
    pub fn as_slice(&self) -> &[f32] {
        &self.memory.values()[..self.len]
    }

    /// The elements for writing.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.memory.values_mut()[..self.len]
    }

    fn recycled(len: usize) -> Option<Self> {
        if len < POOLED_FROM {
            return None;
        }
        let memory = pool().take(len)?;
        Some(Buffer { memory, len, pooled: true })
    }

    /// Gives all pooled memory back to the allocator: between epochs, so that the sizes of a short batch do not stay.
    pub fn release_pool() {
        pool().0.clear();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.pooled {
            pool().give(std::mem::replace(&mut self.memory, Memory::Heap(Vec::new())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_takes_back_what_it_gave_and_nothing_else() {
        // A length that no other test comes near, since the pool is shared.
        let len = 777 * POOLED_FROM;
        let free = || pool().0.range(len..2 * len).map(|(_, free)| free.len()).sum::<usize>();
        for _ in 0..10 {
            drop(Buffer::from_vec(vec![0.0; len]));
        }
        assert_eq!(free(), 0);
        for shorter in 0..10 {
            let buffer = Buffer::scratch(len - 1000 * shorter);
            assert_eq!(buffer.as_slice().len(), len - 1000 * shorter);
        }
        assert_eq!(free(), 1);
        assert!(Buffer::zeros(len).as_slice().iter().all(|&x| x == 0.0));
        assert!(matches!(Memory::new(len), Memory::Mapped(_)) && matches!(Memory::new(POOLED_FROM), Memory::Heap(_)));
    }

    #[test]
    fn lengths_that_change_a_little_do_not_add_up() {
        let mut pool = Pool::default();
        let mut held = |len: usize| {
            let memory = pool.take(len).unwrap_or_else(|| Memory::new(Pool::rounded(len)));
            assert!((len..=Pool::rounded(len).max(len + len / 4)).contains(&memory.values().len()));
            pool.give(memory);
            pool.0.values().flatten().map(|memory| memory.values().len()).sum::<usize>()
        };
        for i in 0..200 {
            // From 90,000 to 110,000 in leaps.
            let most = held(90_000 + i * 7_919 % 20_000);
            assert!(most <= 2 * Pool::rounded(110_000), "{most} values are held");
        }
        for i in 0..200 {
            // Around the length from which on memory is mapped.
            let most = held(MAPPED_FROM - 40_000 + i * 7_919 % 80_000);
            assert!(most <= 4 * MAPPED_FROM + 2 * Pool::rounded(110_000), "{most} values are held");
        }
        assert_eq!((Pool::rounded(4096), Pool::rounded(4097), Pool::rounded(100_000)), (4096, 4352, 102_400));
    }
}
