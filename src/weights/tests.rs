//! Round trips, and every way in which a file can be malformed.
#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;
use std::fs;
use tempfile::TempDir;

/// A file of the given header text and data.
fn file_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn open_bytes(bytes: &[u8]) -> Result<Weights> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    fs::write(&path, bytes).unwrap();
    Weights::open(&path)
}

/// The message of a refusal, after checking that it is one line that names the file, with exit code 3.
#[track_caller]
fn refusal<T>(result: Result<T>) -> String {
    let error = result.err().expect("a malformed file must be refused");
    let message = error.to_string();
    assert_eq!(error.exit_code(), 3, "{message}");
    assert!(message.contains("w.safetensors") && message.contains("; ") && !message.contains('\n'), "{message}");
    message
}

#[track_caller]
fn assert_refused(bytes: &[u8], reason: &str) {
    let message = refusal(open_bytes(bytes));
    assert!(message.contains(reason), "{message} lacks {reason:?}");
}

fn tensor(name: &str, dtype: &str, shape: &str, from: usize, to: usize) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

fn sample_entries<'a>(values: &'a [f32]) -> [Entry<'a>; 3] {
    [
        Entry { name: "norm.weight", shape: &[3], values: &values[..3] },
        Entry { name: "head.weight", shape: &[2, 4], values: &values[3..11] },
        Entry { name: "scale", shape: &[], values: &values[11..] },
    ]
}

#[test]
fn f32_round_trip() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    let values: Vec<f32> = (0..12).map(|i| (i as f32 - 5.0) / 3.0).collect();
    let metadata = BTreeMap::from([("dynavit".to_string(), "{\"a\":\"é\\n\"}".to_string())]);
    write(&path, &sample_entries(&values), &metadata).unwrap();

    let weights = Weights::open(&path).unwrap();
    assert_eq!(weights.path(), path);
    assert_eq!(weights.names(), ["head.weight", "norm.weight", "scale"]);
    assert_eq!(weights.metadata(), &metadata);
    assert_eq!(weights.info("head.weight").unwrap(), &TensorInfo { dtype: Dtype::F32, shape: vec![2, 4] });
    assert_eq!(weights.info("head.bias"), None);
    for entry in sample_entries(&values) {
        let mut out = vec![0.0; entry.values.len()];
        weights.read_f32(entry.name, &mut out).unwrap();
        assert_eq!(out, entry.values);
    }
    let crate_reader = fs::read(&path).unwrap();
    let crate_reader = safetensors::SafeTensors::deserialize(&crate_reader).unwrap();
    assert_eq!(crate_reader.tensor("head.weight").unwrap().shape(), [2, 4]);
}

#[test]
fn halves_are_widened() {
    let numbers = [0.0f32, -1.5, 65504.0, 6e-8, 0.333];
    let f16: Vec<u8> = numbers.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let bf16: Vec<u8> = numbers.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    let header = format!("{{{},{}}}", tensor("a", "F16", "[5]", 0, 10), tensor("b", "BF16", "[5]", 10, 20));
    let weights = open_bytes(&file_bytes(&header, &[f16, bf16].concat())).unwrap();
    let mut out = [0.0; 5];
    weights.read_f32("a", &mut out).unwrap();
    assert_eq!(out, numbers.map(|v| half::f16::from_f32(v).to_f32()));
    weights.read_f32("b", &mut out).unwrap();
    assert_eq!(out, numbers.map(|v| half::bf16::from_f32(v).to_f32()));
}

#[test]
fn same_input_gives_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let metadata: BTreeMap<_, _> = (0..40).map(|i| (format!("key{i}"), i.to_string())).collect();
    let mut entries = sample_entries(&values);
    let mut first = Vec::new();
    for round in 0..6 {
        let path = folder.path().join(format!("{round}.safetensors"));
        entries.rotate_left(1);
        write(&path, &entries, &metadata).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
        if round == 0 {
            first = bytes;
        } else {
            assert!(bytes == first, "file {round} differs");
        }
    }
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = TempDir::new().unwrap();
    let entry = [Entry { name: "a", shape: &[1], values: &[1.0] }];
    let none = BTreeMap::new();
    let missing = write(&folder.path().join("none/w.safetensors"), &entry, &none);
    assert!(refusal(missing).contains("check the path"));
    // A folder in the way makes the rename fail, after everything was written.
    let path = folder.path().join("w.safetensors");
    fs::create_dir(&path).unwrap();
    refusal(write(&path, &entry, &none));
    assert!(path.is_dir());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    assert!(refusal(write(&path.join(".."), &entry, &none)).contains("names no file"));
}

