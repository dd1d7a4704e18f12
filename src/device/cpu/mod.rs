//! The CPU engine's foundations: recycled buffers, the matrix product, vector mathematics and work splitting.
#![forbid(unsafe_code)]

mod buffer;

pub use buffer::Buffer;
