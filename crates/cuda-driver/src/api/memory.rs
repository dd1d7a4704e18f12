//! Memory of the card and of the host, copies, fills.

use super::{DevicePtr, Handle, functions, id, not_null, put};
use crate::codes;
use crate::front::host::HostRange;
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

functions! {
    fn cuMemAlloc_v2(address: *mut DevicePtr, bytes: usize) => |gpu| {
        not_null(address)?;
        put(address, gpu.alloc(bytes)?)
    };
    fn cuMemFree_v2(address: DevicePtr) => |gpu| gpu.free(address);
    fn cuMemAllocAsync(address: *mut DevicePtr, bytes: usize, stream: Handle) => |gpu| {
        not_null(address)?;
        put(address, gpu.alloc_async(bytes, id(stream))?)
    };
    fn cuMemFreeAsync(address: DevicePtr, stream: Handle) => |gpu| gpu.free_async(address, id(stream));
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) => |gpu| {
        let info = gpu.memory_info()?;
        put(free, info.0 as usize)?;
        put(total, info.1 as usize)
    };
    fn cuMemGetAddressRange_v2(base: *mut DevicePtr, size: *mut usize, address: DevicePtr) => |gpu| {
        let range = gpu.address_range(address)?;
        if !base.is_null() {
            put(base, range.0)?;
        }
        if size.is_null() { Ok(()) } else { put(size, range.1 as usize) }
    };

    fn cuMemAllocHost_v2(to: *mut *mut c_void, bytes: usize) => |gpu| {
        not_null(to)?;
        put(to, gpu.host_alloc(bytes)? as *mut c_void)
    };
    // The flags ask for memory that more contexts or the card itself can reach. This one is in reach of all contexts.
    fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, flags: c_uint) => |gpu| {
        not_null(to)?;
        if flags & !7 != 0 {
            return Err(codes::INVALID_VALUE);
        }
        put(to, gpu.host_alloc(bytes)? as *mut c_void)
    };
    fn cuMemFreeHost(address: *mut c_void) => |gpu| gpu.host_free(address as usize);
    fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: c_uint) => |gpu| {
        not_null(address)?;
        if flags & !15 != 0 {
            return Err(codes::INVALID_VALUE);
        }
        gpu.host_register(address as usize, bytes)
    };
    fn cuMemHostUnregister(address: *mut c_void) => |gpu| gpu.host_unregister(address as usize);

    fn cuMemcpyHtoD_v2(to: DevicePtr, from: *const c_void, bytes: usize) => |gpu| {
        not_null(from)?;
        gpu.copy_to_device(to, HostRange::new(from, bytes))
    };
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: DevicePtr, bytes: usize) => |gpu| {
        not_null(to)?;
        gpu.copy_to_host(HostRange::new(to, bytes), from)
    };
    fn cuMemcpyDtoD_v2(to: DevicePtr, from: DevicePtr, bytes: usize) => |gpu| gpu.copy(to, from, bytes, 0);
    fn cuMemcpyHtoDAsync_v2(to: DevicePtr, from: *const c_void, bytes: usize, stream: Handle) => |gpu| {
        not_null(from)?;
        gpu.copy_to_device_async(to, HostRange::new(from, bytes), id(stream))
    };
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: DevicePtr, bytes: usize, stream: Handle) => |gpu| {
        not_null(to)?;
        gpu.copy_to_host_async(HostRange::new(to, bytes), from, id(stream))
    };
    fn cuMemcpyDtoDAsync_v2(to: DevicePtr, from: DevicePtr, bytes: usize, stream: Handle) => |gpu| {
        gpu.copy(to, from, bytes, id(stream))
    };

    fn cuMemsetD8_v2(to: DevicePtr, value: c_uchar, count: usize) => |gpu| gpu.fill(to, &[value], count, 0);
    fn cuMemsetD16_v2(to: DevicePtr, value: c_ushort, count: usize) => |gpu| {
        gpu.fill(to, &value.to_le_bytes(), count, 0)
    };
    fn cuMemsetD32_v2(to: DevicePtr, value: c_uint, count: usize) => |gpu| {
        gpu.fill(to, &value.to_le_bytes(), count, 0)
    };
    fn cuMemsetD8Async(to: DevicePtr, value: c_uchar, count: usize, stream: Handle) => |gpu| {
        gpu.fill(to, &[value], count, id(stream))
    };
    fn cuMemsetD16Async(to: DevicePtr, value: c_ushort, count: usize, stream: Handle) => |gpu| {
        gpu.fill(to, &value.to_le_bytes(), count, id(stream))
    };
    fn cuMemsetD32Async(to: DevicePtr, value: c_uint, count: usize, stream: Handle) => |gpu| {
        gpu.fill(to, &value.to_le_bytes(), count, id(stream))
    };
}
