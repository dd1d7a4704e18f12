//! The installed CUDA driver: its library, opened when the first function is asked for, and the functions in it.

use crate::codes::{self, Code};
use libloading::Library;
use std::env;
use std::error::Error;
use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

/// The driver's library as the operating system finds it.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Names a driver library to open in place of the installed one.
const OVERRIDE: &str = "DYNAVIT_LIBCUDA";

/// The library, never closed; or why there is none.
fn library() -> Result<&'static Library, &'static str> {
    static OPENED: OnceLock<Result<Library, String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        let path = env::var_os(OVERRIDE).filter(|path| !path.is_empty()).unwrap_or_else(|| LIBRARY.into());
        // SAFETY: opening runs the library's initialisers. It is the system's CUDA driver, or what the user names.
        unsafe { Library::new(&path) }.map_err(|error| match error.source() {
            Some(reason) => reason.to_string(),
            None => format!("{}: {error}", path.display()),
        })
    });
    opened.as_ref().map_err(String::as_str)
}

/// Why the driver's library could not be opened; nothing when it could.
pub(crate) fn missing() -> Option<&'static str> {
    library().err()
}

/// A function of the driver, looked up once.
pub(crate) struct Entry {
    /// The name as C has it, with the zero at its end.
    name: &'static str,
    address: OnceLock<Result<usize, Code>>,
}

impl Entry {
    pub(crate) const fn new(name: &'static str) -> Self {
        Entry { name, address: OnceLock::new() }
    }

    /// The address; NO_DEVICE where there is no driver, NOT_FOUND where the driver has no such function.
    pub(crate) fn address(&self) -> Result<*const c_void, Code> {
        let found = self.address.get_or_init(|| {
            let library = library().map_err(|_| codes::NO_DEVICE)?;
            // SAFETY: only the address is taken; whoever calls it answers for the type.
            let symbol = unsafe { library.get::<*const c_void>(self.name) }.map_err(|_| codes::NOT_FOUND)?;
            let address = *symbol as usize;
            if address == 0 { Err(codes::NOT_FOUND) } else { Ok(address) }
        });
        found.map(|address| address as *const c_void)
    }
}

/// A code that `cust` does not know, in words: its number, and its name where the driver has one.
pub(crate) fn describe(code: Code) -> String {
    static NAME: Entry = Entry::new("cuGetErrorName\0");
    let name = NAME.address().ok().and_then(|address| {
        // SAFETY: that is the signature of cuGetErrorName in every version of the driver.
        let ask: unsafe extern "C" fn(Code, *mut *const c_char) -> Code = unsafe { std::mem::transmute(address) };
        let mut text = std::ptr::null();
        // SAFETY: `text` is a place for one pointer; the driver answers with a static string or leaves it alone.
        let answer = unsafe { ask(code, &mut text) };
        // SAFETY: a success with a pointer is a string that ends in zero and lives as long as the driver.
        (answer == codes::SUCCESS && !text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
    });
    match name {
        Some(name) => format!("the CUDA driver answered {code}, {}", name.to_string_lossy()),
        None => format!("the CUDA driver answered {code}, which has no name here"),
    }
}
