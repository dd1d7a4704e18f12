//! The factor that keeps f16 gradients from vanishing: raised while all goes well, halved when one overflows.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Dynamic loss scale, with the constants of torch's `GradScaler`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// What the loss is multiplied by: a power of two.
    pub scale: f32,
    /// Updates applied in a row since the scale last changed.
    pub good: u32,
    /// Losses in a row that were not finite, which no scale can mend.
    #[serde(default)]
    pub lost: u32,
}

impl LossScale {
    /// The scale that training begins with.
    pub const FIRST: f32 = 65_536.0;
    /// Updates after which the scale is doubled.
    pub const PATIENCE: u32 = 2000;

    /// Losses in a row that may be lost before a run ends.
    pub const MOST_LOST: u32 = 16;

    /// Notes whether an update was applied, and sets the scale of the next.
    pub fn after(&mut self, applied: bool) {
        if !applied {
            *self = LossScale { scale: self.scale / 2.0, good: 0, lost: 0 };
            return;
        }
        self.good += 1;
        if self.good == Self::PATIENCE {
            // Beyond this no product with the scale is finite any more.
            *self = LossScale { scale: (self.scale * 2.0).min(2f32.powi(126)), good: 0, lost: 0 };
        }
    }

    /// Whether the scale has fallen so low that gradients would overflow without one.
    pub fn is_spent(&self) -> bool {
        self.scale < 1.0
    }
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale { scale: Self::FIRST, good: 0, lost: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_once_and_doubles_with_patience() {
        let mut scale = LossScale::default();
        scale.after(false);
        assert_eq!(scale, LossScale { scale: 32_768.0, good: 0, lost: 0 });
        for _ in 0..LossScale::PATIENCE - 1 {
            scale.after(true);
        }
        assert_eq!((scale.scale, scale.good), (32_768.0, 1999));
        scale.after(true);
        assert_eq!(scale, LossScale::default());
        for _ in 0..16 {
            assert!(!scale.is_spent());
            scale.after(false);
        }
        assert!(!scale.is_spent());
        scale.after(false);
        assert!(scale.is_spent());
    }
}
