//! ptx/gpu_day.sh, which people run once where a card is: here with small sizes against the virtual card, and with programs
//! that fail or hang in the place of ours.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Runs the script with the programs in `bin` for one K and one batch.
fn day(bin: &TempDir, out: &TempDir, variables: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/gpu_day.sh");
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.arg(script).args([bin.path(), out.path()]).arg("ptx-vm").env("PATH", path);
    for name in ["DYNAVIT_REQUIRE_GPU", "DYNAVIT_PTX_VM", "PRECISIONS", "SANITIZE", "LIMIT", "BUDGET", "ARCHIVE"] {
        command.env_remove(name);
    }
    let sizes = [("MODEL", "vit_micro_patch16_224"), ("KEEPS", "20"), ("BATCHES", "1"), ("STEPS", "1")];
    command.envs(sizes).envs(variables.iter().copied()).output().unwrap()
}

fn text(out: &TempDir, name: &str) -> String {
    std::fs::read_to_string(out.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Writes a program of the shell. Another process does it: a file that this one has open for writing cannot be run, nor
/// while a test beside this one begins a process that inherits it.
fn program(bin: &TempDir, name: &str, body: &str) {
    let write = Command::new("sh")
        .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2\" && chmod +x \"$2\"", "write", body])
        .arg(bin.path().join(name))
        .status();
    assert!(write.unwrap().success());
}

#[test]
fn the_script_for_a_card_runs_to_its_table() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = Command::new("cp").arg(env!("CARGO_BIN_EXE_dynavit")).arg(bin.path()).status();
    assert!(copy.unwrap().success());
    let output = day(&bin, &out, &[("PRECISIONS", "f16")]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let table = text(&out, "table.md");
    for step in ["train", "infer"] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {step} | f16 | 20 | 1 |")));
        let rate = row.and_then(|row| row.split('|').nth(5)?.trim().parse::<f64>().ok());
        assert!(rate.is_some_and(|rate| rate > 0.0), "{table}");
    }
    assert!(table.ends_with("failed: none\nnot finished: none\nskipped: none\n") && said.ends_with(&table), "{table}");
    let kernels = text(&out, "kernels-train-f16.txt");
    assert!(kernels.contains("adamw_step_f16"), "{kernels}");
}

/// A program that measures training at once and inference never, on a card that has no bf16.
const SLOW: &str = r#"case "$1 $2" in
    "doctor "*) echo '{"card":{"name":"T4","capability":"7.5"},"works":true}' ;;
    "bench train") echo '{"images_per_second":10.5,"milliseconds":{"median":95.24},"share_of_peak":null}' ;;
    *) exec sleep 60 ;;
esac"#;

#[test]
fn what_did_not_finish_is_told_apart_from_what_failed() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(&bin, "dynavit", SLOW);
    program(&bin, "compute-sanitizer", r#"[ "$2" != synccheck ] || exit 9"#);
    let archive = bin.path().join("day.tar.gz");
    let output = day(&bin, &out, &[("LIMIT", "6"), ("ARCHIVE", archive.to_str().unwrap())]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let table = text(&out, "table.md");
    for row in ["| train | f16 | 20 | 1 | 10.5 | 95.24 | - |", "| infer | f16 | 20 | 1 | - | - | - |"] {
        assert!(table.contains(row), "{table}");
    }
    assert!(!table.contains("bf16"), "{table}");
    let end = "failed: none\nnot finished: infer-f16-k20-b1 kernels-infer-f16\nskipped: none\n";
    assert!(table.ends_with(end), "{table}");
    assert!(!out.path().join("sanitizer-memcheck.txt").exists(), "the virtual card needs no sanitizer");
    let packed = Command::new("tar").arg("-tzf").arg(archive).output().unwrap();
    let packed = String::from_utf8_lossy(&packed.stdout);
    assert!(packed.contains("./table.md") && packed.contains("./kernels-train-f16.txt"), "{packed}");

    // A test that fails runs again alone, and the sanitizer comes where it is named.
    let again = r#"case "$1" in
        --list) printf 'ops::a: test\nb: test\n' ;;
        --exact) echo "$2 with $DYNAVIT_CUDA_SYNC"; [ "$2" = b ] ;;
        *) exit 101 ;;
    esac"#;
    program(&bin, "cuda", again);
    let output = day(&bin, &out, &[("LIMIT", "6"), ("SANITIZE", "memcheck synccheck"), ("PRECISIONS", "f16 bf16")]);
    assert_eq!(output.status.code(), Some(1));
    let table = text(&out, "table.md");
    let end = "failed: tests-cuda tests-cuda-ops-a sanitizer-synccheck sanitizer-synccheck-ops\n";
    assert!(table.contains(end) && table.contains("| train | bf16 | 20 | 1 | 10.5 |"), "{table}");
    assert_eq!(text(&out, "tests-cuda-ops-a.txt"), "ops::a with 1\nFAILED WITH 1\n");
    assert_eq!(text(&out, "tests-cuda-b.txt"), "b with 1\n");
}

#[test]
fn what_no_time_is_left_for_is_named_and_the_table_is_there() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(&bin, "dynavit", &SLOW.replace("train", "nothing"));
    let output = day(&bin, &out, &[("BUDGET", "12"), ("PRECISIONS", "f16"), ("SANITIZE", "")]);
    let (said, table) = (String::from_utf8_lossy(&output.stdout), text(&out, "table.md"));
    assert!(output.status.success() && said.ends_with(&table), "{said}");
    assert!(table.contains("| train | f16 | 20 | 1 | - | - | - |"), "{table}");
    let end = "skipped: infer-f16-k20-b1 kernels-train-f16 kernels-infer-f16\n";
    assert!(table.starts_with("| step |") && table.ends_with(end), "{table}");
    assert!(!out.path().join("infer-f16-k20-b1.txt").exists());
}
