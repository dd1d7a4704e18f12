//! What `cust` links to and the virtual card does not have: arrays, textures, managed and foreign memory, the linker.

use super::{DevicePtr, Handle, functions};
use crate::codes::NOT_SUPPORTED;
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

functions! {
    fn cuArray3DCreate_v2(array: *mut Handle, descriptor: *const c_void) => |_| Err(NOT_SUPPORTED);
    fn cuArray3DGetDescriptor_v2(descriptor: *mut c_void, array: Handle) => |_| Err(NOT_SUPPORTED);
    fn cuArrayDestroy(array: Handle) => |_| Err(NOT_SUPPORTED);
    fn cuMemcpyAtoH_v2(to: *mut c_void, array: Handle, offset: usize, bytes: usize) => |_| Err(NOT_SUPPORTED);
    fn cuMemcpyHtoA_v2(array: Handle, offset: usize, from: *const c_void, bytes: usize) => |_| Err(NOT_SUPPORTED);
    fn cuMemcpy2D_v2(copy: *const c_void) => |_| Err(NOT_SUPPORTED);

    fn cuSurfObjectCreate(surface: *mut c_ulonglong, resource: *const c_void) => |_| Err(NOT_SUPPORTED);
    fn cuSurfObjectDestroy(surface: c_ulonglong) => |_| Err(NOT_SUPPORTED);
    fn cuSurfObjectGetResourceDesc(resource: *mut c_void, surface: c_ulonglong) => |_| Err(NOT_SUPPORTED);
    fn cuTexObjectCreate(
        texture: *mut c_ulonglong,
        resource: *const c_void,
        descriptor: *const c_void,
        view: *const c_void,
    ) => |_| Err(NOT_SUPPORTED);
    fn cuTexObjectDestroy(texture: c_ulonglong) => |_| Err(NOT_SUPPORTED);
    fn cuTexObjectGetResourceDesc(resource: *mut c_void, texture: c_ulonglong) => |_| Err(NOT_SUPPORTED);

    fn cuMemAllocManaged(address: *mut DevicePtr, bytes: usize, flags: c_uint) => |_| Err(NOT_SUPPORTED);
    fn cuMemAdvise(address: DevicePtr, bytes: usize, advice: c_uint, device: c_int) => |_| Err(NOT_SUPPORTED);
    fn cuMemPrefetchAsync(address: DevicePtr, bytes: usize, device: c_int, stream: Handle) => |_| Err(NOT_SUPPORTED);
    fn cuImportExternalMemory(memory: *mut Handle, descriptor: *const c_void) => |_| Err(NOT_SUPPORTED);
    fn cuExternalMemoryGetMappedBuffer(
        address: *mut DevicePtr,
        memory: Handle,
        descriptor: *const c_void,
    ) => |_| Err(NOT_SUPPORTED);
    fn cuDestroyExternalMemory(memory: Handle) => |_| Err(NOT_SUPPORTED);

    fn cuLinkCreate_v2(
        count: c_uint,
        options: *mut c_int,
        values: *mut *mut c_void,
        state: *mut Handle,
    ) => |_| Err(NOT_SUPPORTED);
    fn cuLinkAddData_v2(
        state: Handle,
        kind: c_int,
        data: *mut c_void,
        size: usize,
        name: *const c_char,
        count: c_uint,
        options: *mut c_int,
        values: *mut *mut c_void,
    ) => |_| Err(NOT_SUPPORTED);
    fn cuLinkComplete(state: Handle, image: *mut *mut c_void, size: *mut usize) => |_| Err(NOT_SUPPORTED);
    fn cuLinkDestroy(state: Handle) => |_| Err(NOT_SUPPORTED);

    fn cuGraphKernelNodeGetParams(node: Handle, params: *mut c_void) => |_| Err(NOT_SUPPORTED);
    fn cuGraphDebugDotPrint(graph: Handle, path: *const c_char, flags: c_uint) => |_| Err(NOT_SUPPORTED);
}
