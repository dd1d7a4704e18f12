//! From what `--checkpoint` or `--weights` names to a weight file and its card.
#![forbid(unsafe_code)]

use super::folders::steps;
use super::state::{MODEL, OPTIM, STATE, State};
use super::{CARD, CHECKPOINTS, CONFIG, ModelCard, durable};
use crate::error::{Error, Result};
use crate::weights::Weights;
use std::path::{Path, PathBuf};

/// The weight file and card that `--checkpoint` or `--weights` names: a run directory (its best, else its last), a
/// checkpoint folder, a folder as the Hugging Face hub has them, or a file. The card is None for a plain timm file.
///
/// A checkpoint folder that is not whole is an error that names the file at fault.
pub fn resolve(path: &Path) -> Result<(PathBuf, Option<ModelCard>)> {
    let file = weight_file(path)?;
    let card = card(&file)?;
    Ok((file, card))
}

fn weight_file(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        let remedy = "name a run directory, a checkpoint folder or a .safetensors file";
        return Err(Error::data(path, "does not exist", remedy));
    }
    if path.is_file() {
        return match path.file_name().and_then(|name| name.to_str()) {
            // A link in its portable form: text in place of a symbolic link.
            Some(name @ ("best" | "last")) => match durable::follow(durable::parent(path), name)? {
                Some(folder) => checkpoint_file(&folder),
                None => Ok(path.to_path_buf()),
            },
            Some(MODEL) => State::verify_model(durable::parent(path)).map(|()| path.to_path_buf()),
            _ => Ok(path.to_path_buf()),
        };
    }
    if [MODEL, OPTIM, STATE].iter().any(|name| path.join(name).exists()) {
        let file = path.join(MODEL);
        let alone = file.is_file() && !path.join(OPTIM).exists() && !path.join(STATE).exists();
        // A checkpoint of ours that lost its other files is damaged; another program's file never had them.
        return if alone && card(&file)?.is_none() { Ok(file) } else { checkpoint_file(path) };
    }
    for link in ["best", "last"] {
        match durable::follow(path, link)? {
            Some(folder) if folder.is_dir() => return checkpoint_file(&folder),
            _ if link == "best" => {
                if let Some(folder) = best_by_states(path)? {
                    return checkpoint_file(&folder);
                }
            }
            _ => {}
        }
    }
    if path.join(CONFIG).exists() || path.join(CHECKPOINTS).exists() {
        return Err(Error::data(path, "is a run without a checkpoint", "train it first, or name another"));
    }
    let remedy = "name one of them or a .safetensors file";
    Err(Error::data(path, "is neither a run directory nor a checkpoint folder", remedy))
}

/// The checkpoint of the best epoch of the run `root`, or its newest one before the first epoch is over, as their states tell;
/// links do not survive every copy. None when there is no checkpoint, an error when the best epoch's is gone.
fn best_by_states(root: &Path) -> Result<Option<PathBuf>> {
    let folder = root.join(CHECKPOINTS);
    if !folder.is_dir() {
        return Ok(None);
    }
    let places = steps(&folder)?.into_iter().map(|step| folder.join(format!("step-{step}")));
    let read: Vec<(PathBuf, State)> =
        places.filter_map(|place| State::read(&place).ok().map(|state| (place, state))).collect();
    let Some((newest, now)) = read.last() else { return Ok(None) };
    if now.progress.best_epoch.is_none() {
        return Ok(Some(newest.clone()));
    }
    match read.iter().find(|(_, state)| state.ends_best_epoch_of(&now.progress)) {
        Some((place, _)) => Ok(Some(place.clone())),
        None => {
            let reason = "the checkpoint of its best epoch is gone";
            Err(Error::data(root, reason, format!("name another, such as {}", newest.display())))
        }
    }
}

fn checkpoint_file(folder: &Path) -> Result<PathBuf> {
    State::verify(folder)?;
    Ok(folder.join(MODEL))
}

/// The card of a checkpoint folder, whose files are not held to their hashes here.
pub fn card_of(checkpoint: &Path) -> Result<Option<ModelCard>> {
    card(&checkpoint.join(MODEL))
}

fn card(file: &Path) -> Result<Option<ModelCard>> {
    let weights = Weights::open(file)?;
    let Some(text) = weights.metadata().get(CARD) else { return Ok(None) };
    let bad = |why: String| {
        let reason = format!("its metadata {CARD:?} is not a model card ({why})");
        Error::data(file, reason, "save the file again with this version, or name another")
    };
    let card: ModelCard = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    card.check().map_err(bad)?;
    Ok(Some(card))
}
