//! What the sample promises: shape alone tells the classes apart, bytes repeat, nothing is left half drawn.
#![forbid(unsafe_code)]

use super::*;
use sha2::{Digest, Sha256};

/// Means over the picture, channel by channel, in [0, 1].
fn colour(scene: &Scene) -> [f64; 3] {
    let pixels = (scene.width * scene.height) as f64;
    std::array::from_fn(|c| scene.rgb.iter().skip(c).step_by(3).map(|&v| f64::from(v)).sum::<f64>() / pixels / 255.0)
}

/// Luma of an 8 x 8 thumbnail by box averages.
fn thumbnail(scene: &Scene) -> [f64; 64] {
    let mut sums = [[0.0, 0.0]; 64];
    for (i, pixel) in scene.rgb.chunks_exact(3).enumerate() {
        let (x, y) = (i % scene.width * 8 / scene.width, i / scene.width * 8 / scene.height);
        sums[y * 8 + x][0] +=
            (299 * u32::from(pixel[0]) + 587 * u32::from(pixel[1]) + 114 * u32::from(pixel[2])) as f64;
        sums[y * 8 + x][1] += 255_000.0;
    }
    sums.map(|[sum, count]| sum / count)
}

#[test]
fn mean_colour_tells_no_class() {
    const EACH: usize = 120;
    let scenes: Vec<(usize, [f64; 3])> =
        (0..5 * EACH).into_par_iter().map(|i| (class_of(42, i), colour(&draw(42, i)))).collect();
    for channel in 0..3 {
        let statistics = |keep: &dyn Fn(usize) -> bool| {
            let values: Vec<f64> = scenes.iter().filter(|(c, _)| keep(*c)).map(|(_, v)| v[channel]).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            (mean, values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0) / n)
        };
        for (class, name) in CLASSES.iter().enumerate() {
            let (mean, square) = statistics(&|c| c == class);
            let (rest, rest_square) = statistics(&|c| c != class);
            // Four standard errors: fifteen comparisons of equal means stay below it in 999 of 1000 samples.
            let bound = 4.0 * (square + rest_square).sqrt();
            assert!((mean - rest).abs() < bound, "{name}: {mean} against {rest} ± {bound}");
            // The bound itself must be tight enough to notice a class that is a little brighter.
            assert!(bound < 0.06, "{bound}");
        }
    }
}

#[test]
fn thumbnails_do_not_settle_the_class() {
    let all: Vec<(usize, [f64; 64])> =
        (0..900).into_par_iter().map(|i| (class_of(7, i), thumbnail(&draw(7, i)))).collect();
    let (train, test) = all.split_at(600);
    let mut centroids = [[0.0; 64]; 5];
    for (class, pixels) in train {
        // 600 images hold each class 120 times.
        centroids[*class].iter_mut().zip(pixels).for_each(|(sum, p)| *sum += p / 120.0);
    }
    let nearest = |pixels: &[f64; 64]| {
        let distance = |c: &[f64; 64]| c.iter().zip(pixels).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        (0..5).min_by(|&a, &b| distance(&centroids[a]).total_cmp(&distance(&centroids[b]))).unwrap()
    };
    let right = test.iter().filter(|(class, pixels)| nearest(pixels) == *class).count();
    let accuracy = right as f64 / test.len() as f64;
    println!("nearest centroid of 8 x 8 thumbnails: {:.1} %, chance 20 %", 100.0 * accuracy);
    // A blurred silhouette says something about a shape; the rest is in the lines.
    assert!(accuracy < 0.75, "the classes show in a blurred thumbnail: {accuracy}");
}

#[test]
fn bytes_do_not_depend_on_threads_or_order() {
    let hash = |i: usize| Sha256::digest(jpeg(&draw(3, i)).unwrap());
    let indices = [0usize, 1, 6, 99, 1199, 999_998];
    let alone: Vec<_> = indices.iter().rev().map(|&i| hash(i)).collect();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let together: Vec<_> = pool.install(|| indices.par_iter().map(|&i| hash(i)).collect());
        assert!(together.iter().eq(alone.iter().rev()), "{threads} threads");
    }
    assert_ne!(alone[0], alone[1]);
    assert_ne!(hash(0), Sha256::digest(jpeg(&draw(4, 0)).unwrap()));
}

