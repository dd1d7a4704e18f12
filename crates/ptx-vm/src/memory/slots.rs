//! Global memory: one slot of 4 GiB of addresses an allocation, never used twice, with a bit a byte for what was written.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::for_lines;
use crate::simd;
use crate::{Fault, FaultKind};

/// Slots below this are windows of other spaces, or nothing.
pub const FIRST: u64 = 16;

/// One allocation. Its words are atomics because blocks of a grid run in parallel and kernels may race.
pub struct Buffer {
    pub base: u64,
    pub size: u64,
    words: Box<[AtomicU32]>,
    written: Box<[AtomicU32]>,
    /// Every byte was written by the host at one time; saves looking at the bits.
    whole: AtomicBool,
    /// Orders atomics wider than a word.
    pub wide: Mutex<()>,
}

impl Buffer {
    fn new(base: u64, size: u64) -> Self {
        Self {
            base,
            size,
            words: simd::zeroed((size as usize).div_ceil(4).next_multiple_of(4)),
            written: simd::zeroed((size as usize).div_ceil(32)),
            whole: AtomicBool::new(size == 0),
            wide: Mutex::new(()),
        }
    }

    #[inline(always)]
    pub fn word(&self, index: usize) -> &AtomicU32 {
        &self.words[index]
    }

    #[inline(always)]
    pub fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    /// Up to 8 bytes that do not cross an aligned 8-byte line, within bounds.
    #[inline(always)]
    pub fn load(&self, at: u64, bytes: u32) -> u64 {
        let word = (at / 4) as usize;
        match bytes {
            4 => self.words[word].load(Relaxed) as u64,
            8 => self.words[word].load(Relaxed) as u64 | (self.words[word + 1].load(Relaxed) as u64) << 32,
            _ => {
                let value = self.words[word].load(Relaxed) >> (at % 4 * 8);
                (value & ((1u32 << (bytes * 8)) - 1)) as u64
            }
        }
    }

    #[inline(always)]
    pub fn store(&self, at: u64, bytes: u32, value: u64) {
        let word = (at / 4) as usize;
        match bytes {
            4 => self.words[word].store(value as u32, Relaxed),
            8 => {
                self.words[word].store(value as u32, Relaxed);
                self.words[word + 1].store((value >> 32) as u32, Relaxed);
            }
            _ => {
                let shift = (at % 4 * 8) as u32;
                self.merge(word, ((1u32 << (bytes * 8)) - 1) << shift, (value as u32) << shift);
            }
        }
    }

