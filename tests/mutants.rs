//! Bugs planted in the committed PTX, one at a time: each is found by a check of the virtual GPU, the original by none.
#![forbid(unsafe_code)]

#[path = "support/card.rs"]
mod card;

use card::{NULL, Rig, Stored};
use dynavit::ops::attention::cuda::Method;
use dynavit::ops::attention::reference::Sizes;
use dynavit::ops::matmul::cuda::Tile;
use ptx_vm::{Fault, FaultKind};

/// What is done to one line.
enum Edit {
    /// The instruction is gone.
    Delete,
    /// One text in it becomes another.
    Swap(&'static str, &'static str),
    /// Five lanes of each warp execute it alone.
    SomeLanes,
    /// An atomic addition becomes a load, an addition and a store.
    Plain,
    /// The branch that guards what follows is never taken.
    Unguard,
}

/// A planted bug: the n-th line of an entry that holds `line`, what becomes of it, and what must be said of it.
struct Mutant {
    bug: &'static str,
    file: &'static str,
    entry: &'static str,
    line: &'static str,
    nth: usize,
    edit: Edit,
    kinds: &'static [FaultKind],
}

const MATMUL_75: (&str, &str) = ("ptx/matmul.sm75", "matmul_fwd_bias_f16");
const MATMUL_80: (&str, &str) = ("ptx/matmul.sm80", "matmul_fwd_bias_f16");
const GELU_80: (&str, &str) = ("ptx/matmul.sm80", "matmul_fwd_bias_gelu_f16");
const TILE64_75: (&str, &str) = ("ptx/matmul.sm75", "matmul_fwd_bias_residual_tile64_f16");
const DX_75: (&str, &str) = ("ptx/matmul_bwd.sm75", "matmul_bwd_dx_gelu_f16");
const DX_80: (&str, &str) = ("ptx/matmul_bwd.sm80", "matmul_bwd_dx_tile64_f16");
const DWEIGHT_75: (&str, &str) = ("ptx/matmul_bwd.sm75", "matmul_bwd_dweight_tile64_f16");
const DWEIGHT_80: (&str, &str) = ("ptx/matmul_bwd.sm80", "matmul_bwd_dweight_f16");
const SCALAR: (&str, &str) = ("ptx/matmul_scalar.sm75", "matmul_bwd_dx_scalar_f16");
const DBIAS: (&str, &str) = ("ptx/matmul_scalar.sm80", "matmul_bwd_dbias_f16");
const DBIAS_REDUCE: (&str, &str) = ("ptx/matmul_scalar.sm80", "matmul_bwd_dbias_reduce_add_f32");
const ATTENTION_75: (&str, &str) = ("ptx/attention.sm75", "attention_fwd_f16");
const ATTENTION_80: (&str, &str) = ("ptx/attention.sm80", "attention_fwd_f16");
const ONLINE_75: (&str, &str) = ("ptx/attention.sm75", "attention_fwd_online_f16");
const ONLINE_80: (&str, &str) = ("ptx/attention.sm80", "attention_fwd_online_f16");
const BACK_75: (&str, &str) = ("ptx/attention_bwd.sm75", "attention_bwd_f16");
const BACK_80: (&str, &str) = ("ptx/attention_bwd.sm80", "attention_bwd_f16");
const BACK_DQ: (&str, &str) = ("ptx/attention_bwd.sm80", "attention_bwd_dq_f16");
const BACK_DKV: (&str, &str) = ("ptx/attention_bwd.sm75", "attention_bwd_dkv_f16");
const BACK_DKV_80: (&str, &str) = ("ptx/attention_bwd.sm80", "attention_bwd_dkv_f16");
const ROWS_FWD: (&str, &str) = ("ptx/attention_rows.sm75", "attention_fwd_rows_f16");
const ROWS_BWD: (&str, &str) = ("ptx/attention_rows.sm80", "attention_bwd_rows_f16");
const NORM_75: (&str, &str) = ("ptx/layer_norm.sm75", "layer_norm_fwd_f16");
const NORM_DX: (&str, &str) = ("ptx/layer_norm.sm80", "layer_norm_bwd_dx_f16");
const NORM_REDUCE: (&str, &str) = ("ptx/layer_norm.sm80", "layer_norm_bwd_reduce_f32");
const COUNT: (&str, &str) = ("tests/kernels/count.sm75", "count_fwd_u32");

const fn mutant(
    bug: &'static str,
    of: (&'static str, &'static str),
    line: &'static str,
    nth: usize,
    edit: Edit,
    kinds: &'static [FaultKind],
) -> Mutant {
    Mutant { bug, file: of.0, entry: of.1, line, nth, edit, kinds }
}

use Edit::{Delete, Plain, SomeLanes, Swap, Unguard};
use FaultKind::{Deadlock, Divergence, GlobalRace, Misaligned, MissingWait, OutOfBounds, SharedRace, Uninitialised};

