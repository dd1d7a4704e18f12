//! Named tensors in and out of safetensors files; knows no model.
#![forbid(unsafe_code)]

use crate::error::Result;
use std::collections::BTreeMap;
use std::path::Path;

/// The element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    BF16,
}

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// An open weight file whose header has been checked.
pub struct Weights {}

impl Weights {
    /// Maps and checks `path`; every malformed header is an error that names it.
    pub fn open(path: &Path) -> Result<Self> {
        let _ = path;
        todo!()
    }
    /// The file.
    pub fn path(&self) -> &Path {
        todo!()
    }
    /// Names in ascending order.
    pub fn names(&self) -> Vec<&str> {
        todo!()
    }
    /// Type and shape of `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        let _ = name;
        todo!()
    }
    /// Writes the values of `name`, widened to f32, into `out`. Missing name, wrong length, NaN and infinity are errors.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let _ = (name, out);
        todo!()
    }
    /// The string map under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        todo!()
    }
}

/// One tensor to be written.
pub struct Entry<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub values: &'a [f32],
}

/// Writes a safetensors file beside its place, syncs it, renames it and syncs the folder. Same input, same bytes.
pub fn write(path: &Path, entries: &[Entry], metadata: &BTreeMap<String, String>) -> Result<()> {
    let _ = (path, entries, metadata);
    todo!()
}
