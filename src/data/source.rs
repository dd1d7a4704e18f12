//! Where an image lies: a file of its own, a record inside a file of raw pixels, or a pack of decoded images.
#![forbid(unsafe_code)]

use super::decode::{self, Picture};
use super::manifest::hex;
use super::pack::Pack;
use crate::error::{Error, Result};
use crate::weights::map_file;
use memmap2::Mmap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an image lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A JPEG or PNG file.
    File(PathBuf),
    /// A record of a file of raw pixels, counted from 0.
    Record(Arc<Records>, usize),
    /// An image of a pack, and the file that it was decoded from.
    Packed(Arc<Pack>, usize, PathBuf),
}

/// A mapped file of raw square RGB pictures, each a fixed number of bytes after the one before.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    map: Mmap,
    /// Byte of the first pixel of the first record.
    first: usize,
    /// Bytes from one picture to the next.
    stride: usize,
    count: usize,
    /// Width and height in pixels.
    side: usize,
}

/// The same file is the same data: files are not changed while they are open.
impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.first == other.first && self.stride == other.stride
    }
}

impl Eq for Records {}

impl Records {
    /// Maps `path`, which must be a regular file and not empty; [`Records::lay_out`] says where its pictures are.
    pub fn map(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        if map.is_empty() {
            return Err(Error::data(path, "the file is empty", "copy or download it again"));
        }
        Ok(Records { path: path.to_path_buf(), map, first: 0, stride: 0, count: 0, side: 0 })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Names the place of `count` pictures of `side` x `side` pixels, stored as planes of R, G and B. They must lie
    /// in the file.
    pub fn lay_out(mut self, first: usize, stride: usize, count: usize, side: usize) -> Arc<Self> {
        let end = first + stride * count.saturating_sub(1) + side * side * 3;
        assert!(count == 0 || end <= self.map.len(), "the records lie in the file");
        (self.first, self.stride, self.count, self.side) = (first, stride, count, side);
        Arc::new(self)
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The planes of picture `index`, (3, side, side).
    fn planes(&self, index: usize) -> &[u8] {
        &self.map[self.first + index * self.stride..][..self.side * self.side * 3]
    }

    fn picture(&self, index: usize) -> Picture {
        let planes = self.planes(index);
        let (r, rest) = planes.split_at(self.side * self.side);
        let (g, b) = rest.split_at(self.side * self.side);
        let pixels = r.iter().zip(g).zip(b).flat_map(|((r, g), b)| [*r, *g, *b]).collect();
        Picture { width: self.side, height: self.side, pixels }
    }
}

impl Source {
    /// Decodes the image.
    pub fn picture(&self) -> Result<Picture> {
        match self {
            Source::File(path) => decode::read(path),
            Source::Record(records, index) => Ok(records.picture(*index)),
            Source::Packed(pack, index, _) => Ok(pack.picture(*index)),
        }
    }

    /// Refuses what [`Source::picture`] would, and a file whose coded data are damaged.
    pub fn verify(&self) -> Result<()> {
        match self {
            Source::File(path) => decode::verify(path),
            Source::Record(..) | Source::Packed(..) => self.picture().map(drop),
        }
    }

    /// Refuses what [`Source::picture`] would, as far as that can be told without decoding pixels.
    pub fn check(&self) -> Result<()> {
        match self {
            Source::File(path) => decode::check(path),
            // Records and packs are checked when their file is opened.
            Source::Record(..) | Source::Packed(..) => Ok(()),
        }
    }

    /// The file, or the one it was packed from, with the number of the record behind `#` when it holds several images.
    pub fn place(&self) -> PathBuf {
        match self {
            Source::File(path) | Source::Packed(_, _, path) => path.clone(),
            Source::Record(records, index) => format!("{}#{index}", records.path.display()).into(),
        }
    }

    /// SHA-256 of the file, or of the record's pixels; for a packed image that of the file it was decoded from.
    pub fn sha256(&self) -> Result<String> {
        match self {
            Source::File(path) => Ok(hex(&std::fs::read(path).map_err(|e| Error::io(path, &e))?)),
            Source::Record(records, index) => Ok(hex(records.planes(*index))),
            Source::Packed(pack, index, _) => Ok(pack.sha256(*index).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_planes_of_red_green_and_blue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.bin");
        std::fs::write(&path, (0..30).collect::<Vec<u8>>()).unwrap();
        let records = Records::map(&path).unwrap().lay_out(2, 14, 2, 2);
        let source = Source::Record(Arc::clone(&records), 1);
        let picture = source.picture().unwrap();
        assert_eq!((picture.width, picture.height), (2, 2));
        assert_eq!(picture.pixels, [16, 20, 24, 17, 21, 25, 18, 22, 26, 19, 23, 27]);
        assert_eq!(source.place(), folder.path().join("x.bin#1"));
        assert_ne!(source.sha256().unwrap(), Source::Record(records, 0).sha256().unwrap());
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.bin");
        std::fs::write(&path, "").unwrap();
        for path in [path.as_path(), folder.path(), &folder.path().join("absent")] {
            let error = Records::map(path).unwrap_err();
            assert!(error.exit_code() == 3 && error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }
}
