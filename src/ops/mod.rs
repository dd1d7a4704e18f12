//! The ops, one folder each: contract in `mod.rs`, definition in `reference.rs`, one file per engine.
//!
//! | op | forward | gradient to |
//! |---|---|---|
//! | patchify | images (B,C,h,w), kept (B,k) -> (B,k,C*P*P) | nothing: pixels carry none |
//! | saliency | images (B,h,w,3) -> scores (B,N) -> kept (B,k), on cards; the CPU's are in `prune` | nothing |
//! | matmul | x W^T + b, then nothing or + residual | x, W, b, residual |
//! | mlp | gelu(x W1^T + b1) W2^T + b2, then nothing or + residual | x, both W and b, residual |
//! | assemble | [CLS], tokens and position rows -> (B,1+k,D) | tokens, cls, positions |
//! | layer_norm | rows of D | x, weight, bias |
//! | layer_scale | gamma x by channel, on the CPU | x, gamma |
//! | attention | softmax(Q K^T / sqrt(Dh)) V per head | q, k, v |
//! | self_attention | attention of what x W^T + b makes, q, k and v side by side | x, W, b |
//! | single_query | attention of one query an image over keys and values that the CPU does not make | q, tokens, W and b of keys and values |
//! | gelu, softmax, gather, residual | on their own | x |
//! | drop_path | x + s_b branch, a scale an image; CPU only | x, branch |
//! | cross_entropy | logits, labels -> mean loss | logits |
//! | adamw, grad_norm, all_finite | over the flat arena | - |
//!
//! Images of different lengths lie one after the other, (rows,D); ops that ask where one ends take `Spans` (`*_within`).
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
pub mod layer_scale;
pub mod matmul;
pub mod mlp;
pub mod patchify;
pub mod ptx;
pub mod real;
pub mod residual;
pub mod saliency;
pub mod self_attention;
pub mod single_query;
pub mod softmax;
#[cfg(test)]
pub mod testing;
