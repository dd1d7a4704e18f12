//! SIGINT and SIGTERM: the first asks the run to save and leave, the second leaves at once.
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
    /// A request that SIGINT and SIGTERM raise.
    pub fn on_signals() -> Result<Self> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the shutdown looks at the flag before the second handler raises it.
            flag::register_conditional_shutdown(signal, 130, stop.flag.clone())
                .and_then(|_| flag::register(signal, stop.flag.clone()))
                .map_err(|error| Error::io("signal handler", &error))?;
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
