//! The committed PTX, read as text: it is of these sources, it is what the launchers call, and it fits the cards.
#![forbid(unsafe_code)]

use dynavit::device::cuda::{Entry, SHARED_UNASKED, elements};
use dynavit::ops::{adamw, assemble, attention, cross_entropy, gather, layer_norm, matmul, patchify, saliency};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Each kernel file and the table of its launchers.
const OPS: &[(&str, &[Entry])] = &[
    ("adamw", adamw::cuda::ENTRIES),
    ("assemble", assemble::cuda::ENTRIES),
    ("attention", attention::cuda::ENTRIES),
    ("attention_bwd", attention::cuda::BACKWARD_ENTRIES),
    ("attention_rows", attention::cuda::ROWS_ENTRIES),
    ("cross_entropy", cross_entropy::cuda::ENTRIES),
    ("gather", gather::cuda::ENTRIES),
    ("layer_norm", layer_norm::cuda::ENTRIES),
    ("matmul", matmul::cuda::ENTRIES),
    ("matmul_bwd", matmul::cuda::BACKWARD),
    ("matmul_scalar", matmul::cuda::SCALAR),
    ("patchify", patchify::cuda::ENTRIES),
    ("saliency", saliency::cuda::ENTRIES),
    ("tensor", elements::ENTRIES),
];

/// The PTX that is committed for a kernel file: target, and the chips that it was assembled for.
const TARGETS: [(u32, &[u32]); 2] = [(75, &[75, 80, 86, 89, 90]), (80, &[80, 86, 89, 90])];

/// Registers of a multiprocessor, of which a block must fit into one; they are given out by 8 a thread.
const REGISTERS: u32 = 65_536;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A kernel as the PTX declares it.
#[derive(Default)]
struct Declared {
    /// Types of the parameters, and their names by the header.
    types: Vec<String>,
    names: Vec<String>,
    max_threads: u32,
    /// (registers, static shared bytes, spilled bytes) by chip.
    resources: BTreeMap<u32, [u32; 3]>,
}

struct Ptx {
    path: String,
    text: String,
    entries: BTreeMap<String, Declared>,
}

fn number(word: &str, key: &str) -> u32 {
    word.strip_prefix(key).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("`{word}` is not {key}<number>"))
}

impl Ptx {
    fn open(folder: &str, kernel: &str, target: u32) -> Self {
        let path = format!("{folder}/{kernel}.sm{target}.ptx");
        let text = read(&path);
        let mut entries = BTreeMap::<String, Declared>::new();
        for part in text.split(".visible .entry ").skip(1) {
            let (name, rest) = part.split_once('(').unwrap();
            let (params, rest) = rest.split_once(')').unwrap();
            let types = params.lines().filter_map(|line| line.trim().strip_prefix(".param ."));
            let limit = rest.trim_start().strip_prefix(".maxntid ").and_then(|r| r.split_once(',')).map(|r| r.0);
            let declared = Declared {
                types: types.map(|line| line.split_once(' ').unwrap().0.to_string()).collect(),
                max_threads: limit
                    .and_then(|n| n.parse().ok())
                    .unwrap_or_else(|| panic!("{path}: {name} has no limit")),
                ..Declared::default()
            };
            assert!(entries.insert(name.to_string(), declared).is_none(), "{path}: {name} twice");
        }
        for line in text.lines().map_while(|line| line.strip_prefix("// ")) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["resources", entry, chip, registers, shared, spill] => {
                    let numbers = [number(registers, "registers="), number(shared, "shared="), number(spill, "spill=")];
                    let entry = entries.get_mut(entry).unwrap_or_else(|| panic!("{path}: resources of {entry}"));
                    assert!(entry.resources.insert(number(chip, "sm_"), numbers).is_none(), "{path}: {chip} twice");
                }
                ["arguments", entry, ref names @ ..] => {
                    let entry = entries.get_mut(entry).unwrap_or_else(|| panic!("{path}: arguments of {entry}"));
                    entry.names = names.iter().map(|name| name.to_string()).collect();
                }
                _ => {}
            }
        }
        Ptx { path, text, entries }
    }
}

