//! Memory of buffers that are shorter than a huge page, cut from mappings of several.
#![allow(unsafe_code)]

use super::pack::LINE;
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Values of a huge page of most processors: 2 MiB.
pub const HUGE_PAGE: usize = 1 << 19;

/// Values of a region.
const LEN: usize = 8 * HUGE_PAGE;

/// So many zeros, in huge pages where the system has them; none where it maps no memory.
pub(super) fn map(len: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon(len * size_of::<f32>()).ok()?;
    // Advice: a system without huge pages serves small ones.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Some(map)
}

/// A run of values of a region, which goes back to it when dropped. It begins on a cache line.
#[derive(Debug)]
pub(super) struct Piece {
    region: Arc<MmapMut>,
    range: Range<usize>,
}

impl Piece {
    /// At least `len` values, whatever they are. None where the system maps no memory. Panics when a region is shorter.
    pub fn new(len: usize) -> Option<Self> {
        regions().cut(len)
    }

    /// Gives regions of which no piece lives back to the system.
    pub fn release() {
        regions().release();
    }

    pub fn values(&self) -> &[f32] {
        let start = self.region.as_ptr().cast::<f32>().wrapping_add(self.range.start);
        // SAFETY: the region is mapped while this holds it, is aligned to pages and holds the range; ranges of pieces that live are
        // disjoint, so that nobody else writes there.
        unsafe { std::slice::from_raw_parts(start, self.range.len()) }
    }

    pub fn values_mut(&mut self) -> &mut [f32] {
        let start = self.region.as_ptr().cast_mut().cast::<f32>().wrapping_add(self.range.start);
        // SAFETY: as above, and nobody else reads there; the mapping may be written to, and its pointer is the system's own.
        unsafe { std::slice::from_raw_parts_mut(start, self.range.len()) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        regions().give(&self.region, self.range.clone());
    }
}

/// A region and what of it is no piece's: runs by their start, with their end, none of which touch.
struct Region {
    memory: Arc<MmapMut>,
    holes: BTreeMap<usize, usize>,
}

/// All regions, oldest first.
struct Regions(Vec<Region>);

/// Shared by all threads.
static REGIONS: Mutex<Regions> = Mutex::new(Regions(Vec::new()));

fn regions() -> MutexGuard<'static, Regions> {
    REGIONS.lock().unwrap_or_else(|e| e.into_inner())
}

impl Regions {
    /// The first `len` values that are free side by side.
    fn cut(&mut self, len: usize) -> Option<Piece> {
        assert!(len <= LEN, "{len} values of a region of {LEN}");
        let len = len.next_multiple_of(LINE);
        let hole = |region: &Region| region.holes.iter().find(|(start, end)| *end - *start >= len).map(|hole| *hole.0);
        let mut found = self.0.iter().enumerate().find_map(|(index, region)| Some((index, hole(region)?)));
        if found.is_none() {
            self.0.push(Region { memory: Arc::new(map(LEN)?), holes: BTreeMap::from([(0, LEN)]) });
            found = Some((self.0.len() - 1, 0));
        }
        let (index, start) = found?;
        let Region { memory, holes } = &mut self.0[index];
        let end = holes.remove(&start)?;
        if start + len < end {
            holes.insert(start + len, end);
        }
        Some(Piece { region: Arc::clone(memory), range: start..start + len })
    }

    fn give(&mut self, memory: &Arc<MmapMut>, range: Range<usize>) {
        let region = self.0.iter_mut().find(|region| Arc::ptr_eq(&region.memory, memory));
        let holes = &mut region.expect("a region stays while a piece lives").holes;
        let before = holes.range(..range.start).next_back().filter(|hole| *hole.1 == range.start);
        let start = before.map_or(range.start, |hole| *hole.0);
        let end = holes.remove(&range.end).unwrap_or(range.end);
        holes.insert(start, end);
    }

    fn release(&mut self) {
        self.0.retain(|region| region.holes.get(&0) != Some(&LEN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regions of their own: their pieces are given back by hand.
    struct Own(Regions);

    impl Own {
        fn cut(&mut self, len: usize) -> (Arc<MmapMut>, Range<usize>) {
            let piece = std::mem::ManuallyDrop::new(self.0.cut(len).unwrap());
            assert!(piece.range.len() >= len && piece.range.start.is_multiple_of(LINE) && piece.range.end <= LEN);
            (Arc::clone(&piece.region), piece.range.clone())
        }

        fn give(&mut self, piece: (Arc<MmapMut>, Range<usize>)) {
            self.0.give(&piece.0, piece.1);
        }
    }

    #[test]
    fn pieces_lie_apart_on_lines_and_keep_what_is_written() {
        // More than one region holds, and lengths that do not divide it.
        let lens = [HUGE_PAGE - 1, 5, 300_000, HUGE_PAGE / 2 + 1];
        let mut pieces: Vec<Piece> = (0..40).map(|i| Piece::new(lens[i % lens.len()]).unwrap()).collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.values().as_ptr().addr().is_multiple_of(64) && piece.values().len() >= lens[i % lens.len()]);
            piece.values_mut().fill(i as f32);
        }
        pieces.swap_remove(7);
        Piece::release();
        let mut again = Piece::new(lens[3]).unwrap();
        again.values_mut().fill(-1.0);
        let of = |i: usize| if i == 7 { 39 } else { i };
        let kept = |(i, piece): (usize, &Piece)| piece.values().iter().all(|&x| x == of(i) as f32);
        assert!(pieces.iter().enumerate().all(kept));
    }

    #[test]
    fn what_is_given_back_is_whole_again_in_any_order() {
        let mut own = Own(Regions(Vec::new()));
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let pieces = [100_000, LINE, 1, 200_000].map(|len| own.cut(len));
            order.iter().for_each(|&i| own.give(pieces[i].clone()));
            assert!(own.0.0.len() == 1 && own.0.0[0].holes == BTreeMap::from([(0, LEN)]), "{order:?}");
        }
        let kept = own.cut(1);
        own.0.release();
        assert_eq!(own.0.0.len(), 1);
        own.give(kept);
        own.0.release();
        assert!(own.0.0.is_empty());
    }

    #[test]
    fn lengths_that_change_do_not_add_up() {
        // As many buffers live at a time as on a tape, all of a length that rises and falls from one time to the next.
        let mut own = Own(Regions(Vec::new()));
        let (count, most) = (60, 400_000);
        for i in 0..300usize {
            let len = 100_000 + (i * 7_919) % (most - 100_000);
            let pieces: Vec<_> = (0..count).map(|_| own.cut(len)).collect();
            pieces.into_iter().for_each(|piece| own.give(piece));
        }
        let held = own.0.0.len() * LEN;
        // A region holds ten of the longest, so that less than a tenth of it is lost.
        assert!(held <= (count * most).next_multiple_of(LEN) + LEN, "{held} values are held");
    }
}
