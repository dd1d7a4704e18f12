//! Decoded images of a data set in one mapped file, so that an epoch decodes nothing.
//!
//! The file is a head of 64 bytes, the pixels of one image after the other, and an index in JSON. The head says where the
//! index begins and gives its SHA-256; the index names every image with its size and the SHA-256 of its file, and the
//! SHA-256 of all pixels. A pack is written beside its place, synced and renamed, so a torn one never has its name.
#![forbid(unsafe_code)]

use super::decode::Picture;
use super::manifest::{hex, relative};
use super::resize::{Crop, resize};
use super::{Dataset, Interpolation, Sample, Source};
use crate::error::{Error, Result};
use crate::weights::map_file;
use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The first bytes of a pack; the last one is the version of the format, and of the decoder whose pixels it holds.
const MAGIC: [u8; 8] = *b"DYNAVIT\x02";
/// Magic, length of the file, place of the index, SHA-256 of the index.
const HEAD: usize = 64;
/// Images that are decoded before they are written.
const AT_ONCE: usize = 64;
/// Bytes of a decoded image, on average, up to which packing pays without shrinking: 256 x 256 pixels. Larger images
/// take more time to read from disk than JPEGs take to decode.
const PAYS: u64 = 256 * 256 * 3;
/// Smallest side that images may be shrunk to, in pixels.
const LEAST_SIDE: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    dataset: String,
    /// The shorter side that larger images were shrunk to.
    side: Option<usize>,
    /// Of all pixels.
    sha256: String,
    images: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    /// From the root of the data set.
    path: String,
    /// Of the file that was decoded.
    sha256: String,
    width: usize,
    height: usize,
}

/// An open pack, checked whole.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    map: Mmap,
    entries: Vec<Entry>,
    /// First byte of each image.
    places: Vec<usize>,
}

impl PartialEq for Pack {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Pack {}

/// How far packing is.
pub type Show<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// Packs all images of `dataset` that lie in files of their own into `path`, the shorter side of larger ones shrunk to
/// `side` pixels if given. `show` hears how many of how many are done and may give up by an error. Nothing is left at
/// `path` or beside it unless all went well.
pub fn build(dataset: &Dataset, path: &Path, side: Option<usize>, show: Show) -> Result<()> {
    if side.is_some_and(|side| side < LEAST_SIDE) {
        return Err(Error::usage(
            "--cache-side",
            "images this small hold nothing",
            format!("give at least {LEAST_SIDE}"),
        ));
    }
    let mut samples = files(dataset);
    // Pages of the same folder lie together on disk.
    samples.sort_by_cached_key(|(_, path)| path.to_path_buf());
    if samples.is_empty() {
        return Err(Error::data(&dataset.root, "no image lies in a file of its own", "use the data set as it is"));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, &e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = Draft(parent.join(format!(".{name}.packing-{}", std::process::id())));
    write(dataset, &samples, &draft.0, side, show)?;
    std::fs::rename(&draft.0, path).map_err(|e| Error::io(path, &e))?;
    if cfg!(unix) {
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(parent, &e))?;
    }
    Ok(())
}

/// A file that is removed when it goes out of scope, unless it has been moved away.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The images that lie in files of their own.
fn files(dataset: &Dataset) -> Vec<(&Sample, &Path)> {
    let all = dataset.train.iter().chain(&dataset.val).chain(&dataset.test);
    all.filter_map(|sample| if let Source::File(path) = &sample.source { Some((sample, path.as_path())) } else { None })
        .collect()
}

fn write(dataset: &Dataset, samples: &[(&Sample, &Path)], path: &Path, side: Option<usize>, show: Show) -> Result<()> {
    let io = |e: std::io::Error| Error::io(path, &e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    out.write_all(&[0; HEAD]).map_err(io)?;
    let (mut pixels, mut images, mut end) = (Sha256::new(), Vec::with_capacity(samples.len()), HEAD as u64);
    for chunk in samples.chunks(AT_ONCE) {
        let made: Vec<(Entry, Picture)> =
            chunk.par_iter().map(|(_, path)| packed(&dataset.root, path, side)).collect::<Result<_>>()?;
        for (entry, picture) in made {
            pixels.update(&picture.pixels);
            out.write_all(&picture.pixels).map_err(io)?;
            end += picture.pixels.len() as u64;
            images.push(entry);
        }
        show(images.len(), samples.len())?;
    }
    let index = Index { dataset: dataset.name.clone(), side, sha256: text(&pixels.finalize()), images };
    let index = serde_json::to_vec(&index).map_err(|e| Error::data(path, e.to_string(), "report this"))?;
    out.write_all(&index).map_err(io)?;
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&(end + index.len() as u64).to_le_bytes());
    head[16..24].copy_from_slice(&end.to_le_bytes());
    head[32..].copy_from_slice(&Sha256::digest(&index));
    let mut file = out.into_inner().map_err(|e| io(e.into_error()))?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.write_all(&head).and_then(|()| file.sync_all()).map_err(io)
}

/// Reads, decodes and shrinks one file.
fn packed(root: &Path, path: &Path, side: Option<usize>) -> Result<(Entry, Picture)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
    let mut picture = super::decode::decode(&bytes, path)?;
    let short = picture.width.min(picture.height);
    if let Some(side) = side.filter(|side| *side < short) {
        let scaled = |length: usize| (length * side + short / 2) / short;
        let (width, height) = (scaled(picture.width), scaled(picture.height));
        let pixels = resize(&picture, Crop::whole(&picture), width, height, Interpolation::Bilinear);
        picture = Picture { width, height, pixels };
    }
    let entry = Entry { path: relative(root, path), sha256: hex(&bytes), width: picture.width, height: picture.height };
    Ok((entry, picture))
}

