//! Initialisation, cards, contexts, and the names of errors.

use super::{Handle, functions, handle, id, not_null, put, put_text};
use crate::codes::{self, Code};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr;

functions! {
    fn cuInit(flags: c_uint) => |gpu| gpu.init(flags);
    // The version that the PTX of today asks for: CUDA 12.4.
    fn cuDriverGetVersion(version: *mut c_int) => |_| put(version, 12_040);
    fn cuDeviceGetCount(count: *mut c_int) => |gpu| put(count, gpu.device_count()?);
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) => |gpu| {
        gpu.check_device(ordinal)?;
        put(device, ordinal)
    };
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) => |gpu| {
        not_null(name)?;
        let len = usize::try_from(len).map_err(|_| codes::INVALID_VALUE)?;
        put_text(name, len, gpu.device_name(device)?.as_bytes());
        Ok(())
    };
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) => |gpu| {
        put(value, gpu.device_attribute(attribute, device)?)
    };
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) => |gpu| put(bytes, gpu.total_memory(device)? as usize);

    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) => |gpu| {
        not_null(context)?;
        put(context, handle(gpu.primary_retain(device)?))
    };
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) => |gpu| gpu.primary_release(device);
    fn cuDevicePrimaryCtxReset_v2(device: c_int) => |gpu| gpu.primary_reset(device);
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) => |gpu| gpu.primary_set_flags(device, flags);
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) => |gpu| {
        let (bits, is_active) = gpu.primary_state(device)?;
        put(flags, bits)?;
        put(active, c_int::from(is_active))
    };

    fn cuCtxCreate_v2(context: *mut Handle, flags: c_uint, device: c_int) => |gpu| {
        not_null(context)?;
        put(context, handle(gpu.context_create(flags, device)?))
    };
    fn cuCtxDestroy_v2(context: Handle) => |gpu| gpu.context_destroy(id(context));
    fn cuCtxGetCurrent(context: *mut Handle) => |gpu| put(context, handle(gpu.current_or_none()?));
    fn cuCtxSetCurrent(context: Handle) => |gpu| gpu.context_set_current(id(context));
    fn cuCtxPushCurrent_v2(context: Handle) => |gpu| gpu.context_push(id(context));
    fn cuCtxPopCurrent_v2(context: *mut Handle) => |gpu| {
        let popped = gpu.context_pop()?;
        if context.is_null() { Ok(()) } else { put(context, handle(popped)) }
    };
    fn cuCtxSynchronize() => |gpu| gpu.context_synchronize();
    fn cuCtxGetApiVersion(context: Handle, version: *mut c_uint) => |gpu| {
        put(version, gpu.context_api_version(id(context))?)
    };
    fn cuCtxGetDevice(device: *mut c_int) => |gpu| put(device, gpu.context_device()?);
    fn cuCtxGetFlags(flags: *mut c_uint) => |gpu| put(flags, gpu.context_flags()?);
    fn cuCtxGetLimit(value: *mut usize, limit: c_uint) => |gpu| put(value, gpu.context_limit(limit)?);
    fn cuCtxSetLimit(limit: c_uint, value: usize) => |gpu| gpu.context_set_limit(limit, value);
    fn cuCtxGetCacheConfig(config: *mut c_uint) => |gpu| put(config, *gpu.context_cache()?);
    fn cuCtxSetCacheConfig(config: c_uint) => |gpu| {
        *gpu.context_cache()? = config;
        Ok(())
    };
    fn cuCtxGetSharedMemConfig(config: *mut c_uint) => |gpu| put(config, *gpu.context_banks()?);
    fn cuCtxSetSharedMemConfig(config: c_uint) => |gpu| {
        *gpu.context_banks()? = config;
        Ok(())
    };
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) => |gpu| {
        let range = gpu.stream_priorities()?;
        if !least.is_null() {
            put(least, range.0)?;
        }
        if greatest.is_null() { Ok(()) } else { put(greatest, range.1) }
    };
}

/// The name of a code. It is answered here for both targets: `cust` asks even when there is no driver.
///
/// # Safety
/// `to` is null or a valid place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: Code, to: *mut *const c_char) -> Code {
    // SAFETY: the same promise.
    unsafe { put_static(to, codes::name(code)) }
}

/// What a code means, likewise.
///
/// # Safety
/// `to` is null or a valid place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: Code, to: *mut *const c_char) -> Code {
    // SAFETY: the same promise.
    unsafe { put_static(to, codes::meaning(code)) }
}

/// # Safety
/// `to` is null or a valid place for a pointer.
unsafe fn put_static(to: *mut *const c_char, text: Option<&'static CStr>) -> Code {
    // SAFETY: the same promise.
    match unsafe { put(to, text.map_or(ptr::null(), CStr::as_ptr)) } {
        Ok(()) if text.is_some() => codes::SUCCESS,
        _ => codes::INVALID_VALUE,
    }
}
