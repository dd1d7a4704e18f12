//! A launch: refuses what a card would refuse, then runs the blocks in parallel and gathers what they did.
#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::check::{Names, refused};
use crate::exec::Env;
use crate::exec::block::{Block, Failure, shuffled};
use crate::inst::{Access, BarKind, Op, Program};
use crate::memory::global_shadow::GlobalShadow;
use crate::memory::slots::Slots;
use crate::module::Kernel;
use crate::parse::ast::Space;
use crate::{Counters, Fault, LaunchShape, Limits, Options};

/// Why a card would not start this launch.
pub fn check(limits: &Limits, kernel: &Kernel, shape: &LaunchShape, params: usize) -> Result<(), Fault> {
    let no = |why: String| Err(refused(kernel.name(), why));
    let axes = ["x", "y", "z"];
    let largest_grid = [0x7fff_ffff, 65535, 65535];
    let largest_block = [1024, 1024, 64];
    for i in 0..3 {
        let (grid, block) = (shape.grid[i], shape.block[i]);
        if grid == 0 || grid > largest_grid[i] {
            return no(format!("grid {} = {grid} is not within 1 to {}", axes[i], largest_grid[i]));
        }
        if block == 0 || block > largest_block[i] {
            return no(format!("block {} = {block} is not within 1 to {}", axes[i], largest_block[i]));
        }
    }
    let threads: u32 = shape.block.iter().product();
    if threads > limits.threads_per_block {
        return no(format!("a block of {threads} threads, the card runs {}", limits.threads_per_block));
    }
    if threads > kernel.threads_per_block() {
        return no(format!("a block of {threads} threads, .maxntid allows {}", kernel.threads_per_block()));
    }
    if let Some(required) = kernel.required_threads
        && required != shape.block
    {
        return no(format!("a block of {:?} threads, .reqntid demands {required:?}", shape.block));
    }
    // Registers are handed out to whole warps, eight of each thread at a time.
    let registers = kernel.registers().next_multiple_of(8) * threads.next_multiple_of(32);
    if kernel.registers_known && registers > limits.registers_per_block {
        return no(format!(
            "{} registers a thread for {threads} threads are {registers}, the card has {}",
            kernel.registers(),
            limits.registers_per_block
        ));
    }
    let shared = kernel.static_shared() as u64 + shape.dynamic_shared as u64;
    let allowed = (limits.shared_per_block as u64).max(kernel.static_shared() as u64 + kernel.dynamic_limit() as u64);
    if shared > allowed {
        return no(format!(
            "{} bytes of static and {} of dynamic shared memory, {allowed} are allowed (the card gives up to {} when asked)",
            kernel.static_shared(),
            shape.dynamic_shared,
            limits.shared_per_block_optin
        ));
    }
    if params != kernel.param_bytes() as usize {
        return no(format!("{params} bytes of parameters, the kernel takes {}", kernel.param_bytes()));
    }
    Ok(())
}

/// The smallest access to shared and to global memory, whether a barrier may be for some of the warps, and whether
/// memory is read as constant.
fn survey(program: &Program) -> (u32, u32, bool, bool) {
    let (mut shared, mut global, mut partial, mut constant) = (16, 16, false, false);
    for inst in &program.code {
        let mut access = |a: &Access| {
            let bytes = a.width as u32 * a.count as u32;
            constant |= a.constant;
            if matches!(a.space, Space::Shared | Space::Generic) {
                shared = shared.min(bytes);
            }
            if matches!(a.space, Space::Global | Space::Const | Space::Generic) {
                global = global.min(bytes);
            }
        };
        match &inst.op {
            Op::Ld(a) | Op::St(a) => access(a),
            Op::Atom(a) => access(&a.access),
            Op::CpAsync { size, .. } => {
                shared = shared.min(*size as u32);
                global = global.min(4);
            }
            Op::Bar(bar) => partial |= bar.counted || bar.kind == BarKind::Arrive,
            _ => {}
        }
    }
    (shared, global, partial, constant)
}

/// Runs a checked launch and adds what it did to `total`.
pub fn run(
    limits: &Limits,
    options: &Options,
    slots: &Slots,
    kernel: &Kernel,
    shape: &LaunchShape,
    params: &[u8],
    total: &mut Counters,
) -> Result<(), Fault> {
    let program: &Program = &kernel.program;
    let blocks = shape.grid.iter().map(|n| *n as u64).product::<u64>();
    let (cell, global_cell, partial_barriers, constant) = survey(program);
    let watch = options.checks && options.global_races && (blocks > 1 || constant);
    let env = Env {
        program,
        params,
        slots,
        grid: shape.grid,
        block: shape.block,
        threads: shape.block.iter().product(),
        dynamic_shared: shape.dynamic_shared,
        multiprocessors: limits.multiprocessors,
        checks: options.checks,
        counters: options.counters,
        seed: options.seed,
        max_instructions: options.max_instructions.unwrap_or(u64::MAX),
        executed: AtomicU64::new(0),
        global_shadow: watch.then(|| GlobalShadow::new(slots.len(), global_cell, blocks)),
        cell,
        partial_barriers,
    };
    // A permutation of a huge grid would cost more than it finds: beyond a million blocks their order is as it is.
    let order = if blocks <= 1 << 20 { shuffled(blocks as usize, options.seed) } else { Vec::new() };
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let tallies = Mutex::new(total);
    let work = || {
        let mut block = Block::new(program.code.len());
        let mut warps = Vec::new();
        loop {
            let at = next.fetch_add(1, Relaxed);
            if at as u64 >= blocks || stop.load(Relaxed) {
                break;
            }
            let index = order.get(at).map_or(at as u64, |i| *i as u64);
            if let Err(found) = block.run(&env, &mut warps, index) {
                stop.store(true, Relaxed);
                failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(found);
            }
        }
        if options.counters {
            block.tally.add_to(&mut tallies.lock().unwrap_or_else(|e| e.into_inner()), program);
        }
    };
    let workers = rayon::current_num_threads().min(blocks.min(1 << 16) as usize);
    if workers <= 1 {
        work();
    } else {
        rayon::scope(|scope| (0..workers).for_each(|_| scope.spawn(|_| work())));
    }
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        None => Ok(()),
        Some(f) => {
            let names = Names {
                kernel: kernel.name(),
                file: &kernel.file,
                program,
                sources: &kernel.sources,
                block: shape.block,
                grid: shape.grid,
            };
            Err(names.report(&f.problem, f.pc, f.block, f.warp))
        }
    }
}
