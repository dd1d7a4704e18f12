//! Named tensors in and out of safetensors files; knows no model.
#![deny(unsafe_code)]

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub mod download;
mod header;
mod map;
mod write;

pub(crate) use map::map as map_file;
pub use write::{Entry, write};

/// The element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    BF16,
    /// A type that files may hold and this program only lists; reading such a tensor is an error.
    Other(safetensors::Dtype),
}

impl Dtype {
    fn new(dtype: safetensors::Dtype) -> Self {
        match dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::BF16,
            other => Dtype::Other(other),
        }
    }
}

/// The name of the format: "F32", "BF16", "I64", ...
impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dtype::F32 => f.pad("F32"),
            Dtype::F16 => f.pad("F16"),
            Dtype::BF16 => f.pad("BF16"),
            Dtype::Other(other) => f.pad(&other.to_string()),
        }
    }
}

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// An open weight file whose header has been checked.
///
/// The file is mapped, not read: a tensor's pages are loaded when the tensor is. Nobody may truncate the file meanwhile.
pub struct Weights {
    path: PathBuf,
    map: memmap2::Mmap,
    /// Description and place in the map of each tensor.
    tensors: BTreeMap<String, (TensorInfo, Range<usize>)>,
    metadata: BTreeMap<String, String>,
}

impl Weights {
    /// Maps and checks `path`; every malformed header is an error that names it.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map::map(path)?;
        let header = header::parse(path, &map)?;
        let place = |(from, to)| header.data_start + from..header.data_start + to;
        let tensors = header
            .tensors
            .into_iter()
            .map(|(name, info)| {
                let range = place(info.data_offsets);
                (name, (TensorInfo { dtype: Dtype::new(info.dtype), shape: info.shape }, range))
            })
            .collect();
        Ok(Weights { path: path.to_path_buf(), map, tensors, metadata: header.metadata })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in ascending order.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// Type and shape of `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(info, _)| info)
    }

    /// Writes the values of `name`, widened to f32, into `out`. Missing name, wrong length, NaN and infinity are errors.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let bad = |reason: String, remedy: &str| Error::data(&self.path, reason, remedy);
        let Some((info, range)) = self.tensors.get(name) else {
            return Err(bad(format!("there is no tensor {name:?}"), "use weights of this model"));
        };
        let TensorInfo { dtype, shape } = info;
        let bytes = &self.map[range.clone()];
        let elements: usize = shape.iter().product();
        if elements != out.len() {
            let reason = format!("tensor {name:?} has shape {shape:?}, {elements} values, where {} belong", out.len());
            return Err(bad(reason, "use weights of this model"));
        }
        match dtype {
            Dtype::F32 => widen(bytes, out, f32::from_le_bytes),
            Dtype::F16 => widen(bytes, out, |pair| half::f16::from_le_bytes(pair).to_f32()),
            Dtype::BF16 => widen(bytes, out, |pair| half::bf16::from_le_bytes(pair).to_f32()),
            Dtype::Other(other) => {
                let reason = format!("tensor {name:?} is stored as {other}, not F32, F16 or BF16");
                return Err(bad(reason, "convert it to F32"));
            }
        }
        match out.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let place = coordinates(at, shape);
                Err(bad(
                    format!("tensor {name:?} holds {} at {place:?}", out[at]),
                    "use weights without NaN or infinity",
                ))
            }
        }
    }

    /// The string map under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Decodes little-endian elements of `W` bytes each; the header check has matched the lengths.
fn widen<const W: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; W]) -> f32) {
    let (elements, _) = bytes.as_chunks::<W>();
    for (value, &element) in out.iter_mut().zip(elements) {
        *value = decode(element);
    }
}

/// The coordinates of element `at` in row-major order.
fn coordinates(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&side| {
            let coordinate = at % side;
            at /= side;
            coordinate
        })
        .collect();
    place.reverse();
    place
}

#[cfg(test)]
mod tests;
