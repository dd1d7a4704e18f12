//! Images of noise, for measuring speed where no data set is at hand.
#![forbid(unsafe_code)]

use super::{Batch, Norm, transform};
use crate::rng::{Purpose, Stream};

/// `count` square images of `side` pixels, every byte drawn from `seed`, normalised by `norm`; labels go round.
pub fn noise(count: usize, side: usize, norm: Norm, classes: usize, seed: u64) -> Batch {
    let mut stream = Stream::new(seed, Purpose::Noise, 0, 0);
    let mut rgb = Vec::with_capacity(count * side * side * 3 + 4);
    while rgb.len() < count * side * side * 3 {
        rgb.extend(stream.next_u32().to_le_bytes());
    }
    rgb.truncate(count * side * side * 3);
    let images = rgb.chunks_exact(side * side * 3).flat_map(|image| transform::normalise(image, norm)).collect();
    let labels = (0..count).map(|i| i % classes).collect();
    Batch { images, rgb, labels, ids: (0..count as u64).collect(), mixed: None, norm: Some(norm) }
}
