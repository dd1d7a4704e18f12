//! A read-only map of a file: the one place outside the engines that needs `unsafe`.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Maps the regular file `path`. Folders, devices and pipes are refused before they are opened.
pub fn map(path: &Path) -> Result<Mmap> {
    let kind = std::fs::metadata(path).map_err(|err| Error::io(path, &err))?;
    if kind.is_dir() {
        return Err(Error::data(path, "this is a folder, not a file", "name the file in it"));
    }
    if !kind.is_file() {
        return Err(Error::data(path, "this is not a regular file", "copy it to a file first"));
    }
    let file = File::open(path).map_err(|err| Error::io(path, &err))?;
    // SAFETY: the map is sound as long as nobody truncates or rewrites the file while it is mapped. This program never
    // does: it renames finished files into place, which leaves an older map on the older file. A map lives no longer than
    // its owner, and is only ever read as bytes that are copied out before they are interpreted.
    // What remains is the risk of every map: a program that truncates the file in place ends this one with SIGBUS.
    unsafe { Mmap::map(&file) }.map_err(|err| Error::io(path, &err))
}
