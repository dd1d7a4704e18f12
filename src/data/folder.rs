//! Class-per-folder data: the names of folders are the classes.
#![forbid(unsafe_code)]

use super::split::{Part, SEED};
use super::{Dataset, Sample, Source};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The images of each class, both in the order of their names.
type Classes = BTreeMap<String, Vec<PathBuf>>;

/// Class-per-folder data: `root/{train,val[,test]}/CLASS/*`, or `root/CLASS/*` split 75/12.5/12.5 by class.
///
/// Images are files ending in .jpg, .jpeg or .png in any case, in the class's folder or in folders below it, as
/// torchvision's `ImageFolder` takes them; hidden files and folders are passed over. `val` may be
/// called `valid` or `validation` too. Without it an eighth of each class of `train` validates. Ids number the images in
/// the order of split, class and name. Errors: a missing folder, a class with nothing to train on, images without a class
/// folder, classes of `val` or `test` that are not among those of `train`, splits without `train`, two folders for one split.
pub fn open_folder(root: &Path) -> Result<Dataset> {
    open(root, None)
}

/// Class-per-folder data to evaluate a model on that knows the classes `known`, in their order: as [`open_folder`], but
/// nothing need be there to train on, and classes may have no image. A class that the model does not know is an error.
pub fn open_folder_of(root: &Path, known: &[String]) -> Result<Dataset> {
    open(root, Some(known))
}

fn open(root: &Path, known: Option<&[String]>) -> Result<Dataset> {
    if !root.is_dir() {
        let reason = if root.exists() { "is not a folder" } else { "no such folder" };
        return Err(Error::data(root, reason, "name a folder that holds a folder for each class"));
    }
    let mut notes = Vec::new();
    let mut held: Vec<(Part, PathBuf)> =
        [("val", Part::Val), ("valid", Part::Val), ("validation", Part::Val), ("test", Part::Test)]
            .into_iter()
            .map(|(name, part)| (part, root.join(name)))
            .filter(|(_, folder)| folder.is_dir())
            .collect();
    let split = root.join("train").is_dir();
    // Without train, folders of those names may be classes.
    let mut only_held = false;
    if let (false, Some((_, folder))) = (split, held.first()) {
        only_held = entries(folder)?.iter().any(|path| path.is_dir());
        if only_held && known.is_none() {
            let reason = format!("no such folder, though {} is there", folder.display());
            return Err(Error::data(root.join("train"), reason, "put the class folders to train on there"));
        }
    }
    if let [(Part::Val, one), (Part::Val, other), ..] = &held[..] {
        let reason = format!("is there beside {}", one.display());
        return Err(Error::data(other, reason, "keep one folder of images to validate on"));
    }
    let mut parts = Vec::new();
    if !only_held {
        let folder = if split { root.join("train") } else { root.to_path_buf() };
        parts.push((Part::Train, scan(&folder, known.is_none(), &mut notes)?));
    }
    if !split && !only_held {
        held.clear();
    }
    let classes: Vec<String> = match (known, parts.first()) {
        (None, Some((_, train))) => train.keys().cloned().collect(),
        (known, _) => known.unwrap_or_default().to_vec(),
    };
    for (part, folder) in held {
        let found = scan(&folder, false, &mut notes)?;
        let absent: Vec<&str> = classes.iter().filter(|c| !found.contains_key(*c)).map(String::as_str).collect();
        if !absent.is_empty() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            notes.push(format!("{name} has no image of {}", absent.join(", ")));
        }
        parts.push((part, found));
    }
    for class in parts.iter().flat_map(|(_, found)| found.keys()) {
        if !classes.contains(class) {
            let whose = if known.is_some() { "the model" } else { "train" };
            let reason = format!("class '{class}' is not a class of {whose}, whose classes are {}", classes.join(", "));
            return Err(Error::data(root, reason, "rename its folder, or take it out"));
        }
    }
    let validates = parts.iter().any(|(part, _)| *part == Part::Val);
    let missing: &[Part] = match (split, only_held) {
        (false, false) => &[Part::Val, Part::Test],
        (true, _) if !validates => &[Part::Val],
        _ => &[],
    };
    let mut samples = Vec::new();
    for (part, found) in &parts {
        for (label, files) in classes.iter().enumerate().filter_map(|(label, class)| Some((label, found.get(class)?))) {
            let dealt = if *part == Part::Train { deal(files.len(), label, missing) } else { vec![*part; files.len()] };
            let sample =
                |(path, part): (&PathBuf, Part)| (Sample { id: 0, source: Source::File(path.clone()), label }, part);
            samples.extend(files.iter().zip(dealt).map(sample));
        }
    }
    match missing.len() {
        0 => {}
        1 => notes.push(format!("no val folder: an eighth of each class of train validates, drawn with seed {SEED}")),
        _ => notes
            .push(format!("no train folder: each class split 75/12.5/12.5 into train, val and test with seed {SEED}")),
    }
    let mut dataset = Dataset::empty("folder", root, classes, notes);
    dataset.fill(samples);
    if known.is_none() {
        dataset.check_filled()?;
    }
    Ok(dataset)
}

