//! Where values live and how they are computed on; knows no op.
#![deny(unsafe_code)]

pub mod cpu;
pub mod cuda;

/// The engine that holds a tensor's memory and runs its ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// A card, or the virtual one.
    Cuda,
}
