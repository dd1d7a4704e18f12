//! Opening a card: which driver answers, which card, whether it can run the kernels.
#![forbid(unsafe_code)]

use super::aside::Aside;
use super::buffer::Pool;
use super::module::{Module, Ptx};
use super::{Entry, Kernel, Store, Stream};
use crate::error::{Error, Result};
use cuda_driver::VirtualCard;
use cust::context::{Context, CurrentContext};
use cust::device::{Device, DeviceAttribute};
use cust::error::CudaError;
use std::collections::HashMap;
use std::env;
use std::sync::{Arc, Mutex, PoisonError};

/// The least compute capability: tensor cores that `mma` of PTX 7.8 reaches as the kernels use it.
const OLDEST: (u32, u32) = (7, 5);

/// The first driver that reads PTX 7.8, as `cuDriverGetVersion` counts: CUDA 11.8.
const OLDEST_DRIVER: i32 = 11_080;

/// What answers the calls of this process: an installed card, or the virtual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The first card of the installed driver.
    Cuda,
    /// The virtual card; `DYNAVIT_PTX_VM` is `sm_80`, which is the default, or `sm_75`.
    PtxVm,
}

impl Target {
    /// The value of `--device` for it.
    pub fn name(self) -> &'static str {
        match self {
            Target::Cuda => "cuda",
            Target::PtxVm => "ptx-vm",
        }
    }
}

/// What is known of the installed driver without a card.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The CUDA version that it is for, as 12.4.
    pub version: String,
    /// Cards, as it counts them.
    pub cards: u32,
}

/// A card in use, with its stream and the modules that are loaded on it.
pub struct Gpu {
    pub(super) pool: Pool,
    pub(super) aside: Aside,
    /// What activations are stored as.
    compute: Store,
    /// The entries called so far; they hold their modules.
    kernels: Mutex<HashMap<&'static str, Arc<Kernel>>>,
    modules: Mutex<HashMap<&'static str, Arc<Module>>>,
    stream: Stream,
    second: Stream,
    device: Device,
    target: Target,
    capability: (u32, u32),
    /// Shared with what outlives this: modules of kernels, and graphs.
    context: Arc<Context>,
}

/// An error about the flag that asked for the device.
fn refuse(target: Target, reason: impl Into<String>, remedy: &str) -> Error {
    Error::usage(format!("--device {}", target.name()), reason, remedy)
}

fn virtual_card() -> Result<VirtualCard> {
    match env::var("DYNAVIT_PTX_VM").as_deref() {
        Err(env::VarError::NotPresent) | Ok("" | "sm_80") => Ok(VirtualCard::sm_80()),
        Ok("sm_75") => Ok(VirtualCard::sm_75()),
        other => {
            let reason = format!("{:?} is no virtual card", other.unwrap_or_default());
            Err(Error::usage("DYNAVIT_PTX_VM", reason, "set it to sm_80 or sm_75"))
        }
    }
}

/// Picks the target of this process and initialises it.
fn start(target: Target) -> Result<()> {
    let chosen = match target {
        Target::Cuda => cuda_driver::Target::Driver,
        Target::PtxVm => cuda_driver::Target::Virtual(virtual_card()?),
    };
    cuda_driver::select(chosen).map_err(|error| refuse(target, error.to_string(), "use one in a process"))?;
    cust::init(cust::CudaFlags::empty()).map_err(|error| match (target, cuda_driver::driver_missing()) {
        (Target::Cuda, Some(why)) => refuse(target, format!("no CUDA driver was found ({why})"), "use --device cpu"),
        _ => {
            refuse(target, failed("the driver does not start", error), "check it with nvidia-smi, or use --device cpu")
        }
    })
}

/// Words for an error of `cust`, with what the driver front knows beyond the code.
fn failed(what: &str, error: CudaError) -> String {
    match cuda_driver::last_fault() {
        Some(text) => format!("{what}: {error:?}, {text}"),
        None => format!("{what}: {error:?}"),
    }
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The driver of a target, before any card is touched. An error says why there is none.
pub fn driver(target: Target) -> Result<Driver> {
    start(target)?;
    let asked = cust::CudaApiVersion::get();
    let asked = asked.map_err(|error| refuse(target, failed("no version", error), "check it with nvidia-smi"))?;
    let number = asked.major() * 1000 + asked.minor() * 10;
    // A driver without a card says so here, which is no error yet.
    Ok(Driver { version: version(number), cards: Device::num_devices().unwrap_or(0) })
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.name(), self.compute)
    }
}

impl Gpu {
    /// Opens the first card of `target` and makes it current in this thread. One clear error when there is no driver or
    /// no card, when the driver reads no PTX 7.8, or when the card is older than the kernels.
    pub fn open(target: Target) -> Result<Self> {
        start(target)?;
        let ask = |what: &'static str| move |error| refuse(target, failed(what, error), "use --device cpu");
        let api = cust::CudaApiVersion::get().map_err(ask("the driver tells no version"))?;
        let number = api.major() * 1000 + api.minor() * 10;
        if number < OLDEST_DRIVER {
            let reason =
                format!("the driver is for CUDA {}; the kernels need {}", version(number), version(OLDEST_DRIVER));
            return Err(refuse(target, reason, "install a newer driver, or use --device cpu"));
        }
        if Device::num_devices().map_err(ask("the driver counts no cards"))? == 0 {
            return Err(refuse(target, "the driver has no card", "use --device cpu"));
        }
        let device = Device::get_device(0).map_err(ask("the card does not answer"))?;
        let attribute = |attribute| device.get_attribute(attribute).map_err(ask("the card does not answer"));
        let major = attribute(DeviceAttribute::ComputeCapabilityMajor)?;
        let minor = attribute(DeviceAttribute::ComputeCapabilityMinor)?;
        let capability = (major.unsigned_abs(), minor.unsigned_abs());
        if capability < OLDEST {
            let (name, (a, b)) = (device.name().unwrap_or_default(), OLDEST);
            let reason = format!("{name} has compute capability {major}.{minor}; the kernels need {a}.{b}");
            return Err(refuse(target, reason, "use a newer card, or --device cpu"));
        }
        let context = Arc::new(Context::new(device).map_err(ask("the card gives no context"))?);
        let (stream, second) = (Stream::new(context.clone())?, Stream::new(context.clone())?);
        Ok(Gpu {
            pool: Pool::default(),
            aside: Aside::default(),
            compute: Store::F16,
            kernels: Mutex::default(),
            modules: Mutex::default(),
            stream,
            second,
            device,
            target,
            capability,
            context,
        })
    }

