//! Where values live and how they are computed on; knows no op.
#![forbid(unsafe_code)]

pub mod cpu;
