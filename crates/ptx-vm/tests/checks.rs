//! Planted bugs: each is found by the check that is there for it, and the unmutated kernels give no finding.
#![forbid(unsafe_code)]

mod common;

use common::{Arg, SAMPLES, card, card_with, fails, kind, launch, launch3, load, put_f32, run, run_on};
use ptx_vm::{Fault, FaultKind, LaunchShape, Options};

const STORE: &str = "mov.u32 %r2, s;\nshl.b32 %r3, %r1, 2;\nadd.u32 %r4, %r2, %r3;\nst.shared.u32 [%r4], %r1;\n";
const NEXT: &str = "xor.b32 %r5, %r1, 33;\nshl.b32 %r5, %r5, 2;\nadd.u32 %r5, %r5, %r2;\n";

/// Runs a kernel of the samples on inputs that suit it, after `edit` changed the text.
fn sample(entry: &str, edit: impl Fn(String) -> String) -> Result<(), Fault> {
    let card = card_with(Options { global_races: true, ..Options::default() });
    let start = SAMPLES.find(&format!(".entry {entry}(")).unwrap();
    let end = start + SAMPLES[start..].find("\n}").unwrap();
    let edited = edit(SAMPLES[start..end].to_string());
    assert!(entry.is_empty() || edited.starts_with(".entry"));
    let module = load(&card, &format!("{}{edited}{}", &SAMPLES[..start], &SAMPLES[end..]));
    let x: Vec<f32> = (0..4096).map(|i| (i % 17) as f32).collect();
    let input = put_f32(&card, &x);
    let output = card.alloc(4096 * 4).unwrap();
    match entry {
        "axpy" => {
            let y = put_f32(&card, &x[..1000]);
            launch(&card, &module, entry, 4, 256, &[Arg::F32(2.0), Arg::U64(input), Arg::U64(y), Arg::U32(1000)])
        }
        "block_sum" => {
            launch(&card, &module, entry, 8, 128, &[Arg::U64(input), Arg::U64(output), Arg::U32(1000)])?;
            let got = common::get_f32(&card, output, 8);
            let want: f32 = x[..128].iter().sum();
            assert_eq!(got[0], want);
            Ok(())
        }
        "transpose" => {
            let args = [Arg::U64(input), Arg::U64(output), Arg::U32(64)];
            launch3(&card, &module, entry, [2, 2, 1], [32, 32, 1], &args)?;
            assert_eq!(common::get_f32(&card, output, 4096)[3 * 64 + 5], x[5 * 64 + 3]);
            Ok(())
        }
        "histogram" => {
            let bytes: Vec<u8> = (0..1000u32).map(|i| (i / 3 % 256) as u8).collect();
            let data = card.alloc(1000).unwrap();
            card.write(data, &bytes).unwrap();
            card.fill(output, &[0, 0, 0, 0], 256).unwrap();
            launch(&card, &module, entry, 2, 128, &[Arg::U64(data), Arg::U64(output), Arg::U32(1000)])?;
            let counts = common::get_u32(&card, output, 256);
            assert_eq!(counts.iter().sum::<u32>(), 1000);
            Ok(())
        }
        "stage" => {
            launch(&card, &module, entry, 4, 64, &[Arg::U64(input), Arg::U64(output)])?;
            assert_eq!(common::get_f32(&card, output, 4)[..4], x[252..256]);
            Ok(())
        }
        _ => {
            let mut pair = vec![1, 0, 0, 0, 0, 0, 0, 0];
            pair.extend(0.5f64.to_le_bytes());
            launch(&card, &module, entry, 1, 32, &[Arg::U64(input), Arg::U64(output), Arg::Bytes(pair), Arg::U32(2)])?;
            let want = |t: usize| x[t] * 2.0 + 0.5 - 3.0 + x[2] * 2.0 + 4.0 + (x[1] as f64).sin() as f32;
            let got = common::get_f32(&card, output, 32);
            (0..32).for_each(|t| assert!((got[t] - want(t)).abs() < 1e-5, "{t}: {} {}", got[t], want(t)));
            Ok(())
        }
    }
}

