//! SIGINT and SIGTERM: the first asks the run to save and leave, the second leaves at once. SIGHUP, when a terminal closes,
//! asks as they do, however often it comes.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, raised by a signal or by a test.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// A request that SIGINT, SIGTERM and SIGHUP raise; a SIGHUP that nohup has this process ignore stays ignored.
    pub fn on_signals() -> Result<Self> {
        let stop = Stop::default();
        let failed = |error: std::io::Error| Error::io("signal handler", &error);
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the shutdown looks at the flag before the second handler raises it.
            flag::register_conditional_shutdown(signal, 130, stop.flag.clone())
                .and_then(|_| flag::register(signal, stop.flag.clone()))
                .map_err(failed)?;
        }
        #[cfg(unix)]
        if heeds_hangup() {
            flag::register(signal_hook::consts::SIGHUP, stop.flag.clone()).map_err(failed)?;
        }
        Ok(stop)
    }

    /// Asks the run to stop after the current step.
    pub fn request(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// True when the run was asked to stop.
    pub fn requested(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

/// True when a SIGHUP would end this process as it was started, as far as the system tells.
#[cfg(unix)]
fn heeds_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit n - 1 is signal n.
    mask.is_some_and(|mask| mask >> (signal_hook::consts::SIGHUP - 1) & 1 == 0)
}