    /// Stores activations as `store`. An error when the card has no products of that type.
    pub fn computing_in(mut self, store: Store) -> Result<Self> {
        if store == Store::Bf16 && self.capability < (8, 0) {
            let (major, minor) = self.capability;
            let reason = format!("a card of compute capability {major}.{minor} has no bf16; 8.0 and later have");
            return Err(Error::usage("--precision bf16", reason, "use --precision f16"));
        }
        self.compute = store;
        Ok(self)
    }

    /// What activations are stored as.
    pub fn compute(&self) -> Store {
        self.compute
    }

    /// Makes the card current in this thread; needed before a thread other than the one that opened it uses it.
    pub fn bind(&self) -> Result<()> {
        CurrentContext::set_current(&*self.context).map_err(|error| Error::gpu("context", format!("{error:?}")))
    }

    /// The stream that everything runs on, but for what is brought and scored aside.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream that brings and scores the next images while the first computes. Its memory is that of
    /// [`super::Buffer::aside`].
    pub fn second(&self) -> &Stream {
        &self.second
    }

    /// Whether this is the virtual card.
    pub fn is_virtual(&self) -> bool {
        self.target == Target::PtxVm
    }

    /// The name of the card.
    pub fn name(&self) -> String {
        self.device.name().unwrap_or_else(|_| "a card without a name".into())
    }

    /// The compute capability, as (8, 0).
    pub fn capability(&self) -> (u32, u32) {
        self.capability
    }

    /// The number of multiprocessors.
    pub fn multiprocessors(&self) -> Result<usize> {
        let count = self.device.get_attribute(DeviceAttribute::MultiprocessorCount);
        count.map(|count| count.unsigned_abs() as usize).map_err(|e| Error::gpu("card", failed("no answer", e)))
    }

    /// An attribute of the card; `None` when it does not tell.
    fn attribute(&self, attribute: DeviceAttribute) -> Result<Option<f64>> {
        let value = self.device.get_attribute(attribute);
        let value = value.map_err(|error| Error::gpu("card", failed("no answer", error)))?;
        Ok((value > 0).then_some(f64::from(value)))
    }

    /// FLOP/s of the matrix units on dense 16-bit operands with f32 sums, at the card's highest clock. `None` when the
    /// card does not tell its clock, when it is virtual, or for chips that the table lacks.
    ///
    /// FLOPs a clock and multiprocessor are those of the vendor's white papers: Turing 1024, GA100 2048, the smaller
    /// Ampere and Ada chips 1024 (a GeForce, which sums in f32 at half of that, is given too much), Hopper 4096.
    pub fn peak_flops(&self) -> Result<Option<f64>> {
        let each = match self.capability {
            (7, 5) | (8, 6) | (8, 9) => 1024.0,
            (8, 0) => 2048.0,
            (9, 0) => 4096.0,
            _ => return Ok(None),
        };
        let clock = self.attribute(DeviceAttribute::ClockRate)?.filter(|_| !self.is_virtual());
        let count = self.multiprocessors()? as f64;
        Ok(clock.map(|kilohertz| kilohertz * 1e3 * count * each))
    }

    /// Bytes a second of the card's memory, which moves data at both edges of its clock; `None` when the card does not
    /// tell, or when it is virtual.
    pub fn peak_bytes(&self) -> Result<Option<f64>> {
        let clock = self.attribute(DeviceAttribute::MemoryClockRate)?.filter(|_| !self.is_virtual());
        let width = self.attribute(DeviceAttribute::GlobalMemoryBusWidth)?;
        Ok(clock.zip(width).map(|(kilohertz, bits)| 2.0 * kilohertz * 1e3 * bits / 8.0))
    }

    /// Bytes of memory, free and in all.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let info = cust::memory::mem_get_info();
        let (free, total) = info.map_err(|error| Error::gpu("memory", failed("no answer", error)))?;
        Ok((free as u64, total as u64))
    }

    /// The module of a source, loaded at the first call.
    pub(super) fn module(&self, ptx: &Ptx) -> Result<Arc<Module>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(ptx.name) {
            return Ok(module.clone());
        }
        let module = Arc::new(Module::load(ptx, self.capability, self.context.clone())?);
        modules.insert(ptx.name, module.clone());
        Ok(module)
    }

    /// Loads a source now. The error quotes the log of the compiler.
    pub fn load(&self, ptx: &Ptx) -> Result<()> {
        self.module(ptx).map(drop)
    }

    /// The kernel of an entry, looked up at the first call. An error when the PTX has no such entry or other
    /// parameters.
    pub fn kernel(&self, ptx: &Ptx, entry: &'static Entry) -> Result<Arc<Kernel>> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(entry.name) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(Kernel::new(self.module(ptx)?, entry)?);
        kernels.insert(entry.name, kernel.clone());
        Ok(kernel)
    }

    /// Names of the entries called so far, sorted.
    pub fn called(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.kernels.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        names.sort_unstable();
        names
    }
}
