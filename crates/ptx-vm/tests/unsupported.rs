//! What the virtual card does not know is refused before anything runs: a message with the file, the line and the word.
#![forbid(unsafe_code)]

mod common;

use common::kernel;
use ptx_vm::{Card, Limits, Options, ParseError};

fn refused(ptx: &str) -> ParseError {
    let card = Card::new(Limits::of_capability(12, 0), Options::default());
    card.load("mine.ptx", ptx).err().unwrap_or_else(|| panic!("it is taken: {ptx}"))
}

/// Instructions, and what their messages name.
const FORMS: [(&str, &str); 72] = [
    // Opcodes.
    ("tex.2d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [%rd1, {%r1, %r2}];", "tex.2d"),
    ("suld.b.1d.b32.trap {%r2}, [%rd1, {%r1}];", "suld.b"),
    ("wgmma.fence.sync.aligned;", "wgmma.fence"),
    ("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32;", "tcgen05"),
    ("mbarrier.init.shared.b64 [%r1], 1;", "mbarrier.init"),
    ("mbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0;", "mbarrier.try_wait"),
    ("setmaxnreg.inc.sync.aligned.u32 232;", "setmaxnreg"),
    ("elect.sync %r2|%p1, -1;", "elect"),
    ("multimem.ld_reduce.global.add.f32 %f1, [%rd1];", "multimem"),
    ("griddepcontrol.wait;", "griddepcontrol"),
    ("alloca.u64 %rd2, 16;", "alloca"),
    ("wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1, %r2}, [%rd1];", "wmma.load"),
    ("vadd.u32.u32.u32 %r2, %r3, %r4;", "vadd"),
    ("discard.global.L2 [%rd1], 128;", "discard"),
    ("tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd2;", "tensormap"),
    ("call (%r2), %rd1, (%r1), proto;", "pointer"),
    // Asynchronous copies, clusters and fences of newer cards.
    ("cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], 16;", "cp.async.bulk"),
    ("cp.async.mbarrier.arrive.noinc.shared.b64 [%r1];", "cp.async.mbarrier"),
    ("cp.async.ca.shared.global [%r1], [%rd1], 12;", "16 bytes"),
    ("cp.async.cg.shared.global [%r1], [%rd1], 8;", "16 bytes"),
    ("mapa.shared::cluster.u32 %r2, %r1, 0;", "mapa"),
    ("ld.shared::cluster.u32 %r2, [%r1];", "shared::cluster"),
    ("atom.shared::cluster.add.u32 %r2, [%r1], 1;", "shared::cluster"),
    ("cvta.to.shared::cluster.u64 %rd2, %rd1;", "shared::cluster"),
    ("barrier.cluster.wait;", "barrier.cluster"),
    ("fence.proxy.async;", "proxy"),
    ("fence.mbarrier_init.release.cluster;", "mbarrier_init"),
    // Modifiers.
    ("cvt.rn.satfinite.f16.f32 %h1, %f1;", "satfinite"),
    ("cvt.rna.satfinite.tf32.f32 %r2, %f1;", "satfinite"),
    ("cvt.rn.relu.tf32.f32 %r2, %f1;", "tf32"),
    ("cvt.rz.tf32.f32 %r2, %f1;", "tf32"),
    ("fma.rn.oob.f16 %h1, %h2, %h3, %h4;", "oob"),
    ("min.relu.u32 %r2, %r3, %r4;", "min.relu.u32"),
    ("min.xorsign.abs.f16 %h1, %h2, %h3;", "xorsign"),
    ("mad.hi.sat.u32 %r2, %r3, %r4, %r5;", "mad.hi.sat.u32"),
    ("mul.sat.f64 %g1, %g2, %g3;", "sat"),
    ("lop3.or.b32 %r2|%p1, %r3, %r4, %r5, 0x3c, %p2;", "lop3"),
    ("st.global.nc.u32 [%rd1], %r1;", "nc"),
    ("ld.global.cx.u32 %r2, [%rd1];", "cx"),
    ("prefetch.tensormap [%rd1];", "tensormap"),
    ("barrier.sync.wobble 0;", "wobble"),
    ("bar.red.add.u32 %r2, 0, %p1;", "bar.red.add"),
    ("membar.wobble;", "membar"),
    ("shfl.down.b32 %r2, %r3, 1, 31;", "sync"),
    ("vote.ballot.b32 %r2, %p1;", "sync"),
    ("sin.f32 %f1, %f2;", "approx"),
    ("div.f32 %f1, %f2, %f3;", "rounding"),
    ("bar.sync 16;", "15"),
    // State spaces.
    ("ld.tex.u32 %r2, [%rd1];", "tex"),
    ("st.const.u32 [%rd1], %r1;", "constant"),
    ("st.param.u32 [p], %r1;", "param"),
    ("atom.local.add.u32 %r2, [%r1], 1;", "atomics"),
    ("isspacep.tex %p1, %rd1;", "isspacep"),
    // Types.
    ("add.rn.f32x2 %rd2, %rd3, %rd4;", "f32x2"),
    ("add.u16x2 %r2, %r3, %r4;", "u16x2"),
    ("cvt.rn.e4m3x2.f32 %h1, %f1, %f2;", "e4m3x2"),
    ("ld.global.b128 %rd2, [%rd1];", "b128"),
    ("ld.global.v8.f32 {%f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8}, [%rd1];", "8 are named"),
    ("atom.global.add.v2.f32 {%f1, %f2}, [%rd1], {%f3, %f4};", "vector"),
    ("atom.global.mul.f32 %f1, [%rd1], %f2;", "atom.global.mul"),
    ("dp4a.u32.f32 %r2, %r3, %r4, %r5;", "dp4a"),
    ("tanh.approx.f64 %g1, %g2;", "tanh"),
    ("redux.sync.min.f32 %f1, %f2, -1;", "redux"),
    ("shfl.sync.down.b64 %rd2, %rd3, 1, 31, -1;", "shfl"),
    (".reg .b128 %q;", "b128"),
    // Matrices.
    ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%g1, %g2}, {%g1}, {%g1}, {%g1, %g2};", "m8n8k4"),
    ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1}, {%r1}, {%r1}, {%f1};", "tf32"),
    ("mma.sync.aligned.m16n8k16.col.row.f32.f16.f16.f32 {%f1}, {%r1}, {%r1}, {%f1};", "rows"),
    ("mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r1}, {%f1}, %r5, 0;", "mma.sp"),
    ("ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r2, %r3}, [%r1];", "m8n8"),
    // Special registers.
    ("mov.u32 %r2, %clusterid.x;", "%clusterid.x"),
    ("mov.u32 %r2, %clock_hi;", "%clock_hi"),
];

