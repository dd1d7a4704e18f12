//! The header of a safetensors file: parsed, and held to every rule of the format before a tensor is touched.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Bytes of the length field in front of the header.
pub const LENGTH_BYTES: usize = 8;
/// The largest header that readers of the format accept.
pub const MAX_BYTES: u64 = 100_000_000;
/// The key of the string map.
pub const METADATA: &str = "__metadata__";

const AGAIN: &str = "download or save it again";

/// A checked header.
pub struct Header {
    /// Tensors in the order of their data; offsets count from `data_start`.
    pub tensors: Vec<(String, TensorInfo)>,
    pub metadata: BTreeMap<String, String>,
    pub data_start: usize,
}

/// Parses the header of the whole file `bytes`; `path` is for messages only.
///
/// What holds of the result: names are unique; the data of the tensors follow one another without gap or overlap from
/// `data_start` to the end of the file; each has the size that its shape and type call for.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
    let bad = |reason: String, remedy: &str| Error::data(path, reason, remedy);
    if bytes.is_empty() {
        return Err(bad("the file is empty".into(), AGAIN));
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(bad(format!("the file is cut short: it has only {} bytes", bytes.len()), AGAIN));
    };
    let length = u64::from_le_bytes(*length);
    if rest.first().is_some_and(|&first| first != b'{') {
        return Err(bad("this is not a safetensors file: no header follows the length".into(), "convert it first"));
    }
    if length > MAX_BYTES {
        return Err(bad(format!("the header claims {length} bytes, more than the {MAX_BYTES} allowed"), AGAIN));
    }
    let length = length as usize;
    let Some(json) = rest.get(..length) else {
        return Err(bad(format!("the file is cut short: {length} bytes of header, {} are there", rest.len()), AGAIN));
    };
    // Copied out of the map first: text that another program rewrote under our hands would not stay UTF-8.
    let json = String::from_utf8(json.to_vec()).map_err(|_| bad("the header is not UTF-8".into(), AGAIN))?;
    let Raw { mut tensors, metadata } =
        serde_json::from_str(&json).map_err(|err| bad(format!("the header is malformed: {err}"), AGAIN))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    check_layout(path, &tensors, rest.len() - length)?;
    Metadata::new(None, tensors.clone()).map_err(|err| bad(format!("the header is inconsistent: {err}"), AGAIN))?;
    Ok(Header { tensors, metadata, data_start: LENGTH_BYTES + length })
}

/// The checks that `Metadata::new` makes too, with messages that name the tensor, and the end of the file.
fn check_layout(path: &Path, tensors: &[(String, TensorInfo)], data: usize) -> Result<()> {
    let bad = |reason: String| Err(Error::data(path, reason, AGAIN));
    let mut end = 0;
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if to < from {
            return bad(format!("tensor {name:?} ends at byte {to}, before it begins at {from}"));
        }
        if from < end {
            return bad(format!("tensor {name:?} overlaps the one before it: it begins at byte {from}, not {end}"));
        }
        if from > end {
            return bad(format!("{} bytes before tensor {name:?} belong to no tensor", from - end));
        }
        let elements = info.shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        let Some(bits) = elements.and_then(|elements| elements.checked_mul(info.dtype.bitsize())) else {
            return bad(format!("tensor {name:?} has the impossible shape {:?}", info.shape));
        };
        if bits % 8 != 0 || bits / 8 != to - from {
            let wanted = bits.div_ceil(8);
            let (dtype, shape) = (info.dtype, &info.shape);
            return bad(format!("tensor {name:?} ({dtype} {shape:?}) takes {wanted} bytes, its offsets {}", to - from));
        }
        if to > data {
            return bad(format!(
                "the file is cut short: tensor {name:?} ends at byte {to} of the data, {data} are there"
            ));
        }
        end = to;
    }
    if end < data {
        return bad(format!("{} bytes after the last tensor belong to no tensor", data - end));
    }
    Ok(())
}

/// The JSON object with its entries in order of appearance, so that a name given twice is seen.
struct Raw {
    tensors: Vec<(String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> serde::Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Raw, A::Error> {
        let mut raw = Raw { tensors: Vec::new(), metadata: BTreeMap::new() };
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{name:?} is there twice")));
            }
            if name == METADATA {
                raw.metadata = map.next_value::<Option<UniqueStrings>>()?.map_or_else(BTreeMap::new, |map| map.0);
            } else {
                let info = map.next_value().map_err(|err| A::Error::custom(format!("tensor {name:?}: {err}")))?;
                raw.tensors.push((name, info));
            }
        }
        Ok(raw)
    }
}

/// A map of strings that refuses a key given twice.
struct UniqueStrings(BTreeMap<String, String>);

impl<'de> serde::Deserialize<'de> for UniqueStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = UniqueStrings;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<UniqueStrings, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.contains_key(&key) {
                        return Err(A::Error::custom(format!("{key:?} is there twice")));
                    }
                    strings.insert(key, value);
                }
                Ok(UniqueStrings(strings))
            }
        }
        deserializer.deserialize_map(Strings)
    }
}
