//! The engine's foundations through the virtual card: copies, launches, graphs, and what is refused.
#![allow(unsafe_code)]

use super::{Arena, Buffer, Entry, Geometry, Gpu, Kind, Ptx, Store, Target, Upload, parameters};
use std::sync::Arc;

fn line(blocks: usize, threads: u32, shared: u32) -> Geometry {
    Geometry::row("test", blocks, threads, shared).unwrap()
}

/// y[i] = a x[i] for i below n.
const SCALE: &str = r#".version 7.0
.target sm_75
.address_size 64
.visible .entry scale(
	.param .u64 scale_param_0,
	.param .u64 scale_param_1,
	.param .f32 scale_param_2,
	.param .u32 scale_param_3
)
{
	.reg .pred %p<2>;
	.reg .f32 %f<4>;
	.reg .b32 %r<6>;
	.reg .b64 %rd<8>;
	ld.param.u64 %rd1, [scale_param_0];
	ld.param.u64 %rd2, [scale_param_1];
	ld.param.f32 %f1, [scale_param_2];
	ld.param.u32 %r1, [scale_param_3];
	mov.u32 %r2, %ctaid.x;
	mov.u32 %r3, %ntid.x;
	mov.u32 %r4, %tid.x;
	mad.lo.s32 %r5, %r2, %r3, %r4;
	setp.ge.u32 %p1, %r5, %r1;
	@%p1 bra DONE;
	cvta.to.global.u64 %rd3, %rd1;
	cvta.to.global.u64 %rd4, %rd2;
	mul.wide.s32 %rd5, %r5, 4;
	add.s64 %rd6, %rd3, %rd5;
	add.s64 %rd7, %rd4, %rd5;
	ld.global.f32 %f2, [%rd6];
	mul.f32 %f3, %f2, %f1;
	st.global.f32 [%rd7], %f3;
DONE:
	ret;
}
"#;

static PTX: Ptx = Ptx { name: "scale", sm75: SCALE, sm80: SCALE };
static ENTRY: Entry =
    Entry { name: "scale", args: &[("x", Kind::U64), ("y", Kind::U64), ("a", Kind::F32), ("n", Kind::U32)], since: 75 };

fn gpu() -> Gpu {
    Gpu::open(Target::PtxVm).unwrap()
}

#[test]
fn bytes_that_travel_aside_are_there_before_what_waits_for_them() {
    let gpu = Arc::new(gpu());
    for round in 0..3u8 {
        let mut bytes: Vec<u8> = (0..64).map(|i| i ^ round).collect();
        let (there, copy) = (Buffer::aside(&gpu, 16, Store::F32).unwrap(), Buffer::new(&gpu, 16, Store::F32).unwrap());
        let upload = Upload::begin(&gpu, there.bytes(), &bytes).unwrap();
        let sent = bytes.clone();
        bytes.fill(0xff);
        upload.before(gpu.stream()).unwrap();
        gpu.stream().copy(copy.bytes(), there.bytes()).unwrap();
        assert_eq!(gpu.stream().download(copy.bytes()).unwrap(), sent);
        // Pinned memory that is free again serves the next upload.
        assert_eq!(gpu.second().pieces(), 1);
    }
    let short = Upload::begin(&gpu, Buffer::aside(&gpu, 1, Store::F32).unwrap().bytes(), &[0; 5]);
    assert!(short.unwrap_err().to_string().contains("5 values into a slice of 4"));
}

