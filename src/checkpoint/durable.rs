//! Files and links that are either wholly on disk or not there at all, whatever happens meanwhile.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

/// The folder that holds `path`; "." for a bare name.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A hidden neighbour of `path` that this process may fill and rename onto it.
pub(super) fn neighbour(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp-{}", std::process::id()))
}

/// Makes the entries of a folder survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    // Other systems neither need this nor let a folder be opened.
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io(dir, &e))?;
    }
    Ok(())
}

/// Writes and syncs a file that must not exist yet; leaves none behind on failure. The caller syncs the folder.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| Error::io(path, &e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| {
        let _ = fs::remove_file(path);
        Error::io(path, &e)
    })
}

/// Replaces the contents of a file, or makes it: readers see the old bytes or the new ones.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = neighbour(path);
    remove_if_there(&temporary)?;
    write_new(&temporary, bytes)?;
    rename_into_place(&temporary, path)
}

/// Makes the link `root/name` point at the checkpoint folder `root/checkpoints/step`; readers see the old target or
/// the new one. Where the system has no symbolic links the link is a text file that holds the relative path.
pub(super) fn point(root: &Path, name: &str, step: &str) -> Result<()> {
    let link = root.join(name);
    let target = Path::new(super::CHECKPOINTS).join(step);
    let temporary = neighbour(&link);
    remove_if_there(&temporary)?;
    if symlink(&target, &temporary).is_err() {
        write_new(&temporary, format!("{}/{step}\n", super::CHECKPOINTS).as_bytes())?;
    }
    rename_into_place(&temporary, &link)
}

/// The checkpoint folder that the link `root/name` points at, whether or not it is there; None without a link.
pub(super) fn follow(root: &Path, name: &str) -> Result<Option<PathBuf>> {
    let link = root.join(name);
    let kind = match fs::symlink_metadata(&link) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&link, &e)),
    };
    if kind.is_symlink() {
        return fs::read_link(&link).map(|target| Some(root.join(target))).map_err(|e| Error::io(&link, &e));
    }
    if kind.is_dir() {
        return Ok(Some(link));
    }
    let text = fs::read_to_string(&link).map_err(|e| Error::io(&link, &e))?;
    let target = Path::new(text.trim());
    let parts: Vec<_> = target.components().collect();
    match parts.as_slice() {
        // Nothing that a text file says may lead out of the run directory.
        [Component::Normal(folder), Component::Normal(_)] if *folder == super::CHECKPOINTS => {
            Ok(Some(root.join(target)))
        }
        _ => Err(Error::data(
            &link,
            "does not name a checkpoint",
            format!("name a folder under {} instead", super::CHECKPOINTS),
        )),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Removes a file that need not be there.
pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path, &e)),
        _ => Ok(()),
    }
}

fn rename_into_place(temporary: &Path, path: &Path) -> Result<()> {
    fs::rename(temporary, path).map_err(|e| {
        let _ = fs::remove_file(temporary);
        Error::io(path, &e)
    })?;
    sync_dir(parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_overwrites_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        replace(&file, b"one").unwrap();
        replace(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn write_new_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        write_new(&file, b"one").unwrap();
        assert!(write_new(&file, b"two").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"one");
    }

    #[test]
    fn links_are_replaced_and_followed_in_either_form() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(follow(dir.path(), "best").unwrap(), None);
        point(dir.path(), "best", "step-1").unwrap();
        point(dir.path(), "best", "step-2").unwrap();
        let second = dir.path().join("checkpoints/step-2");
        assert_eq!(follow(dir.path(), "best").unwrap().unwrap(), second);
        fs::write(dir.path().join("last"), "checkpoints/step-2\n").unwrap();
        assert_eq!(follow(dir.path(), "last").unwrap().unwrap(), second);
        point(dir.path(), "last", "step-3").unwrap();
        assert_eq!(follow(dir.path(), "last").unwrap().unwrap(), dir.path().join("checkpoints/step-3"));
    }

    #[test]
    fn a_text_link_cannot_lead_out_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["../elsewhere", "/etc", "checkpoints/../../up", "", "checkpoints"] {
            fs::write(dir.path().join("best"), text).unwrap();
            assert!(follow(dir.path(), "best").is_err(), "{text:?}");
        }
    }
}
