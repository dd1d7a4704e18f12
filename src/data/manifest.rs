//! The manifest of a data set: what was seen, by content, so that two runs can be told to have seen the same.
#![forbid(unsafe_code)]

use super::{Dataset, Sample, sample};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::path::Path;

#[derive(Serialize)]
struct Manifest<'a> {
    name: &'a str,
    classes: &'a [String],
    notes: &'a [String],
    sha256: String,
    splits: Splits,
}

#[derive(Serialize)]
struct Splits {
    train: Vec<Entry>,
    val: Vec<Entry>,
    test: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    path: String,
    label: usize,
    sha256: String,
}

/// What of a manifest tells the content of the images.
#[derive(Deserialize)]
struct Content {
    splits: Contents,
}

#[derive(Deserialize)]
struct Contents {
    train: Vec<Entry>,
    val: Vec<Entry>,
    test: Vec<Entry>,
}

/// See [`Dataset::manifest_json`]. Reads every file once.
pub fn json(dataset: &Dataset) -> Result<String> {
    let entries = |samples: &[Sample]| samples.par_iter().map(|s| entry(&dataset.root, s)).collect::<Result<Vec<_>>>();
    let splits = Splits { train: entries(&dataset.train)?, val: entries(&dataset.val)?, test: entries(&dataset.test)? };
    let failed = |e: serde_json::Error| Error::data(&dataset.root, format!("no manifest: {e}"), "report this");
    // The drawn sample is hashed by the name of its layout, as it is in the manifests of runs that it was called so in.
    let name = if dataset.name == sample::NAME { sample::LAYOUT } else { &dataset.name };
    let canonical = serde_json::to_vec(&(name, &dataset.classes, &splits)).map_err(failed)?;
    let manifest = Manifest {
        name: &dataset.name,
        classes: &dataset.classes,
        notes: &dataset.notes,
        sha256: hex(&canonical),
        splits,
    };
    serde_json::to_string_pretty(&manifest).map_err(failed)
}

/// The content of the images that a manifest lists for training, as SHA-256; `None` where `text` is no manifest.
pub fn training_content(text: &str) -> Option<HashSet<String>> {
    let manifest: Content = serde_json::from_str(text).ok()?;
    Some(manifest.splits.train.into_iter().map(|image| image.sha256).collect())
}

/// What is amiss with images that a manifest lists more than once, by their content, in words: some of those that validate or
/// test are trained on, some are of several classes.
pub fn doubles(text: &str) -> Vec<String> {
    let Ok(Content { splits: Contents { train, val, test } }) = serde_json::from_str(text) else { return Vec::new() };
    let trained: HashSet<&str> = train.iter().map(|image| &*image.sha256).collect();
    let mut found = Vec::new();
    for (what, images) in [("validation", &val), ("test", &test)] {
        let both: Vec<&Entry> = images.iter().filter(|image| trained.contains(&*image.sha256)).collect();
        if let Some(first) = both.first() {
            let (count, of, path) = (both.len(), images.len(), &first.path);
            found.push(format!(
                "{count} of {of} {what} images are training images too, by their content, as {path}: accuracy on them says \
                 nothing of new images"
            ));
        }
    }
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut several: Vec<&Entry> = Vec::new();
    for image in train.iter().chain(&val).chain(&test) {
        if *labels.entry(&image.sha256).or_insert(image.label) != image.label {
            several.push(image);
        }
    }
    if let Some(first) = several.first() {
        let (count, path) = (several.len(), &first.path);
        found.push(format!("images under another class too: {count}, as {path}"));
    }
    found
}

fn entry(root: &Path, sample: &Sample) -> Result<Entry> {
    Ok(Entry { path: relative(root, &sample.source.place()), label: sample.label, sha256: sample.source.sha256()? })
}

/// The way from `root` to `path`, with slashes on every system.
pub(super) fn relative(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// The SHA-256 of `bytes` in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn dataset(root: &Path) -> Dataset {
        let sample =
            |id: u64, name: &str, label| Sample { id, source: Source::File(root.join("sub").join(name)), label };
        Dataset {
            name: "folder".into(),
            root: root.to_path_buf(),
            classes: vec!["a".into(), "b".into()],
            train: vec![sample(0, "x", 0), sample(1, "y", 1)],
            val: vec![sample(2, "z", 1)],
            test: Vec::new(),
            notes: vec!["a note".into()],
        }
    }

    fn written() -> (tempfile::TempDir, serde_json::Value) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for (name, text) in [("x", "abc"), ("y", ""), ("z", "zz")] {
            std::fs::write(folder.path().join("sub").join(name), text).unwrap();
        }
        let json = serde_json::from_str(&dataset(folder.path()).manifest_json().unwrap()).unwrap();
        (folder, json)
    }

    #[test]
    fn files_are_listed_by_content() {
        let (_folder, json) = written();
        assert_eq!(json["classes"], serde_json::json!(["a", "b"]));
        let x = &json["splits"]["train"][0];
        assert_eq!(x["path"], "sub/x");
        // FIPS 180-2, appendix B.1.
        assert_eq!(x["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(json["splits"]["val"][0]["label"], 1);
        let trained = training_content(&json.to_string()).unwrap();
        assert!(trained.len() == 2 && trained.contains(x["sha256"].as_str().unwrap()));
        assert_eq!(training_content("{}"), None);
    }

    #[test]
    fn images_listed_twice_are_told() {
        let (folder, json) = written();
        assert_eq!(doubles(&json.to_string()), [""; 0]);
        // The validation image, of class 1, has the content of a training image of class 0.
        std::fs::write(folder.path().join("sub/z"), "abc").unwrap();
        let told = doubles(&dataset(folder.path()).manifest_json().unwrap());
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("1 of 1 validation images are training images too, by their content, as sub/z"));
        assert_eq!(told[1], "images under another class too: 1, as sub/z");
        std::fs::write(folder.path().join("sub/z"), "").unwrap();
        assert_eq!(doubles(&dataset(folder.path()).manifest_json().unwrap()).len(), 1);
    }

    #[test]
    fn the_hash_follows_content_not_place() {
        let (first, json) = written();
        assert_eq!(json["sha256"], written().1["sha256"]);
        std::fs::write(first.path().join("sub/z"), "z").unwrap();
        let changed: serde_json::Value = serde_json::from_str(&dataset(first.path()).manifest_json().unwrap()).unwrap();
        assert_ne!(json["sha256"], changed["sha256"]);
        let mut relabelled = dataset(first.path());
        relabelled.val[0].label = 0;
        let relabelled: serde_json::Value = serde_json::from_str(&relabelled.manifest_json().unwrap()).unwrap();
        assert_ne!(changed["sha256"], relabelled["sha256"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let (folder, _) = written();
        std::fs::remove_file(folder.path().join("sub/y")).unwrap();
        let message = dataset(folder.path()).manifest_json().unwrap_err().to_string();
        assert!(message.contains("y: "), "{message}");
    }
}
