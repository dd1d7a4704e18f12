//! The ops, one folder each.
#![forbid(unsafe_code)]

pub mod adamw;
pub mod all_finite;
pub mod grad_norm;
