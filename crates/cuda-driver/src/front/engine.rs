//! What the front needs of a card, and the virtual card as such.
#![forbid(unsafe_code)]

use ptx_vm::{Card, Counters, Fault, Kernel, LaunchShape, Module, ParseError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A card that does one thing after the other; the meanings are those of [`ptx_vm::Card`].
pub(crate) trait Engine {
    type Module;
    type Kernel: Describe;

    fn alloc(&self, bytes: u64) -> Result<u64, Fault>;
    fn free(&self, address: u64) -> Result<(), Fault>;
    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault>;
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault>;
    fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault>;
    fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault>;
    fn range(&self, address: u64) -> Option<(u64, u64)>;
    fn memory_info(&self) -> (u64, u64);
    fn load(&self, name: &str, ptx: &str) -> Result<Arc<Self::Module>, ParseError>;
    fn kernel(module: &Self::Module, name: &str) -> Option<Arc<Self::Kernel>>;
    fn global(module: &Self::Module, name: &str) -> Option<(u64, u64)>;
    fn launch(&self, kernel: &Self::Kernel, shape: LaunchShape, params: &[u8]) -> Result<(), Fault>;
    fn counters(&self) -> BTreeMap<String, Counters>;
    fn reset_counters(&self);
}

/// What is known of a kernel; the meanings are those of [`ptx_vm::Kernel`].
pub(crate) trait Describe {
    fn name(&self) -> &str;
    fn params(&self) -> &[(u32, u32)];
    fn param_bytes(&self) -> u32;
    fn registers(&self) -> u32;
    fn static_shared(&self) -> u32;
    fn local_bytes(&self) -> u32;
    fn threads_per_block(&self) -> u32;
    fn set_dynamic_shared_limit(&self, bytes: u32) -> Result<(), Fault>;
}

impl Engine for Card {
    type Module = Module;
    type Kernel = Kernel;

    fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        Card::alloc(self, bytes)
    }
    fn free(&self, address: u64) -> Result<(), Fault> {
        Card::free(self, address)
    }
    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        Card::write(self, to, bytes)
    }
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        Card::read(self, from, bytes)
    }
    fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        Card::copy(self, to, from, bytes)
    }
    fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        Card::fill(self, to, pattern, count)
    }
    fn range(&self, address: u64) -> Option<(u64, u64)> {
        Card::range(self, address)
    }
    fn memory_info(&self) -> (u64, u64) {
        Card::memory_info(self)
    }
    fn load(&self, name: &str, ptx: &str) -> Result<Arc<Module>, ParseError> {
        Card::load(self, name, ptx)
    }
    fn kernel(module: &Module, name: &str) -> Option<Arc<Kernel>> {
        module.kernel(name)
    }
    fn global(module: &Module, name: &str) -> Option<(u64, u64)> {
        module.global(name)
    }
    fn launch(&self, kernel: &Kernel, shape: LaunchShape, params: &[u8]) -> Result<(), Fault> {
        Card::launch(self, kernel, shape, params)
    }
    fn counters(&self) -> BTreeMap<String, Counters> {
        Card::counters(self)
    }
    fn reset_counters(&self) {
        Card::reset_counters(self);
    }
}

impl Describe for Kernel {
    fn name(&self) -> &str {
        Kernel::name(self)
    }
    fn params(&self) -> &[(u32, u32)] {
        Kernel::params(self)
    }
    fn param_bytes(&self) -> u32 {
        Kernel::param_bytes(self)
    }
    fn registers(&self) -> u32 {
        Kernel::registers(self)
    }
    fn static_shared(&self) -> u32 {
        Kernel::static_shared(self)
    }
    fn local_bytes(&self) -> u32 {
        Kernel::local_bytes(self)
    }
    fn threads_per_block(&self) -> u32 {
        Kernel::threads_per_block(self)
    }
    fn set_dynamic_shared_limit(&self, bytes: u32) -> Result<(), Fault> {
        Kernel::set_dynamic_shared_limit(self, bytes)
    }
}