/// Lower-case hexadecimal.
fn text(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the images of `dataset` are small enough for packing them as they are to pay, judged by the headers of a
/// hundred of them; and the bytes that they would take.
pub fn pays(dataset: &Dataset) -> Result<(bool, u64)> {
    let samples = files(dataset);
    if samples.is_empty() {
        return Ok((false, 0));
    }
    let looked_at: Vec<_> = samples.iter().step_by(samples.len().div_ceil(100)).collect();
    let sizes: Vec<u64> = looked_at
        .par_iter()
        .map(|(_, path)| super::decode::size(path).map(|(width, height)| u64::from(width) * u64::from(height) * 3))
        .collect::<Result<_>>()?;
    let mean = sizes.iter().sum::<u64>() / sizes.len() as u64;
    Ok((mean <= PAYS, mean * samples.len() as u64))
}

impl Pack {
    /// Maps `path` and checks all of it: head, index, and the hash of the pixels.
    pub fn open(path: &Path) -> Result<(Self, Option<usize>)> {
        let bad = |reason: &str| Error::data(path, reason, "remove it and pack the images again");
        let map = map_file(path)?;
        let head = map.first_chunk::<HEAD>().ok_or_else(|| bad("is too short for a pack: it is half built"))?;
        if head[..7] != MAGIC[..7] {
            return Err(bad("is no pack of images, or one that is half built"));
        }
        if head[7] != MAGIC[7] {
            return Err(bad("is a pack of another version of dynavit"));
        }
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (length, begin) = (number(8), number(16));
        if length != map.len() as u64 || begin < HEAD as u64 || begin > length {
            return Err(bad(&format!(
                "has {} bytes where {length} belong: it is half built or half copied",
                map.len()
            )));
        }
        let (pixels, index) = map[HEAD..].split_at(begin as usize - HEAD);
        if Sha256::digest(index)[..] != head[32..] {
            return Err(bad("its index is damaged"));
        }
        let index: Index = serde_json::from_slice(index).map_err(|_| bad("its index is damaged"))?;
        let mut places = Vec::with_capacity(index.images.len());
        let mut end = HEAD;
        for image in &index.images {
            places.push(end);
            let size = image.width.checked_mul(image.height).and_then(|n| n.checked_mul(3));
            end = size.and_then(|size| end.checked_add(size)).ok_or_else(|| bad("its index is damaged"))?;
        }
        if end != begin as usize || index.images.iter().any(|image| image.width == 0 || image.height == 0) {
            return Err(bad("its index does not fit its pixels"));
        }
        if text(&Sha256::digest(pixels)) != index.sha256 {
            return Err(bad("its pixels are damaged"));
        }
        let Index { side, images: entries, .. } = index;
        Ok((Pack { path: path.to_path_buf(), map, entries, places }, side))
    }

    /// The decoded image.
    pub(super) fn picture(&self, index: usize) -> Picture {
        let Entry { width, height, .. } = self.entries[index];
        Picture { width, height, pixels: self.map[self.places[index]..][..width * height * 3].to_vec() }
    }

    /// SHA-256 of the file that the image was decoded from.
    pub(super) fn sha256(&self, index: usize) -> &str {
        &self.entries[index].sha256
    }
}

/// Takes the images of `dataset` from the pack at `path` from now on. Every file is hashed once: a pack that lacks an
/// image, or holds another one under its name, or images of another size than `side` says, is refused.
pub fn attach(dataset: &mut Dataset, path: &Path, side: Option<usize>) -> Result<()> {
    let again = "remove it and pack the images again, or name another folder with --cache";
    let (pack, packed_side) = Pack::open(path)?;
    if packed_side != side {
        let shown = |side: Option<usize>| side.map_or("whole images".to_string(), |side| format!("side {side}"));
        let reason = format!("was packed with {}, not {}", shown(packed_side), shown(side));
        return Err(Error::data(path, reason, again));
    }
    let index_of: HashMap<&str, usize> = pack.entries.iter().enumerate().map(|(i, e)| (e.path.as_str(), i)).collect();
    let mut found: HashMap<PathBuf, usize> = HashMap::new();
    for (_, file) in files(dataset) {
        let name = relative(&dataset.root, file);
        let Some(&index) = index_of.get(name.as_str()) else {
            return Err(Error::data(path, format!("belongs to another data set: it has no image {name}"), again));
        };
        found.insert(file.to_path_buf(), index);
    }
    let samples = files(dataset);
    let hashes: Vec<Result<String>> = samples.par_iter().map(|(sample, _)| sample.source.sha256()).collect();
    for ((_, file), hash) in samples.iter().zip(hashes) {
        let entry = &pack.entries[found[*file]];
        if hash? != entry.sha256 {
            let (name, root) = (&entry.path, dataset.root.display());
            let reason = format!("belongs to another data set: its image {name} is not the one in {root}");
            return Err(Error::data(path, reason, again));
        }
    }
    let pack = Arc::new(pack);
    for sample in dataset.train.iter_mut().chain(&mut dataset.val).chain(&mut dataset.test) {
        if let Source::File(file) = &mut sample.source {
            let index = found[file];
            sample.source = Source::Packed(Arc::clone(&pack), index, std::mem::take(file));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
