//! PASCAL VOC as the paper uses it (section 4.1): five classes, one label an image, VOC2012 or VOC2007 layout.
#![forbid(unsafe_code)]

use super::annotation::{self, Annotation, is_plain_name, printable};
use super::split::{Part, stratified};
use super::{Dataset, LabelPolicy, Sample, Source, SplitPolicy, sample};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The five classes of the paper, in the order of their labels.
pub const CLASSES: [&str; 5] = ["bicycle", "car", "cat", "dog", "person"];
/// Images that the paper uses, and of these those that validate and those that test.
const PAPER: [usize; 3] = [5175, 647, 653];
const GET_VOC: &str = "fetch VOC2012 with `dynavit data download voc` and unpack it, name its folder with --data, or draw \
                       a stand-in with `dynavit data sample`";

/// A VOC data set. `root` is VOCdevkit, or VOC2012 or VOC2007 inside it, or what holds VOCdevkit; 2012 is taken when
/// both are there. What `dynavit data sample` drew is called [`sample::NAME`]. Ids number the images of all splits in the
/// order of their names, from 0 on.
///
/// Errors: no such folder or layout, empty or overlapping lists, broken annotations (see [`annotation::parse`]), a
/// missing image, and a class without an image to train on.
pub fn open_voc(root: &Path, labels: LabelPolicy, split: SplitPolicy) -> Result<Dataset> {
    let mut notes = Vec::new();
    let (root, name) = find_layout(root, &mut notes)?;
    let listed = list_images(&root, split, &mut notes)?;
    let names: Vec<&String> = listed.keys().collect();
    let labelled: Vec<Result<Label>> = names.par_iter().map(|name| label(&root, name, labels)).collect();

    let (mut used, mut several, mut none) = (Vec::new(), 0, 0);
    for (name, labelled) in names.iter().zip(labelled) {
        let labelled = labelled?;
        several += usize::from(labelled.several);
        none += usize::from(labelled.image.is_none() && !labelled.several);
        if let Some((path, label)) = labelled.image {
            used.push((Sample { id: 0, source: Source::File(path), label }, listed[*name]));
        }
    }
    notes.push(match labels {
        LabelPolicy::Exclusive => format!(
            "{} of {} images show exactly one of the five classes; {several} several, {none} none",
            used.len(),
            names.len()
        ),
        LabelPolicy::Largest => format!(
            "{} of {} images show one of the five classes, {several} of them several, where the largest box decides; {none} none",
            used.len(),
            names.len()
        ),
    });

    let mut dataset = Dataset {
        name,
        classes: CLASSES.map(String::from).to_vec(),
        train: Vec::new(),
        val: Vec::new(),
        test: Vec::new(),
        notes,
        root,
    };
    if split == SplitPolicy::Stratified {
        let labels: Vec<usize> = used.iter().map(|(sample, _)| sample.label).collect();
        let parts = stratified(&labels, CLASSES.len(), PAPER[0], PAPER[1], PAPER[2], PAPER[0]);
        used.iter_mut().zip(&parts).for_each(|(used, part)| used.1 = *part);
        for (c, class) in CLASSES.iter().enumerate() {
            let all = labels.iter().filter(|l| **l == c).count();
            let cut = labels.iter().zip(&parts).filter(|(l, p)| **l == c && **p == Part::Unused).count();
            if cut > 0 {
                let note =
                    format!("{class} cut from {all} to {} images, so that {} remain in all", all - cut, PAPER[0]);
                dataset.notes.push(note);
            }
        }
    }
    dataset.fill(used);
    dataset.check_filled()?;
    Ok(dataset)
}

/// The folder that holds Annotations, and the name of the data set.
fn find_layout(root: &Path, notes: &mut Vec<String>) -> Result<(PathBuf, String)> {
    if !root.is_dir() {
        let reason = if root.exists() { "is not a folder" } else { "no such folder" };
        return Err(Error::data(root, reason, GET_VOC));
    }
    let has_layout =
        |folder: &Path| ["Annotations", "JPEGImages", "ImageSets"].iter().any(|part| folder.join(part).is_dir());
    let mut candidates = Vec::new();
    if has_layout(root) {
        let full = root.canonicalize().map_err(|e| Error::io(root, &e))?;
        let name = full.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let year = ["2012", "2007"].iter().find(|year| name.contains(**year)).unwrap_or(&"");
        candidates.push((root.to_path_buf(), format!("voc{year}")));
    }
    for base in [root.to_path_buf(), root.join("VOCdevkit")] {
        let years = ["2012", "2007"].map(|year| (base.join(format!("VOC{year}")), format!("voc{year}")));
        candidates.extend(years.into_iter().filter(|(folder, _)| folder.is_dir()));
    }
    // A folder without any of the layout is named in the error below when there is nothing better.
    candidates.sort_by_key(|(folder, _)| !has_layout(folder));
    if let [(_, taken), (other, left), ..] = &candidates[..]
        && has_layout(other)
    {
        notes.push(format!("{taken} is taken, though {left} is there too"));
    }
    let found = candidates.into_iter().next();
    let (folder, name) = found
        .ok_or_else(|| Error::data(root, "holds neither VOC2012 nor VOC2007 nor a folder Annotations", GET_VOC))?;
    for (part, what) in [("Annotations", "annotations"), ("JPEGImages", "images")] {
        if !folder.join(part).is_dir() {
            return Err(Error::data(&folder, format!("has no folder {part}, so there are no {what}"), GET_VOC));
        }
    }
    if sample::is_drawn(&folder) {
        notes.push("the images are drawn by the program: what is measured on them says nothing of photographs".into());
        return Ok((folder, sample::NAME.into()));
    }
    Ok((folder, name))
}

