//! What the tests share: a card, buffers, launches, and one-instruction kernels.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::sync::Arc;

use ptx_vm::{Card, Fault, FaultKind, LaunchShape, Limits, Module, Options};

pub const SAMPLES: &str = include_str!("../kernels/samples.ptx");

pub fn card() -> Card {
    card_with(Options::default())
}

pub fn card_with(options: Options) -> Card {
    Card::new(Limits::of_capability(8, 0), options)
}

pub fn load(card: &Card, ptx: &str) -> Arc<Module> {
    card.load("test.ptx", ptx).unwrap_or_else(|e| panic!("{e}"))
}

/// A buffer with these bytes.
pub fn put<const N: usize, T: Copy>(card: &Card, values: &[T], bytes: fn(T) -> [u8; N]) -> u64 {
    let data: Vec<u8> = values.iter().flat_map(|v| bytes(*v)).collect();
    let address = card.alloc(data.len() as u64).unwrap();
    card.write(address, &data).unwrap();
    address
}

pub fn put_f32(card: &Card, values: &[f32]) -> u64 {
    put(card, values, f32::to_le_bytes)
}

pub fn get_f32(card: &Card, address: u64, n: usize) -> Vec<f32> {
    get_u32(card, address, n).into_iter().map(f32::from_bits).collect()
}

pub fn get_u32(card: &Card, address: u64, n: usize) -> Vec<u32> {
    let mut data = vec![0; 4 * n];
    card.read(address, &mut data).unwrap();
    data.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// An argument of a launch.
pub enum Arg {
    U64(u64),
    U32(u32),
    F32(f32),
    Bytes(Vec<u8>),
}

pub fn launch(card: &Card, module: &Module, entry: &str, grid: u32, block: u32, args: &[Arg]) -> Result<(), Fault> {
    launch3(card, module, entry, [grid, 1, 1], [block, 1, 1], args)
}

pub fn launch3(
    card: &Card,
    module: &Module,
    entry: &str,
    grid: [u32; 3],
    block: [u32; 3],
    args: &[Arg],
) -> Result<(), Fault> {
    let kernel = module.kernel(entry).unwrap();
    let mut params = vec![0; kernel.param_bytes() as usize];
    assert_eq!(args.len(), kernel.params().len());
    for (arg, (offset, size)) in args.iter().zip(kernel.params()) {
        let bytes = match arg {
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(v) => v.clone(),
        };
        assert_eq!(bytes.len(), *size as usize);
        params[*offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    card.launch(&kernel, LaunchShape { grid, block, dynamic_shared: 0 }, &params)
}

/// A kernel around `body`, which finds `%rd1` = the buffer given, `%r1` = tid.x.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry t(.param .u64 p)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<32>;\n.reg .f32 %f<16>;\n.reg .b64 %rd<16>;\n\
         .reg .f64 %g<16>;\n.shared .align 16 .b8 s[4096];\nld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    )
}

/// Runs `body` on one block with a zeroed buffer of 4096 bytes; the words it left there.
pub fn run(body: &str, threads: u32) -> Result<Vec<u32>, Fault> {
    run_on(card(), body, 1, threads)
}

pub fn run_on(card: Card, body: &str, blocks: u32, threads: u32) -> Result<Vec<u32>, Fault> {
    let module = load(&card, &kernel(body));
    let buffer = card.alloc(4096).unwrap();
    card.fill(buffer, &[0], 4096).unwrap();
    launch(&card, &module, "t", blocks, threads, &[Arg::U64(buffer)])?;
    Ok(get_u32(&card, buffer, 1024))
}

pub fn fails(body: &str, threads: u32) -> Fault {
    run(body, threads).expect_err("a finding")
}

pub fn kind(body: &str, threads: u32) -> Option<FaultKind> {
    run(body, threads).err().map(|f| f.kind)
}

/// What an instruction gives for operands `%rd1`..`%rd3`, also in `%r`, `%h`, `%f`, `%g` 1 to 3. The code leaves its
/// result in register 0 of the file that `to` names (`r`, `h`, `f`, `g`, `d`, `p`).
pub fn eval(code: &str, to: char, operands: &[[u64; 3]]) -> Vec<u64> {
    let give = match to {
        'r' => "cvt.u64.u32 %rd0, %r0;",
        'h' => "cvt.u64.u16 %rd0, %h0;",
        'f' => "mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;",
        'g' => "mov.b64 %rd0, %g0;",
        'p' => "selp.b64 %rd0, 1, 0, %p0;",
        _ => "",
    };
    let ptx = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry t(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<16>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<16>;\n\
         .reg .f64 %g<8>;\n ld.param.u64 %rd8, [in];\n ld.param.u64 %rd9, [out];\n mov.u32 %r9, %tid.x;\n\
         mad.wide.u32 %rd8, %r9, 24, %rd8;\n mad.wide.u32 %rd9, %r9, 8, %rd9;\n\
         ld.global.u64 %rd1, [%rd8]; ld.global.u64 %rd2, [%rd8+8]; ld.global.u64 %rd3, [%rd8+16];\n\
         cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3;\n\
         cvt.u16.u64 %h1, %rd1; cvt.u16.u64 %h2, %rd2; cvt.u16.u64 %h3, %rd3;\n\
         mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;\n\
         mov.b64 %g1, %rd1; mov.b64 %g2, %rd2; mov.b64 %g3, %rd3;\n{code}\n{give}\n\
         st.global.u64 [%rd9], %rd0;\n ret;\n}}\n"
    );
    let card = card();
    let module = load(&card, &ptx);
    let flat: Vec<u64> = operands.iter().flatten().copied().collect();
    let input = put(&card, &flat, u64::to_le_bytes);
    let output = card.alloc(8 * operands.len() as u64).unwrap();
    launch(&card, &module, "t", 1, operands.len() as u32, &[Arg::U64(input), Arg::U64(output)])
        .unwrap_or_else(|f| panic!("{code}: {f}"));
    let mut data = vec![0; 8 * operands.len()];
    card.read(output, &mut data).unwrap();
    data.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
}