#[test]
fn entries_that_make_no_file_are_a_bug_of_the_caller() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    let entry = |name, shape, values| Entry { name, shape, values };
    for entries in [
        vec![entry("a", &[2][..], &[1.0][..])],
        vec![entry("a", &[1], &[1.0]), entry("a", &[1], &[1.0])],
        vec![entry("__metadata__", &[1], &[1.0])],
    ] {
        assert_eq!(write(&path, &entries, &BTreeMap::new()).unwrap_err().exit_code(), 1);
        assert!(!path.exists());
    }
}

#[test]
fn what_is_no_weight_file_is_refused() {
    let folder = TempDir::new().unwrap();
    assert!(refusal(Weights::open(&folder.path().join("w.safetensors"))).contains("check the path"));
    let sub = folder.path().join("w.safetensors.d");
    fs::create_dir(&sub).unwrap();
    assert!(refusal(Weights::open(&sub)).contains("this is a folder"));
    #[cfg(unix)]
    assert!(Weights::open(Path::new("/dev/null")).err().unwrap().to_string().contains("not a regular file"));
    assert_refused(b"", "the file is empty");
    assert_refused(b"abc", "cut short");
    assert_refused(b"PK\x03\x04 a zip archive, as PyTorch writes", "not a safetensors file");
}