    /// Writes the bits of a word that `mask` names.
    #[inline(always)]
    pub fn merge(&self, word: usize, mask: u32, value: u32) {
        if mask == u32::MAX {
            self.words[word].store(value, Relaxed);
        } else {
            let _ = self.words[word].fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | value & mask));
        }
    }

    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.whole.load(Relaxed)
    }

    /// Whether these bytes, which do not cross an aligned 32-byte line, were all written.
    #[inline(always)]
    pub fn is_written(&self, at: u64, bytes: u32) -> bool {
        let mask = (((1u64 << bytes) - 1) as u32) << (at % 32);
        self.written[(at / 32) as usize].load(Relaxed) & mask == mask
    }

    #[inline(always)]
    fn mark_line(&self, line: usize, mask: u32) {
        let cell = &self.written[line];
        if cell.load(Relaxed) & mask != mask {
            cell.fetch_or(mask, Relaxed);
        }
    }

    /// Marks a range as written.
    #[inline(always)]
    pub fn mark(&self, from: u64, bytes: u64) {
        for_lines(from, bytes, |line, mask| {
            self.mark_line(line, mask);
            true
        });
    }

    fn mark_range(&self, from: u64, bytes: u64) {
        if from == 0 && bytes == self.size {
            self.whole.store(true, Relaxed);
        }
        self.mark(from, bytes);
    }

    /// The first byte of a range that was never written.
    #[inline(always)]
    pub fn unwritten(&self, from: u64, bytes: u64) -> Option<u64> {
        if self.is_whole() {
            return None;
        }
        let mut found = None;
        for_lines(from, bytes, |line, mask| {
            let missing = mask & !self.written[line].load(Relaxed);
            if missing != 0 {
                found = Some(line as u64 * 32 + missing.trailing_zeros() as u64);
            }
            missing == 0
        });
        found
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() && !at.is_multiple_of(4) {
            self.store(at, 1, rest[0] as u64);
            (at, rest) = (at + 1, &rest[1..]);
        }
        let chunks = rest.chunks_exact(4);
        let tail = chunks.remainder();
        let first = (at / 4) as usize;
        let n = chunks.len();
        for (word, chunk) in self.words[first..first + n].iter().zip(chunks) {
            word.store(u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]), Relaxed);
        }
        for (i, byte) in tail.iter().enumerate() {
            self.store(at + 4 * n as u64 + i as u64, 1, *byte as u64);
        }
        self.mark_range(at - (bytes.len() - rest.len()) as u64, bytes.len() as u64);
    }

    fn read(&self, at: u64, bytes: &mut [u8]) {
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() && !at.is_multiple_of(4) {
            rest[0] = self.load(at, 1) as u8;
            at += 1;
            rest = &mut rest[1..];
        }
        let mut chunks = rest.chunks_exact_mut(4);
        for chunk in &mut chunks {
            chunk.copy_from_slice(&(self.load(at, 4) as u32).to_le_bytes());
            at += 4;
        }
        for byte in chunks.into_remainder() {
            *byte = self.load(at, 1) as u8;
            at += 1;
        }
    }
}

/// A slot: in use, or what was there before it was freed.
pub enum Slot {
    Live(Arc<Buffer>),
    Freed { size: u64 },
}

/// Why an address cannot be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    Nothing,
    Freed { size: u64, offset: u64 },
    Beyond { size: u64, offset: u64 },
}

/// All allocations of a card.
pub struct Slots {
    list: Vec<Slot>,
    used: u64,
    total: u64,
}

