//! The built-in sample: five VOC classes drawn by the program, in VOC layout on disk.
//!
//! The classes differ in shape alone: colours, brightness, place, size and background come from the same
//! distributions for all of them. `scene` composes a picture, `shapes` holds the caricatures, `canvas` fills pixels.
#![forbid(unsafe_code)]

mod canvas;
mod scene;
mod shapes;

use crate::error::{Error, Result};
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use scene::{CLASSES, Scene, class_of, draw};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Goes up whenever the same seed would draw other bytes.
const VERSION: u32 = 2;

/// The file at the root that says what was drawn; written last.
const MARKER: &str = "sample.json";

/// What the drawn data set is called where its name is shown or written.
pub const NAME: &str = "sample";

/// The name of its layout, under which manifests hash it.
pub const LAYOUT: &str = "voc2012";

/// Ids have six digits.
const MOST_IMAGES: usize = 999_999;

/// What a sample was drawn from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    seed: u64,
    images: usize,
}

/// Draws the sample under `root` (making `root/VOC2012/{JPEGImages,Annotations,ImageSets/Main}`) unless it is there
/// complete, and returns `root`. Same seed and count, same bytes, on any number of threads.
///
/// `trainval.txt` lists all images; `train.txt` and `val.txt` share them 80:20 class by class.
///
/// # Errors
/// `images` below 5 or above 999,999; a `root` that holds anything but this very sample; a disk that refuses.
/// The pictures are drawn beside `root` and moved there when all are done, so `root` never holds half a sample.
pub fn ensure(root: &Path, images: usize, seed: u64) -> Result<PathBuf> {
    ensure_unless(root, images, seed, &|| false)
}

/// [`ensure`], given up with [`Error::Interrupted`] and without a trace as soon as `stop` says so.
pub fn ensure_unless(root: &Path, images: usize, seed: u64, stop: &(dyn Fn() -> bool + Sync)) -> Result<PathBuf> {
    if !(CLASSES.len()..=MOST_IMAGES).contains(&images) {
        let reason = format!("{images} images do not make a sample of five classes");
        return Err(Error::usage("--images", reason, format!("give a number from 5 to {MOST_IMAGES}")));
    }
    let wanted = Marker { version: VERSION, seed, images };
    if stands(root, &wanted)? {
        return Ok(root.to_path_buf());
    }
    let Some(name) = root.file_name() else {
        return Err(Error::data(root, "names no folder that could be made", "name a new folder"));
    };
    let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, &e))?;
    let prefix = format!(".{}.drawing-", name.to_string_lossy());
    sweep(parent, &prefix, Duration::from_secs(3600));
    let draft = Draft(parent.join(format!("{prefix}{}", std::process::id())));
    write_all(&draft.0, &wanted, stop)?;
    if let Err(e) = std::fs::rename(&draft.0, root) {
        // Another process may have put the same sample there meanwhile.
        return if stands(root, &wanted)? { Ok(root.to_path_buf()) } else { Err(Error::io(root, &e)) };
    }
    Ok(root.to_path_buf())
}

/// Whether `layout`, a folder `VOC2012`, was drawn by the program, whatever the number of its images.
pub fn is_drawn(layout: &Path) -> bool {
    let marker = || -> Option<Marker> {
        let root = layout.canonicalize().ok()?.parent()?.to_path_buf();
        serde_json::from_str(&std::fs::read_to_string(root.join(MARKER)).ok()?).ok()
    };
    marker().is_some()
}

/// A folder that is removed when it goes out of scope, unless it has been moved away.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes what drawings killed longer than `age` ago have left in `parent`; what cannot be removed stays.
fn sweep(parent: &Path, prefix: &str, age: Duration) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(prefix);
        let modified = entry.metadata().and_then(|m| m.modified()).ok();
        if ours && modified.and_then(|m| m.elapsed().ok()).is_some_and(|old| old >= age) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `root` holds the wanted sample (true) or nothing (false); anything else is an error.
fn stands(root: &Path, wanted: &Marker) -> Result<bool> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(root, &e)),
    };
    if entries.count() == 0 {
        return Ok(false);
    }
    let marker = std::fs::read_to_string(root.join(MARKER)).ok();
    let Some(found) = marker.and_then(|text| serde_json::from_str::<Marker>(&text).ok()) else {
        let reason = "the folder is not empty and holds no sample drawn by dynavit";
        return Err(Error::data(root, reason, "name a new folder for the sample"));
    };
    if found != *wanted {
        let reason = format!(
            "it holds another sample ({} images, seed {}, version {}; wanted {}, {}, {})",
            found.images, found.seed, found.version, wanted.images, wanted.seed, wanted.version
        );
        return Err(Error::data(root, reason, "name a new folder, or remove this one"));
    }
    let whole = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0);
    for index in 0..wanted.images {
        for path in [image_path(root, index), xml_path(root, index)] {
            if !whole(&path) {
                return Err(Error::data(path, "is missing from the sample", "remove the sample and draw it again"));
            }
        }
    }
    for list in ["train", "val", "trainval"] {
        let path = list_path(root, list);
        if !whole(&path) {
            return Err(Error::data(path, "is missing from the sample", "remove the sample and draw it again"));
        }
    }
    Ok(true)
}

