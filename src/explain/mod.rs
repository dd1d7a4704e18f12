//! Pictures and numbers that say what a pruned model looks at: kept patches, boxes covered, LIME, attention rollout.
//!
//! Everything here works on the model's square, the image as it is resized for the model, in 8-bit RGB.
#![forbid(unsafe_code)]

pub mod agreement;
pub mod boxes;
pub mod canvas;
pub mod compare;
pub mod coverage;
pub mod lime;
pub mod overlay;
pub mod perturb;
pub mod rollout;
pub mod segments;
pub mod verdict;
