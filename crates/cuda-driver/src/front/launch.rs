//! Kernels: their attributes, the limits of a launch, and how many blocks fit a multiprocessor.
#![forbid(unsafe_code)]

use super::engine::{Describe, Engine};
use super::stream::Work;
use super::{Id, World};
use crate::codes::{self, Code};
use ptx_vm::{LaunchShape, Limits};
use std::sync::Arc;

/// A kernel of a module, with what the program set for it.
pub(super) struct Function<E: Engine> {
    pub(super) context: Id,
    pub(super) module: Id,
    kernel: Arc<E::Kernel>,
    /// Dynamic shared memory that a launch may ask for.
    dynamic_limit: u32,
    carveout: i32,
}

/// Grid, block, dynamic shared memory.
pub(crate) type Geometry = LaunchShape;

impl<E: Engine> Function<E> {
    pub(super) fn new(context: Id, module: Id, kernel: Arc<E::Kernel>, limits: &Limits) -> Self {
        let dynamic_limit = limits.shared_per_block.saturating_sub(kernel.static_shared());
        Function { context, module, kernel, dynamic_limit, carveout: -1 }
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.kernel.name() == name
    }
}

/// What a multiprocessor of a capability holds: threads, blocks, bytes of shared memory, bytes the system takes a block.
pub(super) fn multiprocessor(capability: (u32, u32)) -> (u32, u32, u32, u32) {
    match capability {
        (7, _) => (1024, 16, 65_536, 0),
        (8, 0) => (2048, 32, 167_936, 1024),
        (8, 9) => (1536, 24, 102_400, 1024),
        (8, _) => (1536, 16, 102_400, 1024),
        _ => (2048, 32, 233_472, 1024),
    }
}

impl<E: Engine> World<E> {
    fn kernel(&self, function: Id) -> Result<&Function<E>, Code> {
        self.functions.get(&function).ok_or(codes::INVALID_HANDLE)
    }

    /// `cuFuncGetAttribute`, by the numbers of `CUfunction_attribute`.
    pub(crate) fn function_attribute(&mut self, function: Id, attribute: i32) -> Result<i32, Code> {
        self.alive()?;
        let (major, minor) = self.limits.capability;
        let function = self.kernel(function)?;
        let kernel = &function.kernel;
        Ok(match attribute {
            0 => kernel.threads_per_block().min(self.limits.threads_per_block) as i32,
            1 => kernel.static_shared() as i32,
            2 => 0,
            3 => kernel.local_bytes() as i32,
            4 => kernel.registers() as i32,
            5 | 6 => (major * 10 + minor) as i32,
            7 => 0,
            8 => function.dynamic_limit as i32,
            9 => function.carveout,
            _ => return Err(codes::INVALID_VALUE),
        })
    }

    /// `cuFuncSetAttribute`: the limit of dynamic shared memory, and the carve-out, which is kept and means nothing.
    pub(crate) fn function_set_attribute(&mut self, function: Id, attribute: i32, value: i32) -> Result<(), Code> {
        self.alive()?;
        let most = self.limits.shared_per_block_optin;
        let function = self.functions.get_mut(&function).ok_or(codes::INVALID_HANDLE)?;
        match attribute {
            8 => {
                let bytes = u32::try_from(value).map_err(|_| codes::INVALID_VALUE)?;
                let fixed = function.kernel.static_shared();
                let text = format!(
                    "{bytes} bytes of dynamic shared memory over {fixed} static ones leave the {most} of the card"
                );
                let set = bytes <= most.saturating_sub(fixed);
                if !set || function.kernel.set_dynamic_shared_limit(bytes).is_err() {
                    return self.fail(codes::INVALID_VALUE, text);
                }
                function.dynamic_limit = bytes;
            }
            9 if (-1..=100).contains(&value) => function.carveout = value,
            _ => return Err(codes::INVALID_VALUE),
        }
        Ok(())
    }

    /// Whether there is such a function; what it prefers of caches and banks means nothing here.
    pub(crate) fn function_known(&mut self, function: Id) -> Result<(), Code> {
        self.alive()?;
        self.kernel(function).map(drop)
    }

    /// Offset and size of each parameter, and the bytes of all.
    pub(crate) fn parameters(&mut self, function: Id) -> Result<(Vec<(u32, u32)>, u32), Code> {
        self.alive()?;
        let kernel = &self.kernel(function)?.kernel;
        Ok((kernel.params().to_vec(), kernel.param_bytes()))
    }