/// Every file below `root` with its bytes, in order of its name.
fn tree(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn small_samples_are_whole_voc_data_sets() {
    for images in [5, 7, 30] {
        let folder = tempfile::tempdir().unwrap();
        let root = ensure(&folder.path().join("deep/sample"), images, 11).unwrap();
        let list = |name| std::fs::read_to_string(list_path(&root, name)).unwrap();
        let (train, val, both) = (list("train"), list("val"), list("trainval"));
        let mut union: Vec<&str> = train.lines().chain(val.lines()).collect();
        union.sort_unstable();
        assert_eq!(union, both.lines().collect::<Vec<_>>());
        assert_eq!(union.len(), images);
        assert!(!val.is_empty() && train.lines().count() >= val.lines().count());
        let mut counts = [0; 5];
        for (index, id) in both.lines().enumerate() {
            let text = std::fs::read_to_string(xml_path(&root, index)).unwrap();
            let document = roxmltree::Document::parse(&text).unwrap();
            let texts = |name: &str| -> Vec<String> {
                let named = document.descendants().filter(|n| n.has_tag_name(name));
                named.map(|n| n.text().unwrap().to_string()).collect()
            };
            let numbers = |name: &str| -> Vec<u32> { texts(name).iter().map(|t| t.parse().unwrap()).collect() };
            assert_eq!(texts("filename"), [format!("{id}.jpg")]);
            let picture = image::open(image_path(&root, index)).unwrap().to_rgb8();
            assert_eq!((numbers("width")[0], numbers("height")[0]), picture.dimensions());
            assert_eq!(texts("name")[0], CLASSES[class_of(11, index)]);
            assert!(texts("name")[1..].iter().all(|n| !CLASSES.contains(&n.as_str())));
            counts[class_of(11, index)] += 1;
            let sides = [numbers("xmin"), numbers("ymin"), numbers("xmax"), numbers("ymax")];
            let [left, top, right, bottom] = &sides;
            for (low, high, end) in [(left, right, picture.width()), (top, bottom, picture.height())] {
                assert!(low.iter().zip(high).all(|(l, h)| 1 <= *l && l < h && *h <= end), "{id}: {sides:?}");
            }
            let longer = (right[0] - left[0]).max(bottom[0] - top[0]) + 1;
            let share = f64::from(longer) / f64::from(picture.width().min(picture.height()));
            assert!((0.55..0.95).contains(&share), "{id} has an object of {share}");
        }
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
}

#[test]
fn a_complete_sample_is_kept_and_anything_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("sample");
    ensure(&root, 6, 1).unwrap();
    let first = tree(&root);
    let stamp = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let drawn = stamp(&image_path(&root, 0));
    ensure(&root, 6, 1).unwrap();
    assert_eq!(stamp(&image_path(&root, 0)), drawn);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a draft is left");

    let refusal = |root: &Path, images, seed| ensure(root, images, seed).unwrap_err().to_string();
    assert!(refusal(&root, 6, 2).contains("another sample (6 images, seed 1"));
    assert_eq!(tree(&root), first);
    std::fs::remove_file(image_path(&root, 3)).unwrap();
    assert!(refusal(&root, 6, 1).contains("2012_000004.jpg: is missing"));

    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    ensure(&foreign, 6, 1).unwrap();
    std::fs::remove_dir_all(&foreign).unwrap();
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    assert!(refusal(&foreign, 6, 1).contains("holds no sample"));
    assert_eq!(tree(&foreign).len(), 1);
    assert!(refusal(&foreign.join("thesis.txt"), 6, 1).contains("thesis.txt"));
    assert!(refusal(&folder.path().join("few"), 4, 1).starts_with("--images: 4 images"));
    assert!(!folder.path().join("few").exists());
}

#[test]
fn an_interrupted_drawing_leaves_no_sample_and_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join(".sample.drawing-1");
    std::fs::create_dir_all(left.join("VOC2012")).unwrap();
    sweep(folder.path(), ".sample.drawing-", Duration::from_secs(3600));
    assert!(left.exists(), "a drawing that may still be going on was removed");
    sweep(folder.path(), ".sample.drawing-", Duration::ZERO);
    assert!(!left.exists());

    // A draft that cannot be finished goes away.
    let draft = Draft(folder.path().join(".sample.drawing-2"));
    std::fs::create_dir_all(&draft.0).unwrap();
    std::fs::write(draft.0.join("VOC2012"), "in the way").unwrap();
    assert!(write_all(&draft.0, &Marker { version: VERSION, seed: 0, images: 5 }, &|| false).is_err());
    drop(draft);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_drawing_given_up_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let error = ensure_unless(&folder.path().join("sample"), 5, 0, &|| true).unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