/// Writes a whole sample into the new folder `root`, the marker last.
fn write_all(root: &Path, marker: &Marker, stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
    for folder in ["JPEGImages", "Annotations", "ImageSets/Main"] {
        let path = root.join("VOC2012").join(folder);
        std::fs::create_dir_all(&path).map_err(|e| Error::io(&path, &e))?;
    }
    (0..marker.images).into_par_iter().try_for_each(|index| {
        if stop() {
            return Err(Error::Interrupted { saved: "the sample was not finished; nothing was kept".into() });
        }
        let scene = draw(marker.seed, index);
        write(&image_path(root, index), &jpeg(&scene)?)?;
        write(&xml_path(root, index), annotation(&scene, &id(index)).as_bytes())
    })?;
    let classes: Vec<usize> = (0..marker.images).map(|index| class_of(marker.seed, index)).collect();
    for (name, wanted) in [("train", Some(false)), ("val", Some(true)), ("trainval", None)] {
        let val = validation(&classes);
        let chosen = (0..marker.images).filter(|&i| wanted.is_none_or(|w| val[i] == w));
        let text: String = chosen.map(|i| id(i) + "\n").collect();
        write(&list_path(root, name), text.as_bytes())?;
    }
    let text = serde_json::to_string_pretty(marker).expect("a marker holds numbers only");
    write(&root.join(MARKER), text.as_bytes())
}

/// Which images validate: every fifth of each class, and the last of all where that would be none.
fn validation(classes: &[usize]) -> Vec<bool> {
    let mut seen = [0; CLASSES.len()];
    let mut val: Vec<bool> = classes
        .iter()
        .map(|&class| {
            seen[class] += 1;
            seen[class] % 5 == 0
        })
        .collect();
    if !val.contains(&true)
        && let Some(last) = val.last_mut()
    {
        *last = true;
    }
    val
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::io(path, &e))
}

/// VOC's name of image `index`, numbered from 1.
fn id(index: usize) -> String {
    format!("2012_{:06}", index + 1)
}

fn image_path(root: &Path, index: usize) -> PathBuf {
    root.join("VOC2012/JPEGImages").join(id(index) + ".jpg")
}

fn xml_path(root: &Path, index: usize) -> PathBuf {
    root.join("VOC2012/Annotations").join(id(index) + ".xml")
}

fn list_path(root: &Path, name: &str) -> PathBuf {
    root.join("VOC2012/ImageSets/Main").join(format!("{name}.txt"))
}

/// The picture as a JPEG file of quality 90.
fn jpeg(scene: &Scene) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(&scene.rgb, scene.width as u32, scene.height as u32, image::ExtendedColorType::Rgb8)
        .map_err(|e| Error::data("the sample", format!("a picture does not encode ({e})"), "report this as a bug"))?;
    Ok(bytes)
}

/// The annotation of a picture, element by element as in VOC2012.
fn annotation(scene: &Scene, id: &str) -> String {
    let mut xml = format!(
        "<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{id}.jpg</filename>\n\t<source>\n\
         \t\t<database>dynavit sample</database>\n\t\t<annotation>dynavit sample</annotation>\n\
         \t\t<image>drawn</image>\n\t</source>\n\t<size>\n\t\t<width>{}</width>\n\t\t<height>{}</height>\n\
         \t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n",
        scene.width, scene.height
    );
    for object in &scene.objects {
        xml += &format!(
            "\t<object>\n\t\t<name>{}</name>\n\t\t<pose>{}</pose>\n\t\t<truncated>0</truncated>\n\
             \t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{}</xmin>\n\t\t\t<ymin>{}</ymin>\n\
             \t\t\t<xmax>{}</xmax>\n\t\t\t<ymax>{}</ymax>\n\t\t</bndbox>\n\t</object>\n",
            object.name, object.pose, object.xmin, object.ymin, object.xmax, object.ymax
        );
    }
    xml + "</annotation>\n"
}

#[cfg(test)]
mod tests;
