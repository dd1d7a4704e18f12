//! state.json: what a checkpoint holds beside its tensors, and the sizes and hashes that prove it whole.
#![forbid(unsafe_code)]

use super::Progress;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Parameters, with the model's card.
pub(super) const MODEL: &str = "model.safetensors";
/// AdamW's moments.
pub(super) const OPTIM: &str = "optim.safetensors";
/// Everything else; written last.
pub(super) const STATE: &str = "state.json";

/// The layout of state.json that this version reads and writes.
const VERSION: u32 = 1;

/// Size and hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    bytes: u64,
    /// Lower-case hexadecimal.
    sha256: String,
}

/// The contents of state.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    pub progress: Progress,
    /// Updates that AdamW has applied.
    pub adamw_step: u64,
    /// SHA-256 of the run's config.toml.
    pub config_sha256: String,
    files: BTreeMap<String, Seal>,
}

/// Why a checkpoint is not whole.
#[derive(Debug)]
pub(super) struct Fault {
    path: PathBuf,
    reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Error::data(fault.path, fault.reason, "restore the file from a copy, or name another checkpoint")
    }
}

impl State {
    /// Seals the two tensor files that lie in `dir`.
    pub fn seal(dir: &Path, progress: &Progress, adamw_step: u64, config_sha256: String) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in [MODEL, OPTIM] {
            let path = dir.join(name);
            files.insert(name.to_string(), seal_of(&path).map_err(|e| Error::io(&path, &e))?);
        }
        Ok(State { version: VERSION, progress: progress.clone(), adamw_step, config_sha256, files })
    }

    /// The text of state.json.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a state has only string keys");
        text.push('\n');
        text
    }

    /// Reads state.json of the checkpoint folder `dir`.
    pub fn read(dir: &Path) -> std::result::Result<Self, Fault> {
        let path = dir.join(STATE);
        let fault = |reason: String| Fault { path: path.clone(), reason };
        let text = fs::read(&path).map_err(|e| fault(unreadable(&e)))?;
        let state: State = serde_json::from_slice(&text).map_err(|e| fault(format!("is damaged ({e})")))?;
        if state.version != VERSION {
            return Err(fault(format!("has layout {}, and this program reads {VERSION}", state.version)));
        }
        Ok(state)
    }

    /// True of the checkpoint that ended the best epoch of a run that has come as far as `now`.
    pub fn ends_best_epoch_of(&self, now: &Progress) -> bool {
        self.progress.batch == 0 && now.best_epoch == Some(self.progress.epoch)
    }

    /// Reads state.json of the checkpoint folder `dir` and holds both tensor files to their sizes and hashes.
    pub fn verify(dir: &Path) -> std::result::Result<Self, Fault> {
        let state = State::read(dir)?;
        let path = dir.join(STATE);
        let fault = |path: &Path, reason: String| Fault { path: path.to_path_buf(), reason };
        for name in [MODEL, OPTIM] {
            let want = state.files.get(name).ok_or_else(|| fault(&path, format!("is damaged (no seal of {name})")))?;
            let path = dir.join(name);
            let bytes = fs::metadata(&path).map_err(|e| fault(&path, unreadable(&e)))?.len();
            if bytes != want.bytes {
                return Err(fault(&path, format!("is damaged ({bytes} bytes instead of {})", want.bytes)));
            }
            if seal_of(&path).map_err(|e| fault(&path, unreadable(&e)))? != *want {
                return Err(fault(&path, format!("is damaged (its SHA-256 is not the one in {STATE})")));
            }
        }
        Ok(state)
    }

    /// Holds the model file of `dir` to its size and hash, if a state.json that can be read lies beside it. The file is
    /// of use by itself, so nothing else is asked for.
    pub fn verify_model(dir: &Path) -> Result<()> {
        let state = fs::read(dir.join(STATE)).ok().and_then(|text| serde_json::from_slice::<State>(&text).ok());
        let Some(want) = state.as_ref().and_then(|state| state.files.get(MODEL)) else { return Ok(()) };
        let path = dir.join(MODEL);
        if seal_of(&path).map_err(|e| Error::io(&path, &e))? == *want {
            return Ok(());
        }
        Err(Fault { path, reason: format!("is damaged (its SHA-256 is not the one in {STATE})") }.into())
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "is missing".to_string(),
        _ => format!("cannot be read ({error})"),
    }
}

fn seal_of(path: &Path) -> std::io::Result<Seal> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Seal { bytes, sha256: hex(&hasher.finalize()) });
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hashes_are_the_published_ones() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), abc);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "abc").unwrap();
        assert_eq!(seal_of(&file).unwrap(), Seal { bytes: 3, sha256: abc.to_string() });
    }

    proptest! {
        #[test]
        fn progress_comes_back_to_the_last_bit(
            loss_sum in any::<f64>().prop_filter("finite", |x| x.is_finite()),
            epoch_seconds in 0.0f64..1e6,
            best in proptest::option::of(0.0f64..1.0),
            step in any::<u64>(),
        ) {
            let progress = Progress { step, loss_sum, epoch_seconds, best_accuracy: best, ..Progress::default() };
            let files = BTreeMap::new();
            let state = State { version: VERSION, progress, adamw_step: step, config_sha256: String::new(), files };
            let back: State = serde_json::from_str(&state.to_json()).unwrap();
            prop_assert_eq!(back.progress.loss_sum.to_bits(), state.progress.loss_sum.to_bits());
            prop_assert_eq!(back, state);
        }
    }
}
