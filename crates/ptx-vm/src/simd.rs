//! The crate's only unsafe code: calls of functions compiled for wider vectors, and zeroed memory taken lazily.

use std::sync::atomic::AtomicU32;

/// What vector code is compiled for. A type and not a flag: every closure is then compiled for one of them and
/// inlined where it is run, which is what makes it vector code.
pub trait Path: Copy {
    /// Runs `f`, which must be small or call `#[inline(always)]` functions: only what is inlined into it gains.
    fn run<R>(self, f: impl FnOnce() -> R) -> R;
}

/// Whatever the build is for.
#[derive(Clone, Copy)]
pub struct Plain;

impl Path for Plain {
    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// AVX2, FMA and F16C. Only `Wide::find` makes one, where the processor has them.
#[derive(Clone, Copy)]
pub struct Wide(());

impl Wide {
    pub fn find() -> Option<Wide> {
        has_wide().then_some(Wide(()))
    }
}

impl Path for Wide {
    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
            fn inner<R>(f: impl FnOnce() -> R) -> R {
                f()
            }
            // SAFETY: a `Wide` exists only where `has_wide` found every feature that `inner` is compiled for.
            unsafe { inner(f) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        f()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_wide() -> bool {
    false
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
