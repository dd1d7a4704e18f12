//! The cache of packed images: where a data set's pack lies, and when it is built.
#![forbid(unsafe_code)]

use super::print;
use super::progress::bar;
use crate::data::{Dataset, pack};
use crate::error::{Error, Result};
use crate::train::Stop;
use std::path::{Path, PathBuf};

/// The pack of `dataset` in `folder`. Two places of one data set share no pack; nor do whole images and shrunken ones.
pub fn place(folder: &Path, dataset: &Dataset, side: Option<usize>) -> Result<PathBuf> {
    let root = dataset.root.canonicalize().map_err(|e| Error::io(&dataset.root, &e))?;
    // FNV-1a of the place: the pack itself says whether its images are the right ones.
    let hash = root
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let side = side.map_or(String::new(), |side| format!("-{side}"));
    Ok(folder.join(format!("{}{side}-{hash:016x}.pack", dataset.name)))
}

/// Builds the pack, showing how far it is.
pub fn build(dataset: &Dataset, path: &Path, side: Option<usize>, quiet: bool, stop: &Stop) -> Result<()> {
    let bar = bar(quiet, "packing", "images");
    let built = pack::build(dataset, path, side, &mut |done, of| {
        bar.show(done as u64, of as u64);
        match stop.requested() {
            true => Err(Error::Interrupted { saved: "nothing was packed".into() }),
            false => Ok(()),
        }
    });
    bar.clear();
    built
}

/// Takes the images of `dataset` from its pack in `folder`, which is built first when it is not there and it pays.
pub fn attach(dataset: &mut Dataset, folder: &Path, side: Option<usize>, quiet: bool, stop: &Stop) -> Result<()> {
    let path = place(folder, dataset, side)?;
    if !path.exists() {
        let (pays, bytes) = pack::pays(dataset)?;
        if !pays && (side.is_none() || bytes == 0) {
            let why = match bytes {
                0 => "its images lie in one file already".to_string(),
                _ => format!("its images are large ({} MiB in all); --cache-side N shrinks them", bytes >> 20),
            };
            dataset.notes.push(format!("{} is not packed: {why}", dataset.name));
            return Ok(());
        }
        if !quiet {
            print::complain("notice", &format!("packing the images of {} into {}", dataset.name, path.display()));
        }
        build(dataset, &path, side, quiet, stop)?;
    }
    pack::attach(dataset, &path, side)?;
    let shrunk = side.map_or(String::new(), |side| format!(", shrunk to a shorter side of {side} pixels at most"));
    dataset.notes.push(format!("images come from {}{shrunk}", path.display()));
    Ok(())
}
