//! The one error type of the library: each variant names the file, flag or op, the reason and the remedy.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// What can go wrong, sorted by what the user can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or option that makes no sense. Exit code 2.
    #[error("{flag}: {reason}; {remedy}")]
    Usage { flag: String, reason: String, remedy: String },
    /// A file or folder that is missing, malformed, or cannot be read or written. Exit code 3.
    #[error("{}: {reason}; {remedy}", path.display())]
    Data { path: PathBuf, reason: String, remedy: String },
    /// Shapes that do not fit an op: a bug of the caller. Exit code 1.
    #[error("{op}: {reason}")]
    Shape { op: &'static str, reason: String },
    /// What a card or its driver refused or failed at: a copy, a kernel, a module. Exit code 1.
    #[error("{what}: {reason}")]
    Gpu { what: String, reason: String },
    /// A loss or gradient that is NaN or infinite. Exit code 4.
    #[error("{what} is not finite; {remedy}")]
    NonFinite { what: String, remedy: String },
    /// Parameters that the backward pass never reached. Exit code 1.
    #[error("no gradient reached {}", names.join(", "))]
    NoGradient { names: Vec<String> },
    /// Several pieces of work, of which some failed and were told one by one. Exit code 1.
    #[error("{what}; {remedy}")]
    Unfinished { what: String, remedy: String },
    /// SIGINT, SIGTERM or SIGHUP, after the state was saved. Exit code 130.
    #[error("interrupted; {saved}")]
    Interrupted { saved: String },
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A bad flag: its name, what is wrong, what to do.
    pub fn usage(flag: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Usage { flag: flag.into(), reason: reason.into(), remedy: remedy.into() }
    }

    /// A bad file or folder: its path, what is wrong, what to do.
    pub fn data(path: impl AsRef<Path>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Data { path: path.as_ref().to_path_buf(), reason: reason.into(), remedy: remedy.into() }
    }

    /// A failed system call on `path`, with the remedy that fits its kind.
    pub fn io(path: impl AsRef<Path>, source: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let remedy = match source.kind() {
            NotFound => "check the path",
            PermissionDenied | ReadOnlyFilesystem => "choose a folder that you may read and write",
            StorageFull | QuotaExceeded => "free some space or choose another folder",
            AlreadyExists => "choose another name or remove it",
            _ => "check the disk and the path",
        };
        Error::data(path, source.to_string(), remedy)
    }

    /// Shapes that do not fit `op`.
    pub fn shape(op: &'static str, reason: impl Into<String>) -> Self {
        Error::Shape { op, reason: reason.into() }
    }

    /// A card that failed at `what`: a kernel with its launch, a copy, a module.
    pub fn gpu(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Gpu { what: what.into(), reason: reason.into() }
    }

    /// The exit code of the command for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::Data { .. } => 3,
            Error::Shape { .. } | Error::NoGradient { .. } | Error::Gpu { .. } | Error::Unfinished { .. } => 1,
            Error::NonFinite { .. } => 4,
            Error::Interrupted { .. } => 130,
        }
    }
}
