//! Tiny-ImageNet-200 in its official layout: a folder for each class to train on, a list for the validation images.
#![forbid(unsafe_code)]

use super::annotation::{is_plain_name, printable};
use super::folder::{entries, is_image};
use super::split::{Part, held_out};
use super::{Dataset, Sample, Source, SplitPolicy, text_of};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

const GET: &str = "fetch tiny-imagenet-200.zip with `dynavit data download tiny-imagenet` and unpack it, or name its \
                   folder with --data";
const AGAIN: &str = "unpack the archive again";

/// A Tiny-ImageNet data set: `root` is `tiny-imagenet-200` or what holds it. Classes are those of `wnids.txt`, in the
/// order of their numbers, so that a label is torchvision's; their names are the first of `words.txt`.
///
/// `Stratified`: a tenth of each class of `train` validates, the images of `val` test. `Lists`: all of `train` trains,
/// `val` validates. The images of the official `test` folder have no labels and are left out. Ids number the images of
/// `train` by class and name, then those of `val` by name. Errors: no such layout, class folders that are not those of
/// `wnids.txt`, images of `val` without a label, labels without an image, and a class without an image to train on.
pub fn open_tiny_imagenet(root: &Path, split: SplitPolicy) -> Result<Dataset> {
    let root = find_layout(root)?;
    let mut notes = Vec::new();
    let wnids = read_wnids(&root.join("wnids.txt"))?;
    let label_of: HashMap<&str, usize> = wnids.iter().enumerate().map(|(label, wnid)| (wnid.as_str(), label)).collect();
    let train = train_images(&root.join("train"), &wnids, &mut notes)?;
    let val = val_images(&root.join("val"), &label_of)?;

    let classes = names(&root.join("words.txt"), &wnids, &mut notes)?;
    let mut dataset = Dataset::empty("tiny-imagenet", &root, classes, notes);
    let labels: Vec<usize> = train.iter().map(|(_, label)| *label).collect();
    let parts = held_out(&labels, wnids.len(), split, "val", &mut dataset.notes);
    let held = if split == SplitPolicy::Stratified { Part::Test } else { Part::Val };
    let sample = |((path, label), part)| (Sample { id: 0, source: Source::File(path), label }, part);
    let held = vec![held; val.len()];
    dataset.fill(train.into_iter().zip(parts).chain(val.into_iter().zip(held)).map(sample).collect());
    dataset.check_filled()?;
    Ok(dataset)
}

fn find_layout(root: &Path) -> Result<PathBuf> {
    if !root.is_dir() {
        let reason = if root.exists() { "is not a folder" } else { "no such folder" };
        return Err(Error::data(root, reason, GET));
    }
    let candidates = [root.to_path_buf(), root.join("tiny-imagenet-200")];
    let found = candidates.into_iter().find(|folder| folder.join("wnids.txt").is_file());
    found.ok_or_else(|| Error::data(root, "holds no wnids.txt, the list of classes of Tiny-ImageNet", GET))
}

/// The numbers of the classes in ascending order.
fn read_wnids(path: &Path) -> Result<Vec<String>> {
    let text = text_of(path)?;
    let mut wnids = BTreeSet::new();
    for wnid in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !is_plain_name(wnid) {
            let reason = format!("lists '{}', which is not a plain name", printable(wnid));
            return Err(Error::data(path, reason, AGAIN));
        }
        if !wnids.insert(wnid.to_string()) {
            return Err(Error::data(path, format!("lists {wnid} twice"), "list each class once"));
        }
    }
    if wnids.len() < 2 {
        return Err(Error::data(path, format!("lists {} classes", wnids.len()), "list at least two"));
    }
    Ok(wnids.into_iter().collect())
}

