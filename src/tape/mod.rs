//! The tape: what ran, in order, with what its backward needs.
#![forbid(unsafe_code)]

mod params;

pub use params::{ParamArena, ParamId};
