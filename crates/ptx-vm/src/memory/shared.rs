//! A block's shared memory: its bytes and which of them were written.
#![forbid(unsafe_code)]

use super::for_lines;

/// Padded so that an aligned access of 16 bytes within bounds needs no second thought.
pub struct Shared {
    bytes: Vec<u8>,
    written: Vec<u32>,
    pub size: u32,
}

impl Shared {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), written: Vec::new(), size: 0 }
    }

    /// Fresh memory for a block: nothing is written.
    pub fn reset(&mut self, size: u32) {
        self.size = size;
        self.bytes.clear();
        self.bytes.resize((size as usize).next_multiple_of(32), 0);
        self.written.clear();
        self.written.resize(self.bytes.len() / 32, 0);
    }

    #[inline(always)]
    pub fn load(&self, at: u32, bytes: u32) -> u64 {
        let at = at as usize;
        match bytes {
            1 => self.bytes[at] as u64,
            2 => u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]) as u64,
            4 => {
                let b = &self.bytes[at..at + 4];
                u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as u64
            }
            _ => {
                let b = &self.bytes[at..at + 8];
                u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
            }
        }
    }

    #[inline(always)]
    pub fn row(&self, at: u32) -> [u32; 4] {
        let b = &self.bytes[at as usize..at as usize + 16];
        std::array::from_fn(|i| u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]))
    }

    #[inline(always)]
    pub fn store(&mut self, at: u32, bytes: u32, value: u64) {
        let at = at as usize;
        let value = value.to_le_bytes();
        self.bytes[at..at + bytes as usize].copy_from_slice(&value[..bytes as usize]);
    }

    /// Whether bytes within one aligned 32-byte line were all written.
    #[inline(always)]
    pub fn is_written(&self, at: u32, bytes: u32) -> bool {
        let mask = (((1u64 << bytes) - 1) as u32) << (at % 32);
        self.written[at as usize / 32] & mask == mask
    }

    #[inline(always)]
    pub fn mark(&mut self, at: u32, bytes: u32) {
        self.written[at as usize / 32] |= (((1u64 << bytes) - 1) as u32) << (at % 32);
    }

    /// Bytes from `at` on as words; `at` and `bytes` are multiples of 4.
    #[inline(always)]
    pub fn words(&self, at: u32, bytes: u32) -> &[[u8; 4]] {
        self.bytes[at as usize..(at + bytes) as usize].as_chunks().0
    }

    /// Whether a range was written, whatever its length.
    #[inline(always)]
    pub fn all_written(&self, at: u32, bytes: u32) -> bool {
        let mut missing = 0;
        for_lines(at as u64, bytes as u64, |line, mask| {
            missing |= mask & !self.written[line];
            true
        });
        missing == 0
    }

    /// Marks a range of any length.
    #[inline(always)]
    pub fn mark_span(&mut self, at: u32, bytes: u32) {
        for_lines(at as u64, bytes as u64, |line, mask| {
            self.written[line] |= mask;
            true
        });
    }
}