/// All PTX of the shipped kernels, with the target and the chips.
fn shipped() -> impl Iterator<Item = (Ptx, &'static [Entry], u32, &'static [u32])> {
    OPS.iter()
        .copied()
        .flat_map(|(op, table)| TARGETS.map(|(target, chips)| (Ptx::open("ptx", op, target), table, target, chips)))
}

/// The headers that a file includes, directly or not, as paths from the root.
fn headers(file: &Path, found: &mut BTreeSet<PathBuf>) {
    for line in read(file.to_str().unwrap()).lines() {
        let Some(name) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) else { continue };
        let mut header = PathBuf::new();
        for part in file.parent().unwrap().join(name).components() {
            match part {
                Component::ParentDir => assert!(header.pop(), "{name} lies outside the repository"),
                part => header.push(part),
            }
        }
        if found.insert(header.clone()) {
            headers(&header, found);
        }
    }
}

/// The hash that ptx/build.py stamps: over path, length and bytes of the kernel's file and of its headers in order.
fn sources_hash(kernel: &str) -> String {
    let kernel = PathBuf::from(kernel);
    let mut included = BTreeSet::new();
    headers(&kernel, &mut included);
    let mut state = Sha256::new();
    for file in std::iter::once(kernel).chain(included) {
        let name = file.to_str().unwrap().replace('\\', "/");
        let content = read(&name);
        state.update(format!("{name} {}\n", content.len()));
        state.update(content);
    }
    state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names of the kernel files of a folder, without their ending.
fn kernels(folder: &str) -> Vec<String> {
    let files = std::fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn ptx_is_of_these_sources() {
    assert_eq!(
        kernels("ptx"),
        OPS.iter().map(|(op, _)| *op).collect::<Vec<_>>(),
        "each kernel file has a table of launchers here"
    );
    for folder in ["ptx", "tests/kernels"] {
        let mut expected = BTreeSet::new();
        for kernel in kernels(folder) {
            let hash = sources_hash(&format!("{folder}/{kernel}.cu"));
            for (target, _) in TARGETS {
                let ptx = Ptx::open(folder, &kernel, target);
                let stamp = format!("// dynavit-ptx 1 sources={hash} nvcc=13.0.88 flags=-arch=compute_{target} ");
                let first = ptx.text.lines().next().unwrap();
                assert!(first.starts_with(&stamp), "{} is stale: run ptx/build.sh\n{first}\n{stamp}", ptx.path);
                expected.insert(format!("{kernel}.sm{target}.ptx"));
            }
        }
        let files = std::fs::read_dir(root().join(folder)).unwrap();
        let names = files.map(|e| e.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = names.filter(|name| name.ends_with(".ptx")).collect();
        assert_eq!(there, expected, "{folder}");
    }
    assert!(read("ptx/build.sh").contains("nvidia-cuda-nvcc==13.0.88\n"));
}

#[test]
fn entries_are_what_the_launchers_call() {
    for (ptx, table, target, _) in shipped() {
        let called: Vec<&Entry> = table.iter().filter(|entry| entry.since <= target).collect();
        let names: BTreeSet<&str> = called.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), called.len(), "{}: an entry stands twice in its table", ptx.path);
        assert_eq!(names, ptx.entries.keys().map(String::as_str).collect(), "{}", ptx.path);
        for entry in called {
            let declared = &ptx.entries[entry.name];
            let (names, types): (Vec<&str>, Vec<&str>) =
                entry.args.iter().map(|&(name, arg)| (name, arg.ptx())).unzip();
            assert_eq!(types, declared.types, "{}: {}", ptx.path, entry.name);
            assert_eq!(names, declared.names, "{}: {}", ptx.path, entry.name);
        }
    }
}

#[test]
fn older_drivers_take_the_files() {
    for (ptx, _, target, _) in shipped() {
        let lines: Vec<&str> = ptx.text.lines().collect();
        let value = |directive: &str| {
            let mut found = lines.iter().filter_map(|line| line.strip_prefix(directive));
            let value = found.next().unwrap_or_else(|| panic!("{}: no {directive}", ptx.path));
            assert_eq!(found.next(), None, "{}: {directive} twice", ptx.path);
            value.trim().to_string()
        };
        let version = value(".version ");
        let (major, minor) = version.split_once('.').unwrap();
        let version: (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
        assert!(version <= (7, 8), "{}: drivers of CUDA 11.8 refuse version {version:?}", ptx.path);
        assert_eq!(value(".target "), format!("sm_{target}"), "{}", ptx.path);
        assert_eq!(value(".address_size "), "64", "{}", ptx.path);
        let kernel = ptx.path.replace(&format!(".sm{target}.ptx"), ".cu");
        assert_eq!(value(".file "), format!("1 \"{kernel}\""), "{}", ptx.path);
        assert!(!ptx.text.contains(".section"), "{}: debug sections", ptx.path);
    }
}

#[test]
fn line_marks_lie_in_the_source() {
    for (ptx, _, target, _) in shipped() {
        let lines = read(&ptx.path.replace(&format!(".sm{target}.ptx"), ".cu")).lines().count();
        let marks: Vec<&str> = ptx.text.lines().filter_map(|line| line.trim().strip_prefix(".loc ")).collect();
        assert!(marks.len() > 10, "{}: {} line marks", ptx.path, marks.len());
        for mark in marks {
            let place: Vec<usize> = mark.split(' ').map(|n| n.parse().unwrap()).collect();
            assert!(place.len() == 3 && place[0] == 1 && (1..=lines).contains(&place[1]), "{}: {mark}", ptx.path);
        }
    }
}

#[test]
fn kernels_fit_every_card() {
    for (ptx, _, _, chips) in shipped() {
        for (name, entry) in &ptx.entries {
            assert_eq!(entry.resources.keys().copied().collect::<Vec<_>>(), chips, "{}: {name}", ptx.path);
            assert!(
                entry.max_threads > 0 && entry.max_threads <= 1024 && entry.max_threads.is_multiple_of(32),
                "{name}"
            );
            for (chip, [registers, shared, spill]) in &entry.resources {
                let taken = registers.next_multiple_of(8) * entry.max_threads;
                assert!(*registers <= 255 && taken <= REGISTERS, "{name} on sm_{chip}: {taken} registers a block");
                assert!(*shared <= SHARED_UNASKED, "{name} on sm_{chip}: {shared} bytes of static shared memory");
                assert_eq!(*spill, 0, "{name} on sm_{chip}");
            }
        }
    }
}

#[test]
fn products_leave_room_for_a_second_block() {
    // Two blocks of any product share a multiprocessor by ptx/matmul.cu; the launch bounds there promise it.
    for (ptx, _, target, _) in shipped().filter(|(ptx, ..)| ptx.path.contains("matmul")) {
        for (name, entry) in &ptx.entries {
            for (chip, [registers, shared, _]) in &entry.resources {
                let taken = registers.next_multiple_of(8) * entry.max_threads;
                assert!(2 * taken <= REGISTERS, "{name} on sm_{chip}");
                let whole = if *chip == 75 { 64 << 10 } else { 100 << 10 };
                // From sm_80 on the system takes a KiB of each block.
                let block = shared + if *chip == 75 { 0 } else { 1 << 10 };
                assert!(2 * block <= whole, "{name} of sm_{target} on sm_{chip}: {block} bytes");
            }
        }
    }
}

#[test]
fn the_table_of_resources_is_that_of_the_files() {
    let page = read("ptx/RESOURCES.md");
    let mut rows = BTreeSet::new();
    for (ptx, ..) in shipped() {
        let file = ptx.path.strip_prefix("ptx/").unwrap();
        for (name, entry) in &ptx.entries {
            let chips =
                TARGETS[0].1.iter().map(|chip| entry.resources.get(chip).map_or("-".into(), |r| r[0].to_string()));
            let most = |i: usize| entry.resources.values().map(|r| r[i]).max().unwrap();
            let chips = chips.collect::<Vec<_>>().join(" | ");
            rows.insert(format!("| {file} | {name} | {chips} | {} | {} |", most(1), most(2)));
        }
    }
    let written = page.lines().filter(|line| line.contains(".ptx |")).map(String::from).collect::<BTreeSet<_>>();
    assert_eq!(written, rows);
}
