//! The manners of the house, as a test: file headers, room order, stray marks, stale paths in documents.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::Path;

/// A file of the repository; `path` is relative to its root, with slashes.
struct File {
    path: String,
    text: String,
}

/// Hard stop for the length of a file of code, tests included.
const LONGEST: usize = 600;

/// The rooms from top to bottom. A room may import from its own line and from those after it.
const ROOMS: [&[&str]; 17] = [
    &["cli"],
    &["experiment"],
    &["explain"],
    &["train", "eval"],
    &["checkpoint"],
    &["data"],
    &["optim"],
    &["flops"],
    &["model"],
    &["prune"],
    &["weights"],
    &["ops"],
    &["tape"],
    &["tensor"],
    &["device"],
    &["chart"],
    &["rng", "error", "stats"],
];

/// Folders whose paths documents may name only while they exist.
const NAMED: [&str; 7] = ["src/", "tests/", "benches/", "fixtures/", "crates/", "ptx/", ".ci/"];

/// A finding, as an editor jumps to it; `line` counts from 0.
fn at(file: &File, line: usize, reason: &str) -> String {
    format!("{}:{}: {reason}", file.path, line + 1)
}

/// Rust text with comments and the insides of literals blanked, every line in its place.
fn code(text: &str) -> String {
    let c: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let blank = |from: usize, to: usize, out: &mut String| {
        out.extend(c[from..to].iter().map(|&x| if x == '\n' { '\n' } else { ' ' }));
    };
    let is = |i: usize, what: &str| what.chars().enumerate().all(|(j, x)| c.get(i + j) == Some(&x));
    let mut i = 0;
    while i < c.len() {
        let start = i;
        let word_before = start > 0 && (c[start - 1].is_alphanumeric() || c[start - 1] == '_');
        if is(i, "//") {
            while i < c.len() && c[i] != '\n' {
                i += 1;
            }
        } else if is(i, "/*") {
            let mut depth = 0;
            while i < c.len() {
                depth += i32::from(is(i, "/*")) - i32::from(is(i, "*/"));
                i += if is(i, "/*") || is(i, "*/") { 2 } else { 1 };
                if depth == 0 {
                    break;
                }
            }
        } else if c[i] == 'r' && !word_before && (is(i, "r\"") || is(i, "r#")) {
            let hashes = c[i + 1..].iter().take_while(|&&x| x == '#').count();
            if c.get(i + 1 + hashes) == Some(&'"') {
                let end = format!("\"{}", "#".repeat(hashes));
                i += 2 + hashes;
                while i < c.len() && !is(i, &end) {
                    i += 1;
                }
                i += end.len();
            } else {
                // A raw name such as r#type.
                out.push(c[i]);
                i += 1;
                continue;
            }
        } else if c[i] == '"' || is(i, "'\\") || (c[i] == '\'' && c.get(i + 2) == Some(&'\'')) {
            let quote = c[i];
            i += 1;
            while i < c.len() && c[i] != quote {
                i += if c[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else {
            out.push(c[i]);
            i += 1;
            continue;
        }
        i = i.min(c.len());
        blank(start, i, &mut out);
    }
    out
}

fn is_rust(file: &File) -> bool {
    file.path.ends_with(".rs")
}

/// Whether the file belongs to this crate: the library, its tests, its benches.
fn is_ours(file: &File) -> bool {
    is_rust(file) && ["src/", "tests/", "benches/"].iter().any(|room| file.path.starts_with(room))
}

/// Each file says in its first line what it is, and stays readable.
fn header_and_length(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    if is_ours(file) && !file.text.starts_with("//! ") {
        found.push(at(file, 0, "does not begin with a `//!` line that says what the file is"));
    }
    let lines = file.text.lines().count();
    if [".rs", ".py", ".cu", ".cuh"].iter().any(|end| file.path.ends_with(end)) && lines > LONGEST {
        found.push(at(file, LONGEST, &format!("the file has {lines} lines; split it before {LONGEST}")));
    }
    found
}

/// `unsafe` lives at few addresses; every other file forbids it.
fn unsafe_addresses(file: &File) -> Vec<String> {
    if !file.path.starts_with("src/") || !is_rust(file) {
        return Vec::new();
    }
    let code = code(&file.text);
    let path = file.path.as_str();
    let address = path.starts_with("src/device/cpu/")
        || path.starts_with("src/device/cuda/")
        || (path.starts_with("src/ops/") && path.ends_with("/cuda.rs"))
        || path == "src/weights/map.rs";
    let words = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
    // `forbid` in a folder's `mod.rs` would bind the files below it, so these deny, and the addresses allow.
    let relays = ["src/device/mod.rs", "src/device/cpu/mod.rs", "src/device/cuda/mod.rs", "src/weights/mod.rs"];
    let op = path.starts_with("src/ops/") && path.ends_with("mod.rs");
    let relay = (relays.contains(&path) || op) && code.contains("#![deny(unsafe_code)]");
    // A call of `vectorised!` becomes code with that word.
    let holds_some = code.lines().any(words) || code.contains("vectorised! {");
    let exempt = relay || ["src/lib.rs", "src/main.rs"].contains(&path) || (address && holds_some);
    if exempt || code.contains("#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    vec![at(file, 0, "lacks `#![forbid(unsafe_code)]`")]
}

/// Names right after each `crate::`, groups in braces opened, with the line they stand on.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (start, word) in code.match_indices("crate::") {
        let line = code[..start].matches('\n').count();
        let before = code[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[start + word.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            let first = name(rest);
            if !first.is_empty() && !rest[first.len()..].starts_with('!') {
                found.push((line, first));
            }
            continue;
        };
        let (mut depth, mut fresh, mut below) = (1, true, 0);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                '\n' => below += 1,
                _ if depth == 1 && fresh && (c.is_alphanumeric() || c == '_') => {
                    found.push((line + below, name(&group[i..])));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Arrows point down the list of rooms only.
fn room_order(file: &File) -> Vec<String> {
    let Some(inside) = file.path.strip_prefix("src/").filter(|_| is_rust(file)) else { return Vec::new() };
    let room = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
    if ["lib", "main"].contains(&room) {
        return Vec::new();
    }
    let floor = |name: &str| ROOMS.iter().position(|rooms| rooms.contains(&name));
    let Some(own) = floor(room) else {
        return vec![at(file, 0, &format!("room `{room}` is not in the list of rooms"))];
    };
    let mut found = Vec::new();
    for (line, target) in crate_paths(&code(&file.text)) {
        match floor(&target) {
            None => found.push(at(file, line, &format!("`crate::{target}` is not in the list of rooms"))),
            Some(other) if other < own => {
                found.push(at(file, line, &format!("`{room}` imports from `{target}`, which is above it")));
            }
            Some(_) => {}
        }
    }
    found
}

/// Whether `word` stands in `line` as a whole name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(i, _)| !line[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// No unfinished code, no tests that are skipped in silence, and nothing prints below the command.
fn marks(file: &File) -> Vec<String> {
    if !is_ours(file) {
        return Vec::new();
    }
    let path = file.path.as_str();
    let prints = path.starts_with("src/cli/")
        || ["src/cli.rs", "src/main.rs", "src/train/progress.rs"].contains(&path)
        || !path.starts_with("src/")
        || path.ends_with("tests.rs");
    let code = code(&file.text);
    let tests = code.find("#[cfg(test)]\nmod tests {").map_or(usize::MAX, |i| code[..i].matches('\n').count());
    let mut found = Vec::new();
    for (i, line) in code.lines().enumerate() {
        for mark in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
            if has_word(line, mark) {
                found.push(at(file, i, &format!("`{mark}` is left")));
            }
        }
        let printing = ["println!", "eprintln!", "print!", "eprint!"].iter().find(|word| has_word(line, word));
        if let Some(word) = printing.filter(|_| !prints && i < tests) {
            found.push(at(file, i, &format!("`{word}` below the command; return the text instead")));
        }
    }
    found
}

/// Documents name only paths that exist. A path with a placeholder is checked up to it.
fn stale_paths(file: &File, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut fenced = false;
    for (i, line) in file.text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced || line.trim_start().starts_with("```") {
            continue;
        }
        for span in line.split('`').skip(1).step_by(2) {
            let token = span.split_whitespace().next().unwrap_or("");
            if !NAMED.iter().any(|room| token.starts_with(room)) {
                continue;
            }
            let path = token.split([':', '#']).next().unwrap_or("").trim_end_matches(['.', ',', ';', '/']);
            let fixed = path.split('/').take_while(|part| !part.contains(['<', '*', '{', '[', '…', '$']));
            let known = fixed.collect::<Vec<_>>().join("/");
            if !exists(&known) {
                found.push(at(file, i, &format!("names `{token}`, which does not exist")));
            }
        }
    }
    found
}

/// Every dependency says why it is there, in a comment line above it.
fn reasons(file: &File) -> Vec<String> {
    if !(file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml")) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let (mut inside, mut depth) = (false, 0);
    let mut above = "";
    for (i, line) in file.text.lines().enumerate() {
        let bare = line.trim();
        let mut dependency = inside && depth == 0 && !bare.is_empty() && !bare.starts_with(['#', '[']);
        if depth == 0 && bare.starts_with('[') {
            let name = bare.trim_matches(['[', ']']);
            inside = name.ends_with("dependencies");
            dependency = name.contains("dependencies.");
        } else if !bare.starts_with('#') {
            depth += bare.matches(['[', '{']).count() as i32 - bare.matches([']', '}']).count() as i32;
        }
        if dependency && !above.starts_with('#') {
            found.push(at(file, i, &format!("`{bare}` has no comment above that says why")));
        }
        above = bare;
    }
    found
}

/// No path of anybody's own machine.
fn machine_paths(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        for folder in [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")] {
            let starts = |i: usize| !line[..i].ends_with(|c: char| c.is_alphanumeric() || "._-~}".contains(c));
            if line.match_indices(folder).any(|(j, _)| starts(j)) {
                found.push(at(file, i, &format!("`{folder}` is a path of one machine")));
            }
        }
    }
    found
}

/// All rules.
fn findings(file: &File, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let rules = [header_and_length, unsafe_addresses, room_order, marks, reasons, machine_paths];
    rules.iter().flat_map(|rule| rule(file)).chain(stale_paths(file, exists)).collect()
}

/// Reads the text files below `folder`; build outputs, runs and data are no part of the repository.
fn walk(root: &Path, folder: &Path, files: &mut Vec<File>, paths: &mut HashSet<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let path = entry.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        let name = path.rsplit('/').next().unwrap_or(&path);
        if ["runs", "data"].contains(&path.as_str()) || ["target", ".git", ".nvcc", "__pycache__"].contains(&name) {
            continue;
        }
        paths.insert(path.clone());
        if entry.is_dir() {
            walk(root, &entry, files, paths);
        } else if path != "Cargo.lock"
            && let Ok(text) = std::fs::read_to_string(&entry)
        {
            files.push(File { path, text });
        }
    }
}

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut paths) = (Vec::new(), HashSet::new());
    walk(root, root, &mut files, &mut paths);
    let ours = files.iter().filter(|f| f.path.starts_with("src/") && is_rust(f));
    let (count, lines) = ours.fold((0, 0), |(n, sum), f| (n + 1, sum + f.text.lines().count()));
    println!("src: {count} files, {lines} lines");
    assert!(count > 20, "the walk found {count} source files only");
    let found: Vec<String> = files.iter().flat_map(|f| findings(f, &|path| paths.contains(path))).collect();
    assert!(found.is_empty(), "{} findings\n{}", found.len(), found.join("\n"));
}

mod rules {
    use super::*;

    /// What the rules say of a file that begins as it should and goes on with `body`.
    #[track_caller]
    fn judge(path: &str, body: &str, expected: &[&str]) {
        let head = if path.ends_with(".rs") { "//! A file.\n#![forbid(unsafe_code)]\n" } else { "" };
        let file = File { path: path.to_string(), text: format!("{head}{body}") };
        let found = findings(&file, &|path| ["src/ops", "src/lib.rs", "tests"].contains(&path));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (finding, part) in found.iter().zip(expected) {
            assert!(finding.contains(part), "{finding} does not say {part}");
        }
    }

    #[test]
    fn headers_and_lengths_are_seen() {
        let bare = |path: &str, text: &str| File { path: path.to_string(), text: text.to_string() };
        assert_eq!(header_and_length(&bare("src/x.rs", "use std::fmt;\n")).len(), 1);
        assert_eq!(header_and_length(&bare("tests/x.rs", "\n//! Late.\n")).len(), 1);
        let long = |lines: usize| "//! Long.\n".repeat(lines);
        assert_eq!(header_and_length(&bare("benches/x.rs", &long(600))).len(), 0);
        assert!(header_and_length(&bare("benches/x.rs", &long(601)))[0].starts_with("benches/x.rs:601: "));
    }

    #[test]
    fn unsafe_has_few_addresses() {
        let lacking = |path: &str, body: &str| {
            let text = format!("//! A file.\n{body}");
            !unsafe_addresses(&File { path: path.to_string(), text }).is_empty()
        };
        let works = "fn f() { unsafe { g() } }";
        assert!(lacking("src/model/vit.rs", works));
        assert!(lacking("src/ops/gelu/cpu.rs", works));
        assert!(lacking("src/model/vit.rs", "// #![forbid(unsafe_code)]"));
        assert!(lacking("src/device/cpu/buffer.rs", "fn f() { /* unsafe */ }"));
        for path in ["src/device/cpu/kernel.rs", "src/device/cuda/mod.rs", "src/ops/gelu/cuda.rs", "src/weights/map.rs"]
        {
            assert!(!lacking(path, works), "{path}");
        }
        assert!(!lacking("src/lib.rs", "") && !lacking("src/main.rs", ""));
    }

    #[test]
    fn arrows_upwards_are_seen() {
        judge(
            "src/ops/gelu/mod.rs",
            "use crate::model::Vit;\n",
            &["src/ops/gelu/mod.rs:3: `ops` imports from `model`"],
        );
        judge("src/ops/mod.rs", "fn f(x: &crate::train::Config) {}\n", &["from `train`"]);
        judge(
            "src/rng.rs",
            "use crate::{\n    error::{Error, Result},\n    tape::Tape,\n};\n",
            &["src/rng.rs:5: `rng`"],
        );
        judge(
            "src/model/mod.rs",
            "use crate::{ops::gelu, tensor::{self, Tensor}, device};\nuse crate::error::Error;\n",
            &[],
        );
        judge("src/eval/mod.rs", "use crate::eval::report;\nuse crate::train::Run;\n", &[]);
        judge("src/tape/mod.rs", "//! See [`crate::model`].\n// crate::cli\nconst A: &str = \"crate::cli\";\n", &[]);
        judge("src/attic.rs", "", &["room `attic` is not in the list"]);
        judge("src/ops/mod.rs", "use crate::cellar::X;\n", &["`crate::cellar` is not in the list"]);
    }

    #[test]
    fn unfinished_code_and_prints_are_seen() {
        judge("src/ops/mod.rs", "fn f() {\n    todo!()\n}\n", &["src/ops/mod.rs:4: `todo!` is left"]);
        judge("src/ops/mod.rs", "fn f() { dbg!(1); unimplemented!() }\n", &["unimplemented!", "dbg!"]);
        judge("tests/x.rs", "#[ignore = \"slow\"]\nfn f() {}\n", &["#[ignore"]);
        judge("src/data/mod.rs", "fn f() { eprintln!(\"{}\", 1) }\n", &["`eprintln!` below the command"]);
        judge("src/data/mod.rs", "#[cfg(test)]\nmod tests {\n    fn f() { println!() }\n}\n", &[]);
        judge("src/cli/mod.rs", "fn f() { println!() }\n", &[]);
        judge("src/ops/mod.rs", "// todo! dbg!\nconst A: [&str; 2] = [\"todo!\", r#\"dbg! \" print!\"#];\n", &[]);
        judge("src/ops/mod.rs", "const Q: char = '\"'; fn f<'a>(x: &'a str) { todo!() } // \"\n", &["todo!"]);
    }

    #[test]
    fn stale_documents_are_seen() {
        judge("README.md", "See `src/lib.rs`, `src/ops/<op>/cpu.rs`, `tests/`.\n", &[]);
        judge(
            "README.md",
            "text\nSee `src/gone.rs:12` and `benches/`.\n",
            &["README.md:2: names `src/gone.rs:12`", "benches/"],
        );
        judge("README.md", "See `src/gone/<op>.rs`; `cargo test src/gone.rs` is a command.\n", &["src/gone"]);
    }

    #[test]
    fn dependencies_without_a_reason_are_seen() {
        let good = "[package]\nname = \"x\"\n\n[dependencies]\n# Why.\na = \"1\"\n# Why.\nb = { version = \"1\", features = [\n    \"c\",\n] }\n";
        judge("Cargo.toml", good, &[]);
        judge("Cargo.toml", "[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n", &["Cargo.toml:4: `b = \"1\"`"]);
        judge("Cargo.toml", "[dev-dependencies.a]\nversion = \"1\"\n", &["dev-dependencies.a"]);
        judge("crates/x/Cargo.toml", "[target.'cfg(unix)'.dependencies]\n\na = \"1\"\n", &["crates/x/Cargo.toml:3"]);
    }

    #[test]
    fn machine_paths_are_seen() {
        let home = concat!("/ho", "me/");
        judge("fixtures/make.py", &format!("x = 1\nopen(\"{home}me/x\")\n"), &["fixtures/make.py:2: "]);
        judge("README.md", &format!("https://example.org{home}page\n"), &[]);
    }
}