/// The n-th line that holds `what` is dropped or replaced.
fn change(text: String, what: &str, n: usize, by: &str) -> String {
    let mut seen = 0;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            if !line.contains(what) {
                return line.to_string();
            }
            seen += 1;
            if seen == n + 1 { line.replace(what, by) } else { line.to_string() }
        })
        .collect();
    assert!(seen > n, "{what} is not there");
    lines.join("\n")
}

#[test]
fn unmutated_kernels_give_no_finding() {
    for entry in ["axpy", "block_sum", "transpose", "histogram", "stage", "calls_and_locals"] {
        sample(entry, |text| text).unwrap_or_else(|f| panic!("{f}"));
    }
}

#[test]
fn planted_bugs_in_real_kernels_are_found() {
    use FaultKind::*;
    let drop_bar = |n| move |text: String| change(text, "bar.sync \t0;", n, "");
    for n in 1..7 {
        assert_eq!(sample("block_sum", drop_bar(n)).expect_err("a race").kind, SharedRace, "barrier {n}");
    }
    // Before a tile is filled, whoever comes first either races or reads what nobody wrote.
    for entry in ["block_sum", "transpose", "histogram"] {
        let kind = sample(entry, drop_bar(0)).expect_err("a finding").kind;
        assert!(matches!(kind, SharedRace | Uninitialised), "{entry}: {kind:?}");
    }
    assert_eq!(sample("histogram", drop_bar(1)).expect_err("race").kind, SharedRace);
    let kind = sample("stage", drop_bar(0)).expect_err("a finding").kind;
    assert!(matches!(kind, MissingWait | Uninitialised), "{kind:?}");
    let cases: [(&str, &str, usize, &str, FaultKind); 12] = [
        ("stage", "cp.async.wait_group 0;", 0, "", MissingWait),
        ("stage", "cp.async.commit_group;", 0, "", MissingWait),
        ("stage", "cp.async.wait_group 0;", 0, "cp.async.wait_group 1;", MissingWait),
        ("axpy", "setp.ge.s32", 0, "setp.gt.s32", OutOfBounds),
        ("axpy", "mul.wide.s32 \t%rd5, %r1, 4;", 0, "mul.wide.s32 \t%rd5, %r1, 2;", Misaligned),
        ("block_sum", "st.shared.f32 \t[%r4], %f26;", 0, "", Uninitialised),
        ("block_sum", "[%r4+128]", 0, "[%r4+124]", SharedRace),
        ("transpose", "st.shared.f32 \t[%r15]", 0, "st.shared.f32 \t[%r15+4]", OutOfBounds),
        ("histogram", "st.shared.u32", 0, "// st.shared.u32", Uninitialised),
        ("histogram", "atom.global.add.u32 \t%r27, [%rd8], %r26;", 0, "st.global.u32 \t[%rd8], %r26;", GlobalRace),
        ("histogram", "atom.shared.add.u32 \t%r22, [%r21], 1;", 0, "st.shared.u32 \t[%r21], %r29;", SharedRace),
        ("block_sum", "bar.sync \t0;", 3, "@%p2 bar.sync \t0;", Divergence),
    ];
    for (entry, what, n, by, kind) in cases {
        let found = sample(entry, |text| change(text, what, n, by)).err();
        let Some(found) = found else { panic!("{entry}: {what} gives no finding") };
        if kind == Divergence {
            assert!(matches!(found.kind, Divergence | Deadlock | SharedRace), "{what}: {found}");
        } else {
            assert_eq!(found.kind, kind, "{what}: {found}");
        }
    }
}

