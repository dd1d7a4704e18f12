//! dynavit: train, evaluate and explain Vision Transformers that look at fewer patches.
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod flops;
pub mod model;
pub mod ops;
pub mod optim;
pub mod prune;
pub mod rng;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod weights;
