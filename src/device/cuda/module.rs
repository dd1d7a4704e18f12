//! PTX on a card: the text for its capability, the compiler's log when it is refused, kernels by their entries.
#![allow(unsafe_code)]

use super::{Entry, Kind, SHARED_UNASKED, check, reason};
use crate::error::{Error, Result};
use cust::context::Context;
use cust::sys::{self, CUfunction, CUjit_option, CUmodule, CUresult};
use std::cmp::Ordering as Order;
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The committed PTX of one source, for capability 7.5 and for 8.0 and all later ones.
#[derive(Debug)]
pub struct Ptx {
    /// The stem of its files.
    pub name: &'static str,
    pub sm75: &'static str,
    pub sm80: &'static str,
}

/// Room for what the compiler says.
const LOG_BYTES: usize = 8192;

impl Ptx {
    /// The text for a card, and what its file is called.
    pub fn of(&self, capability: (u32, u32)) -> (&'static str, String) {
        match capability.cmp(&(8, 0)) {
            Order::Less => (self.sm75, format!("ptx/{}.sm75.ptx", self.name)),
            _ => (self.sm80, format!("ptx/{}.sm80.ptx", self.name)),
        }
    }
}

impl Ptx {
    /// Names of the entries that a card gets.
    pub fn entries(&self, capability: (u32, u32)) -> impl Iterator<Item = &'static str> + use<> {
        let parts = self.of(capability).0.split(".visible .entry ").skip(1);
        parts.filter_map(|part| part.split_once('(')).map(|(name, _)| name)
    }
}

/// The parameters of an entry of a PTX text, in order; `None` when it has no such entry, or parameters of other types.
pub fn parameters(ptx: &str, entry: &str) -> Option<Vec<Kind>> {
    let (_, after) = ptx.split_once(&format!(".entry {entry}("))?;
    let (list, _) = after.split_once(')')?;
    let words = |param: &str| param.split_whitespace().nth(1).map(str::to_owned);
    let params = list.split(',').map(str::trim).filter(|param| !param.is_empty());
    params
        .map(|param| match words(param)?.as_str() {
            ".u64" => Some(Kind::U64),
            ".u32" => Some(Kind::U32),
            ".f32" => Some(Kind::F32),
            _ => None,
        })
        .collect()
}

/// A loaded module.
pub(super) struct Module {
    handle: CUmodule,
    /// Kernels may outlive the `Gpu` that they came from, but not its context.
    _context: Arc<Context>,
    text: &'static str,
    file: String,
}

// SAFETY: a handle of the driver may be used from any thread, and nothing of it changes.
unsafe impl Send for Module {}
// SAFETY: the same.
unsafe impl Sync for Module {}

impl Module {
    /// Loads the text for a capability. The error quotes the compiler.
    pub(super) fn load(ptx: &Ptx, capability: (u32, u32), context: Arc<Context>) -> Result<Self> {
        let (text, file) = ptx.of(capability);
        let image = CString::new(text).map_err(|_| Error::gpu(file.as_str(), "the PTX holds a zero byte"))?;
        let mut log = vec![0_u8; LOG_BYTES];
        let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG_BYTES)];
        let mut handle = ptr::null_mut();
        // SAFETY: the image ends in zero, the options and their values are of one length, and the log has the room that
        // the second option tells; all of them outlive the call.
        let result = unsafe {
            sys::cuModuleLoadDataEx(&mut handle, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        if result == CUresult::CUDA_SUCCESS {
            return Ok(Module { handle, _context: context, text, file });
        }
        let log = CStr::from_bytes_until_nul(&log).map_or_else(|_| String::new(), |log| log.to_string_lossy().into());
        let why = match result {
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => "the driver is too old for it; install a newer one".into(),
            _ => reason(result),
        };
        let quoted = log.split_whitespace().collect::<Vec<_>>().join(" ");
        // The virtual card reports through both.
        let words = if quoted.is_empty() || why.contains(&quoted) { why } else { format!("{why}: {quoted}") };
        Err(Error::gpu(file, words))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, kernels of it hold an `Arc` to this, and its context goes after it.
        unsafe { sys::cuModuleUnload(self.handle) };
    }
}

/// A kernel that can be launched: its parameters are those of its entry.
pub struct Kernel {
    module: Arc<Module>,
    function: CUfunction,
    entry: &'static Entry,
    /// Dynamic shared memory that it may have.
    shared: AtomicU32,
}

// SAFETY: a handle of the driver may be used from any thread; the module lives as long.
unsafe impl Send for Kernel {}
// SAFETY: the same; what changes is atomic.
unsafe impl Sync for Kernel {}

impl Kernel {
    pub(super) fn new(module: Arc<Module>, entry: &'static Entry) -> Result<Self> {
        let kinds: Vec<Kind> = entry.args.iter().map(|(_, kind)| *kind).collect();
        let fail = |why: String| Err(Error::gpu(format!("{} of {}", entry.name, module.file), why));
        match parameters(module.text, entry.name) {
            None => return fail("there is no such entry, or it has parameters of unknown types".into()),
            Some(found) if found != kinds => return fail(format!("it takes {found:?}, and the table says {kinds:?}")),
            Some(_) => {}
        }
        let Ok(name) = CString::new(entry.name) else { return fail("the name holds a zero byte".into()) };
        let mut function = ptr::null_mut();
        // SAFETY: the module lives, the name ends in zero, and `function` is a place for the handle.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, module.handle, name.as_ptr()) };
        check(|| format!("{} of {}", entry.name, module.file), result)?;
        let mut fixed = 0;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the function was just looked up, and `fixed` is a place for the answer.
        let result = unsafe { sys::cuFuncGetAttribute(&mut fixed, attribute, function) };
        check(|| entry.name.into(), result)?;
        let shared = AtomicU32::new(SHARED_UNASKED.saturating_sub(fixed.unsigned_abs()));
        Ok(Kernel { module, function, entry, shared })
    }

    /// What it is an instance of.
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// The file it comes from.
    pub fn file(&self) -> &str {
        &self.module.file
    }

    pub(super) fn function(&self) -> CUfunction {
        self.function
    }

    /// Asks for more dynamic shared memory than a kernel has without asking.
    pub(super) fn allow_shared(&self, bytes: u32) -> Result<()> {
        if bytes <= self.shared.load(Ordering::Relaxed) {
            return Ok(());
        }
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function lives as long as its module, which this holds.
        let result = unsafe { sys::cuFuncSetAttribute(self.function, attribute, bytes as i32) };
        check(|| format!("{bytes} bytes of shared memory for {}", self.entry.name), result)?;
        self.shared.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Registers a thread takes.
    pub fn registers(&self) -> Result<u32> {
        let mut registers = 0;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
        // SAFETY: the function lives, and `registers` is a place for the answer.
        let result = unsafe { sys::cuFuncGetAttribute(&mut registers, attribute, self.function) };
        check(|| self.entry.name.into(), result)?;
        Ok(registers.unsigned_abs())
    }
}

/// The committed PTX of a source by its stem, embedded.
macro_rules! embedded {
    ($stem:literal) => {
        $crate::device::cuda::Ptx {
            name: $stem,
            sm75: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/ptx/", $stem, ".sm75.ptx")),
            sm80: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/ptx/", $stem, ".sm80.ptx")),
        }
    };
}
pub(crate) use embedded;
