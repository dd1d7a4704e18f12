//! ptx/gpu_day.sh, which people run once where a card is: here with small sizes against the virtual card.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_script_for_a_card_runs_to_its_table() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dynavit = bin.path().join("dynavit");
    std::fs::copy(env!("CARGO_BIN_EXE_dynavit"), &dynavit).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/gpu_day.sh");
    let mut command = Command::new("bash");
    command.arg(script).args([bin.path(), out.path()]).arg("ptx-vm");
    for (name, value) in
        [("MODEL", "vit_micro_patch16_224"), ("KEEPS", "20"), ("BATCHES", "1"), ("STEPS", "1"), ("PRECISIONS", "f16")]
    {
        command.env(name, value);
    }
    let output = command.env_remove("DYNAVIT_REQUIRE_GPU").env_remove("DYNAVIT_PTX_VM").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let table = std::fs::read_to_string(out.path().join("table.md")).unwrap();
    for step in ["train", "infer"] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {step} | f16 | 20 | 1 |")));
        let rate = row.and_then(|row| row.split('|').nth(5)?.trim().parse::<f64>().ok());
        assert!(rate.is_some_and(|rate| rate > 0.0), "{table}");
    }
    let kernels = std::fs::read_to_string(out.path().join("kernels-train-f16.txt")).unwrap();
    assert!(kernels.contains("adamw_step_f16"), "{kernels}");
}
