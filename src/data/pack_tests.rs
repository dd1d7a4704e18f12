//! Tests of the pack: what it holds, and what is refused.
#![forbid(unsafe_code)]

use super::super::open_folder;
use super::*;
use std::fs;

/// Two classes of eight PNG images; sizes and contents differ by `salt` and number.
fn tree(salt: u32) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for class in ["a", "b"] {
        fs::create_dir(root.path().join(class)).unwrap();
        for i in 0..8 {
            let image =
                image::RgbImage::from_fn(40 + i, 30, |x, y| image::Rgb([(x * salt + i) as u8, y as u8, i as u8]));
            image.save(root.path().join(class).join(format!("{i}.png"))).unwrap();
        }
    }
    root
}

fn opened(root: &Path) -> Dataset {
    open_folder(root).unwrap()
}

fn pack(root: &Path, path: &Path, side: Option<usize>) -> Result<()> {
    build(&opened(root), path, side, &mut |_, _| Ok(()))
}

#[track_caller]
fn refused(root: &Path, path: &Path, side: Option<usize>, words: &str) {
    let error = attach(&mut opened(root), path, side).unwrap_err();
    let text = error.to_string();
    assert!(error.exit_code() == 3 && text.contains(words), "{text} does not say {words}");
    assert!(text.starts_with(&path.display().to_string()), "{text}");
}

#[test]
fn packed_images_are_the_decoded_ones() {
    let (root, place) = (tree(3), tempfile::tempdir().unwrap());
    let path = place.path().join("deep/x.pack");
    let mut heard = Vec::new();
    build(&opened(root.path()), &path, None, &mut |done, of| {
        heard.push((done, of));
        Ok(())
    })
    .unwrap();
    assert_eq!(heard, [(16, 16)]);
    let (plain, mut packed) = (opened(root.path()), opened(root.path()));
    attach(&mut packed, &path, None).unwrap();
    for (a, b) in plain.train.iter().chain(&plain.val).zip(packed.train.iter().chain(&packed.val)) {
        assert!(matches!(b.source, Source::Packed(..)));
        assert_eq!((a.id, a.label, a.source.place()), (b.id, b.label, b.source.place()));
        assert_eq!(a.source.picture().unwrap(), b.source.picture().unwrap());
    }
    // The run of packed images is the same run.
    assert_eq!(plain.manifest_json().unwrap(), packed.manifest_json().unwrap());
    assert_eq!(pays(&plain).unwrap(), (true, 2 * (40 + 47) * 4 * 30 * 3));
    packed.check_images().unwrap();
}

#[test]
fn large_images_are_shrunk_when_asked() {
    let (root, place) = (tree(3), tempfile::tempdir().unwrap());
    let path = place.path().join("x.pack");
    pack(root.path(), &path, Some(20)).unwrap();
    let mut packed = opened(root.path());
    attach(&mut packed, &path, Some(20)).unwrap();
    for sample in &packed.train {
        let picture = sample.source.picture().unwrap();
        let plain = decode_again(&sample.source);
        assert_eq!((picture.height, picture.width), (20, (plain.width * 20 + 15) / 30));
        let want = resize(&plain, Crop::whole(&plain), picture.width, 20, Interpolation::Bilinear);
        assert_eq!(picture.pixels, want);
    }
    refused(root.path(), &path, None, "was packed with side 20, not whole images");
    // Nothing grows.
    pack(root.path(), &path, Some(64)).unwrap();
    attach(&mut opened(root.path()), &path, Some(64)).unwrap();
    assert_eq!(pack(root.path(), &path, Some(3)).unwrap_err().exit_code(), 2);
}

fn decode_again(source: &Source) -> Picture {
    super::super::decode::read(&source.place()).unwrap()
}

#[test]
fn a_pack_of_other_images_is_refused() {
    let (root, other, place) = (tree(3), tree(5), tempfile::tempdir().unwrap());
    let path = place.path().join("x.pack");
    pack(other.path(), &path, None).unwrap();
    refused(root.path(), &path, None, "belongs to another data set: its image a/0.png is not the one in");
    fs::rename(root.path().join("a"), root.path().join("c")).unwrap();
    refused(root.path(), &path, None, "belongs to another data set: it has no image");
    attach(&mut opened(other.path()), &path, None).unwrap();
    image::RgbImage::new(3, 3).save(other.path().join("b/7.png")).unwrap();
    refused(other.path(), &path, None, "its image b/7.png is not the one");
}

#[test]
fn a_torn_or_damaged_pack_is_refused_at_any_byte() {
    let (root, place) = (tree(3), tempfile::tempdir().unwrap());
    let (whole, path) = (place.path().join("whole"), place.path().join("x.pack"));
    pack(root.path(), &whole, None).unwrap();
    let sound = fs::read(&whole).unwrap();
    for cut in [0, 1, 63, 64, 65, 5000, sound.len() / 2, sound.len() - 1] {
        fs::write(&path, &sound[..cut]).unwrap();
        refused(root.path(), &path, None, "");
    }
    for (at, words) in [(0, "is no pack"), (7, "another version"), (9, "half"), (18, "half"), (40, "index is damaged")]
    {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        fs::write(&path, bytes).unwrap();
        refused(root.path(), &path, None, words);
    }
    for (at, words) in [(HEAD + 77, "pixels are damaged"), (sound.len() - 9, "index is damaged")] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        refused(root.path(), &path, None, words);
    }
    // What a build that was killed leaves begins with zeros.
    fs::write(&path, vec![0; sound.len()]).unwrap();
    refused(root.path(), &path, None, "half built");
}

#[test]
fn a_build_given_up_leaves_nothing() {
    let (root, place) = (tree(3), tempfile::tempdir().unwrap());
    let path = place.path().join("x.pack");
    let stop = &mut |_, _| Err(Error::Interrupted { saved: "nothing was packed".into() });
    assert_eq!(build(&opened(root.path()), &path, None, stop).unwrap_err().exit_code(), 130);
    fs::write(root.path().join("b/7.png"), "no image").unwrap();
    assert!(pack(root.path(), &path, None).unwrap_err().to_string().contains("b/7.png"));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}