/// The part of each of `n` images of a class: an eighth, rounded, to each of `missing`, the rest trains.
fn deal(n: usize, label: usize, missing: &[Part]) -> Vec<Part> {
    let eighth = (n + 4) / 8;
    let mut order: Vec<usize> = (0..n).collect();
    Stream::new(SEED, Purpose::Split, label as u32, 0).shuffle(&mut order);
    let mut parts = vec![Part::Train; n];
    for (part, places) in missing.iter().zip(order.chunks(eighth.max(1))) {
        places.iter().take(eighth).for_each(|&i| parts[i] = *part);
    }
    parts
}

/// The classes in `folder` and their images. Of what is trained on, a class without an image and a class alone are errors;
/// elsewhere a class without an image is left out.
fn scan(folder: &Path, trains: bool, notes: &mut Vec<String>) -> Result<Classes> {
    let (mut classes, mut others) = (Classes::new(), 0);
    for class in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let (images, rest) = images_below(&class)?;
        others += rest;
        let Some(name) = class.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::data(&class, "the folder's name is not UTF-8", "rename it"));
        };
        if images.is_empty() && trains {
            let remedy = "add images ending in .jpg, .jpeg or .png, or remove the folder";
            return Err(Error::data(&class, "empty class: the folder holds no image", remedy));
        }
        if !images.is_empty() {
            classes.insert(name.to_string(), images);
        }
    }
    if classes.is_empty() {
        let unlabelled = entries(folder)?.iter().any(|path| is_image(path));
        let reason = if unlabelled {
            "its images are not labelled: it holds no class folder"
        } else {
            "holds no class folder with an image"
        };
        return Err(Error::data(folder, reason, "make a folder for each class and put its images there"));
    }
    if classes.len() == 1 && trains {
        let reason = format!("holds one class alone, '{}'", classes.keys().next().map_or("", String::as_str));
        return Err(Error::data(folder, reason, "a classifier needs the folders of two classes or more"));
    }
    if others > 0 {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        notes.push(format!("left out in {name}, not being .jpg, .jpeg or .png: {others}"));
    }
    Ok(classes)
}

/// The images in `folder` and in the folders below it, each folder's own before those of its subfolders, in the order of
/// their names, and how many other files there are. Hidden files and folders are passed over, and a link that leads back
/// to a folder that it lies in is not followed.
pub fn images_below(folder: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let (mut images, mut others) = (Vec::new(), 0);
    below(folder, &mut Vec::new(), &mut images, &mut others)?;
    Ok((images, others))
}

/// Walks `folder`, which lies in `above`, canonical paths from the folder on that the walk began in.
fn below(folder: &Path, above: &mut Vec<PathBuf>, images: &mut Vec<PathBuf>, others: &mut usize) -> Result<()> {
    let own = folder.canonicalize().map_err(|e| Error::io(folder, &e))?;
    if above.contains(&own) || above.first().is_some_and(|began| began.starts_with(&own)) {
        return Ok(());
    }
    let (folders, files): (Vec<_>, Vec<_>) = entries(folder)?.into_iter().partition(|path| path.is_dir());
    let all = files.len();
    let before = images.len();
    images.extend(files.into_iter().filter(|path| is_image(path)));
    *others += all - (images.len() - before);
    above.push(own);
    for folder in folders {
        below(&folder, above, images, others)?;
    }
    above.pop();
    Ok(())
}

