//! Host memory of the caller: ranges that queued copies use later, and memory that is pinned.

use super::Id;
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::ptr;

/// A range of the caller's memory. Whoever makes one has the caller's word that it stays valid until the copy has run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostRange {
    address: usize,
    len: usize,
}

impl HostRange {
    /// # Safety
    /// The `len` bytes at `address` stay readable, and writable if the range is written, until the copy that the range is
    /// made for has run; nobody else touches them while it runs.
    pub(crate) unsafe fn new(address: *const c_void, len: usize) -> Self {
        HostRange { address: address as usize, len }
    }

    pub(super) fn address(&self) -> usize {
        self.address
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The bytes as they are now.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: `new` was promised that the range is valid, and it is not null: the front refuses null pointers.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.len) }
    }

    /// Puts `bytes` there. Panics when there are more or fewer than the range has.
    pub(super) fn set(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len, "the bytes fill the range");
        // SAFETY: `new` was promised that the range is valid and touched by nobody else; a fresh buffer cannot overlap it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address as *mut u8, self.len) }
    }
}

/// A function of the caller that a stream runs.
#[derive(Clone, Copy)]
pub(crate) struct HostFunction {
    function: unsafe extern "C" fn(*mut c_void),
    data: usize,
}

impl HostFunction {
    /// # Safety
    /// `function` may be called with `data` once for each time the work runs, on any thread.
    pub(crate) unsafe fn new(function: unsafe extern "C" fn(*mut c_void), data: *mut c_void) -> Self {
        HostFunction { function, data: data as usize }
    }

    pub(super) fn call(&self) {
        // SAFETY: as promised to `new`.
        unsafe { (self.function)(self.data as *mut c_void) }
    }
}

/// Host memory that copies may use late: allocated here, or registered by its owner.
pub(super) struct Pinned {
    pub(super) context: Id,
    pub(super) len: usize,
    /// The address and layout of memory of our own, given back when this is dropped.
    owned: Option<(usize, Layout)>,
}

impl Pinned {
    /// New memory, zeroed nowhere; `None` when the system has none.
    pub(super) fn allocate(context: Id, len: usize) -> Option<(usize, Self)> {
        let layout = Layout::from_size_align(len, 4096).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout is not empty.
        let address = unsafe { alloc(layout) } as usize;
        (address != 0).then_some((address, Pinned { context, len, owned: Some((address, layout)) }))
    }

    pub(super) fn registered(context: Id, len: usize) -> Self {
        Pinned { context, len, owned: None }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.owned.is_none()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some((address, layout)) = self.owned {
            // SAFETY: `allocate` got the address with this layout, and it is given back once.
            unsafe { dealloc(address as *mut u8, layout) }
        }
    }
}