/// The names of the images to look at, each with its part; under [`SplitPolicy::Stratified`] the part comes later.
fn list_images(root: &Path, split: SplitPolicy, notes: &mut Vec<String>) -> Result<BTreeMap<String, Part>> {
    let lists = root.join("ImageSets").join("Main");
    let mut listed = BTreeMap::new();
    match split {
        SplitPolicy::Lists => {
            for (file, part) in [("train.txt", Part::Train), ("val.txt", Part::Val)] {
                let file = lists.join(file);
                for name in read_list(&file)? {
                    if let Some(other) = listed.insert(name.clone(), part).filter(|other| *other != part) {
                        let reason = format!("lists {name}, which the list of {} holds too", other.name());
                        return Err(Error::data(&file, reason, "keep each image in one list"));
                    }
                }
            }
        }
        SplitPolicy::Stratified => {
            let file = lists.join("trainval.txt");
            let names = if file.exists() {
                read_list(&file)?
            } else {
                notes.push("no ImageSets/Main/trainval.txt: all annotations are taken".to_string());
                all_annotations(&root.join("Annotations"))?
            };
            listed.extend(names.into_iter().map(|name| (name, Part::Unused)));
        }
    }
    Ok(listed)
}

/// The first word of each line.
fn read_list(file: &Path) -> Result<BTreeSet<String>> {
    if !file.exists() {
        return Err(Error::data(file, "no such list", "fetch the data set again, or use the split `stratified`"));
    }
    let text = super::text_of(file)?;
    let names: BTreeSet<String> = text.lines().filter_map(|l| l.split_whitespace().next()).map(String::from).collect();
    if let Some(bad) = names.iter().find(|name| !is_plain_name(name)) {
        let reason = format!("lists '{}', which is not a plain name", printable(bad));
        return Err(Error::data(file, reason, "list names of annotations without folder and ending"));
    }
    if names.is_empty() {
        return Err(Error::data(file, "the list is empty", "list at least one image"));
    }
    Ok(names)
}

/// The stems of all XML files in `folder`.
fn all_annotations(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let file = entry.map_err(|e| Error::io(folder, &e))?.file_name();
        let Some(stem) = file.to_str().and_then(|file| file.strip_suffix(".xml")) else { continue };
        if !stem.is_empty() && !stem.starts_with('.') {
            names.insert(stem.to_string());
        }
    }
    if names.is_empty() {
        return Err(Error::data(folder, "holds no annotations", GET_VOC));
    }
    Ok(names)
}

/// What an annotation comes to.
struct Label {
    /// The image and its label, if it is used.
    image: Option<(PathBuf, usize)>,
    /// Whether several of the five classes are annotated.
    several: bool,
}

fn label(root: &Path, name: &str, policy: LabelPolicy) -> Result<Label> {
    let path = root.join("Annotations").join(format!("{name}.xml"));
    if !path.exists() {
        return Err(Error::data(
            &path,
            "no such annotation, though a list names it",
            "fetch it or take it off the list",
        ));
    }
    let annotation = annotation::read(&path)?;
    let class = |name: &str| CLASSES.iter().position(|class| *class == name);
    let present: BTreeSet<usize> = annotation.objects.iter().filter_map(|o| class(&o.name)).collect();
    let several = present.len() > 1;
    let label = match policy {
        LabelPolicy::Exclusive => present.first().copied().filter(|_| !several),
        LabelPolicy::Largest => {
            let mut largest: Option<(f64, usize)> = None;
            for (object, c) in annotation.objects.iter().filter_map(|o| Some((o, class(&o.name)?))) {
                let area = object.area(&path)?;
                if largest.is_none_or(|(most, _)| area > most) {
                    largest = Some((area, c));
                }
            }
            largest.map(|(_, c)| c)
        }
    };
    let image = label.map(|label| find_image(root, name, &annotation).map(|path| (path, label))).transpose()?;
    Ok(Label { image, several })
}

/// The image of an annotation: by the annotation's own name, else by its `<filename>`.
fn find_image(root: &Path, name: &str, annotation: &Annotation) -> Result<PathBuf> {
    let folder = root.join("JPEGImages");
    let names = ["jpg", "jpeg", "png"].map(|ending| format!("{name}.{ending}"));
    let found = names.iter().chain(&annotation.filename).map(|file| folder.join(file)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let missing = folder.join(annotation.filename.as_ref().unwrap_or(&names[0]));
        Error::data(
            missing,
            format!("no such image, though Annotations/{name}.xml is there"),
            "fetch it or remove the annotation",
        )
    })
}

#[cfg(test)]
#[path = "voc_tests.rs"]
mod tests;
