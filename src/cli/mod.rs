//! x
pub mod flops;
pub mod inspect;
