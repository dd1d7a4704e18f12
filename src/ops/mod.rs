//! The ops, one folder each: contract in `mod.rs`, definition in `reference.rs`, one file per engine.
//!
//! | op | forward | gradient to |
//! |---|---|---|
//! | patchify | images (B,C,h,w), kept (B,k) -> (B,k,C*P*P) | nothing: pixels carry none |
//! | matmul | x W^T + b, then nothing, GELU or + residual | x, W, b, residual |
//! | assemble | [CLS], tokens and position rows -> (B,1+k,D) | tokens, cls, positions |
//! | layer_norm | rows of D | x, weight, bias |
//! | attention | softmax(Q K^T / sqrt(Dh)) V per head | q, k, v |
//! | gelu, softmax, gather, residual | on their own | x |
//! | drop_path | x + s_b branch, a scale an image; CPU only | x, branch |
//! | cross_entropy | logits, labels -> mean loss | logits |
//! | adamw, grad_norm, all_finite | over the flat arena | - |
//!
//! A `Var` input gets a gradient through its slot; with no tape an op records nothing.
#![deny(unsafe_code)]

pub mod adamw;
pub mod all_finite;
pub mod assemble;
pub mod attention;
pub mod cross_entropy;
pub mod drop_path;
pub mod gather;
pub mod gelu;
pub mod grad_norm;
pub mod layer_norm;
pub mod matmul;
pub mod patchify;
pub mod ptx;
pub mod real;
pub mod residual;
pub mod softmax;
#[cfg(test)]
pub mod testing;
