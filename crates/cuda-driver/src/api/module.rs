//! Modules, functions, launches.

use super::{DevicePtr, Handle, bytes, functions, handle, id, not_null, put, put_text, text, values};
use crate::codes::{self, Code};
use crate::front::{Geometry, Refused};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;

/// Options of the PTX compiler that are about its logs; the rest means nothing to the virtual card.
const INFO_LOG: c_int = 3;
const INFO_LOG_BYTES: c_int = 4;
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

functions! {
    fn cuModuleLoad(module: *mut Handle, path: *const c_char) => |gpu| {
        not_null(module)?;
        let image = std::fs::read(text(path)?).map_err(|_| codes::FILE_NOT_FOUND)?;
        let image = image.strip_suffix(&[0]).unwrap_or(&image);
        put(module, handle(gpu.load(image).map_err(|refused| refused.code)?))
    };
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) => |gpu| {
        not_null(module)?;
        put(module, handle(gpu.load(bytes(image.cast())?).map_err(|refused| refused.code)?))
    };
    fn cuModuleLoadDataEx(
        module: *mut Handle,
        image: *const c_void,
        count: c_uint,
        options: *mut c_int,
        option_values: *mut *mut c_void,
    ) => |gpu| {
        not_null(module)?;
        let loaded = gpu.load(bytes(image.cast())?);
        let log = loaded.as_ref().map_or_else(|refused| refused.log.as_str(), |_| "");
        put_logs(values(options, count as usize)?, option_values, log)?;
        put(module, handle(loaded.map_err(|Refused { code, .. }| code)?))
    };
    fn cuModuleUnload(module: Handle) => |gpu| gpu.unload(id(module));
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) => |gpu| {
        not_null(function)?;
        put(function, handle(gpu.function(id(module), text(name)?)?))
    };
    fn cuModuleGetGlobal_v2(address: *mut DevicePtr, size: *mut usize, module: Handle, name: *const c_char) => |gpu| {
        let (found, bytes) = gpu.global(id(module), text(name)?)?;
        if !address.is_null() {
            put(address, found)?;
        }
        if size.is_null() { Ok(()) } else { put(size, bytes as usize) }
    };

    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: Handle) => |gpu| {
        put(value, gpu.function_attribute(id(function), attribute)?)
    };
    fn cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) => |gpu| {
        gpu.function_set_attribute(id(function), attribute, value)
    };
    fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) => |gpu| gpu.function_known(id(function));
    fn cuFuncSetSharedMemConfig(function: Handle, _config: c_uint) => |gpu| gpu.function_known(id(function));

    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        dynamic_shared: c_uint,
        stream: Handle,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) => |gpu| {
        let layout = gpu.parameters(id(function))?;
        let params = collect(&layout, params, extra)?;
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        gpu.launch(id(function), Geometry { grid, block, dynamic_shared }, params, id(stream))
    };

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int,
        function: Handle,
        threads: c_int,
        dynamic_shared: usize,
    ) => |gpu| {
        put(blocks, gpu.active_blocks(id(function), threads, dynamic_shared)?)
    };
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: *mut usize,
        function: Handle,
        blocks: c_int,
        threads: c_int,
    ) => |gpu| {
        put(bytes, gpu.available_shared(id(function), blocks, threads)?)
    };
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int,
        block: *mut c_int,
        function: Handle,
        shared_of_block: Option<unsafe extern "C" fn(c_int) -> usize>,
        dynamic_shared: usize,
        limit: c_int,
    ) => |gpu| {
        let shared = |threads| shared_of_block.map_or(dynamic_shared, |ask| ask(threads));
        let best = gpu.best_block(id(function), shared, limit)?;
        put(grid, best.0)?;
        put(block, best.1)
    };
}

/// The parameter block of a launch: the values that `params` points to, laid out as the kernel declares them.
///
/// # Safety
/// `params` is null or has a pointer for each parameter, each null or good for reading the parameter's size.
pub(super) unsafe fn collect(
    layout: &(Vec<(u32, u32)>, u32),
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>, Code> {
    if !extra.is_null() {
        return Err(codes::NOT_SUPPORTED);
    }
    let (places, total) = layout;
    let mut block = vec![0; *total as usize];
    // SAFETY: there is a pointer for each parameter.
    let pointers = unsafe { values(params.cast_const(), places.len()) }?;
    for (&(offset, size), &from) in places.iter().zip(pointers) {
        // SAFETY: it is null or good for reading the parameter.
        let value = unsafe { values(from.cast_const().cast::<u8>(), size as usize) }?;
        block[offset as usize..][..size as usize].copy_from_slice(value);
    }
    Ok(block)
}

/// Fills the log buffers among the options: `log` for errors, nothing for information. The sizes become what was written.
///
/// # Safety
/// `option_values` is null or has a value for each option; log buffers among them are as large as the sizes say.
unsafe fn put_logs(options: &[c_int], option_values: *mut *mut c_void, log: &str) -> Result<(), Code> {
    // SAFETY: there is a value for each option.
    let given = unsafe { values(option_values.cast_const(), options.len()) }?;
    let find = |option| options.iter().position(|&o| o == option);
    for (buffer, size, text) in [(INFO_LOG, INFO_LOG_BYTES, ""), (ERROR_LOG, ERROR_LOG_BYTES, log)] {
        let (Some(buffer), Some(size)) = (find(buffer), find(size)) else { continue };
        // The size stands in the place of the pointer, as an unsigned int.
        let room = given[size] as usize & u32::MAX as usize;
        // SAFETY: the buffer has that much room.
        let written = unsafe { put_text(given[buffer].cast(), room, text.as_bytes()) };
        // SAFETY: the place is one of the option values.
        unsafe { option_values.add(size).write(ptr::without_provenance_mut(written)) };
    }
    Ok(())
}