    /// Queues a launch. What a card refuses at the call is refused here.
    pub(crate) fn launch(&mut self, function: Id, geometry: Geometry, params: Vec<u8>, stream: Id) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        let work = self.launch_work(function, geometry, params)?;
        if self.kernel(function)?.context != self.streams[&stream].context {
            return self.fail(codes::INVALID_HANDLE, "the kernel and the stream are of different contexts");
        }
        self.enqueue(stream, work).map(drop)
    }

    /// A launch that the card can do, as a piece of work.
    pub(super) fn launch_work(&mut self, id: Id, geometry: Geometry, params: Vec<u8>) -> Result<Work<E>, Code> {
        let function = self.functions.get(&id).ok_or(codes::INVALID_HANDLE)?;
        let kernel = function.kernel.clone();
        let limit = function.dynamic_limit;
        let (grid, block) = (geometry.grid, geometry.block);
        let name = kernel.name();
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        let most = u64::from(kernel.threads_per_block().min(self.limits.threads_per_block));
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
            return self.fail(codes::INVALID_VALUE, format!("{name}: no card has a grid of {grid:?} blocks"));
        }
        if block.contains(&0) || block[0] > 1024 || block[1] > 1024 || block[2] > 64 || threads > most {
            let text = format!("{name}: a block of {block:?} threads, of which this kernel may have 1 to {most}");
            return self.fail(codes::INVALID_VALUE, text);
        }
        if geometry.dynamic_shared > limit {
            let asked = geometry.dynamic_shared;
            let text = format!("{name}: {asked} bytes of dynamic shared memory, of which it may have {limit}");
            return self.fail(codes::INVALID_VALUE, text);
        }
        let registers = registers_of_block(kernel.registers(), threads as u32);
        if registers > self.limits.registers_per_block {
            let has = self.limits.registers_per_block;
            let text = format!("{name}: {registers} registers for a block of {threads} threads; the card has {has}");
            return self.fail(codes::LAUNCH_OUT_OF_RESOURCES, text);
        }
        Ok(Work::Launch { kernel, geometry, params })
    }

    /// How many blocks of `threads` threads a multiprocessor holds at once.
    pub(crate) fn active_blocks(&mut self, function: Id, threads: i32, dynamic: usize) -> Result<i32, Code> {
        self.alive()?;
        let kernel = &self.kernel(function)?.kernel;
        let Ok(threads) = u32::try_from(threads) else { return Err(codes::INVALID_VALUE) };
        if threads == 0 {
            return Err(codes::INVALID_VALUE);
        }
        if threads > self.limits.threads_per_block.min(kernel.threads_per_block()) {
            return Ok(0);
        }
        let (all_threads, blocks, shared, system) = multiprocessor(self.limits.capability);
        let one = kernel.static_shared() as usize + dynamic;
        if one > self.limits.shared_per_block_optin as usize {
            return Ok(0);
        }
        let by_threads = all_threads / threads.next_multiple_of(32);
        let by_registers = self.limits.registers_per_block / registers_of_block(kernel.registers(), threads).max(1);
        let by_shared = (shared as usize).checked_div(one.next_multiple_of(128) + system as usize);
        let by_shared = by_shared.map_or(blocks, |n| n.min(blocks as usize) as u32);
        Ok(by_threads.min(by_registers).min(by_shared).min(blocks) as i32)
    }

    /// Dynamic shared memory that each of `blocks` blocks on a multiprocessor can have.
    pub(crate) fn available_shared(&mut self, function: Id, blocks: i32, threads: i32) -> Result<usize, Code> {
        if blocks <= 0 || threads <= 0 {
            return Err(codes::INVALID_VALUE);
        }
        self.alive()?;
        let fixed = self.kernel(function)?.kernel.static_shared();
        let (_, _, shared, system) = multiprocessor(self.limits.capability);
        let share = (shared / blocks as u32).min(self.limits.shared_per_block_optin + system);
        Ok(share.saturating_sub(system + fixed) as usize)
    }

    /// The block size, a multiple of 32 and at most `limit` (0: no limit), with the most threads at once, and the
    /// least grid that fills the card.
    pub(crate) fn best_block(
        &mut self,
        function: Id,
        shared: impl Fn(i32) -> usize,
        limit: i32,
    ) -> Result<(i32, i32), Code> {
        let own = self.function_attribute(function, 0)?;
        let most = if limit > 0 { limit.min(own) } else { own };
        let mut best = (0, 0, 0);
        for threads in (32..=most).step_by(32) {
            let blocks = self.active_blocks(function, threads, shared(threads))?;
            if (threads * blocks, threads) > (best.0, best.1) {
                best = (threads * blocks, threads, blocks);
            }
        }
        Ok((best.2 * self.limits.multiprocessors as i32, best.1))
    }
}

/// Registers that a block takes: a warp gets them in lots of 256.
fn registers_of_block(registers: u32, threads: u32) -> u32 {
    (registers * 32).next_multiple_of(256) * threads.div_ceil(32)
}
