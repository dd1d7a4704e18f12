//! The built command, run with no setting from outside.
#![forbid(unsafe_code)]

use assert_cmd::Command;
use std::path::Path;

/// The words of a command line for `folder`; on the CPU unless they name a device.
pub fn dynavit(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynavit"));
    command.current_dir(folder).args(words);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DYNAVIT_")) {
        command.env_remove(name);
    }
    // A card of this machine would compute in another precision.
    command.env("DYNAVIT_LIBCUDA", "nowhere/libcuda.so.1");
    command
}

/// Runs a command line, whose words may stand in single quotes; returns exit code, stdout and stderr.
#[allow(dead_code, reason = "one of the test crates builds its command lines word by word")]
pub fn run(folder: &Path, line: &str) -> (Option<i32>, String, String) {
    let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('\'')).collect();
    let output = dynavit(folder, &words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs a command line that must end with `code`; returns stdout and stderr.
#[allow(dead_code, reason = "some test crates judge each ending themselves")]
#[track_caller]
pub fn ends(folder: &Path, line: &str, code: i32) -> (String, String) {
    let (found, out, err) = run(folder, line);
    assert_eq!(found, Some(code), "{line}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

/// Runs a command line that must succeed; returns stdout and stderr.
#[allow(dead_code, reason = "some test crates judge each ending themselves")]
#[track_caller]
pub fn done(folder: &Path, line: &str) -> (String, String) {
    ends(folder, line, 0)
}
