//! The C functions. Each passes its arguments to the driver, or to the virtual card after checking its pointers.

mod context;
mod graph;
mod memory;
mod module;
mod others;
mod stream;

use crate::codes::{self, Code};
use crate::front::Id;
use std::ffi::{CStr, c_char, c_void};
use std::{ptr, slice};

/// A handle as C has it: a pointer to what only the driver looks into.
type Handle = *mut c_void;

/// A device address.
type DevicePtr = u64;

/// Defines functions of the driver interface: the C name and arguments, and what the virtual card does.
///
/// The body is a closure over the virtual driver. It may read and write through the arguments as the CUDA documentation
/// lets the driver do: the caller of the C function answers for pointers that are not null.
macro_rules! functions {
    ($(fn $name:ident($($arg:ident: $kind:ty),* $(,)?) => $body:expr;)*) => {$(
        /// As the CUDA driver interface has it.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name($($arg: $kind),*) -> $crate::codes::Code {
            static ENTRY: $crate::driver::Entry = $crate::driver::Entry::new(concat!(stringify!($name), "\0"));
            $crate::call(
                stringify!($name),
                || {
                    let address = ENTRY.address()?;
                    // SAFETY: the driver's function of this name has this signature: the interface never changes one
                    // under its name. The arguments are the caller's, who answers for them.
                    Ok(unsafe {
                        let function: unsafe extern "C" fn($($kind),*) -> $crate::codes::Code =
                            std::mem::transmute(address);
                        function($($arg),*)
                    })
                },
                // SAFETY: the pointers among the arguments are null, which is refused, or good for what the
                // documentation of the function says: the caller answers for that.
                #[allow(unused_unsafe)]
                unsafe { $body },
            )
        }
    )*};
}
use functions;

fn id(handle: Handle) -> Id {
    handle as usize as Id
}

fn handle(id: Id) -> Handle {
    id as usize as Handle
}

/// Writes an answer where the caller wants it.
///
/// # Safety
/// `to` is null or a valid place for a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Code> {
    not_null(to)?;
    // SAFETY: it is not null, so it is valid.
    unsafe { to.write(value) };
    Ok(())
}

fn not_null<T>(pointer: *const T) -> Result<(), Code> {
    if pointer.is_null() { Err(codes::INVALID_VALUE) } else { Ok(()) }
}

/// The bytes of a C string, without its zero.
///
/// # Safety
/// `from` is null or a C string that stays as it is for `'a`.
unsafe fn bytes<'a>(from: *const c_char) -> Result<&'a [u8], Code> {
    not_null(from)?;
    // SAFETY: it is not null, so it is a C string.
    Ok(unsafe { CStr::from_ptr(from) }.to_bytes())
}

/// A C string as text.
///
/// # Safety
/// As [`bytes`].
unsafe fn text<'a>(from: *const c_char) -> Result<&'a str, Code> {
    // SAFETY: the same promise.
    let bytes = unsafe { bytes(from) }?;
    std::str::from_utf8(bytes).map_err(|_| codes::INVALID_VALUE)
}

/// `len` values at `from`; none when `len` is 0.
///
/// # Safety
/// `from` is null or good for reading `len` values for `'a`.
unsafe fn values<'a, T>(from: *const T, len: usize) -> Result<&'a [T], Code> {
    if len == 0 {
        return Ok(&[]);
    }
    not_null(from)?;
    // SAFETY: it is not null, so it holds `len` values.
    Ok(unsafe { slice::from_raw_parts(from, len) })
}

/// Copies `bytes` and a zero into a buffer of `len` bytes, cutting what does not fit. Bytes written, the zero included.
///
/// # Safety
/// `to` is null or good for writing `len` bytes.
unsafe fn put_text(to: *mut c_char, len: usize, bytes: &[u8]) -> usize {
    if to.is_null() || len == 0 {
        return 0;
    }
    let kept = bytes.len().min(len - 1);
    // SAFETY: `kept` and the zero fit into `len` bytes.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), kept);
        to.add(kept).write(0);
    }
    kept + 1
}

/// Writes a list the way graphs do: into `to`, when it is not null, as many as `*count` says; then `*count` is how many
/// there are.
///
/// # Safety
/// `count` is null or valid; `to` is null or good for writing `*count` values.
unsafe fn put_list<T: Copy>(to: *mut T, count: *mut usize, list: &[T]) -> Result<(), Code> {
    not_null(count)?;
    if !to.is_null() {
        // SAFETY: `count` is valid, and `to` has room for that many.
        unsafe { ptr::copy_nonoverlapping(list.as_ptr(), to, list.len().min(count.read())) };
    }
    // SAFETY: `count` is not null, so it is valid.
    unsafe { count.write(list.len()) };
    Ok(())
}
