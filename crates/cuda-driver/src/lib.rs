//! The `cu*` symbols that `cust` links to: the installed CUDA driver, opened at run time, or a virtual GPU.
//!
//! A program that links this crate needs no CUDA to build or to start. Each symbol is a typed function that passes its
//! arguments on to one of two targets; [`select`] says which, before the first call.
//!
//! - [`Target::Driver`]: `libcuda.so.1`, opened when the first function is called. Without it every call answers
//!   `CUDA_ERROR_NO_DEVICE`, without one of its functions that one answers `CUDA_ERROR_NOT_FOUND`. A code that `cust`
//!   does not know becomes `CUDA_ERROR_UNKNOWN`; [`last_fault`] has the number. The environment variable
//!   `DYNAVIT_LIBCUDA` names another library.
//! - [`Target::Virtual`]: a card of `ptx-vm`. Work is queued and runs as late as the program allows: at a synchronise,
//!   at an event that somebody waits for, at a synchronous copy of a stream that waits for it. So a missing
//!   synchronise shows. Calls from within a task of rayon are not for this target: a launch runs on that pool.
//!
//! Handles of the virtual card are numbers that are looked up, so a wrong one is an error and not a crash. Null pointers
//! are refused. No panic leaves a function: it becomes `CUDA_ERROR_UNKNOWN` with its message in [`last_fault`].

mod api;
mod codes;
mod driver;
mod front;

pub use ptx_vm::{Counters, Limits, Options};

use codes::Code;
use front::World;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What answers the calls of this process.
#[derive(Clone, Debug)]
pub enum Target {
    /// The installed CUDA driver.
    Driver,
    /// A virtual card.
    Virtual(VirtualCard),
}

/// A virtual card: what it claims to be, and what it checks.
#[derive(Clone, Debug)]
pub struct VirtualCard {
    pub limits: Limits,
    pub options: Options,
}

impl VirtualCard {
    /// A card of capability 8.0 with the limits of an A100 and 2 GiB of memory, all checks on.
    pub fn sm_80() -> Self {
        Self::of("virtual GPU (sm_80)", (8, 0), 108, 166_912)
    }

    /// A card of capability 7.5 with the limits of a T4 and 2 GiB of memory, all checks on.
    pub fn sm_75() -> Self {
        Self::of("virtual GPU (sm_75)", (7, 5), 40, 65_536)
    }

    fn of(name: &str, capability: (u32, u32), multiprocessors: u32, shared_per_block_optin: u32) -> Self {
        let limits = Limits {
            name: name.into(),
            capability,
            multiprocessors,
            threads_per_block: 1024,
            registers_per_block: 65_536,
            shared_per_block: 49_152,
            shared_per_block_optin,
            memory: 2 << 30,
        };
        VirtualCard { limits, options: Options { global_races: true, ..Options::default() } }
    }
}

/// The target was picked before, and another one was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlreadySelected;

impl fmt::Display for AlreadySelected {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("this process already uses another CUDA target; select one, before the first call")
    }
}

impl std::error::Error for AlreadySelected {}

/// The target once it is picked.
static TARGET: OnceLock<Target> = OnceLock::new();

/// Picks what answers all further calls; the driver when a call comes first. Picking the same again changes nothing.
pub fn select(target: Target) -> Result<(), AlreadySelected> {
    let chosen = TARGET.get_or_init(|| target.clone());
    // The options are plain data of another crate, whose derived Debug shows every field.
    if format!("{chosen:?}") == format!("{target:?}") { Ok(()) } else { Err(AlreadySelected) }
}

/// Why the CUDA driver's library cannot be opened, in the words of the operating system; `None` when it can.
pub fn driver_missing() -> Option<&'static str> {
    driver::missing()
}

/// Counters of the virtual card by kernel since the last reset; empty with the driver.
///
/// Work that is still queued has not been counted.
pub fn counters() -> BTreeMap<String, Counters> {
    match target() {
        Target::Driver => BTreeMap::new(),
        Target::Virtual(card) => world(card).counters(),
    }
}

/// Forgets the counters of the virtual card.
pub fn reset_counters() {
    if let Target::Virtual(card) = target() {
        world(card).reset_counters();
    }
}

thread_local! {
    static FAULT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What is known of the last call of this thread that failed: the report of the virtual card, the message of a panic,
/// or the driver's code where `cust` has no name for it.
pub fn last_fault() -> Option<String> {
    FAULT.with_borrow(Clone::clone)
}

fn note(text: String) {
    FAULT.set(Some(text));
}

fn target() -> &'static Target {
    TARGET.get_or_init(|| Target::Driver)
}

fn world(card: &VirtualCard) -> MutexGuard<'static, World<ptx_vm::Card>> {
    static WORLD: OnceLock<Mutex<World<ptx_vm::Card>>> = OnceLock::new();
    let world = WORLD.get_or_init(|| {
        let engine = ptx_vm::Card::new(card.limits.clone(), card.options.clone());
        Mutex::new(World::new(engine, card.limits.clone()))
    });
    // A panic was reported to its caller; what it left behind is looked up like everything else.
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of a function: `driver` or `virt`. No panic leaves it.
fn call(
    name: &'static str,
    driver: impl FnOnce() -> Result<Code, Code>,
    virt: impl FnOnce(&mut World<ptx_vm::Card>) -> Result<(), Code>,
) -> Code {
    let body = || match target() {
        Target::Driver => {
            // What is known of an earlier failure would be read as the cause of one of this call.
            FAULT.set(None);
            let code = driver().unwrap_or_else(|code| code);
            let clamped = codes::clamp(code);
            if clamped != code {
                note(format!("{name}: {}", driver::describe(code)));
            }
            clamped
        }
        Target::Virtual(card) => {
            if front::in_host_function() {
                note(format!("{name}: a host function in a stream may not call the driver"));
                return codes::NOT_PERMITTED;
            }
            let mut world = world(card);
            world.take_note();
            match virt(&mut world) {
                Ok(()) => codes::SUCCESS,
                Err(codes::NOT_READY) => codes::NOT_READY,
                Err(code) => {
                    note(world.take_note().unwrap_or_else(|| describe(name, code)));
                    code
                }
            }
        }
    };
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let message = payload.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| payload.downcast_ref::<&str>().copied());
        note(format!("{name}: panic: {}", message.unwrap_or("no message")));
        codes::UNKNOWN
    })
}

/// An error of the virtual card that has no report of its own.
fn describe(name: &str, code: Code) -> String {
    let meaning = codes::meaning(code).map_or_else(Default::default, |text| text.to_string_lossy());
    format!("{name}: {meaning} (code {code})")
}
