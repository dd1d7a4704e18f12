//! Buffers of f32 whose memory is kept when they are dropped, so that a step reuses the last step's.
#![forbid(unsafe_code)]

use super::region::{self, Piece};
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Buffers smaller than this are left to the allocator.
const CUT_FROM: usize = 4096;

/// Buffers of at least so many values are mapped in whole huge pages of their own, shorter ones are cut from pages that they share:
/// fewer faults when they are first touched, fewer misses when rows far apart are read in turn, and fewer pages to bring back where
/// the host of a virtual machine took them away during a pause.
const MAPPED_FROM: usize = Buffer::HUGE_PAGE;

/// The values of a buffer.
#[derive(Debug)]
enum Memory {
    Heap(Vec<f32>),
    Piece(Piece),
    Mapped(MmapMut),
}

impl Memory {
    fn values(&self) -> &[f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Piece(piece) => piece.values(),
            Memory::Mapped(map) => bytemuck::cast_slice(map),
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Piece(piece) => piece.values_mut(),
            Memory::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// Free mappings by their length. Steps over images that keep different numbers of patches ask for slightly different lengths
/// every time, so memory comes in few lengths, a little longer is good enough, and what is a little too short makes room
/// for what is asked for instead.
#[derive(Default)]
struct Pool(BTreeMap<usize, Vec<MmapMut>>);

/// Shared by all threads.
static POOL: Mutex<Pool> = Mutex::new(Pool(BTreeMap::new()));

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(|e| e.into_inner())
}

impl Pool {
    /// What memory for `len` values is made as long as: a sixteenth longer at most, or the rest of a huge page.
    fn rounded(len: usize) -> usize {
        len.next_multiple_of(MAPPED_FROM.max(1 << len.ilog2().saturating_sub(4)))
    }

    /// Memory of at least `len` values and at most a quarter more, or what is made for so many, the shortest there is. Where
    /// there is none, memory that is up to a fifth shorter is given up.
    fn take(&mut self, len: usize) -> Option<MmapMut> {
        let fits = self.0.range_mut(len..=Self::rounded(len).max(len + len / 4)).find_map(|(_, free)| free.pop());
        if fits.is_none() {
            drop(self.0.range_mut(len - len / 5..len).rev().find_map(|(_, free)| free.pop()));
        }
        fits
    }

    fn give(&mut self, map: MmapMut) {
        self.0.entry(map.len() / size_of::<f32>()).or_default().push(map);
    }
}

/// An owned run of f32 whose memory is reused by later buffers of about the same length.
#[derive(Debug)]
pub struct Buffer {
    /// At least `len` values.
    memory: Memory,
    len: usize,
}

impl Buffer {
    /// Values of a huge page of most processors: 2 MiB.
    pub const HUGE_PAGE: usize = region::HUGE_PAGE;

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self::new(len, true)
    }

    /// `len` values left over from an earlier buffer, or zeros.
    pub fn scratch(len: usize) -> Self {
        Self::new(len, false)
    }

    fn new(len: usize, zeros: bool) -> Self {
        let (memory, clean) = match len {
            ..CUT_FROM => (None, true),
            CUT_FROM..MAPPED_FROM => (Piece::new(len).map(Memory::Piece), false),
            _ => {
                let free = pool().take(len);
                let clean = free.is_none();
                (free.or_else(|| region::map(Pool::rounded(len))).map(Memory::Mapped), clean)
            }
        };
        let memory = memory.unwrap_or_else(|| Memory::Heap(vec![0.0; len]));
        let mut buffer = Buffer { memory, len };
        if zeros && !clean {
            buffer.as_mut_slice().fill(0.0);
        }
        buffer
    }

    /// Takes ownership of `values`.
    pub fn from_vec(values: Vec<f32>) -> Self {
        Buffer { len: values.len(), memory: Memory::Heap(values) }
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

    /// Gives memory of which no buffer lives back to the system: between epochs, so that the sizes of a short batch do not stay.
    pub fn release_pool() {
        pool().0.clear();
        Piece::release();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Memory::Mapped(map) = std::mem::replace(&mut self.memory, Memory::Heap(Vec::new())) {
            pool().give(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_takes_back_what_it_gave_and_nothing_else() {
        // A length that no other test comes near, since the pool is shared.
        let len = 777 * CUT_FROM;
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
    }

    #[test]
    fn zeros_are_zeros_wherever_they_lie() {
        for len in [0, 1, CUT_FROM - 1, CUT_FROM, MAPPED_FROM - 1, MAPPED_FROM, 3 * MAPPED_FROM] {
            Buffer::scratch(len).as_mut_slice().fill(1.0);
            let buffer = Buffer::zeros(len);
            assert_eq!((buffer.len(), buffer.as_slice().len()), (len, len));
            assert!(buffer.as_slice().iter().all(|&x| x == 0.0), "{len}");
            let place = (matches!(buffer.memory, Memory::Piece(_)), matches!(buffer.memory, Memory::Mapped(_)));
            assert_eq!(place, ((CUT_FROM..MAPPED_FROM).contains(&len), len >= MAPPED_FROM), "{len}");
        }
    }

    #[test]
    fn lengths_that_change_a_little_do_not_add_up() {
        let mut pool = Pool::default();
        let mut held = |len: usize| {
            let map = pool.take(len).unwrap_or_else(|| region::map(Pool::rounded(len)).unwrap());
            let has = map.len() / size_of::<f32>();
            assert!((len..=Pool::rounded(len).max(len + len / 4)).contains(&has));
            pool.give(map);
            pool.0.iter().map(|(len, free)| len * free.len()).sum::<usize>()
        };
        // From 32 to 40 huge pages in leaps.
        let (least, spread) = (32 * MAPPED_FROM, 8 * MAPPED_FROM);
        for i in 0..200 {
            let most = held(least + i * 7_919_000 % spread);
            assert!(most <= 2 * Pool::rounded(least + spread), "{most} values are held");
        }
        let pages = |len| Pool::rounded(len) / MAPPED_FROM;
        assert_eq!((pages(MAPPED_FROM), pages(MAPPED_FROM + 1), pages(33 * MAPPED_FROM - 1)), (1, 2, 34));
    }
}