#[test]
fn forms_of_instructions() {
    let line = kernel("").lines().position(|l| l.starts_with("mov.u32 %r1")).unwrap() as u32 + 2;
    for (body, word) in FORMS {
        let error = refused(&kernel(body).replace("sm_80", "sm_120a").replace("7.8", "9.0"));
        assert_eq!((error.file.as_str(), error.line), ("mine.ptx", line), "{body}: {error}");
        assert!(error.message.contains(word), "{body}: {error}");
    }
}

#[test]
fn directives() {
    for (text, word) in [
        (".global .texref t;", ".texref"),
        (".global .align 3 .b8 t[8];", "alignment 3"),
        (".alias f, g;", ".alias"),
        (".visible .entry k() .reqnctapercluster 2 { ret; }", ".reqnctapercluster"),
        (".visible .entry k() .blocksareclusters { ret; }", ".blocksareclusters"),
        (".func f() { p: .callprototype _ (); }", ".callprototype"),
        (".extern .func () e .unique { ret; }", ".unique"),
    ] {
        let error = refused(&format!(".version 9.0\n.target sm_90a\n.address_size 64\n\n{text}\n"));
        assert_eq!(error.line, 5, "{text}: {error}");
        assert!(error.message.contains(word), "{text}: {error}");
    }
}
