//! Tests of the VOC reader, on small trees that they write.
#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;
use std::fs;
use std::io::Write;

/// A VOC tree being written.
struct Tree {
    folder: tempfile::TempDir,
    year: &'static str,
}

impl Tree {
    fn new(year: &'static str) -> Self {
        let tree = Tree { folder: tempfile::tempdir().unwrap(), year };
        for part in ["Annotations", "JPEGImages", "ImageSets/Main"] {
            fs::create_dir_all(tree.path(part)).unwrap();
        }
        tree
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, part: &str) -> PathBuf {
        self.root().join(self.year).join(part)
    }

    /// An image and its annotation: objects are (class, side of the square box).
    fn add(&self, name: &str, objects: &[(&str, u32)]) {
        let object = |(class, side): &(&str, u32)| {
            format!(
                "<object><name>{class}</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{0}</xmax>\
                 <ymax>{0}</ymax></bndbox></object>",
                1 + side
            )
        };
        let objects: String = objects.iter().map(object).collect();
        self.write(name, &format!("<annotation><filename>{name}.jpg</filename>{objects}</annotation>"));
        fs::write(self.path(&format!("JPEGImages/{name}.jpg")), "").unwrap();
    }

    fn write(&self, name: &str, xml: &str) {
        fs::write(self.path(&format!("Annotations/{name}.xml")), xml).unwrap();
    }

    fn list(&self, file: &str, text: &str) {
        fs::write(self.path(&format!("ImageSets/Main/{file}")), text).unwrap();
    }

    /// Eight images of each class, with all lists: c0 to c3 of each train, the others validate.
    fn full(year: &'static str) -> Self {
        let tree = Tree::new(year);
        let (mut train, mut val) = (String::new(), String::new());
        for class in CLASSES {
            for i in 0..8 {
                let name = format!("{class}{i}");
                tree.add(&name, &[(class, 10), ("sofa", 99)]);
                let list = if i < 4 { &mut train } else { &mut val };
                list.push_str(&format!("{name}  1\n"));
            }
        }
        tree.list("train.txt", &train);
        tree.list("val.txt", &val);
        tree.list("trainval.txt", &(train + &val));
        tree
    }

    fn open(&self) -> Result<Dataset> {
        open_voc(self.root(), LabelPolicy::Exclusive, SplitPolicy::Lists)
    }

    fn message(&self) -> String {
        let message = self.open().unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }
}