/// What people call the classes. A name that several have gets the number behind it.
fn names(path: &Path, wnids: &[String], notes: &mut Vec<String>) -> Result<Vec<String>> {
    if !path.exists() {
        notes.push("no words.txt: classes are called by their numbers".into());
        return Ok(wnids.to_vec());
    }
    let text = text_of(path)?;
    let words: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('\t')).collect();
    let first = |wnid: &String| {
        let name = words.get(wnid.as_str()).map_or("", |names| names.split(',').next().unwrap_or("").trim());
        if name.is_empty() { wnid.clone() } else { name.to_string() }
    };
    let names: Vec<String> = wnids.iter().map(first).collect();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    names.iter().for_each(|name| *times.entry(name).or_default() += 1);
    let told_apart = |(name, wnid): (&String, &String)| {
        if times[name.as_str()] > 1 { format!("{name} ({wnid})") } else { name.clone() }
    };
    Ok(names.iter().zip(wnids).map(told_apart).collect())
}

/// The images of `train/<wnid>/images`, with their labels.
fn train_images(folder: &Path, wnids: &[String], notes: &mut Vec<String>) -> Result<Vec<(PathBuf, usize)>> {
    let list = "wnids.txt";
    for class in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let name = class.file_name().unwrap_or_default().to_string_lossy();
        if wnids.binary_search_by(|wnid| wnid.as_str().cmp(&name)).is_err() {
            return Err(Error::data(
                &class,
                format!("is not a class of {list}"),
                "list it there, or remove the folder",
            ));
        }
    }
    let (mut images, mut others) = (Vec::new(), 0);
    for (label, wnid) in wnids.iter().enumerate() {
        let class = folder.join(wnid);
        if !class.is_dir() {
            let reason = format!("no such folder, though {list} lists the class");
            return Err(Error::data(&class, reason, format!("{AGAIN}, or take the class off the list")));
        }
        let (found, rest): (Vec<_>, Vec<_>) = entries(&class.join("images"))?.into_iter().partition(|p| is_image(p));
        others += rest.len();
        if found.is_empty() {
            return Err(Error::data(class.join("images"), "empty class: the folder holds no image", AGAIN));
        }
        images.extend(found.into_iter().map(|path| (path, label)));
    }
    if others > 0 {
        notes.push(format!("left out in train, not being .JPEG, .jpg or .png: {others}"));
    }
    Ok(images)
}

/// The images of `val/images`, with the labels that `val/val_annotations.txt` gives them.
fn val_images(folder: &Path, label_of: &HashMap<&str, usize>) -> Result<Vec<(PathBuf, usize)>> {
    let (list, images) = (folder.join("val_annotations.txt"), folder.join("images"));
    if !list.exists() {
        return Err(Error::data(&list, "no such list, so the images of val are not labelled", AGAIN));
    }
    let mut labels: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (number, line) in text_of(&list)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |reason: String| Err(Error::data(&list, format!("line {}: {reason}", number + 1), AGAIN));
        let mut words = line.split('\t').map(str::trim);
        let (Some(file), Some(wnid)) = (words.next(), words.next()) else {
            return bad(format!("'{}' is not a file and a class with a tab between", printable(line)));
        };
        let Some(&label) = label_of.get(wnid) else {
            return bad(format!("'{}' is not a class of wnids.txt", printable(wnid)));
        };
        if !is_plain_name(file) {
            return bad(format!("'{}' is not a plain file name", printable(file)));
        }
        let path = images.join(file);
        if !path.is_file() {
            return Err(Error::data(path, "no such image, though val_annotations.txt labels it", AGAIN));
        }
        if labels.insert(path, label).is_some() {
            return bad(format!("labels {file} a second time"));
        }
    }
    let unlabelled = entries(&images)?.into_iter().find(|path| is_image(path) && !labels.contains_key(path));
    match unlabelled {
        Some(path) => Err(Error::data(path, "is not labelled in val_annotations.txt", "label it there or remove it")),
        None => Ok(labels.into_iter().collect()),
    }
}

#[cfg(test)]
#[path = "tiny_imagenet_tests.rs"]
mod tests;
