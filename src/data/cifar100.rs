//! CIFAR-100, as the archive for C programs or as the archive for Python has it: 32 x 32 pixels, 100 fine classes.
#![forbid(unsafe_code)]

use super::pickle::Pickle;
use super::split::{Part, held_out};
use super::{Dataset, Records, Sample, Source, SplitPolicy};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Fine classes.
const CLASSES: usize = 100;
/// Coarse classes, each of which holds five fine ones.
const COARSE: usize = 20;
/// Width and height in pixels.
const SIDE: usize = 32;
/// Bytes of a picture.
const PIXELS: usize = SIDE * SIDE * 3;
/// A record of the binary files: coarse label, fine label, picture.
const RECORD: usize = 2 + PIXELS;
const GET: &str =
    "fetch cifar-100-binary.tar.gz with `dynavit data download cifar100` and unpack it, or name its folder with --data";
const AGAIN: &str = "copy or download it again";

/// A CIFAR-100 data set: `root` is `cifar-100-binary` or `cifar-100-python`, or what holds one of them; the binary one
/// is taken when both are there. Labels are the fine ones. Ids number the images in the order of the files.
///
/// `Stratified`: a tenth of each class of the training file validates, the test file tests. `Lists`: the whole training
/// file trains, the test file validates. Errors: no such layout, a file of another length, labels that are none, a list
/// of names that is not one of 100 classes, a pickle that does anything but hold data (see [`Pickle`]).
pub fn open_cifar100(root: &Path, split: SplitPolicy) -> Result<Dataset> {
    let mut notes = Vec::new();
    let (folder, layout) = find_layout(root, &mut notes)?;
    let classes = match layout {
        Layout::Binary => names_of_lines(&folder.join("fine_label_names.txt"))?,
        Layout::Python => names_of_meta(&folder.join("meta"))?,
    };
    let read = |name: &str| match layout {
        Layout::Binary => binary(&folder.join(format!("{name}.bin"))),
        Layout::Python => python(&folder.join(name)),
    };
    let (train, test) = (read("train")?, read("test")?);
    let mut dataset = Dataset::empty("cifar100", &folder, classes, notes);
    let parts = held_out(&train.labels, CLASSES, split, "the test file", &mut dataset.notes);
    let held = if split == SplitPolicy::Stratified { Part::Test } else { Part::Val };
    let samples = |file: File, parts: Vec<Part>| {
        let File { records, labels } = file;
        let sample = move |(i, label)| Sample { id: 0, source: Source::Record(Arc::clone(&records), i), label };
        labels.into_iter().enumerate().map(sample).zip(parts)
    };
    let held = vec![held; test.labels.len()];
    dataset.fill(samples(train, parts).chain(samples(test, held)).collect());
    dataset.check_filled()?;
    Ok(dataset)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Binary,
    Python,
}

/// The images of one file.
struct File {
    records: Arc<Records>,
    labels: Vec<usize>,
}

fn find_layout(root: &Path, notes: &mut Vec<String>) -> Result<(PathBuf, Layout)> {
    if !root.is_dir() {
        let reason = if root.exists() { "is not a folder" } else { "no such folder" };
        return Err(Error::data(root, reason, GET));
    }
    let candidates = [
        (root.to_path_buf(), Layout::Binary),
        (root.join("cifar-100-binary"), Layout::Binary),
        (root.to_path_buf(), Layout::Python),
        (root.join("cifar-100-python"), Layout::Python),
    ];
    // One of the files is enough to know the layout by; that another is missing is told when it is read.
    let fits = |(folder, layout): &(PathBuf, Layout)| match layout {
        Layout::Binary => ["train.bin", "test.bin"].iter().any(|file| folder.join(file).is_file()),
        Layout::Python => {
            folder.join("meta").is_file() || (folder.join("train").is_file() && folder.join("test").is_file())
        }
    };
    let mut found = candidates.into_iter().filter(fits);
    let Some(taken) = found.next() else {
        return Err(Error::data(
            root,
            "holds neither train.bin and test.bin nor train, test and meta of CIFAR-100",
            GET,
        ));
    };
    if let Some((other, _)) = found.next() {
        notes.push(format!("{} is taken, though {} is there too", taken.0.display(), other.display()));
    }
    Ok(taken)
}

/// Refuses a list that does not name 100 classes.
fn check_names(path: &Path, names: Vec<String>) -> Result<Vec<String>> {
    let different = names.iter().collect::<BTreeSet<_>>().len();
    if names.len() != CLASSES || different != CLASSES {
        let reason = format!(
            "the class list does not match: {} names, {different} of them different, where CIFAR-100 has {CLASSES} classes",
            names.len()
        );
        return Err(Error::data(path, reason, "restore the list of fine classes from the archive"));
    }
    Ok(names)
}