fn names(samples: &[Sample]) -> Vec<String> {
    samples.iter().map(|s| s.source.place().file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn lists_decide_who_trains() {
    let tree = Tree::full("VOC2012");
    let data = tree.open().unwrap();
    assert_eq!((data.name.as_str(), data.classes.join(" ")), ("voc2012", "bicycle car cat dog person".to_string()));
    assert_eq!([data.train.len(), data.val.len(), data.test.len()], [20, 20, 0]);
    assert_eq!(names(&data.train)[..5], ["bicycle0", "bicycle1", "bicycle2", "bicycle3", "car0"]);
    assert_eq!(data.train[4].label, 1);
    assert_eq!(data.train[4].id, 8, "ids count the sorted images of all splits");
    assert_eq!(data.notes, ["40 of 40 images show exactly one of the five classes; 0 several, 0 none"]);
}

#[test]
fn every_way_to_name_the_root_works() {
    let tree = Tree::full("VOC2007");
    let expected = tree.open().unwrap().train.len();
    assert_eq!(tree.open().unwrap().name, "voc2007");
    let inside = open_voc(&tree.path(""), LabelPolicy::Exclusive, SplitPolicy::Lists).unwrap();
    assert_eq!((inside.name.as_str(), inside.train.len()), ("voc2007", expected));
    // An empty VOC2012 beside it is no data set.
    fs::create_dir(tree.root().join("VOC2012")).unwrap();
    assert_eq!(tree.open().unwrap().name, "voc2007");
    fs::create_dir(tree.root().join("VOC2012/Annotations")).unwrap();
    assert!(tree.message().contains("no folder JPEGImages"), "{}", tree.message());
}

#[test]
fn the_label_policies_differ_on_mixed_images() {
    let tree = Tree::full("VOC2012");
    tree.add("mixed", &[("dog", 10), ("car", 30), ("dog", 20)]);
    tree.add("other", &[("sofa", 10)]);
    let list = fs::read_to_string(tree.path("ImageSets/Main/train.txt")).unwrap();
    tree.list("train.txt", &(list + "mixed\nother\n"));
    let data = tree.open().unwrap();
    assert_eq!(data.notes, ["40 of 42 images show exactly one of the five classes; 1 several, 1 none"]);
    let data = open_voc(tree.root(), LabelPolicy::Largest, SplitPolicy::Lists).unwrap();
    let place = names(&data.train).iter().position(|name| name == "mixed").unwrap();
    assert_eq!(data.classes[data.train[place].label], "car");
    assert!(data.notes[0].starts_with("41 of 42"), "{:?}", data.notes);

    // A box that is no number matters where it is read, and only there.
    tree.write("mixed", "<a><object><name>dog</name></object></a>");
    assert!(tree.open().is_ok());
    let error = open_voc(tree.root(), LabelPolicy::Largest, SplitPolicy::Lists).unwrap_err().to_string();
    assert!(error.contains("mixed.xml: xmin of a dog"), "{error}");
}

#[test]
fn a_stratified_split_is_the_same_each_time() {
    let tree = Tree::full("VOC2012");
    let open = || open_voc(tree.root(), LabelPolicy::Exclusive, SplitPolicy::Stratified).unwrap();
    let data = open();
    assert_eq!([data.train.len(), data.val.len(), data.test.len()], [30, 5, 5]);
    for c in 0..5 {
        assert_eq!(data.val.iter().filter(|s| s.label == c).count(), 1);
    }
    assert_eq!([&open().train, &open().val, &open().test], [&data.train, &data.val, &data.test]);
    fs::remove_file(tree.path("ImageSets/Main/trainval.txt")).unwrap();
    let all = open();
    assert_eq!(all.val, data.val);
    assert!(all.notes[0].contains("all annotations"));
}

#[test]
fn missing_parts_are_named() {
    let error = |root: &Path| open_voc(root, LabelPolicy::Exclusive, SplitPolicy::Lists).unwrap_err().to_string();
    let missing = error(Path::new("no/such/folder"));
    assert!(missing.contains("no/such/folder: no such folder") && missing.contains("data sample"), "{missing}");
    assert!(error(tempfile::tempdir().unwrap().path()).contains("holds neither"));
    let remove: [(&str, &str); 4] = [
        ("Annotations", "no folder Annotations"),
        ("JPEGImages", "no folder JPEGImages"),
        ("ImageSets/Main/val.txt", "val.txt: no such list"),
        ("JPEGImages/car0.jpg", "car0.jpg: no such image"),
    ];
    for (part, want) in remove {
        let tree = Tree::full("VOC2012");
        let path = tree.path(part);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        assert!(tree.message().contains(want), "{part}: {}", tree.message());
    }
    let tree = Tree::new("VOC2012");
    let error = open_voc(tree.root(), LabelPolicy::Exclusive, SplitPolicy::Stratified).unwrap_err().to_string();
    assert!(error.contains("no annotations"), "{error}");
}

#[test]
fn bad_lists_are_named() {
    let tree = Tree::full("VOC2012");
    let cases = [
        ("", "list is empty"),
        ("\n \n", "list is empty"),
        ("nowhere\n", "nowhere.xml: no such annotation"),
        ("../../etc/passwd\n", "not a plain name"),
        ("car0\n", "the list of train holds too"),
    ];
    for (text, want) in cases {
        tree.list("val.txt", text);
        assert!(tree.message().contains(want), "{text:?}: {}", tree.message());
    }
}

#[test]
fn a_class_without_training_images_is_an_error() {
    let tree = Tree::full("VOC2012");
    let list = fs::read_to_string(tree.path("ImageSets/Main/train.txt")).unwrap();
    let without: String = list.lines().filter(|l| !l.starts_with("dog")).map(|l| format!("{l}\n")).collect();
    tree.list("train.txt", &without);
    assert!(tree.message().contains("empty class: no image of 'dog' to train on"), "{}", tree.message());
}

#[test]
fn broken_annotations_stop_the_reader() {
    let object = "<object><name>car</name></object>";
    let cases = [
        ("<annotation></annotation>".to_string(), "annotates no object"),
        (format!("<!DOCTYPE a [<!ENTITY x 'y'>]><annotation>{object}</annotation>"), "DTD"),
        (format!("<annotation><filename>../../car0.jpg</filename>{object}</annotation>"), "plain file name"),
        (format!("<annotation>{object}"), "not sound XML"),
    ];
    for (xml, want) in cases {
        let tree = Tree::full("VOC2012");
        tree.write("car0", &xml);
        let message = tree.message();
        assert!(message.contains("car0.xml: ") && message.contains(want), "{xml}: {message}");
    }
    let tree = Tree::full("VOC2012");
    // Nesting a hundred thousand deep must be refused or read, not overflow the stack.
    tree.write("car0", &"<a>".repeat(100_000));
    assert!(tree.message().contains("not sound XML"));
    fs::write(tree.path("Annotations/car0.xml"), b"<a>\xFF</a>").unwrap();
    assert!(tree.message().contains("not UTF-8"));
}

#[test]
fn an_image_may_be_named_by_the_annotation() {
    let tree = Tree::full("VOC2012");
    fs::rename(tree.path("JPEGImages/car0.jpg"), tree.path("JPEGImages/elsewhere.png")).unwrap();
    tree.write("car0", "<a><filename>elsewhere.png</filename><object><name>car</name></object></a>");
    assert!(names(&tree.open().unwrap().train).contains(&"elsewhere".to_string()));
}

#[test]
fn real_photographs_split_as_their_lists_say() {
    let Some(real) = std::env::var_os("DYNAVIT_REAL_DATA") else {
        // Written past the test harness, which would swallow it.
        let line = "SKIPPED: DYNAVIT_REAL_DATA is unset, so no real VOC is read";
        writeln!(std::io::stderr(), "{line}").unwrap();
        return;
    };
    let data = open_voc(Path::new(&real), LabelPolicy::Exclusive, SplitPolicy::Lists).unwrap();
    assert_eq!([data.train.len(), data.val.len()], [386, 134]);
    assert_eq!(data.notes, ["520 of 565 images show exactly one of the five classes; 25 several, 20 none"]);
    let config = crate::data::TransformConfig::paper(224);
    let mode = crate::data::Mode::Train { seed: 1, epoch: 0 };
    let batches = crate::data::Loader::new(data.train, config, crate::data::Wanted::Values, mode, 32, 0, 2);
    assert_eq!(batches.map(|batch| batch.unwrap().labels.len()).sum::<usize>(), 386);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}", tags in prop::collection::vec(0usize..6, 0..12)) {
        let parts = ["<annotation>", "</annotation>", "<object>", "</object>", "<name>cat", "</name>"];
        let xml: String = tags.iter().map(|&t| parts[t]).chain([text.as_str()]).collect();
        let _ = annotation::parse(&xml, Path::new("a.xml"));
    }
}
