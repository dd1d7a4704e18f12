//! Scores of patches and the choice of the best, on a card. The definitions, and the CPU's own, are in `prune`.
//!
//! - computes: the scores of l2, sobel and entropy from bytes, with the bits of the CPU's; the k best as ascending indices
//! - derivative: none; what is kept is constant
//! - saves: nothing
//! - shapes: images (B,h,w,3) bytes, scores (B,N) f64, kept (B,k)
//! - cost: each byte read once and each score written once; N comparisons a patch
#![deny(unsafe_code)]

pub mod cuda;
