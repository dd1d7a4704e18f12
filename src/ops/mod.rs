//! The ops, one folder each.
#![forbid(unsafe_code)]
