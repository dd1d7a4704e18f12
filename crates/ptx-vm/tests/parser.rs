//! The parser takes what it knows, names what it does not, and never panics.
#![forbid(unsafe_code)]

mod common;

use common::{SAMPLES, card, kernel};
use proptest::prelude::*;

fn error(ptx: &str) -> (u32, String) {
    let error = card().load("x.ptx", ptx).err().expect("an error");
    assert_eq!(error.file, "x.ptx");
    (error.line, error.message)
}

#[test]
fn what_is_unknown_is_named_with_its_line() {
    let first = kernel("").lines().position(|l| l.starts_with("mov.u32 %r1")).unwrap() as u32 + 2;
    for (body, word) in [
        ("frobnicate.b32 %r2, %r3;", "frobnicate"),
        ("add.wobble.s32 %r2, %r3, %r1;", "wobble"),
        ("add.s32 %r2, %r3;", "operands"),
        ("add.s32 %r2, %r3, %r99;", "%r99"),
        ("add.s32 %rd2, %r3, %r1;", "64 bits"),
        ("add.s32 %r2, %p1, %r1;", "%p1"),
        ("ld.global.u32 %r2, [%r3];", "%r3"),
        ("ld.global.u32 %r2, [nowhere];", "nowhere"),
        ("bra nowhere;", "nowhere"),
        ("mov.u32 %r2, %tid.w;", "%tid.w"),
        ("ld.global.v3.u32 {%r2, %r3, %r4}, [%rd1];", "elements"),
        ("ld.global.v2.u32 {%r2, %r3, %r4}, [%rd1];", "elements"),
        ("cvt.f16.f32 %h1, %f1;", "rounding"),
        ("cvt.s32.f32 %r1, %f1;", "float to integer"),
        ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r2}, {%r2}, {%r2}, {%r2};", "m16n8k8"),
        ("call (%r1), other, (%r2);", "other"),
        ("lop3.b32 %r2, %r2, %r2, %r2, 256;", "0 to 255"),
        (".frob %r1;", ".frob"),
        ("add.s32 %r2, %r3, ;", "operand"),
        ("@%q1 bra E; E:", "%q1"),
    ] {
        let (line, message) = error(&kernel(body));
        assert_eq!(line, first, "{body}: {message}");
        assert!(message.contains(word), "{body}: {message}");
    }
}

#[test]
fn heads_are_checked() {
    assert!(error("").1.contains(".version"));
    assert!(error(".version 99.0\n.target sm_80\n").1.contains("99.0"));
    assert!(error(".version 7.0\n.target sm_xx\n").1.contains("sm_xx"));
    assert!(error(".version 7.0\n.target sm_80\n.address_size 32\n").1.contains("32"));
    assert!(error(".version 7.8\n.target sm_90\n.address_size 64\n").1.contains("sm_90"));
    assert_eq!(
        error(".version 7.0\n.target sm_80\n\n.strange x;\n"),
        (4, "unknown directive `.strange` at module scope".into())
    );
}

#[test]
fn newer_instructions_need_a_newer_target() {
    let old = kernel("cp.async.commit_group;").replace("sm_80", "sm_75");
    assert!(error(&old).1.contains("sm_80"));
    let old = kernel("redux.sync.add.s32 %r2, %r1, -1;").replace("sm_80", "sm_75");
    assert!(error(&old).1.contains("sm_80"));
}

#[test]
fn attributes_of_the_samples() {
    let card = card();
    let module = common::load(&card, SAMPLES);
    assert_eq!(module.kernels(), ["axpy", "block_sum", "calls_and_locals", "histogram", "stage", "transpose"]);
    let sum = module.kernel("block_sum").unwrap();
    assert_eq!((sum.static_shared(), sum.threads_per_block(), sum.param_bytes()), (512, 128, 20));
    assert_eq!(sum.params(), [(0, 8), (8, 8), (16, 4)]);
    assert_eq!(module.global("calls").map(|(_, size)| size), Some(4));
    let head = "// resources block_sum sm_75 registers=19 shared=512 spill=0\n// resources block_sum sm_80 registers=21 shared=512 spill=0\n// resources block_sum sm_90 registers=30 shared=512 spill=0\n";
    let module = common::load(&card, &format!("{head}{SAMPLES}"));
    assert_eq!(module.kernel("block_sum").unwrap().registers(), 21);
}

#[test]
fn no_truncation_panics() {
    let card = card();
    for end in (0..SAMPLES.len()).step_by(97).filter(|e| SAMPLES.is_char_boundary(*e)) {
        let _ = card.load("cut.ptx", &SAMPLES[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_panics(edits in prop::collection::vec((0usize..16_000, any::<u8>()), 1..6)) {
        let mut bytes = SAMPLES.as_bytes().to_vec();
        for (at, value) in edits {
            let at = at % bytes.len();
            match value % 3 {
                0 => bytes[at] = value,
                1 => { bytes.remove(at); }
                _ => bytes.insert(at, b"{}()[]<>,;:+-!@|.%0123456789abx\"/*"[value as usize % 34]),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = card().load("mutant.ptx", &text);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = card().load("text.ptx", &text);
        let _ = card().load("text.ptx", &format!(".version 7.8\n.target sm_80\n{text}"));
        let _ = card().load("text.ptx", &kernel(&text));
    }
}
