//! Buffers of f32 that return to a pool when dropped, so that large values of a step reuse the last step's memory.
#![forbid(unsafe_code)]

use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Buffers smaller than this are left to the allocator.
const POOLED_FROM: usize = 4096;

/// Buffers of at least so many values are mapped in whole huge pages of their own, shorter ones are cut from such a mapping: fewer
/// faults when they are first touched, fewer misses when rows far apart are read in turn, and fewer pages to bring back where the
/// host of a virtual machine took them away during a pause.
const MAPPED_FROM: usize = Buffer::HUGE_PAGE;

/// Values of a mapping that shorter buffers are cut from. Of it only what is touched becomes memory.
const REGION: usize = 8 * Buffer::HUGE_PAGE;

/// The values of a buffer, 0 at first.
#[derive(Debug)]
enum Memory {
    Heap(Vec<f32>),
    /// Cut from a mapping that lives as long as the process.
    Piece(&'static mut [f32]),
    Mapped(MmapMut),
}

/// So many zeros in huge pages, where the system maps memory.
fn map(len: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon(len * size_of::<f32>()).ok()?;
    // Advice: a system without huge pages serves small ones.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Some(map)
}

impl Memory {
    fn values(&self) -> &[f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Piece(values) => values,
            Memory::Mapped(map) => bytemuck::cast_slice(map),
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Piece(values) => values,
            Memory::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }

    /// Whether nothing is freed when it is dropped.
    fn is_piece(&self) -> bool {
        matches!(self, Memory::Piece(_))
    }
}

/// Free memory by its length. Steps over images that keep different numbers of patches ask for slightly different lengths
/// every time, so memory comes in few lengths, a little longer is good enough, and what is a little too short makes room
/// for what is asked for instead. Pieces stay: they are never put together again.
struct Pool {
    free: BTreeMap<usize, Vec<Memory>>,
    /// What is left of the mapping that pieces are cut from.
    uncut: &'static mut [f32],
}

/// Shared by all threads.
static POOL: Mutex<Pool> = Mutex::new(Pool::new());

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(|e| e.into_inner())
}

impl Pool {
    const fn new() -> Self {
        Pool { free: BTreeMap::new(), uncut: &mut [] }
    }

    /// What memory for `len` values is made as long as: a sixteenth longer at most, or the rest of a huge page.
    fn rounded(len: usize) -> usize {
        let step = if len >= MAPPED_FROM { MAPPED_FROM } else { 1 };
        len.next_multiple_of(step.max(1 << len.ilog2().saturating_sub(4)))
    }

    /// Free memory of at least `len` values and at most a quarter more, or what is made for so many, the shortest there is. Where
    /// there is none, memory that is up to a fifth shorter is given up, unless that frees nothing.
    fn take(&mut self, len: usize) -> Option<Memory> {
        let fits = self.free.range_mut(len..=Self::rounded(len).max(len + len / 4)).find_map(|(_, free)| free.pop());
        if fits.is_none() {
            let shorter = self.free.range_mut(len - len / 5..len).rev();
            drop(shorter.filter_map(|(_, free)| free.pop_if(|memory| !memory.is_piece())).next());
        }
        fits
    }

    /// New memory of [`Pool::rounded`] `len` values, all 0.
    fn make(&mut self, len: usize) -> Memory {
        let len = Self::rounded(len);
        let memory = if len >= MAPPED_FROM { map(len).map(Memory::Mapped) } else { self.cut(len).map(Memory::Piece) };
        memory.unwrap_or_else(|| Memory::Heap(vec![0.0; len]))
    }

    /// The next `len` values, at most [`REGION`], of a mapping.
    fn cut(&mut self, len: usize) -> Option<&'static mut [f32]> {
        if self.uncut.len() < len {
            let region: &mut MmapMut = Box::leak(Box::new(map(REGION)?));
            let rest = std::mem::replace(&mut self.uncut, bytemuck::cast_slice_mut(region));
            if !rest.is_empty() {
                self.give(Memory::Piece(rest));
            }
        }
        let (piece, rest) = std::mem::take(&mut self.uncut).split_at_mut(len);
        self.uncut = rest;
        Some(piece)
    }

    fn give(&mut self, memory: Memory) {
        self.free.entry(memory.values().len()).or_default().push(memory);
    }

    /// Frees what can be freed.
    fn release(&mut self) {
        self.free.values_mut().for_each(|free| free.retain(Memory::is_piece));
        self.free.retain(|_, free| !free.is_empty());
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
        let memory = if pooled { pool().make(len) } else { Memory::Heap(vec![0.0; len]) };
        Buffer { memory, len, pooled }
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

    /// Gives the memory of long buffers back to the system: between epochs, so that the sizes of a short batch do not stay.
    pub fn release_pool() {
        pool().release();
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
        let free = || pool().free.range(len..2 * len).map(|(_, free)| free.len()).sum::<usize>();
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
        assert!(matches!(pool().make(len), Memory::Mapped(_)));
    }

    #[test]
    fn lengths_that_change_a_little_do_not_add_up() {
        let mut pool = Pool::new();
        let mut lengths_held = |len: usize| {
            let memory = pool.take(len).unwrap_or_else(|| pool.make(len));
            assert!((len..=Pool::rounded(len).max(len + len / 4)).contains(&memory.values().len()));
            pool.give(memory);
            assert!(pool.free.values().all(|free| free.len() <= 1), "one buffer at a time has used two of a length");
            pool.free.values().flatten().count()
        };
        for i in 0..200 {
            // From 90,000 to 110,000 in leaps, of which memory is made in six lengths.
            let most = lengths_held(90_000 + i * 7_919 % 20_000);
            assert!(most <= 6, "{most} lengths are held");
        }
        for i in 0..200 {
            // Around the length from which on memory is mapped: two lengths of pieces, two of whole huge pages.
            let most = lengths_held(MAPPED_FROM - 40_000 + i * 7_919 % 80_000);
            assert!(most <= 6 + 4, "{most} lengths are held");
        }
        assert_eq!((Pool::rounded(4096), Pool::rounded(4097), Pool::rounded(100_000)), (4096, 4352, 102_400));
    }

    #[test]
    fn pieces_lie_apart_on_lines_and_outlive_a_release() {
        let mut pool = Pool::new();
        // More than one mapping holds, and lengths that do not divide it.
        let lens = [500_000, POOLED_FROM, 300_000, MAPPED_FROM / 2 + 1];
        let mut pieces: Vec<Memory> = (0..40).map(|i| pool.make(lens[i % lens.len()])).collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.is_piece() && piece.values().as_ptr().addr() % 64 == 0);
            assert!(piece.values().iter().all(|&x| x == 0.0), "new memory is not 0");
            piece.values_mut().fill(i as f32);
        }
        assert!((0..).zip(&pieces).all(|(i, piece)| piece.values().iter().all(|&x| x == i as f32)));
        let rests = pool.free.len();
        assert!(
            rests > 0 && pool.free.values().flatten().all(Memory::is_piece),
            "what is left of a mapping is not kept"
        );
        let longer = pool.make(3 * MAPPED_FROM);
        assert!(matches!(longer, Memory::Mapped(_)));
        pool.give(longer);
        pool.give(pieces.pop().unwrap());
        pool.release();
        assert_eq!(pool.free.len(), rests + 1);
        assert!(pool.take(lens[3]).is_some_and(|memory| memory.is_piece()) && pool.take(3 * MAPPED_FROM).is_none());
    }
}
