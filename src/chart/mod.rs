//! Pictures of numbers: SVG on white, and letters for pictures of pixels. It knows nothing of where the numbers come from.
#![forbid(unsafe_code)]

mod curve;
mod heat;
pub mod letters;
pub mod lines;
mod reliability;
mod svg;

pub use curve::{Line, curve};
pub use heat::confusion;
pub use reliability::{Bar, reliability};
pub use svg::escaped;
