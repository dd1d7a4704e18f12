//! dynavit: train, evaluate and explain Vision Transformers that look at fewer patches.
//!
//! Each patch of an image is scored by a parameter-free statistic of its pixels; the top K percent are kept, and an
//! unmodified ViT sees only those. This file is the map.
//!
//! # Rooms, in reading order
//! - [`rng`], [`error`], [`stats`]: counter-based random numbers, the one error type with its exit codes, statistics of
//!   experiments.
//! - [`chart`]: pictures of numbers as SVG, and letters for captions.
//! - [`device`]: where memory comes from and how it is computed on: buffers, products, vector mathematics.
//! - [`tensor`]: shaped windows into shared buffers, how rows are shared out among images, the tests' comparator.
//! - [`tape`]: what ran, in order; the walk back; the flat arena of parameters; finite differences.
//! - [`ops`]: one folder an op: contract, f64 definition, engine.
//! - [`weights`]: named tensors in and out of safetensors files.
//! - [`prune`]: scores, how many patches are kept, and which.
//! - [`model`]: the ViT on those ops, under timm's names.
//! - [`flops`]: what it costs, in every convention.
//! - [`optim`]: AdamW over the arena, and the schedule of the rate.
//! - [`data`]: from files to batches: readers, splits, transforms, the drawn sample, a loader that reads ahead.
//! - [`checkpoint`]: run directories, durable saves, exact resume.
//! - [`eval`], [`train`]: accuracy and predictions; an epoch told in order.
//! - [`explain`]: kept patches as pictures, boxes covered, LIME and attention rollout.
//! - [`experiment`]: many runs: their grid, their statistics, and the paper's tables made of them.
//! - [`cli`]: flags in, results out.
//!
//! # Letters
//! B batch, N patches, K keep ratio in percent, k kept patches, S = 1 + k tokens with \[CLS\], D width, H heads,
//! Dh = D/H head width, F MLP width, L blocks, P patch side, C channels. A gradient is `d` + the name of its value.
//!
//! # What does not happen
//! - No room imports from one that stands later in this list; `tests/tidy.rs` watches.
//! - `device` knows shapes of loops, not ops on a tape; `ops` name no driver type; `model` never asks which device it is on.
//! - Nothing below `cli` prints.
//! - No result depends on the number of threads, on time, or on whether a run was resumed.
//! - No parameter goes without a gradient unnoticed.
//! - No `unsafe` outside `device`, the launches in an op's `cuda.rs`, and the memory map of `weights`.
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod chart;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod experiment;
pub mod explain;
pub mod flops;
pub mod model;
pub mod ops;
pub mod optim;
pub mod prune;
pub mod rng;
pub mod stats;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod weights;