impl Slots {
    pub fn new(total: u64) -> Self {
        Self { list: Vec::new(), used: 0, total }
    }

    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Fault> {
        let charged = bytes.checked_next_multiple_of(256).unwrap_or(u64::MAX);
        let full = |why: String| Fault { kind: FaultKind::OutOfMemory, message: why };
        if bytes > u32::MAX as u64 - 255 {
            return Err(full(format!("{bytes} bytes asked for: one allocation holds less than 4 GiB here")));
        }
        if charged > self.total - self.used {
            let free = self.total - self.used;
            return Err(full(format!("{bytes} bytes asked for, {free} of {} are free", self.total)));
        }
        self.used += charged;
        let base = (FIRST + self.list.len() as u64) << 32;
        self.list.push(Slot::Live(Arc::new(Buffer::new(base, bytes))));
        Ok(base)
    }

    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        let index = (address >> 32).checked_sub(FIRST).map(|i| i as usize);
        let slot = index.and_then(|i| self.list.get_mut(i));
        match slot {
            Some(Slot::Live(buffer)) if buffer.base == address => {
                let size = buffer.size;
                self.used -= size.next_multiple_of(256);
                if let Some(slot) = slot {
                    *slot = Slot::Freed { size };
                }
                Ok(())
            }
            Some(Slot::Freed { .. }) => Err(Fault {
                kind: FaultKind::UseAfterFree,
                message: format!("free of {address:#x}: it was freed before"),
            }),
            _ => Err(Fault {
                kind: FaultKind::OutOfBounds,
                message: format!("free of {address:#x}: no allocation begins there"),
            }),
        }
    }

    /// The allocation that holds these bytes, and where in it they begin.
    #[inline]
    pub fn find(&self, address: u64, bytes: u64) -> Result<(&Buffer, u64), Trouble> {
        let index = (address >> 32).wrapping_sub(FIRST) as usize;
        let offset = address & 0xffff_ffff;
        match self.list.get(index) {
            Some(Slot::Live(buffer)) if offset + bytes <= buffer.size => Ok((buffer, offset)),
            Some(Slot::Live(buffer)) => Err(Trouble::Beyond { size: buffer.size, offset }),
            Some(Slot::Freed { size }) => Err(Trouble::Freed { size: *size, offset }),
            None => Err(Trouble::Nothing),
        }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn range(&self, address: u64) -> Option<(u64, u64)> {
        let (buffer, offset) = self.find(address, 0).ok()?;
        (offset < buffer.size.max(1)).then_some((buffer.base, buffer.size))
    }

    pub fn info(&self) -> (u64, u64) {
        (self.total - self.used, self.total)
    }

    fn host(&self, what: &str, address: u64, bytes: u64) -> Result<(&Buffer, u64), Fault> {
        self.find(address, bytes).map_err(|trouble| {
            let (kind, why) = describe(trouble);
            Fault { kind, message: format!("{what} of {bytes} bytes at {address:#x}: {why}") }
        })
    }

    pub fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (buffer, at) = self.host("copy to the card", to, bytes.len() as u64)?;
        buffer.write(at, bytes);
        Ok(())
    }

    /// With `checked`, what was never written is a fault.
    pub fn read(&self, from: u64, bytes: &mut [u8], checked: bool) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (buffer, at) = self.host("copy from the card", from, bytes.len() as u64)?;
        if checked && let Some(first) = buffer.unwritten(at, bytes.len() as u64) {
            return Err(Fault {
                kind: FaultKind::Uninitialised,
                message: format!(
                    "copy from the card of {} bytes at {from:#x}: the byte at offset {first} of the {} of {:#x} was never written",
                    bytes.len(),
                    buffer.size,
                    buffer.base
                ),
            });
        }
        buffer.read(at, bytes);
        Ok(())
    }

    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, at) = self.host("copy on the card", from, bytes)?;
        let (target, start) = self.host("copy on the card", to, bytes)?;
        let mut held = vec![0; bytes as usize];
        source.read(at, &mut held);
        let whole = source.is_whole();
        let bits: Vec<bool> =
            if whole { Vec::new() } else { (0..bytes).map(|i| source.unwritten(at + i, 1).is_none()).collect() };
        if whole || bits.iter().all(|b| *b) {
            target.write(start, &held);
            return Ok(());
        }
        target.whole.store(false, Relaxed);
        for (i, (byte, written)) in held.iter().zip(&bits).enumerate() {
            let place = start + i as u64;
            target.store(place, 1, *byte as u64);
            if *written {
                target.mark(place, 1);
            } else {
                target.written[(place / 32) as usize].fetch_and(!(1 << (place % 32)), Relaxed);
            }
        }
        Ok(())
    }

    pub fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        let Some(bytes) = count.checked_mul(pattern.len() as u64) else {
            return Err(Fault { kind: FaultKind::OutOfBounds, message: format!("fill at {to:#x}: too long") });
        };
        if bytes == 0 {
            return Ok(());
        }
        self.host("fill", to, bytes)?;
        let piece = pattern.repeat((count as usize).min(1 << 14));
        let mut at = 0;
        while at < bytes {
            let n = (bytes - at).min(piece.len() as u64);
            self.write(to + at, &piece[..n as usize])?;
            at += n;
        }
        let (buffer, start) = self.host("fill", to, bytes)?;
        if start == 0 && bytes == buffer.size {
            buffer.whole.store(true, Relaxed);
        }
        Ok(())
    }
}

/// The kind of fault and its words.
pub fn describe(trouble: Trouble) -> (FaultKind, String) {
    match trouble {
        Trouble::Nothing => (FaultKind::OutOfBounds, "no allocation is there".into()),
        Trouble::Freed { size, offset } => {
            (FaultKind::UseAfterFree, format!("offset {offset} of an allocation of {size} bytes that was freed"))
        }
        Trouble::Beyond { size, offset } => {
            (FaultKind::OutOfBounds, format!("offset {offset} of an allocation of {size} bytes"))
        }
    }
}
