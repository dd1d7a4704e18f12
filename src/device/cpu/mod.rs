//! The CPU engine's foundations: recycled buffers, the matrix product and vector mathematics.
#![deny(unsafe_code)]

mod buffer;
pub mod gelu;
pub mod gemm;
mod kernel;
mod mat;
mod pack;
mod pairs;
mod panel_cache;
pub mod pixels;
mod region;
mod transpose;
pub mod vector;

pub use buffer::Buffer;
pub use panel_cache::PanelCache;

/// The front of `values` cut into pieces of such lengths.
pub fn pieces<T>(values: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    let mut rest = values;
    lengths
        .map(|len| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            piece
        })
        .collect()
}
