//! Results on stdout, words to the user on stderr; a reader that went away is no error.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Writes `text` and a newline to stdout, without what would steer a terminal: names of files and classes are in it.
/// When the reader has closed the pipe nobody is left to serve: the command ends quietly.
pub fn line(text: &str) -> Result<()> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    raw(&text.chars().map(|c| if steers(c) { ' ' } else { c }).collect::<String>())
}

/// Writes `text` as it is.
fn raw(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Error::Unfinished {
            what: format!("stdout cannot be written to: {error}"),
            remedy: "what was printed is not whole".into(),
        }),
    }
}

/// Names and metadata come from files: control characters must not reach the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes `value` as one JSON document on one line of stdout.
pub fn json<T: Serialize>(value: &T) -> Result<()> {
    raw(&serde_json::to_string(value).expect("results are plain structures with string keys"))
}

/// Writes `kind: text` to stderr as one line, whatever line breaks and control characters the text holds.
pub fn complain(kind: &str, text: &str) {
    let text = printable(text);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "{kind}: {text}");
}
