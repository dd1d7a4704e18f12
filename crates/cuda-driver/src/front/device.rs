//! What the virtual card says of itself.
#![forbid(unsafe_code)]

use super::World;
use super::engine::Engine;
use super::launch::multiprocessor;
use crate::codes::{self, Code};

impl<E: Engine> World<E> {
    pub(crate) fn device_name(&self, device: i32) -> Result<&str, Code> {
        self.check_device(device).map(|()| self.limits.name.as_str())
    }

    /// `cuDeviceGetAttribute`, by the numbers of `CUdevice_attribute`; what the card lacks is 0.
    pub(crate) fn device_attribute(&self, attribute: i32, device: i32) -> Result<i32, Code> {
        self.check_device(device)?;
        let limits = &self.limits;
        let (threads, blocks, shared, system) = multiprocessor(limits.capability);
        let value = match attribute {
            // Threads of a block, in all and by dimension; blocks of a grid.
            1 => limits.threads_per_block,
            2 | 3 => 1024,
            4 => 64,
            5 => i32::MAX as u32,
            6 | 7 => 65_535,
            // Shared memory of a block, constant memory, threads of a warp, largest pitch, registers of a block.
            8 => limits.shared_per_block,
            9 => 65_536,
            10 => 32,
            11 => i32::MAX as u32,
            12 => limits.registers_per_block,
            // Clock in kHz, alignment of textures, copies beside kernels, multiprocessors.
            13 => 1_410_000,
            14 => 512,
            15 => 1,
            16 => limits.multiprocessors,
            // Maps host memory, runs kernels side by side, PCI numbers, copy engines, unified addresses.
            19 | 31 | 34 | 41 => 1,
            33 => 0,
            // Memory clock in kHz, width of its bus in bits, bytes of the L2 cache, threads of a multiprocessor.
            36 => 1_215_000,
            37 => 5120,
            38 => 40 << 20,
            39 => threads,
            40 => 2,
            75 => limits.capability.0,
            76 => limits.capability.1,
            // Stream priorities, caching of globals and locals in L1.
            78..=80 => 1,
            81 => shared,
            82 => limits.registers_per_block,
            97 => limits.shared_per_block_optin,
            106 => blocks,
            111 => system,
            ..=0 | 1000.. => return Err(codes::INVALID_VALUE),
            _ => 0,
        };
        Ok(value as i32)
    }
}
