//! The `ptx-vm` command, end to end.
#![forbid(unsafe_code)]

use assert_cmd::Command;

const SAMPLES: &str = "tests/kernels/samples.ptx";

fn ptx_vm(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("ptx-vm").unwrap().args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const AXPY: [&str; 11] =
    ["run", SAMPLES, "--entry", "axpy", "--block", "256", "--arg", "f32:2", "--arg", "buf:f32:1000=range", "--arg"];

#[test]
fn a_run_reports_and_prints() {
    let mut call = AXPY.to_vec();
    call.extend(["buf:f32:1000", "--arg", "u32:1000", "--grid", "4", "--print", "2:5"]);
    let (code, out, err) = ptx_vm(&call);
    assert_eq!((code, err.as_str()), (0, ""));
    for part in ["finding       none", "argument 2    0 2 4 6 8", "fma lanes", "global"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
}

#[test]
fn a_finding_ends_with_one() {
    let mut call = AXPY.to_vec();
    call.extend(["buf:f32:500", "--arg", "u32:1000", "--grid", "4"]);
    let (code, out, _) = ptx_vm(&call);
    assert_eq!(code, 1);
    assert!(out.contains("out of bounds") && out.contains("samples.cu:5"), "{out}");
    call.push("--json");
    let (code, out, _) = ptx_vm(&call);
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["finding"]["kind"], "OutOfBounds");
}

#[test]
fn a_limit_ends_a_run() {
    let mut call = AXPY.to_vec();
    call.extend(["buf:f32:1000", "--arg", "u32:1000", "--grid", "4", "--max-instructions"]);
    call.push("640");
    assert_eq!(ptx_vm(&call).0, 0);
    call.pop();
    call.push("300");
    let (code, out, _) = ptx_vm(&call);
    assert_eq!(code, 1);
    assert!(out.contains("too long: the launch has executed more than 300 warp instructions"), "{out}");
}

#[test]
fn check_lists_kernels() {
    let (code, out, _) = ptx_vm(&["check", SAMPLES]);
    assert_eq!(code, 0);
    assert!(out.contains("block_sum\n  parameters   20 bytes: 8@0 8@8 4@16\n"), "{out}");
    assert!(out.contains("threads      at most 128 a block"), "{out}");
}

#[test]
fn mistakes_of_the_caller_end_with_two() {
    for (call, word) in [
        (vec!["run", "nowhere.ptx", "--block", "1"], "nowhere.ptx"),
        (vec!["run", SAMPLES, "--block", "1"], "--entry"),
        (vec!["run", SAMPLES, "--block", "1", "--entry", "zzz"], "zzz"),
        (vec!["run", SAMPLES, "--block", "1", "--entry", "axpy"], "4 arguments"),
        (vec!["run", SAMPLES, "--block", "x", "--entry", "axpy"], "no size"),
        (vec!["run", SAMPLES, "--block", "1", "--arg", "q32:1"], "no type"),
        (vec!["run", SAMPLES, "--block", "1", "--arg", "u8:300"], "300"),
    ] {
        let (code, _, err) = ptx_vm(&call);
        assert_eq!(code, 2, "{call:?}: {err}");
        assert!(err.contains(word), "{call:?}: {err}");
    }
    let (code, _, err) = ptx_vm(&["check", "Cargo.toml"]);
    assert_eq!(code, 1);
    assert!(err.starts_with("Cargo.toml:"), "{err}");
}
