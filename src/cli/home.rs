//! The run that a checkpoint lies in: its settings, and the images that it was trained on.
#![forbid(unsafe_code)]

use super::print;
use crate::data::{Sample, training_content};
use crate::error::{Error, Result};
use crate::train::{Stop, TrainConfig};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Images that are hashed between two looks at the request to stop.
const CHUNK: usize = 256;

/// A run directory.
pub struct Home {
    pub folder: PathBuf,
    pub config: TrainConfig,
}

impl Home {
    /// The run that `path` lies in, if any.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let path = path.canonicalize().map_err(|error| Error::io(path, &error))?;
        for folder in path.ancestors().take(4) {
            let file = folder.join("config.toml");
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            match toml::from_str(&text) {
                Ok(config) => return Ok(Some(Home { folder: folder.to_path_buf(), config })),
                // Another program's file of that name is no concern of ours; a run's own must not be guessed around.
                Err(_) if !folder.join("checkpoints").is_dir() => {}
                Err(error) => {
                    let remedy = "correct the file, or evaluate a copy of the weight file";
                    return Err(Error::data(file, error.message(), remedy));
                }
            }
        }
        Ok(None)
    }

    /// How many of `samples` have the content of an image that the run was trained on, wherever they lie now. Unknown, and
    /// told to the user, when the run's manifest cannot be read.
    pub fn trained_on(&self, samples: &[Sample], stop: &Stop) -> Result<Option<usize>> {
        let file = self.folder.join("manifest.json");
        let Some(trained) = std::fs::read_to_string(&file).ok().and_then(|text| training_content(&text)) else {
            let text = "cannot be read, so nobody knows whether the run was trained on these images";
            print::complain("warning", &format!("{} {text}", file.display()));
            return Ok(None);
        };
        let mut count = 0;
        for chunk in samples.chunks(CHUNK) {
            if stop.requested() {
                return Err(Error::Interrupted { saved: "nothing was measured".into() });
            }
            let hashes = chunk.par_iter().map(|sample| sample.source.sha256()).collect::<Result<Vec<_>>>()?;
            count += hashes.iter().filter(|hash| trained.contains(*hash)).count();
        }
        Ok(Some(count))
    }
}
