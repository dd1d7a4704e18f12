//! Images asked for one by one or by folder, and those of them that cannot be read: told, and passed over.
#![forbid(unsafe_code)]

use super::print;
use crate::data::images_below;
use crate::error::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A file or folder that cannot be read.
#[derive(Serialize)]
pub struct Failed {
    pub path: String,
    pub reason: String,
}

/// The images that cannot be read, so far.
pub struct Unread {
    pub failed: Vec<Failed>,
    /// How many images were asked for; none where their names come one by one.
    asked: Option<usize>,
    /// What is wrong with the only image, which is then the command's own error.
    alone: Option<Error>,
    /// Those of `failed` that were told and forgotten.
    forgotten: usize,
}

impl Unread {
    /// None so far of so many images.
    pub fn of(asked: Option<usize>) -> Self {
        Unread { failed: Vec::new(), asked, alone: None, forgotten: 0 }
    }

    /// Tells that the image `path` cannot be read, and goes on; an error that is not about the image itself is returned.
    pub fn over(&mut self, path: &Path, error: Error) -> Result<()> {
        match &error {
            Error::Data { path: at, .. } if at == path => {}
            _ => return Err(error),
        }
        self.failed.push(Failed { path: path.display().to_string(), reason: error.to_string() });
        if self.asked == Some(1) {
            self.alone = Some(error);
        } else {
            print::complain("bad", &error.to_string());
        }
        Ok(())
    }

    /// Forgets all but the first and how many there are: a process that is asked for names without end must not grow.
    pub fn forget(&mut self) {
        self.forgotten += self.failed.len().saturating_sub(1);
        self.failed.truncate(1);
    }

    /// The error that a command ends with when some of the `seen` images cannot be read.
    pub fn verdict(&mut self, seen: usize) -> Result<()> {
        if let Some(error) = self.alone.take() {
            return Err(error);
        }
        let Some(first) = self.failed.first() else { return Ok(()) };
        let count = self.failed.len() + self.forgotten;
        let reason = format!("{count} of {seen} images cannot be read, this one first");
        Err(Error::data(&first.path, reason, "mend them, or leave them out"))
    }
}

/// The images asked for: files, and those in and below folders. What is not there, and folders without an image, are told
/// and passed over. There may be nothing left.
pub fn files(asked: &[PathBuf]) -> Result<(Vec<PathBuf>, Unread)> {
    let (mut paths, mut faults) = (Vec::new(), Vec::new());
    for path in asked {
        match open(path) {
            Ok(found) => paths.extend(found),
            Err(error) => faults.push((path, error)),
        }
    }
    let mut unread = Unread::of(Some(paths.len() + faults.len()));
    faults.into_iter().try_for_each(|(path, error)| unread.over(path, error))?;
    Ok((paths, unread))
}

/// The images that one argument stands for.
fn open(path: &Path) -> Result<Vec<PathBuf>> {
    if !std::fs::metadata(path).map_err(|error| Error::io(path, &error))?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let (inside, others) = images_below(path)?;
    if inside.is_empty() {
        return Err(Error::data(path, "no JPEG or PNG file is in the folder or below it", "name another folder"));
    }
    if others > 0 {
        let text = format!("{}: files left out, not being .jpg, .jpeg or .png: {others}", path.display());
        print::complain("note", &text);
    }
    Ok(inside)
}
