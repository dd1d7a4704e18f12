//! Tests of the Tiny-ImageNet reader on trees of their own.
#![forbid(unsafe_code)]

use super::*;
use std::fs;

/// Ten training and three validation images of each of `n02`, `n01` and `n03`; two of them share a name.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let wnids = ["n02", "n01", "n03"];
    put("wnids.txt", &(wnids.join("\n") + "\n"));
    put("words.txt", "n01\tcrane, bird\nn02\tcrane\nn03\tbus, autobus\nn99\tunused\n");
    put("test/images/test_0.JPEG", "");
    let mut list = String::new();
    for (c, wnid) in wnids.iter().enumerate() {
        put(&format!("train/{wnid}/{wnid}_boxes.txt"), "");
        (0..10).for_each(|i| put(&format!("train/{wnid}/images/{wnid}_{i}.JPEG"), ""));
        for i in 0..3 {
            let file = format!("val_{}.JPEG", 3 * c + i);
            put(&format!("val/images/{file}"), "");
            list += &format!("{file}\t{wnid}\t0\t32\t44\t62\n");
        }
    }
    put("val/val_annotations.txt", &list);
    root
}

#[track_caller]
fn refused(root: &Path, words: &[&str]) {
    let error = open_tiny_imagenet(root, SplitPolicy::Stratified).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    for word in words {
        assert!(error.to_string().contains(word), "{error} does not say {word}");
    }
}

#[test]
fn the_official_layout_is_read() {
    let root = tree();
    let data = open_tiny_imagenet(root.path(), SplitPolicy::Stratified).unwrap();
    assert_eq!(data.classes, ["crane (n01)", "crane (n02)", "bus"]);
    assert_eq!([data.train.len(), data.val.len(), data.test.len()], [27, 3, 9]);
    assert_eq!(data.val.iter().map(|s| s.label).collect::<BTreeSet<_>>().len(), 3);
    // val_0 to val_2 are of the first class listed, which is the second by number.
    assert_eq!(data.test.iter().map(|s| s.label).collect::<Vec<_>>(), [1, 1, 1, 0, 0, 0, 2, 2, 2]);
    assert!(data.train.iter().all(|s| s.source.place().starts_with(root.path().join("train"))));
    assert!(data.notes.iter().any(|note| note.contains("val is the test split")), "{:?}", data.notes);

    let lists = open_tiny_imagenet(root.path(), SplitPolicy::Lists).unwrap();
    assert_eq!([lists.train.len(), lists.val.len(), lists.test.len()], [30, 9, 0]);
    let holder = tempfile::tempdir().unwrap();
    fs::rename(root.path(), holder.path().join("tiny-imagenet-200")).unwrap();
    let moved = open_tiny_imagenet(holder.path(), SplitPolicy::Stratified).unwrap();
    assert_eq!(moved.val.iter().map(|s| s.id).collect::<Vec<_>>(), data.val.iter().map(|s| s.id).collect::<Vec<_>>());
    fs::remove_file(moved.root.join("words.txt")).unwrap();
    assert_eq!(open_tiny_imagenet(holder.path(), SplitPolicy::Lists).unwrap().classes, ["n01", "n02", "n03"]);
    // The folder that `root` guarded has moved.
    drop(root);
}

#[test]
fn broken_trees_are_named() {
    type Break = fn(&Path);
    let write = |root: &Path, name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    let cases: [(Break, &[&str]); 12] = [
        (|root| fs::remove_file(root.join("wnids.txt")).unwrap(), &["no wnids.txt", "tiny-imagenet-200.zip"]),
        (|root| fs::write(root.join("wnids.txt"), "n01\nn02\n").unwrap(), &["train/n03", "not a class of wnids.txt"]),
        (|root| fs::write(root.join("wnids.txt"), "n01\nn02\nn03\nn04\n").unwrap(), &["n04: no such folder"]),
        (|root| fs::write(root.join("wnids.txt"), "n01\nn01\nn03\n").unwrap(), &["lists n01 twice"]),
        (|root| fs::write(root.join("wnids.txt"), "n01\n../x\n").unwrap(), &["not a plain name"]),
        (|root| fs::write(root.join("wnids.txt"), b"\xff").unwrap(), &["not UTF-8"]),
        (|root| fs::write(root.join("val/images/val_99.JPEG"), "").unwrap(), &["val_99.JPEG", "is not labelled"]),
        (|root| fs::remove_file(root.join("val/images/val_4.JPEG")).unwrap(), &["val_4.JPEG: no such image"]),
        (|root| fs::remove_file(root.join("val/val_annotations.txt")).unwrap(), &["images of val are not labelled"]),
        (|root| fs::remove_dir_all(root.join("train/n02/images")).unwrap(), &["n02/images"]),
        (|root| fs::remove_dir_all(root.join("train")).unwrap(), &["train"]),
        (|root| fs::remove_dir_all(root.join("val/images")).unwrap(), &["val_0.JPEG: no such image"]),
    ];
    for (break_it, words) in cases {
        let root = tree();
        break_it(root.path());
        refused(root.path(), words);
    }
    for (line, words) in [
        ("val_0.JPEG\tn77\t0", "line 1: 'n77' is not a class"),
        ("val_0.JPEG n01", "line 1: 'val_0.JPEG n01' is not a file and a class"),
        ("../x.JPEG\tn01", "line 1: '../x.JPEG' is not a plain file name"),
        ("val_0.JPEG\tn01\nval_0.JPEG\tn02", "line 2: labels val_0.JPEG a second time"),
    ] {
        let root = tree();
        write(root.path(), "val/val_annotations.txt", line);
        refused(root.path(), &[words]);
    }
    let root = tree();
    for i in 0..10 {
        fs::remove_file(root.path().join(format!("train/n03/images/n03_{i}.JPEG"))).unwrap();
    }
    refused(root.path(), &["n03/images: empty class"]);
    refused(Path::new("/no/such/place"), &["no such folder"]);
}
