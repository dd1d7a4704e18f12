//! Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), keyed by seed, purpose and two indices.
//!
//! A stream holds no state worth saving: whoever knows (seed, purpose, a, b) draws the same numbers again,
//! on any thread, in any order, before and after a resume.
#![forbid(unsafe_code)]

/// What a stream is for, so that no two uses share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Order of the samples in an epoch: a = epoch.
    Shuffle = 1,
    /// RandomResizedCrop: a = epoch, b = sample.
    Crop = 2,
    /// Horizontal flip: a = epoch, b = sample.
    Flip = 3,
    /// The random scorer: a = epoch, b = sample.
    Scorer = 4,
    /// Initial values of a parameter: a = hash of its name.
    Init = 5,
    /// The built-in sample's drawings: a = image number.
    Sample = 6,
    /// Stratified splits and class balancing: a = class.
    Split = 7,
    /// Pixels of the images that speed is measured on.
    Noise = 8,
    /// Vertical flip: a = epoch, b = sample.
    VerticalFlip = 20,
    /// Colour jitter: a = epoch, b = sample.
    ColorJitter = 21,
    /// RandAugment: a = epoch, b = sample.
    RandAugment = 22,
    /// Random erasing: a = epoch, b = sample.
    Erase = 23,
    /// Mixup and CutMix: a = epoch, b = batch of the epoch.
    Mix = 24,
    /// Greyscale: a = epoch, b = sample.
    Greyscale = 25,
    /// Noise of corrupted images: b = sample.
    Corrupt = 26,
    /// Which segments of an image LIME shows: a = perturbed image.
    Lime = 27,
    /// Residual branches left out in training: a = epoch, b = sample.
    DropPath = 40,
    /// Values of the reference fixtures: a = tensor number.
    Fixture = 100,
    /// Bytes of the resize fixtures: a = image number.
    FixtureResize = 101,
    /// Bytes of the selection fixtures: a = image number.
    FixtureKept = 102,
    /// Bytes of the augmentation fixtures: a = image number.
    FixtureAugment = 103,
    /// Bytes of the explanation fixtures: a = image number.
    FixtureExplain = 127,
}

/// One Philox4x32-10 block: four words from a counter and a key.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for round in 0..10 {
        if round > 0 {
            k[0] = k[0].wrapping_add(0x9E37_79B9);
            k[1] = k[1].wrapping_add(0xBB67_AE85);
        }
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// A sequence of random words: word j is output j mod 4 of block j div 4, counter (block, purpose, a, b).
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
    a: u32,
    b: u32,
    word: u64,
    block: [u32; 4],
}

impl Stream {
    /// The stream of (seed, purpose, a, b), at its first word.
    pub fn new(seed: u64, purpose: Purpose, a: u32, b: u32) -> Self {
        Stream { key: [seed as u32, (seed >> 32) as u32], purpose: purpose as u32, a, b, word: 0, block: [0; 4] }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let lane = (self.word % 4) as usize;
        if lane == 0 {
            let block = (self.word / 4) as u32;
            self.block = philox4x32([block, self.purpose, self.a, self.b], self.key);
        }
        self.word += 1;
        self.block[lane]
    }

    /// Uniform in [0, 1) with 24 bits: exact in f32 and f64.
    pub fn uniform24(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, 1) with 53 bits, from two words (high word first).
    pub fn uniform(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let low = u64::from(self.next_u32());
        ((high << 32 | low) >> 11) as f64 / 9_007_199_254_740_992.0
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n, unbiased (Lemire's multiply with rejection). `n` must not be 0.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "an empty range has no element to draw");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Standard normal by Box and Muller, one value per two uniforms.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(2.0 * std::f64::consts::PI * self.uniform())
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32([!0; 4], [!0; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut stream = Stream::new(1, Purpose::Shuffle, 0, 0);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Standard deviation of each count is 93; six of them bound a correct generator.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 6 * 93), "{counts:?}");
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut stream = Stream::new(3, Purpose::Init, 0, 0);
        let draws: Vec<f64> = (0..40_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|z| z * z).sum::<f64>() / draws.len() as f64;
        // Standard errors are 0.005 and 0.007.
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.045, "mean {mean}, variance {variance}");
    }
}
