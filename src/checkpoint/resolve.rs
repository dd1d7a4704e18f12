//! From what `--checkpoint` or `--weights` names to a weight file and its card.
#![forbid(unsafe_code)]

use super::state::{MODEL, OPTIM, STATE, State};
use super::{CARD, CHECKPOINTS, CONFIG, ModelCard, durable};
use crate::error::{Error, Result};
use crate::weights::Weights;
use std::path::{Path, PathBuf};

/// The weight file and card that `--checkpoint` or `--weights` names: a run directory (its best, else its last), a
/// checkpoint folder, or a file. The card is None for a plain timm file.
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
        return checkpoint_file(path);
    }
    for link in ["best", "last"] {
        if let Some(folder) = durable::follow(path, link)? {
            return checkpoint_file(&folder);
        }
    }
    if path.join(CONFIG).exists() || path.join(CHECKPOINTS).exists() {
        return Err(Error::data(path, "is a run without a checkpoint", "train it first, or name another"));
    }
    let remedy = "name one of them or a .safetensors file";
    Err(Error::data(path, "is neither a run directory nor a checkpoint folder", remedy))
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