#[test]
fn reports_say_where() {
    let fault = sample("block_sum", |text| change(text, "bar.sync \t0;", 1, "")).unwrap_err();
    let text = fault.to_string();
    for part in [
        "kernel block_sum",
        "test.ptx:",
        "samples.cu:13",
        "block (",
        "thread (",
        "offset",
        " by test.ptx:",
        ".shared.f32",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn lanes_of_one_warp_are_not_ordered_by_luck() {
    let exchange = |sync: &str| {
        format!(
            "{STORE}{sync}\nxor.b32 %r5, %r1, 1;\nshl.b32 %r5, %r5, 2;\nadd.u32 %r5, %r5, %r2;\nld.shared.u32 %r6, [%r5];"
        )
    };
    assert_eq!(kind(&exchange(""), 32), Some(FaultKind::SharedRace));
    // A shuffle orders no memory.
    assert_eq!(kind(&exchange("shfl.sync.idx.b32 %r7, %r1, 0, 31, -1;"), 32), Some(FaultKind::SharedRace));
    assert_eq!(kind(&exchange("bar.warp.sync -1;"), 32), None);
    assert_eq!(kind(&exchange("bar.sync 0;"), 32), None);
    // Read, then written by another lane.
    let after = |sync: &str| {
        format!(
            "{STORE}bar.warp.sync -1;\nld.shared.u32 %r6, [s];\n{sync}\nsetp.eq.u32 %p1, %r1, 5;\n@%p1 st.shared.u32 [s], %r1;"
        )
    };
    assert_eq!(kind(&after(""), 32), Some(FaultKind::SharedRace));
    assert_eq!(kind(&after("bar.warp.sync -1;"), 32), None);
    // Different values to one place in one instruction; the same value harms nobody.
    assert_eq!(kind("st.shared.u32 [s], %r1;", 32), Some(FaultKind::SharedRace));
    assert_eq!(kind("mov.u32 %r2, 7;\nst.shared.u32 [s], %r2;", 64), None);
}

#[test]
fn warps_meet_at_barriers() {
    let first = format!("{STORE}bar.sync 0;\n");
    assert_eq!(kind(&format!("{first}{STORE}bar.sync 0;\n{NEXT}ld.shared.u32 %r6, [%r5];"), 64), None);
    assert_eq!(
        kind(&format!("{first}{STORE}bar.warp.sync -1;\n{NEXT}ld.shared.u32 %r6, [%r5];"), 64),
        Some(FaultKind::SharedRace)
    );
    // A producer arrives, a consumer waits: that orders one way.
    let pair = |produce: &str, consume: &str| {
        format!(
            "{first}setp.lt.u32 %p1, %r1, 32;\nmov.u32 %r2, s;\nand.b32 %r9, %r1, 31;\nshl.b32 %r3, %r9, 2;\nadd.u32 %r4, %r2, %r3;\n\
             @!%p1 bra C;\nst.shared.u32 [%r4], %r1;\n{produce}\nbra E;\nC:\n{consume}\nld.shared.u32 %r6, [%r4];\nE:"
        )
    };
    assert_eq!(kind(&pair("bar.arrive 1, 64;", "bar.sync 1, 64;"), 64), None);
    assert_eq!(kind(&pair("bar.sync 1, 64;", "bar.sync 1, 64;"), 64), None);
    assert_eq!(kind(&pair("", ""), 64), Some(FaultKind::SharedRace));
    // Nobody else comes.
    let alone = fails("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra E;\nbar.sync 0;\nE:", 64);
    assert_eq!(alone.kind, FaultKind::Deadlock, "{alone}");
    assert!(alone.message.contains("32 of 64"), "{alone}");
    assert_eq!(
        kind("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 1;\nbra E;\nA:\nbar.sync 2;\nE:", 64),
        Some(FaultKind::Deadlock)
    );
}

#[test]
fn divergence_where_lanes_must_meet() {
    let half = "setp.lt.u32 %p1, %r1, 16;\n";
    assert_eq!(
        kind(&format!("{half}@%p1 bra A;\nbar.sync 0;\nbra E;\nA:\nbar.sync 0;\nE:"), 32),
        Some(FaultKind::Divergence)
    );
    assert_eq!(
        kind(&format!("{half}@%p1 bra E;\nshfl.sync.idx.b32 %r2, %r1, 0, 31, -1;\nE:\nbar.sync 0;"), 32),
        Some(FaultKind::Divergence)
    );
    assert_eq!(
        kind(&format!("{half}@%p1 bra E;\nvote.sync.any.pred %p2, %p1, 0xffff;\nE:"), 32),
        Some(FaultKind::Divergence)
    );
    assert_eq!(
        kind(&format!("{half}@%p1 bra E;\nmovmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;\nE:"), 32),
        Some(FaultKind::Divergence)
    );
    // The same barrier reached by two paths that join first is fine.
    assert_eq!(
        kind(&format!("{half}@%p1 bra A;\nmov.u32 %r2, 1;\nbra E;\nA:\nmov.u32 %r2, 2;\nE:\nbar.sync 0;"), 32),
        None
    );
    // A lane that takes no part has no value to give.
    assert_eq!(kind("shfl.sync.idx.b32 %r2, %r1, 20, 31, 0xffff;", 16), Some(FaultKind::Divergence));
    assert_eq!(kind("trap;", 1), Some(FaultKind::Trap));
}

#[test]
fn barriers_that_are_not_aligned_take_lanes_from_anywhere() {
    let two = |a: &str, b: &str, after: &str| {
        format!(
            "setp.lt.u32 %p1, %r1, 16;\n{STORE}@%p1 bra A;\n{a};\nbra E;\nA:\n{b};\nE:\n{NEXT}ld.shared.u32 %r6, [%r5];\n{after}"
        )
    };
    let [plain, one] = ["barrier.sync 0", "barrier.sync 1"];
    assert_eq!(kind(&two(plain, plain, ""), 64), None);
    assert_eq!(kind(&two("barrier.sync 0, 64", "barrier.sync 0, 64", ""), 64), None);
    assert_eq!(kind(&two("barrier.sync 0, 64", "barrier.sync 0, 32", ""), 64), Some(FaultKind::Divergence));
    assert_eq!(kind(&two(plain, one, ""), 64), Some(FaultKind::Divergence));
    assert_eq!(kind(&two(plain, "bar.sync 0", ""), 64), Some(FaultKind::Divergence));
    assert!(kind(&two("", "", ""), 64).is_some());
    assert_eq!(kind(&two(plain, plain, "@%p1 st.shared.u32 [%r4], 1;"), 64), Some(FaultKind::SharedRace));
    // Lanes that ended count as arrived here, and do not at a barrier of whole warps.
    let ended =
        |sync: &str| format!("{STORE}setp.eq.u32 %p1, %r1, 63;\n@%p1 bra E;\n{sync} 0;\nld.shared.u32 %r6, [s];\nE:");
    assert_eq!(kind(&ended("barrier.sync"), 64), None);
    assert_eq!(kind(&ended("bar.sync"), 64), Some(FaultKind::Divergence));
    let count = |body: &str| fails(body, 32).message;
    assert!(count("barrier.sync 0, 48;").contains("not a multiple of 32"));
    assert!(count("barrier.sync 0, 64;").contains("not a multiple of 32 from 32 to 32"));
    let red = "barrier.red.popc.u32 %r7, 0, %p1";
    let fault = fails(&two(red, red, ""), 64);
    assert_eq!(fault.kind, FaultKind::Unsupported);
    assert!(fault.message.contains("test.ptx:") && fault.message.contains("barrier.red.popc"), "{fault}");
}

#[test]
fn local_memory_is_written_before_it_is_read() {
    let frame = ".local .align 8 .b8 l[16];\n";
    assert_eq!(kind(&format!("{frame}ld.local.u32 %r2, [l];"), 1), Some(FaultKind::Uninitialised));
    let half = format!("{frame}st.local.u32 [l], %r1;\nld.local.u64 %rd2, [l];");
    let fault = fails(&half, 33);
    assert_eq!(fault.kind, FaultKind::Uninitialised);
    assert!(fault.message.contains("offset 4 was never written"), "{fault}");
    assert_eq!(kind(&format!("{frame}st.local.v2.u32 [l+8], {{%r1, %r1}};\nld.local.u64 %rd2, [l+8];"), 33), None);
    // Each thread has its own: what the others wrote is not this one's.
    let one = "setp.eq.u32 %p1, %r1, 3;\n@%p1 st.local.u8 [l+5], 1;\n";
    assert_eq!(kind(&format!("{frame}{one}@%p1 ld.local.u8 %r2, [l+5];"), 32), None);
    assert_eq!(kind(&format!("{frame}{one}ld.local.u8 %r2, [l+5];"), 32), Some(FaultKind::Uninitialised));
    // A block does not see what an earlier one left.
    let first = "mov.u32 %r2, %ctaid.x;\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 st.local.u32 [l], %r1;\n";
    let left = run_on(card(), &format!("{frame}{first}ld.local.u32 %r3, [l];"), 4, 32);
    assert_eq!(left.expect_err("a finding").kind, FaultKind::Uninitialised);
    let unchecked = card_with(Options { checks: false, ..Options::default() });
    run_on(unchecked, &format!("{frame}ld.local.u32 %r2, [l];"), 1, 1).unwrap();
}

#[test]
fn an_endless_loop_ends_at_the_limit() {
    let limited = |n| card_with(Options { max_instructions: Some(n), ..Options::default() });
    for body in [
        "L: bra L;",
        "L: setp.lt.u32 %p1, %r1, 7;\n@%p1 bra L;\nbra L;",
        "L: mov.u32 %r2, 0;\nbrx.idx %r2, T;\nT: .branchtargets L;",
        "L: bar.sync 0;\nbra L;",
        "L: ld.volatile.global.u32 %r2, [%rd1];\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 bra L;",
    ] {
        let fault = run_on(limited(100_000), body, 3, 64).expect_err(body);
        assert_eq!(fault.kind, FaultKind::TooLong, "{body}: {fault}");
        assert!(fault.message.contains("100000 warp instructions") && fault.message.contains("test.ptx:"), "{fault}");
    }
    let loop_of = |n: u32| format!("mov.u32 %r2, 0;\nL: add.u32 %r2, %r2, 1;\nsetp.lt.u32 %p1, %r2, {n};\n@%p1 bra L;");
    let executed = 3 + 3 * 1000 + 1;
    run_on(limited(executed), &loop_of(1000), 1, 32).unwrap();
    assert_eq!(run_on(limited(executed - 1), &loop_of(1000), 1, 32).unwrap_err().kind, FaultKind::TooLong);
}

#[test]
fn spinning_lanes_let_others_work() {
    // Lane 0 waits for a flag that lane 1 sets later in the text.
    let words = run(
        "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra W;\nS: ld.volatile.global.u32 %r2, [%rd1];\nsetp.eq.u32 %p2, %r2, 0;\n@%p2 bra S;\nbra E;\n\
         W: mov.u32 %r3, 1;\nst.volatile.global.u32 [%rd1], %r3;\nE:",
        2,
    );
    assert_eq!(words.unwrap()[0], 1);
}

#[test]
fn global_memory() {
    use FaultKind::*;
    assert_eq!(kind("ld.global.u32 %r2, [%rd1+4096];", 1), Some(OutOfBounds));
    assert_eq!(kind("st.global.v4.u32 [%rd1+4072], {%r1, %r1, %r1, %r1};", 1), Some(Misaligned));
    assert_eq!(kind("mov.u64 %rd2, 0;\nld.global.u32 %r2, [%rd2];", 1), Some(OutOfBounds));
    assert_eq!(kind("atom.global.add.u32 %r2, [%rd1+2], 1;", 1), Some(Misaligned));
    assert_eq!(kind("ld.shared.u32 %r2, [s];", 1), Some(Uninitialised));
    assert_eq!(kind("ld.shared.u32 %r2, [s+4096];", 1), Some(OutOfBounds));
    let card = card();
    let module = load(&card, &common::kernel("ld.global.u32 %r2, [%rd1];"));
    let buffer = card.alloc(4).unwrap();
    let fault = launch(&card, &module, "t", 1, 1, &[Arg::U64(buffer)]).unwrap_err();
    assert_eq!(fault.kind, Uninitialised, "{fault}");
    card.write(buffer, &[1, 2, 3, 4]).unwrap();
    launch(&card, &module, "t", 1, 1, &[Arg::U64(buffer)]).unwrap();
    card.free(buffer).unwrap();
    let fault = launch(&card, &module, "t", 1, 1, &[Arg::U64(buffer)]).unwrap_err();
    assert_eq!(fault.kind, UseAfterFree, "{fault}");
    assert_eq!(card.free(buffer).unwrap_err().kind, UseAfterFree);
}

#[test]
fn blocks_race_in_global_memory() {
    let watched = || card_with(Options { global_races: true, ..Options::default() });
    let plain = "mov.u32 %r2, %ctaid.x;\nst.global.u32 [%rd1], %r2;";
    assert_eq!(run_on(watched(), plain, 4, 1).unwrap_err().kind, FaultKind::GlobalRace);
    run_on(card(), plain, 4, 1).unwrap();
    run_on(watched(), "red.global.add.u32 [%rd1], 1;", 64, 32).unwrap();
    let own = "mov.u32 %r2, %ctaid.x;\nmad.wide.u32 %rd2, %r2, 4, %rd1;\nst.global.u32 [%rd2], %r2;";
    run_on(watched(), own, 64, 1).unwrap();
    // The last block, told by a counter after a fence, may read what the others wrote.
    let last = "mov.u32 %r2, %ctaid.x;\nmov.u32 %r9, %nctaid.x;\nmad.wide.u32 %rd2, %r2, 4, %rd1;\nst.global.u32 [%rd2+64], %r2;\n\
                FENCE\natom.global.add.u32 %r3, [%rd1], 1;\nsub.u32 %r9, %r9, 1;\nsetp.ne.u32 %p1, %r3, %r9;\n@%p1 bra E;\n\
                membar.gl;\nld.global.u32 %r4, [%rd1+64];\nld.global.u32 %r5, [%rd1+68];\nE:";
    run_on(watched(), &last.replace("FENCE", "membar.gl;"), 8, 1).unwrap();
    assert_eq!(run_on(watched(), &last.replace("FENCE", ""), 8, 1).unwrap_err().kind, FaultKind::GlobalRace);
}

#[test]
fn what_is_read_as_constant_is_not_written() {
    let watched = || card_with(Options { global_races: true, ..Options::default() });
    let place = "mov.u32 %r2, %ctaid.x;\nmad.lo.u32 %r2, %r2, 32, %r1;\nmad.wide.u32 %rd2, %r2, 4, %rd1;\n";
    let [read, write] = ["ld.global.nc.f32 %f1, [%rd2];\n", "st.global.f32 [%rd2], %f2;\n"];
    for blocks in [1, 4] {
        // In place, each thread its own element: right with a plain load, and a broken promise with this one.
        let plain = format!("{place}{}{write}", read.replace(".nc", ""));
        run_on(watched(), &plain, blocks, 32).unwrap();
        for body in [format!("{place}{read}{write}"), format!("{place}{write}{read}")] {
            let fault = run_on(watched(), &body, blocks, 32).unwrap_err();
            assert_eq!(fault.kind, FaultKind::NotConstant, "{fault}");
            assert!(fault.message.contains("ld.global.nc.f32") && fault.message.contains("st.global.f32"), "{fault}");
        }
        run_on(watched(), &format!("{place}{read}add.u64 %rd2, %rd2, 2048;\n{write}"), blocks, 32).unwrap();
    }
}

#[test]
fn launches_that_a_card_refuses() {
    let card = card();
    let head = "// resources block_sum sm_80 registers=255 shared=512 spill=0\n";
    let module = load(&card, &format!("{head}{}", SAMPLES.replace(".maxntid 128, 1, 1", ".maxntid 1024, 1, 1")));
    let kernel = module.kernel("block_sum").unwrap();
    let refused = |grid: [u32; 3], block: [u32; 3], dynamic_shared, params: usize| {
        let shape = LaunchShape { grid, block, dynamic_shared };
        card.launch(&kernel, shape, &vec![0; params]).map_err(|f| (f.kind, f.message))
    };
    for (grid, block, shared, params, word) in [
        ([0, 1, 1], [1, 1, 1], 0, 20, "grid x"),
        ([1, 65536, 1], [1, 1, 1], 0, 20, "grid y"),
        ([1, 1, 1], [1, 1, 65], 0, 20, "block z"),
        ([1, 1, 1], [1024, 2, 1], 0, 20, "2048 threads"),
        ([1, 1, 1], [512, 1, 1], 0, 20, "registers"),
        ([1, 1, 1], [32, 1, 1], 49152, 20, "shared memory"),
        ([1, 1, 1], [32, 1, 1], 0, 16, "parameters"),
    ] {
        let (kind, message) = refused(grid, block, shared, params).unwrap_err();
        assert_eq!(kind, FaultKind::LaunchLimits);
        assert!(message.contains(word), "{message}");
    }
    assert!(kernel.set_dynamic_shared_limit(200 << 10).is_err());
    kernel.set_dynamic_shared_limit(100 << 10).unwrap();
    let (kind, _) = refused([1, 1, 1], [32, 1, 1], 100 << 10, 20).unwrap_err();
    assert_ne!(kind, FaultKind::LaunchLimits);
}

#[test]
fn host_access() {
    let card = card();
    let a = card.alloc(100).unwrap();
    let b = card.alloc(100).unwrap();
    assert_eq!(a % 256, 0);
    assert_eq!(b >> 32, (a >> 32) + 1);
    let mut bytes = [0; 4];
    assert_eq!(card.read(a, &mut bytes).unwrap_err().kind, FaultKind::Uninitialised);
    card.write(a + 10, &[1, 2, 3, 4]).unwrap();
    card.read(a + 10, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    card.copy(b, a + 8, 8).unwrap();
    assert_eq!(card.read(b, &mut bytes).unwrap_err().kind, FaultKind::Uninitialised);
    card.read(b + 2, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    assert_eq!(card.write(a + 98, &bytes).unwrap_err().kind, FaultKind::OutOfBounds);
    assert_eq!(card.range(a + 50), Some((a, 100)));
    assert_eq!(card.range(a + 100), None);
    card.fill(a, &[7, 8], 50).unwrap();
    card.read(a + 96, &mut bytes).unwrap();
    assert_eq!(bytes, [7, 8, 7, 8]);
    let (free, total) = card.memory_info();
    card.free(b).unwrap();
    assert_eq!(card.memory_info(), (free + 256, total));
    assert_eq!(card.alloc(1 << 62).unwrap_err().kind, FaultKind::OutOfMemory);
}

#[test]
fn counters_are_exact() {
    let count = |body: &str| {
        let card = card();
        let module = load(&card, &common::kernel(body));
        let buffer = card.alloc(4096).unwrap();
        card.fill(buffer, &[0], 4096).unwrap();
        launch(&card, &module, "t", 2, 32, &[Arg::U64(buffer)]).unwrap();
        card.counters().remove("t").unwrap()
    };
    let row = |stride: u32| format!("mov.u32 %r2, s;\nmad.lo.u32 %r4, %r1, {stride}, %r2;\n");
    assert_eq!(count(&format!("{}st.shared.u32 [%r4], %r1;", row(4))).bank_conflicts, 0);
    assert_eq!(count(&format!("{}st.shared.u32 [%r4], %r1;", row(8))).bank_conflicts, 2);
    assert_eq!(count(&format!("{}st.shared.u32 [%r4], %r1;", row(128))).bank_conflicts, 62);
    assert_eq!(count(&format!("{}st.shared.v4.u32 [%r4], {{%r1, %r1, %r1, %r1}};", row(16))).bank_conflicts, 0);
    assert_eq!(count(&format!("{}st.shared.v2.u32 [%r4], {{%r1, %r1}};", row(8))).bank_conflicts, 0);
    assert_eq!(
        count("mov.u32 %r2, 1;\nst.shared.u32 [s], %r2;\nbar.sync 0;\nld.shared.u32 %r3, [s];").bank_conflicts,
        0
    );
    let wide =
        |stride: u32| format!("mul.lo.u32 %r2, %r1, {stride};\ncvt.u64.u32 %rd2, %r2;\nadd.u64 %rd2, %rd1, %rd2;\n");
    let c = count(&format!("{}ld.global.u32 %r3, [%rd2];", wide(4)));
    assert_eq!((c.global_read_bytes, c.global_read_sectors), (256, 8));
    let c = count(&format!("{}ld.global.u32 %r3, [%rd2];", wide(64)));
    assert_eq!((c.global_read_sectors, c.by_line.values().map(|l| l.excess_sectors).sum::<u64>()), (64, 56));
    let c = count("fma.rn.f32 %f1, %f2, %f2, %f2;\nfma.rn.f32 %f1, %f2, %f2, %f2;");
    assert_eq!((c.fma_lanes, c.launches, c.blocks, c.opcodes["fma.rn.f32"]), (128, 1, 2, 4));
    assert_eq!(c.warp_instructions, 2 * 5);
}