const MUTANTS: &[Mutant] = &[
    // Barriers that are gone.
    mutant("no barrier after the first stage", MATMUL_75, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier between stages", MATMUL_75, "bar.sync", 1, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier behind the wait", MATMUL_80, "bar.sync", 0, Delete, &[SharedRace, Uninitialised, MissingWait]),
    mutant("no barrier between steps", MATMUL_80, "bar.sync", 1, Delete, &[SharedRace, Uninitialised, MissingWait]),
    mutant("no warp barrier behind a strip's stores", MATMUL_80, "bar.warp.sync", 0, Delete, &[SharedRace]),
    mutant("no warp barrier behind a strip's loads", TILE64_75, "bar.warp.sync", 1, Delete, &[SharedRace]),
    mutant("no barrier after the first stage of g", DX_75, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier between stages of x", DWEIGHT_75, "bar.sync", 1, Delete, &[SharedRace, Uninitialised]),
    mutant(
        "no barrier behind the wait for g",
        DWEIGHT_80,
        "bar.sync",
        0,
        Delete,
        &[SharedRace, Uninitialised, MissingWait],
    ),
    mutant("no barrier between steps of dx", DX_80, "bar.sync", 1, Delete, &[SharedRace, Uninitialised, MissingWait]),
    mutant("no barrier behind the scalar stage", SCALAR, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier before the next scalar stage", SCALAR, "bar.sync", 1, Delete, &[SharedRace]),
    mutant("no barrier before the columns' sum", DBIAS, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier before the parts' sum", DBIAS_REDUCE, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier behind keys and values", ATTENTION_75, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier before new keys", ONLINE_75, "bar.sync", 0, Delete, &[SharedRace]),
    mutant("no barrier behind new keys", ONLINE_75, "bar.sync", 1, Delete, &[SharedRace, Uninitialised]),
    mutant(
        "no barrier behind the wait for keys",
        ONLINE_80,
        "bar.sync",
        0,
        Delete,
        &[SharedRace, MissingWait, Uninitialised],
    ),
    mutant("no barrier between the warps' turns", NORM_DX, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier before the last sum", NORM_REDUCE, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier behind the zeros", COUNT, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier behind the counting", COUNT, "bar.sync", 1, Delete, &[SharedRace]),
    mutant("no barrier behind keys and values", BACK_75, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("queries replace keys that are in use", BACK_75, "bar.sync", 1, Delete, &[SharedRace]),
    mutant("no barrier behind queries", BACK_75, "bar.sync", 2, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier before new queries", BACK_DKV, "bar.sync", 0, Delete, &[SharedRace]),
    mutant("no barrier behind new queries", BACK_DKV, "bar.sync", 1, Delete, &[SharedRace, Uninitialised]),
    mutant("no barrier behind what warps leave", ROWS_FWD, "bar.sync", 0, Delete, &[SharedRace, Uninitialised]),
    mutant("the next query's sums overtake", ROWS_BWD, "bar.sync", 0, Delete, &[SharedRace]),
    // Waits that are short, copies that are missing.
    mutant("a wait for one group too few", MATMUL_80, "wait_group 1", 0, Swap("1", "2"), &[MissingWait, SharedRace]),
    mutant("a step's wait is too short", MATMUL_80, "wait_group 1", 1, Swap("1", "2"), &[MissingWait, SharedRace]),
    mutant("no wait", MATMUL_80, "wait_group", 0, Delete, &[MissingWait, SharedRace, Uninitialised]),
    mutant("a step's copies form no group", MATMUL_80, "commit_group", 2, Delete, &[MissingWait, SharedRace]),
    mutant("no wait for weights", DX_80, "wait_group", 0, Delete, &[MissingWait, SharedRace, Uninitialised]),
    mutant("a wait for x too short", DWEIGHT_80, "wait_group 1", 0, Swap("1", "2"), &[MissingWait, SharedRace]),
    mutant("a copy of g is missing", DWEIGHT_80, "cp.async.cg", 0, Delete, &[Uninitialised]),
    mutant("weights are never stored", DX_75, "st.shared.v4", 4, Delete, &[Uninitialised]),
    mutant("no wait for keys and values", ATTENTION_80, "wait_group 0", 0, Swap("0", "1"), &[MissingWait, SharedRace]),
    mutant("no wait for a block of keys", ONLINE_80, "wait_group 0", 0, Swap("0", "1"), &[MissingWait, SharedRace]),
    mutant("no wait for queries", BACK_80, "wait_group 0", 1, Swap("0", "1"), &[MissingWait, SharedRace]),
    mutant("no wait for keys of a strip of dq", BACK_DQ, "wait_group 0", 0, Swap("0", "1"), &[MissingWait, SharedRace]),
    mutant("a row's two numbers are missing", BACK_80, "st.shared.v2", 1, Delete, &[Uninitialised]),
    mutant("delta is never stored", BACK_DQ, "st.global.f32", 1, Delete, &[Uninitialised]),
    mutant("lse past the end", BACK_DKV_80, "ld.global.f32", 0, Swap("]", "+2048]"), &[OutOfBounds]),
    mutant("a copy of the first stage is missing", MATMUL_80, "cp.async.cg", 0, Delete, &[Uninitialised]),
    mutant("a tile is never stored", MATMUL_75, "st.shared.v4", 0, Delete, &[Uninitialised]),
    mutant("values are never stored", ATTENTION_75, "st.shared.v4", 1, Delete, &[Uninitialised]),
    mutant("bins begin with no zeros", COUNT, "st.shared.u32", 0, Delete, &[Uninitialised]),
    mutant("a result is never stored", ATTENTION_80, "st.global.f32", 0, Delete, &[Uninitialised]),
    // Stages that share memory.
    mutant("both stages are one", MATMUL_75, "xor.b32", usize::MAX, Swap("16384", "0"), &[SharedRace]),
    mutant("stages overlap", MATMUL_80, "mov.u32", usize::MAX, Swap("32768", "0"), &[SharedRace, MissingWait]),
    // Bounds and places.
    mutant("rows of x past the end", MATMUL_75, "bra", 0, Unguard, &[OutOfBounds]),
    mutant("GELU's input is stored unasked", GELU_80, "setp.eq.s64", 0, Swap("eq", "ne"), &[OutOfBounds]),
    mutant("rows of g past the end", DWEIGHT_75, "bra", 7, Unguard, &[OutOfBounds]),
    mutant("a transposed stage too far", DWEIGHT_75, "ldmatrix", 0, Swap("]", "+32768]"), &[OutOfBounds]),
    mutant("rows past the end", NORM_75, "bra", 0, Unguard, &[OutOfBounds]),
    mutant("columns past the end", NORM_75, "bra", 8, Unguard, &[OutOfBounds]),
    mutant("bins past the end", COUNT, "bra", 0, Unguard, &[OutOfBounds]),
    mutant("values past the end", COUNT, "bra", 1, Unguard, &[OutOfBounds]),
    mutant("a stage too far", MATMUL_75, "ldmatrix", 0, Swap("]", "+32768]"), &[OutOfBounds]),
    mutant("half a chunk too far", ATTENTION_80, "ldmatrix", 0, Swap("]", "+8]"), &[Misaligned]),
    mutant("a row of sums too far", NORM_REDUCE, "ld.shared.f32", 7, Swap("896", "1024"), &[OutOfBounds]),
    mutant("half a value off", COUNT, "ld.global.u32", 0, Swap("]", "+2]"), &[Misaligned]),
    // Warps that part.
    mutant("a barrier for some lanes", MATMUL_75, "bar.sync", 1, SomeLanes, &[Divergence, Deadlock]),
    mutant("a matrix load by some lanes", MATMUL_80, "ldmatrix", 0, SomeLanes, &[Divergence]),
    mutant("a product by some lanes", ATTENTION_80, "mma.sync", 0, SomeLanes, &[Divergence]),
    mutant("a shuffle by some lanes", ATTENTION_75, "shfl.sync", 0, SomeLanes, &[Divergence]),
    mutant("a barrier for more than there are", COUNT, "bar.sync", 0, Swap("0;", "0, 256;"), &[Deadlock, Divergence]),
    // Atomics that are none.
    mutant("a plain addition in shared memory", COUNT, "atom.shared", 0, Plain, &[SharedRace]),
    mutant("a plain addition in global memory", COUNT, "atom.global", 0, Plain, &[GlobalRace]),
    mutant("parts share one place", DWEIGHT_80, "%ctaid.x", 0, Swap("%ctaid.x", "0"), &[GlobalRace, Uninitialised]),
    mutant("two blocks take one block's rows", NORM_DX, "%ctaid.x", 0, Swap("%ctaid.x", "0"), &[GlobalRace]),
];

/// The line with its edit.
fn edited(edit: &Edit, line: &str) -> String {
    let instruction = line.trim();
    match edit {
        Delete | Unguard => String::new(),
        Swap(from, to) => {
            assert!(line.contains(from), "`{line}` has no {from}");
            let (head, tail) = line.rsplit_once(from).unwrap();
            format!("{head}{to}{tail}")
        }
        SomeLanes => format!(
            "{{ .reg .pred %few; .reg .b32 %who; mov.u32 %who, %laneid; setp.lt.u32 %few, %who, 5; @%few {instruction} }}"
        ),
        Plain => {
            // atom.SPACE.add.u32 TO, [ADDRESS], VALUE;
            let (opcode, operands) = instruction.split_once(char::is_whitespace).unwrap();
            let space = opcode.split('.').nth(1).unwrap();
            let parts: Vec<&str> = operands.trim_end_matches(';').split(',').map(str::trim).collect();
            let [to, address, value] = parts[..] else { panic!("{line}") };
            format!("ld.{space}.u32 {to}, {address}; add.u32 {to}, {to}, {value}; st.{space}.u32 {address}, {to};")
        }
    }
}

impl Mutant {
    /// The file with the bug. `nth` of `usize::MAX` means every line that holds the text to be swapped too.
    fn text(&self) -> Result<String, String> {
        let text = card::ptx(self.file);
        let start = text.find(&format!(".visible .entry {}(", self.entry)).unwrap();
        let end = start + text[start..].find("\n}").unwrap();
        let mut seen = 0;
        let mut body = Vec::new();
        for line in text[start..end].lines() {
            let whole = matches!(self.edit, Swap(from, _) if line.contains(from)) && self.nth == usize::MAX;
            let here = line.contains(self.line) && (whole || (self.nth != usize::MAX && seen == self.nth));
            seen += usize::from(line.contains(self.line) && (self.nth != usize::MAX || whole));
            body.push(if here { edited(&self.edit, line) } else { line.to_string() });
        }
        let found = if self.nth == usize::MAX { seen > 0 } else { seen > self.nth };
        if !found {
            return Err(format!("`{}` stands there {seen} times", self.line));
        }
        Ok(format!("{}{}{}", &text[..start], body.join("\n"), &text[end..]))
    }

    /// The kernel with the bug on a case where it matters.
    fn run(&self, text: String, seed: u64) -> Result<(), Fault> {
        let capability = if self.file.ends_with("sm75") { 75 } else { 80 };
        let rig = Rig::new(capability, text, Stored::F16, seed);
        match self.file.split(['/', '.']).rev().nth(1).unwrap() {
            "matmul" => {
                // Four steps: the last one lies where the strips of sm_80 will.
                let tile = if self.entry.contains("tile64") { Tile::Narrow } else { Tile::Wide };
                rig.matmul_beside(self.entry, tile, [131, 136, 104], NULL).map(drop)
            }
            "matmul_bwd" => {
                let tile = if self.entry.contains("tile64") { Tile::Narrow } else { Tile::Wide };
                let run = if self.entry.contains("dweight") { Rig::matmul_dweight } else { Rig::matmul_dx };
                // Tails in every direction; of dweight two parts.
                let (m, n) = if self.entry.contains("dweight") { (299, 104) } else { (131, 104) };
                run(&rig, self.entry, tile, m, n, 136).map(drop)
            }
            "matmul_scalar" if self.entry.contains("dbias") => {
                let entry = if self.entry.contains("reduce") { "matmul_bwd_dbias_f16" } else { self.entry };
                rig.matmul_dbias(entry, 131, 104).map(drop)
            }
            "matmul_scalar" => rig.matmul_dx(self.entry, Tile::Scalar, 70, 37, 66).map(drop),
            "attention" => rig.attention(self.entry, 1, 139, 2).map(drop),
            "attention_bwd" => {
                let kind = if self.entry == "attention_bwd_f16" { Method::Whole } else { Method::Online };
                rig.attention_backward(kind, (1, 139, 2), &vec![0.5; 139 * 128], &vec![4.0; 139 * 2]).map(drop)
            }
            "attention_rows" => {
                let z = Sizes { b: 1, queries: 2, keys: 39, heads: 2, head_width: 64 };
                rig.attention_rows(z).map(drop)
            }
            "layer_norm" if self.entry.contains("bwd") => rig.layer_norm_backward(70, 200).map(drop),
            "layer_norm" => rig.layer_norm(7, 200).map(drop),
            "count" => rig.count(200).map(drop),
            other => panic!("{other} is no kernel file"),
        }
    }
}

#[test]
fn originals_have_no_finding() {
    for mutant in MUTANTS {
        for seed in [0, 1] {
            if let Err(fault) = mutant.run(card::ptx(mutant.file), seed) {
                panic!("{} {}: {fault}", mutant.file, mutant.entry);
            }
        }
    }
}

#[test]
fn planted_bugs_are_found_by_a_check() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        let found = match mutant.text().map(|text| mutant.run(text, 0)) {
            Ok(Ok(())) => "nothing".to_string(),
            Ok(Err(fault)) if mutant.kinds.contains(&fault.kind) => continue,
            Ok(Err(fault)) => format!("{:?}: {}", fault.kind, fault.message),
            Err(reason) => reason,
        };
        missed.push(format!("{} ({}): {found}", mutant.bug, mutant.entry));
    }
    assert!(MUTANTS.len() >= 20 && missed.is_empty(), "{} of {}\n{}", missed.len(), MUTANTS.len(), missed.join("\n"));
}