#[test]
fn uploads_of_any_length_arrive_although_their_memory_changes_at_once() {
    let gpu = gpu();
    let arena = Arena::new(&gpu, 64 << 20).unwrap();
    let mut values = Vec::new();
    // More copies than there are pieces of a size, none of which the card has come to, and lengths around a piece's.
    let sent: Vec<_> = (0..40u32)
        .chain([(1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 5])
        .map(|n| {
            values.clear();
            values.extend((0..n).map(|i| i ^ (n << 8)));
            let there = arena.upload(&values).unwrap();
            (there, values.clone())
        })
        .collect();
    values.fill(u32::MAX);
    for (there, values) in sent {
        assert!(gpu.stream().download(there).unwrap() == values, "{} words", values.len());
    }
    assert!(gpu.stream().pieces() <= 2 * 8, "{} pieces", gpu.stream().pieces());
}

#[test]
fn memory_of_the_second_stream_comes_back_in_turn() {
    let gpu = gpu();
    let memory = [1, 2].map(|_| super::arena::allocate(256).unwrap());
    for address in memory {
        gpu.aside.give(256, address, gpu.stream().mark().unwrap());
    }
    let take = |bytes| gpu.aside.take(bytes);
    assert_eq!(take(256), None, "the first stream has not come so far");
    gpu.stream().synchronise().unwrap();
    assert_eq!([take(512), take(256), take(256), take(256)], [None, Some(memory[0]), Some(memory[1]), None]);
    for address in memory {
        gpu.aside.give(256, address, gpu.stream().mark().unwrap());
    }
    assert_eq!(gpu.aside.drain(), memory);
    memory.into_iter().for_each(|address| super::arena::free(address).unwrap());
}

#[test]
fn a_kernel_runs_and_its_graph_runs_again() {
    let gpu = gpu();
    let arena = Arena::new(&gpu, 1 << 20).unwrap();
    let kernel = gpu.kernel(&PTX, &ENTRY).unwrap();
    for n in [1_usize, 31, 33, 197] {
        let values: Vec<f32> = (0..n).map(|i| i as f32 - 3.0).collect();
        let (x, y) = (arena.upload(&values).unwrap(), arena.alloc::<f32>(n).unwrap());
        let args = [x.into(), y.into(), 2.0_f32.into(), (n as u32).into()];
        let geometry = line(n.div_ceil(32), 32, 0);
        // SAFETY: x and y hold n elements, and the arena outlives the download.
        unsafe { gpu.stream().launch(&kernel, geometry, &args) }.unwrap();
        let doubled: Vec<f32> = values.iter().map(|v| 2.0 * v).collect();
        assert_eq!(gpu.stream().download(y).unwrap(), doubled);
        let back = [y.into(), y.into(), 0.5_f32.into(), (n as u32).into()];
        let stream = gpu.stream();
        // SAFETY: y holds n elements, and the arena outlives the download.
        let graph = stream.capture(|| unsafe { stream.launch(&kernel, geometry, &back) }).unwrap();
        assert_eq!(stream.download(y).unwrap(), doubled, "a capture runs nothing");
        // SAFETY: the same.
        unsafe { (stream.replay(&graph).unwrap(), stream.replay(&graph).unwrap()) };
        let halved: Vec<f32> = values.iter().map(|v| 0.5 * v).collect();
        assert_eq!(stream.download(y).unwrap(), halved);
    }
}

#[test]
fn an_arena_hands_out_aligned_memory_until_it_is_full() {
    let gpu = gpu();
    let mut arena = Arena::new(&gpu, 1024).unwrap();
    let a = arena.upload(&[1_u8, 2, 3]).unwrap();
    let b = arena.zeros::<u16>(5).unwrap();
    assert!(a.address().is_multiple_of(256) && b.address().is_multiple_of(256));
    assert_eq!((arena.used(), arena.peak()), (512, 512));
    assert_eq!(gpu.stream().download(a.window(1, 2)).unwrap(), [2, 3]);
    assert_eq!(gpu.stream().download(b).unwrap(), [0; 5]);
    let error = arena.alloc::<f32>(129).unwrap_err().to_string();
    assert!(error.contains("512 of 1024"), "{error}");
    assert!(arena.alloc::<u32>(usize::MAX).is_err());
    assert!(gpu.stream().upload(b, &[1]).is_err());
    arena.reset().unwrap();
    assert_eq!((arena.used(), arena.peak()), (0, 512));
    assert!(arena.alloc::<f32>(256).is_ok());
}

#[test]
fn arguments_are_held_to_the_ptx() {
    static MISSING: Entry = Entry { name: "scala", args: &[], since: 75 };
    static WRONG: Entry =
        Entry { name: "scale", args: &[("x", Kind::U64), ("y", Kind::U64), ("a", Kind::U32)], since: 75 };
    let gpu = gpu();
    for (entry, words) in [(&MISSING, "no such entry"), (&WRONG, "the table says [U64, U64, U32]")] {
        let error = gpu.kernel(&PTX, entry).err().unwrap().to_string();
        assert!(error.contains(words) && error.contains("ptx/scale.sm80.ptx"), "{error}");
    }
    let kernel = gpu.kernel(&PTX, &ENTRY).unwrap();
    // SAFETY: both are refused before anything runs.
    let few = unsafe { gpu.stream().launch(&kernel, line(1, 32, 0), &[1.0_f32.into()]) };
    assert_eq!(few.unwrap_err().to_string(), "scale: 1 arguments for 4 parameters");
    let args = [1_u32.into(), 1_u32.into(), 1.0_f32.into(), 1_u32.into()];
    // SAFETY: the same.
    let wrong = unsafe { gpu.stream().launch(&kernel, line(1, 32, 0), &args) };
    assert_eq!(wrong.unwrap_err().to_string(), "scale: U32(1) for x, which is U64");
}

#[test]
fn launches_beyond_the_card_are_refused_by_name() {
    let gpu = gpu();
    let arena = Arena::new(&gpu, 1024).unwrap();
    let kernel = gpu.kernel(&PTX, &ENTRY).unwrap();
    let x = arena.zeros::<f32>(4).unwrap();
    let args = [x.into(), x.into(), 1.0_f32.into(), 4_u32.into()];
    for geometry in [line(1, 1025, 0), line(1, 32, 1 << 20)] {
        // SAFETY: it is refused before anything runs.
        let error = unsafe { gpu.stream().launch(&kernel, geometry, &args) }.unwrap_err().to_string();
        assert!(error.contains("scale"), "{error}");
    }
    // More shared memory than kernels have without asking.
    // SAFETY: x holds four elements.
    unsafe { gpu.stream().launch(&kernel, line(1, 32, 60 << 10), &args) }.unwrap();
    gpu.stream().synchronise().unwrap();
}

#[test]
fn bad_ptx_is_an_error_that_quotes_the_compiler() {
    static BAD: Ptx =
        Ptx { name: "bad", sm75: "", sm80: ".version 7.0\n.target sm_75\n.address_size 64\nfrobnicate;\n" };
    let error = gpu().load(&BAD).unwrap_err().to_string();
    assert!(error.starts_with("ptx/bad.sm80.ptx: ") && error.contains(":4: "), "{error}");
}

#[test]
fn parameters_are_read_from_the_text() {
    use Kind::{F32, U32, U64};
    assert_eq!(parameters(SCALE, "scale"), Some(vec![U64, U64, F32, U32]));
    assert_eq!(parameters(SCALE, "scal"), None);
    let text = ".entry f(\n .param .u64 .ptr .global .align 16 f_0,\n .param .align 4 .b8 f_1[8]\n)";
    assert_eq!(parameters(text, "f"), None);
    assert_eq!(parameters(".visible .entry f()", "f"), Some(vec![]));
    assert_eq!(PTX.of((7, 5)).1, "ptx/scale.sm75.ptx");
    assert_eq!(PTX.of((9, 0)).1, "ptx/scale.sm80.ptx");
}

#[test]
fn kernels_outlive_their_gpu_and_captures_hold_no_copies_of_the_hosts_memory() {
    let gpu = gpu();
    let kernel = gpu.kernel(&PTX, &ENTRY).unwrap();
    let arena = Arena::new(&gpu, 1 << 10).unwrap();
    let x = arena.upload(&[1.0_f32; 4]).unwrap();
    let refused = gpu.stream().capture(|| gpu.stream().upload(x, &[2.0; 4])).err().unwrap().to_string();
    assert!(refused.contains("a capture holds no copies"), "{refused}");
    assert_eq!(gpu.stream().download(x).unwrap(), [1.0; 4]);
    // SAFETY: the launch is refused for its arguments before anything runs.
    let uneven = unsafe {
        let args = [x.window(1, 3).into(), x.into(), 1.0_f32.into(), 3_u32.into()];
        gpu.stream().launch(&kernel, line(1, 32, 0), &args)
    };
    assert!(uneven.unwrap_err().to_string().contains("x is not aligned to 16 bytes"));
    drop(arena);
    drop(gpu);
    assert!(kernel.registers().unwrap() > 0);
}

/// Two launches, the second of which leaves its buffers, and the wait: their outcomes. The card is lost afterwards.
fn good_then_bad() -> [Result<(), String>; 3] {
    static BAD: Entry = Entry { name: "astray", args: ENTRY.args, since: 75 };
    let text: &str = SCALE.replace("scale", "astray").leak();
    let ptx: &Ptx = Box::leak(Box::new(Ptx { name: "astray", sm75: text, sm80: text }));
    let gpu = gpu();
    let (good, bad) = (gpu.kernel(&PTX, &ENTRY).unwrap(), gpu.kernel(ptx, &BAD).unwrap());
    let arena = Arena::new(&gpu, 1 << 10).unwrap();
    let x = arena.upload(&[1.0_f32; 256]).unwrap();
    let args = |n: u32| [x.into(), x.into(), 1.0_f32.into(), n.into()];
    let text = |outcome: crate::error::Result<()>| outcome.map_err(|error| error.to_string());
    // SAFETY: x holds 256 elements; the second launch is for more, which the virtual card refuses to touch.
    unsafe {
        let first = gpu.stream().launch(&good, line(8, 32, 0), &args(256));
        let second = gpu.stream().launch(&bad, line(16, 32, 0), &args(512));
        [first, second, gpu.stream().synchronise()].map(text)
    }
}

#[test]
fn with_dynavit_cuda_sync_a_fault_names_its_kernel() {
    // A fault ends the card of its process, and the variable is read when the card is opened: each case has a process.
    const INSIDE: &str = "DYNAVIT_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let [first, second, waited] = good_then_bad();
        assert_eq!(first, Ok(()));
        if std::env::var("DYNAVIT_CUDA_SYNC").is_ok_and(|value| value == "1") {
            let error = second.unwrap_err();
            assert!(error.starts_with("astray grid 16x1x1 block 32x1x1") && error.contains("out of bounds"), "{error}");
        } else {
            assert_eq!(second, Ok(()), "nothing is known yet");
            let error = waited.unwrap_err();
            assert!(error.starts_with("stream, at some launch before (DYNAVIT_CUDA_SYNC=1 tells which)"), "{error}");
        }
        return;
    }
    for value in ["1", "0"] {
        let outcome = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "device::cuda::tests::with_dynavit_cuda_sync_a_fault_names_its_kernel"])
            .envs([(INSIDE, "1"), ("DYNAVIT_CUDA_SYNC", value)])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&outcome.stdout);
        assert!(outcome.status.success() && told.contains("1 passed"), "DYNAVIT_CUDA_SYNC={value}: {told}");
    }
}
