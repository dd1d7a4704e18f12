//! The CPU engine's foundations: recycled buffers, the matrix product and vector mathematics.
#![deny(unsafe_code)]

mod buffer;
pub mod gemm;
pub mod vector;

pub use buffer::Buffer;
