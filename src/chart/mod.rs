//! Charts as SVG text: drawn the same for pages and files, in colours that stay apart for colour-blind eyes.
#![forbid(unsafe_code)]

pub mod lines;