/// The names of the fine classes, one a line.
fn names_of_lines(path: &Path) -> Result<Vec<String>> {
    let text = super::text_of(path)?;
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect();
    check_names(path, names)
}

/// The names of the fine classes in the pickle `meta`.
fn names_of_meta(path: &Path) -> Result<Vec<String>> {
    let records = Records::map(path)?;
    let pickle = Pickle::read(records.bytes(), path)?;
    let names = pickle.get("fine_label_names").and_then(|id| pickle.texts(id));
    let names = names.ok_or_else(|| Error::data(path, "holds no list fine_label_names", AGAIN))?;
    let text = |name: &&[u8]| String::from_utf8(name.to_vec());
    let names = names.iter().map(text).collect::<std::result::Result<_, _>>();
    check_names(path, names.map_err(|_| Error::data(path, "a name is not UTF-8", AGAIN))?)
}

/// Reads `train.bin` or `test.bin`.
fn binary(path: &Path) -> Result<File> {
    let records = Records::map(path)?;
    let bytes = records.bytes();
    let (whole, rest) = bytes.as_chunks::<RECORD>();
    if !rest.is_empty() {
        let reason = format!(
            "is {} bytes long, which is no number of records of {RECORD} bytes: record {} has {}",
            bytes.len(),
            whole.len(),
            rest.len()
        );
        return Err(Error::data(path, reason, AGAIN));
    }
    let labels = labels(path, whole.iter().map(|record| [record[0].into(), record[1].into()]))?;
    let count = labels.len();
    Ok(File { records: records.lay_out(2, RECORD, count, SIDE), labels })
}

/// Reads the pickle `train` or `test`.
fn python(path: &Path) -> Result<File> {
    let records = Records::map(path)?;
    let pickle = Pickle::read(records.bytes(), path)?;
    let bad = |reason: String| Error::data(path, reason, AGAIN);
    let integers = |key: &str| pickle.get(key).and_then(|id| pickle.integers(id));
    let fine = integers("fine_labels")
        .ok_or_else(|| bad("its images are not labelled: no list fine_labels of integers".into()))?;
    let coarse = integers("coarse_labels");
    let array = pickle.get("data").and_then(|id| pickle.array(id)).ok_or_else(|| bad("holds no array data".into()))?;
    let [count, PIXELS] = array.shape[..] else {
        return Err(bad(format!(
            "wrong record length: data has shape {:?}, where (images, {PIXELS}) belongs",
            array.shape
        )));
    };
    for (key, length) in [("fine_labels", Some(fine.len())), ("coarse_labels", coarse.as_ref().map(Vec::len))] {
        if length.is_some_and(|length| length != count) {
            return Err(bad(format!("data has {count} images, {key} {} labels", length.unwrap_or(0))));
        }
    }
    let labels = match coarse {
        Some(coarse) => labels(path, coarse.into_iter().zip(fine).map(|(coarse, fine)| [coarse, fine]))?,
        None => labels(path, fine.into_iter().map(|fine| [0, fine]))?,
    };
    let first = array.bytes.start;
    drop(pickle);
    Ok(File { records: records.lay_out(first, PIXELS, count, SIDE), labels })
}

/// The fine labels of (coarse, fine) pairs, if they are labels, and each fine class belongs to one coarse class.
fn labels(path: &Path, pairs: impl Iterator<Item = [i64; 2]>) -> Result<Vec<usize>> {
    let mut group: [Option<(i64, usize)>; CLASSES] = [None; CLASSES];
    let label = |(i, [coarse, fine]): (usize, [i64; 2])| {
        let bad = |reason: String| Err(Error::data(path, format!("record {i}: {reason}"), AGAIN));
        if !(0..CLASSES as i64).contains(&fine) || !(0..COARSE as i64).contains(&coarse) {
            return bad(format!("labels {coarse} (coarse) and {fine} (fine) are not below {COARSE} and {CLASSES}"));
        }
        match group[fine as usize].get_or_insert((coarse, i)) {
            (known, _) if *known == coarse => Ok(fine as usize),
            (known, first) => {
                bad(format!("fine class {fine} belongs to coarse class {coarse}, in record {first} to {known}"))
            }
        }
    };
    pairs.enumerate().map(label).collect()
}

#[cfg(test)]
#[path = "cifar100_tests.rs"]
mod tests;
