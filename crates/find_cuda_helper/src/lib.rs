//! Takes the place of the build helper of `cust` and `cust_raw`, which would look for an installed CUDA toolkit.
//!
//! The symbols of the driver come from the crate `cuda-driver`, so there is nothing to find and nothing to link.
#![forbid(unsafe_code)]

/// Called by the build scripts of `cust` and `cust_raw`; does nothing.
pub fn include_cuda() {}
