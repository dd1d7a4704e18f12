//! Many runs: their grid, what they are measured by, their statistics, and the paper's tables made of them.
//!
//! A sweep ([`grid`]) trains cells, each a run directory of its own. [`assess`] keeps what a best checkpoint says of every
//! image; [`record`] reads runs back; [`study`] puts those together that may be compared; [`tables`], [`charts`] and
//! [`words`] say what follows, [`robustness`] what corruption adds, [`beside`] what other commands measured, and [`report`]
//! writes it all.
#![forbid(unsafe_code)]

pub mod assess;
pub mod beside;
pub mod charts;
pub mod grid;
mod page;
pub mod paper;
pub mod record;
pub mod report;
pub mod robustness;
pub mod study;
pub mod table;
pub mod tables;
pub mod words;
