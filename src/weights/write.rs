//! Writes safetensors files, durably and with the same bytes for the same input.
//!
//! The safetensors crate keeps metadata in a hash map, whose order changes from run to run; hence a writer of our own.
#![forbid(unsafe_code)]

use super::header::{LENGTH_BYTES, METADATA};
use crate::error::{Error, Result};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One tensor to be written.
pub struct Entry<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub values: &'a [f32],
}

/// Writes a safetensors file beside its place, syncs it, renames it and syncs the folder. Same input, same bytes.
///
/// Tensors are F32 in the order of their names. A failed write leaves what was at `path`, and no temporary file.
pub fn write(path: &Path, entries: &[Entry], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.name);
    check(&sorted)?;
    let header = header_bytes(&sorted, metadata);
    let temporary = temporary_beside(path)?;
    let outcome = write_all(&temporary, &header, &sorted).and_then(|()| fs::rename(&temporary, path));
    if let Err(err) = outcome {
        // The error that matters is the first one; a temporary that cannot be removed changes nothing about it.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io(path, &err));
    }
    let folder = folder_of(path);
    // Only unix lets a folder be opened and synced.
    if !cfg!(unix) {
        return Ok(());
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|err| Error::io(folder, &err))
}

/// What makes entries a valid file: unique names, and as many values as each shape has.
fn check(entries: &[&Entry]) -> Result<()> {
    let mut names = HashSet::new();
    for Entry { name, shape, values } in entries {
        if *name == METADATA || !names.insert(name) {
            return Err(Error::shape("weights", format!("tensor {name:?} is given twice or is a reserved name")));
        }
        if shape.iter().product::<usize>() != values.len() {
            let reason = format!("tensor {name:?} has {} values, not those of shape {shape:?}", values.len());
            return Err(Error::shape("weights", reason));
        }
    }
    Ok(())
}

/// Length field and JSON, padded with spaces so that the data begin at a multiple of eight bytes.
fn header_bytes(entries: &[&Entry], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let header = HeaderJson { entries, metadata };
    let mut json = serde_json::to_vec(&header).expect("strings and numbers always become JSON");
    json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

struct HeaderJson<'a> {
    entries: &'a [&'a Entry<'a>],
    metadata: &'a BTreeMap<String, String>,
}

#[derive(serde::Serialize)]
struct TensorJson<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

impl Serialize for HeaderJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, self.metadata)?;
        }
        let mut from = 0;
        for Entry { name, shape, values } in self.entries {
            let to = from + size_of_val(*values);
            map.serialize_entry(name, &TensorJson { dtype: "F32", shape, data_offsets: [from, to] })?;
            from = to;
        }
        map.end()
    }
}

/// A hidden name in the same folder, so that the rename stays within one file system. One process writes a path once
/// at a time, so its number keeps two processes apart.
fn temporary_beside(path: &Path) -> Result<PathBuf> {
    let Some(file_name) = path.file_name() else {
        return Err(Error::data(path, "this names no file", "give a file name"));
    };
    let mut name = OsString::from(".");
    name.push(file_name);
    name.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(name))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_all(temporary: &Path, header: &[u8], entries: &[&Entry]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(header)?;
    let mut bytes = Vec::new();
    for chunk in entries.iter().flat_map(|entry| entry.values.chunks(1 << 18)) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    file.sync_all()
}