#[test]
fn malformed_headers_are_refused() {
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let good = tensor("a", "F32", "[2]", 0, 8);
    let one = format!("{{{good}}}");
    let data = [0u8; 16];
    assert!(open_bytes(&file_bytes(&one, &data[..8])).is_ok());

    let mut long = file_bytes(&one, &data[..8]);
    long[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
    assert_refused(&long, "the header claims 9223372036854775808 bytes");
    long[..8].copy_from_slice(&1000u64.to_le_bytes());
    assert_refused(&long, "cut short: 1000 bytes of header");
    long[..8].copy_from_slice(&0u64.to_le_bytes());
    assert_refused(&long, "malformed");

    assert_refused(&file_bytes("{\"a\":", &[]), "malformed");
    assert_refused(&file_bytes("{} x", &[]), "malformed");
    assert_refused(&file_bytes("{\"a\":7}", &[]), "tensor \"a\"");
    assert_refused(&file_bytes(&"{\"a\":".repeat(5000), &[]), "malformed");
    assert_refused(&[&2u64.to_le_bytes()[..], b"{\xff"].concat(), "not UTF-8");
    assert_refused(&file_bytes(&format!("{{{}}}", tensor("a", "F33", "[2]", 0, 8)), &data[..8]), "F33");
    assert_refused(&file_bytes(&format!("{{{}}}", tensor("a", "F32", "[-2]", 0, 8)), &data[..8]), "tensor \"a\"");
    assert_refused(&file_bytes(&one, &data[..7]), "cut short: tensor \"a\" ends at byte 8 of the data, 7 are there");
    assert_refused(&file_bytes(&one, &data[..9]), "1 bytes after the last tensor");
    assert_refused(&file_bytes(&two(good.clone(), good.clone()), &data[..8]), "\"a\" is there twice");
    assert_refused(&file_bytes(&two(good.clone(), tensor("b", "F32", "[2]", 4, 12)), &data[..12]), "overlaps");
    assert_refused(&file_bytes(&two(good.clone(), tensor("b", "F32", "[1]", 12, 16)), &data), "belong to no tensor");
    assert_refused(&file_bytes(&format!("{{{}}}", tensor("a", "F32", "[2]", 8, 0)), &data[..8]), "before it begins");
    assert_refused(&file_bytes(&format!("{{{}}}", tensor("a", "F32", "[3]", 0, 8)), &data[..8]), "takes 12 bytes");
    assert_refused(&file_bytes(&format!("{{{}}}", tensor("a", "F4", "[3]", 0, 1)), &data[..1]), "F4");
    let huge = format!("[{},{}]", u64::MAX / 2, 4);
    assert_refused(&file_bytes(&format!("{{{}}}", tensor("a", "F32", &huge, 0, 8)), &data[..8]), "impossible shape");
    for metadata in [r#"{"k":1}"#, "7", r#"{"k":"v","k":"w"}"#] {
        assert_refused(&file_bytes(&format!("{{\"__metadata__\":{metadata}}}"), &[]), "malformed");
    }
}

#[test]
fn offsets_near_the_end_of_the_number_line_do_not_wrap() {
    // The largest tensor whose bits can be counted is 2^61 - 1 bytes; eight of them and one of 7 end at 2^64 - 1.
    let side = (1usize << 61) - 1;
    let mut tensors: Vec<String> =
        (0..8).map(|i| tensor(&format!("t{i}"), "U8", &format!("[{side}]"), i * side, (i + 1) * side)).collect();
    tensors.push(tensor("t8", "U8", "[7]", 8 * side, usize::MAX));
    assert_refused(&file_bytes(&format!("{{{}}}", tensors.join(",")), &[0; 64]), "cut short: tensor \"t0\"");
}

#[test]
fn other_types_are_listed_and_not_read() {
    let header = format!("{{{},{}}}", tensor("a", "F32", "[1]", 0, 4), tensor("n", "I64", "[1]", 4, 12));
    let weights = open_bytes(&file_bytes(&header, &[0; 12])).unwrap();
    assert_eq!(weights.info("n").unwrap().dtype.to_string(), "I64");
    weights.read_f32("a", &mut [1.0]).unwrap();
    assert!(refusal(weights.read_f32("n", &mut [1.0])).contains("stored as I64"));
}

#[test]
fn reading_names_what_is_wrong() {
    let header = format!("{{{}}}", tensor("w", "F32", "[2,3]", 0, 24));
    for (at, value, shown) in [(5, f32::NAN, "NaN at [1, 2]"), (1, f32::NEG_INFINITY, "-inf at [0, 1]")] {
        let mut values = [0.5f32; 6];
        values[at] = value;
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let weights = open_bytes(&file_bytes(&header, &data)).unwrap();
        let message = refusal(weights.read_f32("w", &mut [0.0; 6]));
        assert!(message.contains("tensor \"w\"") && message.contains(shown), "{message}");
        assert!(refusal(weights.read_f32("v", &mut [0.0; 6])).contains("no tensor \"v\""));
        assert!(refusal(weights.read_f32("w", &mut [0.0; 5])).contains("shape [2, 3], 6 values, where 5 belong"));
    }
}

/// Opens and reads everything; the point is that nothing panics.
fn read_all(bytes: &[u8]) -> Result<()> {
    let weights = open_bytes(bytes)?;
    for name in weights.names() {
        let elements = weights.info(name).unwrap().shape.iter().product();
        weights.read_f32(name, &mut vec![0.0; elements])?;
    }
    Ok(())
}

fn good_file() -> Vec<u8> {
    let header = format!(
        r#"{{"__metadata__":{{"k":"v"}},{},{},{}}}"#,
        tensor("a", "F32", "[2,2]", 0, 16),
        tensor("b", "BF16", "[3]", 16, 22),
        tensor("c", "F16", "[]", 22, 24)
    );
    file_bytes(&header, &[1; 24])
}

#[test]
fn every_truncation_is_refused() {
    let good = good_file();
    read_all(&good).unwrap();
    for len in 0..good.len() {
        assert_eq!(read_all(&good[..len]).unwrap_err().exit_code(), 3, "{len} bytes");
    }
}

proptest! {
    #[test]
    fn corruption_never_panics(changes in prop::collection::vec((0usize..300, any::<u8>()), 1..8)) {
        let mut bytes = good_file();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Err(error) = read_all(&bytes) {
            prop_assert_eq!(error.exit_code(), 3);
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), header in "[{}\\[\\]\",:a-z0-9_]{0,80}") {
        let _ = read_all(&bytes);
        let _ = read_all(&file_bytes(&format!("{{{header}"), &bytes));
    }

    #[test]
    fn any_values_come_back(values in prop::collection::vec(-1e30f32..1e30, 12), name in "\\PC{0,20}") {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("w.safetensors");
        write(&path, &[Entry { name: &name, shape: &[3, 4], values: &values }], &BTreeMap::new()).unwrap();
        let mut out = vec![0.0; 12];
        Weights::open(&path).unwrap().read_f32(&name, &mut out).unwrap();
        prop_assert_eq!(out, values);
    }
}
