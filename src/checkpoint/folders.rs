//! The folders of a run: made, filled, set aside, cleared and counted.
#![forbid(unsafe_code)]

use super::claim::LOCK;
use super::durable;
use super::state::STATE;
use crate::error::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Renames a finished checkpoint to its place. One that is there already goes aside first and comes back on failure;
/// should the program end between the two renames, `tidy` brings it back. Returns what could not be cleared away.
pub(super) fn put(temporary: &Path, place: &Path) -> Result<Option<String>> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let aside = place.with_file_name(format!(".{name}.old-{}", std::process::id()));
    let mut replaces = place.exists();
    if replaces {
        match fs::rename(place, &aside) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                remove(place)?;
                replaces = false;
            }
            Err(e) => return Err(Error::io(place, &e)),
        }
    }
    if let Err(e) = fs::rename(temporary, place) {
        if replaces {
            let _ = fs::rename(&aside, place);
        }
        return Err(Error::io(place, &e));
    }
    durable::sync_dir(durable::parent(place))?;
    Ok(if replaces { left(&aside, fs::remove_dir_all(&aside)) } else { None })
}

/// Removes a checkpoint, hidden first, so that no half of one is ever seen under its name. An overlay does not rename
/// folders of its lower layer: there state.json goes first, without which nobody takes the rest for a checkpoint.
pub(super) fn remove(place: &Path) -> Result<()> {
    let hidden = durable::neighbour(place);
    let gone = match fs::rename(place, &hidden) {
        Ok(()) => hidden,
        Err(e) if e.kind() == ErrorKind::CrossesDevices => {
            let state = place.join(STATE);
            fs::remove_file(&state).map_err(|e| Error::io(&state, &e))?;
            place.to_path_buf()
        }
        Err(e) => return Err(Error::io(place, &e)),
    };
    fs::remove_dir_all(&gone).map_err(|e| Error::io(&gone, &e))
}

/// Clears what an interrupted save left: a checkpoint set aside whose successor never came returns to its place, and
/// every other temporary goes. Returns what could not be cleared away. Only the holder of the run's lock may call it.
pub(super) fn tidy(folder: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let path = entry.map_err(|e| Error::io(folder, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(hidden) = name.strip_prefix('.').filter(|rest| rest.starts_with("step-")) else { continue };
        let done = match hidden.split_once(".old-").map(|(place, _)| folder.join(place)) {
            Some(place) if !place.exists() => fs::rename(&path, &place),
            _ if path.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        faults.extend(left(&path, done));
    }
    durable::sync_dir(folder)?;
    Ok(faults)
}

/// What to tell of a file that could not be cleared away.
fn left(path: &Path, done: std::io::Result<()>) -> Option<String> {
    done.err().map(|e| format!("{} is left behind: {e}", path.display()))
}

/// The steps of the checkpoints in `folder`, ascending.
pub(super) fn steps(folder: &Path) -> Result<Vec<u64>> {
    let mut steps = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let name = entry.map_err(|e| Error::io(folder, &e))?.file_name();
        steps.extend(name.to_str().and_then(|name| name.strip_prefix("step-")).and_then(|n| n.parse::<u64>().ok()));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Makes `root` (which must not exist, or hold a lock's file at most) and the folders above it that are missing; returns
/// those made, outermost first.
pub(super) fn make_folders(root: &Path) -> Result<Vec<PathBuf>> {
    if root.is_dir() {
        let mut entries = fs::read_dir(root).map_err(|e| Error::io(root, &e))?;
        return match entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)) {
            true => Ok(Vec::new()),
            false => Err(Error::data(root, "is not empty", "name another folder, or resume it with --resume")),
        };
    }
    let missing: Vec<&Path> =
        root.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).collect();
    let mut made = Vec::new();
    for &path in missing.iter().rev() {
        match fs::create_dir(path) {
            Ok(()) => made.push(path.to_path_buf()),
            // Another process may have made a folder above the run, but the run's own must be ours.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() && path != root => {}
            Err(e) => {
                remove_folders(&made);
                return Err(Error::io(path, &e));
            }
        }
    }
    Ok(made)
}

/// Removes folders that were made in vain, innermost first; those that others have filled meanwhile stay.
pub(super) fn remove_folders(made: &[PathBuf]) {
    made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
}
