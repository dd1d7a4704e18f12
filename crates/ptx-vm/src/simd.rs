//! The crate's only unsafe code: calls of functions compiled for wider vectors, and zeroed memory taken lazily.

use std::sync::atomic::AtomicU32;

/// Runs `f` compiled for AVX2, FMA and F16C where the processor has them, else as it is.
///
/// `f` must be small or call `#[inline(always)]` functions: only what is inlined into it gains.
#[inline(always)]
pub fn wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        fn inner<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if has_wide() {
            // SAFETY: `has_wide` found every feature that `inner` is compiled for on this processor.
            return unsafe { inner(f) };
        }
    }
    f()
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn has_wide() -> bool {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    #[cold]
    fn find() -> bool {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt");
        KNOWN.store(1 + has as u8, Relaxed);
        has
    }
    match KNOWN.load(Relaxed) {
        0 => find(),
        known => known == 2,
    }
}

/// `n` zeroed words that the operating system backs when they are touched.
pub fn zeroed(n: usize) -> Box<[AtomicU32]> {
    let plain = vec![0u32; n].into_boxed_slice();
    // SAFETY: `AtomicU32` has the size, alignment and bit validity of `u32`; the box is unique, so nothing else
    // refers to its memory as plain words.
    unsafe { Box::from_raw(Box::into_raw(plain) as *mut [AtomicU32]) }
}
