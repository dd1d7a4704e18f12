//! One process at a time writes a run directory.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// The file that is locked. It stays when the lock goes: were it removed, two processes could each hold one of that name.
pub(super) const LOCK: &str = ".lock";

/// The right to write a run directory, until it is dropped or the process ends in whatever way.
#[derive(Debug)]
pub(super) struct Claim {
    /// Or why there is none: some file systems have no locks.
    lock: std::result::Result<File, String>,
}

impl Claim {
    /// Takes `root`, which must be there; an error when another process has it.
    pub fn take(root: &Path) -> Result<Self> {
        let path = root.join(LOCK);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path).map_err(|e| Error::io(&path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Claim { lock: Ok(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::data(root, "another process is training in it", "wait until it is done, or stop it first"))
            }
            Err(TryLockError::Error(e)) => Ok(Claim { lock: Err(e.to_string()) }),
        }
    }

    /// Why nothing keeps others out, if so.
    pub fn unlocked(&self) -> Option<&str> {
        self.lock.as_ref().err().map(String::as_str)
    }
}
