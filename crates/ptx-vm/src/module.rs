//! Loaded modules: their kernels, and where their variables lie.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, RwLock};

use crate::check::refused;
use crate::decode;
use crate::inst::Program;
use crate::memory::slots::Slots;
use crate::parse::ast::{Function, Space, Unit};
use crate::parse::{self, Bad};
use crate::{Fault, Limits};

/// A loaded module.
pub struct Module {
    kernels: BTreeMap<String, Arc<Kernel>>,
    globals: BTreeMap<String, (u64, u64)>,
    slots: Arc<RwLock<Slots>>,
}

/// A kernel of a module, with the attributes of `cuFuncGetAttribute`.
pub struct Kernel {
    name: String,
    pub(crate) file: String,
    pub(crate) sources: Arc<BTreeMap<u32, String>>,
    pub(crate) program: Program,
    params: Vec<(u32, u32)>,
    param_bytes: u32,
    registers: u32,
    /// From the file's head, not estimated.
    pub(crate) registers_known: bool,
    threads: u32,
    pub(crate) required_threads: Option<[u32; 3]>,
    dynamic: AtomicU32,
    shared_optin: u32,
}

/// Parses, places the variables and decodes all kernels.
pub(crate) fn load(limits: &Limits, slots: &Arc<RwLock<Slots>>, name: &str, ptx: &str) -> Result<Module, Bad> {
    let unit = parse::parse(ptx)?;
    let card = limits.capability.0 * 10 + limits.capability.1;
    if unit.target > card || unit.target_exact && unit.target != card {
        let letter = if unit.target_exact { "a" } else { "" };
        return Err(Bad::new(1, format!("the file is for sm_{}{letter}, the card is sm_{card}", unit.target)));
    }
    let mut module = Module { kernels: BTreeMap::new(), globals: BTreeMap::new(), slots: slots.clone() };
    let mut addresses = decode::Addresses::new();
    for var in unit.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const)) {
        if var.external {
            return Err(Bad::new(var.line, format!("`{}` is declared .extern and defined nowhere", var.name)));
        }
        let address = slots.write().unwrap_or_else(|e| e.into_inner()).alloc(var.size);
        let address = address.map_err(|fault| Bad::new(var.line, format!("`{}`: {}", var.name, fault.message)))?;
        module.globals.insert(var.name.to_string(), (address, var.size));
        addresses.insert(var.name, address);
    }
    for var in unit.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const)) {
        let mut bytes = var.init.clone();
        bytes.resize(var.size as usize, 0);
        for fixup in &var.fixups {
            let Some(address) = addresses.get(fixup.symbol) else {
                return Err(Bad::new(var.line, format!("`{}` is no variable with an address", fixup.symbol)));
            };
            let value = address.wrapping_add(fixup.addend as u64).to_le_bytes();
            bytes[fixup.at..fixup.at + fixup.bytes].copy_from_slice(&value[..fixup.bytes]);
        }
        let written = slots.read().unwrap_or_else(|e| e.into_inner()).write(addresses[var.name], &bytes);
        written.map_err(|fault| Bad::new(var.line, fault.message))?;
    }
    let sources = Arc::new(unit.files.clone());
    for function in unit.functions.iter().filter(|f| f.entry && f.body.is_some()) {
        let program = decode::decode(&unit, function, &addresses)?;
        let kernel = Kernel::new(limits, &unit, function, program, name, sources.clone());
        module.kernels.insert(kernel.name.clone(), Arc::new(kernel));
    }
    Ok(module)
}

impl Kernel {
    fn new(
        limits: &Limits,
        unit: &Unit<'_>,
        function: &Function<'_>,
        program: Program,
        file: &str,
        sources: Arc<BTreeMap<u32, String>>,
    ) -> Self {
        let card = limits.capability.0 * 10 + limits.capability.1;
        let known = unit
            .resources
            .iter()
            .filter(|r| r.entry == function.name && r.sm <= card)
            .max_by_key(|r| r.sm)
            .map(|r| r.registers);
        let product = |t: Option<[u32; 3]>| t.map(|t| t.iter().map(|n| *n as u64).product::<u64>().max(1));
        let threads = product(function.required_threads).or(product(function.max_threads));
        let threads = threads.unwrap_or(u64::MAX).min(limits.threads_per_block as u64) as u32;
        // A compiler keeps a thread within 255 registers, and within what its largest block leaves it.
        let share = limits.registers_per_block / threads.next_multiple_of(32) / 8 * 8;
        let ceiling = if function.max_threads.is_some() { share.min(255) } else { 255 };
        let estimate = (program.pressure + 10).min(ceiling).min(function.max_registers.unwrap_or(255));
        Self {
            name: function.name.to_string(),
            file: file.to_string(),
            sources,
            params: function.params.iter().map(|p| (p.offset, p.size)).collect(),
            param_bytes: function.params.last().map_or(0, |p| p.offset + p.size),
            registers: known.unwrap_or(estimate),
            registers_known: known.is_some(),
            threads,
            required_threads: function.required_threads,
            dynamic: AtomicU32::new(0),
            shared_optin: limits.shared_per_block_optin,
            program,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Offset and size in bytes of each parameter.
    pub fn params(&self) -> &[(u32, u32)] {
        &self.params
    }

    /// Bytes of the parameter block.
    pub fn param_bytes(&self) -> u32 {
        self.param_bytes
    }

    /// Registers a thread takes: from the file's `// resources` header, else estimated.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// Bytes of static shared memory.
    pub fn static_shared(&self) -> u32 {
        self.program.static_shared
    }

    /// Bytes of local memory a thread.
    pub fn local_bytes(&self) -> u32 {
        self.program.local_bytes
    }

    /// Threads a block may have: from `.maxntid`, else the card's limit.
    pub fn threads_per_block(&self) -> u32 {
        self.threads
    }

    /// As `cuFuncSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)`.
    pub fn set_dynamic_shared_limit(&self, bytes: u32) -> Result<(), Fault> {
        let total = bytes as u64 + self.static_shared() as u64;
        if total > self.shared_optin as u64 {
            let why = format!("{total} bytes of shared memory asked for, a block gets at most {}", self.shared_optin);
            return Err(refused(&self.name, why));
        }
        self.dynamic.store(bytes, Relaxed);
        Ok(())
    }

    /// What `set_dynamic_shared_limit` last allowed.
    pub fn dynamic_limit(&self) -> u32 {
        self.dynamic.load(Relaxed)
    }
}

impl Module {
    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.get(name).cloned()
    }

    /// Names of all kernels.
    pub fn kernels(&self) -> Vec<String> {
        self.kernels.keys().cloned().collect()
    }

    /// Address and size of a module-scope variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let mut slots = self.slots.write().unwrap_or_else(|e| e.into_inner());
        for (address, _) in self.globals.values() {
            // The variables are the module's own; nobody else may have freed them.
            let _ = slots.free(*address);
        }
    }
}
