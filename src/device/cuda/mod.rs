//! The CUDA engine's foundations: a card, memory on it, a stream, modules of PTX and typed launches; knows no op.
//!
//! An op's `cuda.rs` holds data and one call: the [`Entry`] of each kernel (its name and its arguments), a pure
//! function from shapes to a [`Geometry`], and [`Stream::launch`]. Everything runs on the stream of the [`Gpu`], in
//! order, but for bringing and scoring the next images, which has a second one; nothing is known to be done before
//! [`Stream::synchronise`] or [`Stream::download`]. Copies to the card pass through pinned memory. The same code runs on
//! the virtual card.
#![deny(unsafe_code)]

mod arena;
mod aside;
mod buffer;
mod context;
pub mod elements;
mod graph;
mod launch;
mod module;
mod pinned;
mod profile;
mod stream;
#[cfg(test)]
mod tests;
mod values;

pub use arena::{Arena, Element, Slice};
pub use aside::Upload;
pub use buffer::Buffer;
pub use context::{Driver, Gpu, Target, driver};
pub use graph::Graph;
pub use launch::{Arg, Entry, Geometry, Half, Kind, LARGEST, SHARED_UNASKED, Store, counts, lengths};
pub(crate) use module::embedded;
pub use module::{Kernel, Ptx, parameters};
pub use profile::Launched;
pub use stream::Stream;
pub use values::Values;

use crate::error::{Error, Result};
use cust::sys::CUresult;

/// An error of the driver at `what`, with what the driver front knows beyond the code.
fn check(what: impl FnOnce() -> String, result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(Error::gpu(what(), reason(result)))
}

/// A code in words. The virtual card tells more of a fault than its code, and a driver newer than `cust` has more
/// codes.
fn reason(result: CUresult) -> String {
    let name = format!("{result:?}");
    match cuda_driver::last_fault() {
        Some(text) if result != CUresult::CUDA_ERROR_NO_DEVICE => format!("{text} [{name}]"),
        _ => name,
    }
}
