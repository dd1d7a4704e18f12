//! The CPU engine's foundations: recycled buffers, the matrix product and vector mathematics.
#![deny(unsafe_code)]

mod buffer;
pub mod gemm;
mod kernel;
mod pack;
mod pairs;
mod panel_cache;
pub mod pixels;
mod transpose;
pub mod vector;

pub use buffer::Buffer;
pub use panel_cache::PanelCache;