/// What is in `folder` and not hidden, sorted.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let entry = entry.map_err(|e| Error::io(folder, &e))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    matches!(ending.as_str(), "jpg" | "jpeg" | "png") && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Empty files stand for images: this room only looks at names.
    fn tree(files: &[(&str, usize)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (folder, n) in files {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            (0..*n).for_each(|i| std::fs::write(folder.join(format!("{i:02}.JPG")), "").unwrap());
        }
        root
    }

    fn message(root: &Path) -> String {
        open_folder(root).unwrap_err().to_string()
    }

    #[test]
    fn given_splits_are_taken() {
        let root = tree(&[("train/dog", 3), ("train/cat", 2), ("val/cat", 1), ("val/dog", 1), (".git/x", 1)]);
        std::fs::write(root.path().join("train/dog/notes.txt"), "").unwrap();
        std::fs::write(root.path().join("train/dog/.hidden.jpg"), "").unwrap();
        let data = open_folder(root.path()).unwrap();
        assert_eq!(data.classes, ["cat", "dog"]);
        assert_eq!(data.train.iter().map(|s| s.label).collect::<Vec<_>>(), [0, 0, 1, 1, 1]);
        assert_eq!(data.val.iter().map(|s| (s.id, s.label)).collect::<Vec<_>>(), [(5, 0), (6, 1)]);
        assert_eq!(data.test, []);
        assert_eq!(data.notes, ["left out in train, not being .jpg, .jpeg or .png: 1"]);
    }

    #[test]
    fn images_lie_in_folders_of_their_class_too() {
        let root = tree(&[("train/cat", 1), ("train/cat/wild/big", 2), ("train/cat/.cache", 3), ("train/dog/a", 2)]);
        let cat = root.path().join("train/cat");
        std::fs::write(cat.join("wild/notes.txt"), "").unwrap();
        #[cfg(unix)]
        for (to, name) in [(cat.clone(), "again"), (root.path().to_path_buf(), "above")] {
            std::os::unix::fs::symlink(to, cat.join("wild").join(name)).unwrap();
        }
        let (images, others) = images_below(&cat).unwrap();
        let names = ["00.JPG", "wild/big/00.JPG", "wild/big/01.JPG"];
        assert_eq!(images, names.map(|name| cat.join(name)));
        assert_eq!(others, 1);
        let mut notes = Vec::new();
        let classes = scan(&root.path().join("train"), true, &mut notes).unwrap();
        assert_eq!(classes.values().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(notes, ["left out in train, not being .jpg, .jpeg or .png: 1"]);
    }

    #[test]
    fn plain_class_folders_are_split_by_class() {
        let root = tree(&[("a", 40), ("b", 16)]);
        let data = open_folder(root.path()).unwrap();
        let count = |samples: &[Sample], label| samples.iter().filter(|s| s.label == label).count();
        assert_eq!([0, 1].map(|c| count(&data.train, c)), [30, 12]);
        assert_eq!([0, 1].map(|c| count(&data.val, c)), [5, 2]);
        assert_eq!([0, 1].map(|c| count(&data.test, c)), [5, 2]);
        let all = [&data.train, &data.val, &data.test].map(|s| s.clone()).concat();
        assert_eq!(all.iter().map(|s| s.id).collect::<BTreeSet<_>>(), (0..56).collect());
        assert_eq!(all.iter().map(|s| s.source.place()).collect::<BTreeSet<_>>().len(), 56);
        assert_eq!(open_folder(root.path()).unwrap().val, data.val);
        assert!(data.notes[0].contains("75/12.5/12.5"));
    }

    #[test]
    fn a_missing_val_is_taken_from_train() {
        let root = tree(&[("train/a", 16), ("train/b", 8), ("test/a", 2), ("test/b", 3)]);
        let data = open_folder(root.path()).unwrap();
        assert_eq!([data.train.len(), data.val.len(), data.test.len()], [21, 3, 5]);
        assert!(data.notes[0].contains("no val folder"));
    }

    #[test]
    fn val_goes_by_other_names() {
        for name in ["valid", "validation"] {
            let root = tree(&[("train/a", 8), ("train/b", 8)]);
            for class in ["a", "b"] {
                std::fs::create_dir_all(root.path().join(name).join(class)).unwrap();
                std::fs::write(root.path().join(name).join(class).join("x.png"), "").unwrap();
            }
            let data = open_folder(root.path()).unwrap();
            assert_eq!([data.train.len(), data.val.len(), data.test.len()], [16, 2, 0]);
            assert_eq!(data.notes, [] as [&str; 0]);
        }
        let both = tree(&[("train/a", 8), ("train/b", 8), ("val/a", 1), ("val/b", 1), ("valid/a", 1), ("valid/b", 1)]);
        assert!(message(both.path()).contains("valid: is there beside"));
        assert!(message(tree(&[("val/a", 2), ("val/b", 2)]).path()).contains("train: no such folder, though"));
        let unlabelled = tree(&[("train/a", 8), ("train/b", 8), ("test", 3)]);
        assert!(message(unlabelled.path()).contains("test: its images are not labelled"));
    }

    #[test]
    fn images_held_out_may_lack_classes() {
        let trees: [&[(&str, usize)]; 2] = [
            &[("train/a", 2), ("train/b", 2), ("train/c", 2), ("val/c", 1), ("val/a", 1)],
            &[("train/a", 2), ("train/b", 2), ("train/c", 2), ("val/b", 0), ("val/c", 1), ("val/a", 1)],
        ];
        for files in trees {
            let root = tree(files);
            let data = open_folder(root.path()).unwrap();
            assert_eq!(data.classes, ["a", "b", "c"]);
            assert_eq!(data.val.iter().map(|s| s.label).collect::<Vec<_>>(), [0, 2]);
            assert_eq!(data.notes, ["val has no image of b"]);
        }
    }

    #[test]
    fn a_model_is_evaluated_on_what_there_is_of_its_classes() {
        let known = ["dog", "cat", "cow"].map(String::from);
        let labels = |samples: &[Sample]| samples.iter().map(|s| s.label).collect::<Vec<_>>();
        // Labels are places in the model's list, whatever the order of the folders.
        let held = tree(&[("test/cat", 1), ("test/dog", 2)]);
        let data = open_folder_of(held.path(), &known).unwrap();
        assert_eq!((data.classes.as_slice(), labels(&data.test)), (&known[..], vec![0, 0, 1]));
        assert!(data.train.is_empty() && data.val.is_empty());
        assert_eq!(data.notes, ["test has no image of cow"]);
        let flat = tree(&[("dog", 16)]);
        let data = open_folder_of(flat.path(), &known).unwrap();
        assert_eq!([data.train.len(), data.val.len(), data.test.len()], [12, 2, 2]);
        let other = tree(&[("dog", 2), ("owl", 2)]);
        let error = open_folder_of(other.path(), &known).unwrap_err().to_string();
        assert!(error.contains("'owl' is not a class of the model, whose classes are dog, cat, cow"), "{error}");
        // With images to train on it is the data set of the training.
        let whole = tree(&[("train/cat", 9), ("train/cow", 9), ("train/dog", 9)]);
        let ours = open_folder(whole.path()).unwrap();
        let theirs = open_folder_of(whole.path(), &ours.classes).unwrap();
        assert_eq!((ours.train, ours.val, ours.notes), (theirs.train, theirs.val, theirs.notes));
    }

    #[test]
    fn bad_trees_are_named() {
        assert!(message(Path::new("/no/such/place")).contains("no such folder"));
        assert!(message(tree(&[]).path()).contains("no class folder"));
        assert!(message(tree(&[("a", 9), ("b", 0)]).path()).contains("b: empty class"));
        assert!(
            message(tree(&[("train/a", 2), ("train/c", 2), ("val/a", 1), ("val/b", 1)]).path())
                .contains("'b' is not a class of train")
        );
        assert!(message(tree(&[("a", 9)]).path()).contains("one class alone, 'a'"));
        assert!(message(tree(&[("a", 2), ("b", 3)]).path()).contains("no image to validate on"));
    }
}
