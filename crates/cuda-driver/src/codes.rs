//! The result codes of the driver interface that `cust` knows, with their names and meanings.
#![forbid(unsafe_code)]

use std::ffi::CStr;

/// A `CUresult` as the number it is.
pub(crate) type Code = i32;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const NOT_INITIALIZED: Code = 3;
pub(crate) const NO_DEVICE: Code = 100;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const INVALID_CONTEXT: Code = 201;
pub(crate) const NO_BINARY_FOR_GPU: Code = 209;
pub(crate) const UNSUPPORTED_LIMIT: Code = 215;
pub(crate) const INVALID_PTX: Code = 218;
pub(crate) const FILE_NOT_FOUND: Code = 301;
pub(crate) const INVALID_HANDLE: Code = 400;
pub(crate) const ILLEGAL_STATE: Code = 401;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const NOT_READY: Code = 600;
pub(crate) const ILLEGAL_ADDRESS: Code = 700;
pub(crate) const LAUNCH_OUT_OF_RESOURCES: Code = 701;
pub(crate) const CONTEXT_IS_DESTROYED: Code = 709;
pub(crate) const HOST_MEMORY_ALREADY_REGISTERED: Code = 712;
pub(crate) const HOST_MEMORY_NOT_REGISTERED: Code = 713;
pub(crate) const MISALIGNED_ADDRESS: Code = 716;
pub(crate) const LAUNCH_FAILED: Code = 719;
pub(crate) const NOT_PERMITTED: Code = 800;
pub(crate) const NOT_SUPPORTED: Code = 801;
pub(crate) const STREAM_CAPTURE_UNSUPPORTED: Code = 900;
pub(crate) const STREAM_CAPTURE_INVALIDATED: Code = 901;
pub(crate) const STREAM_CAPTURE_MERGE: Code = 902;
pub(crate) const STREAM_CAPTURE_UNMATCHED: Code = 903;
pub(crate) const STREAM_CAPTURE_UNJOINED: Code = 904;
pub(crate) const STREAM_CAPTURE_ISOLATION: Code = 905;
pub(crate) const STREAM_CAPTURE_IMPLICIT: Code = 906;
pub(crate) const CAPTURED_EVENT: Code = 907;
pub(crate) const STREAM_CAPTURE_WRONG_THREAD: Code = 908;
pub(crate) const UNKNOWN: Code = 999;

/// Every code of the bindings that `cust` 0.3.2 is built on, in ascending order: its name and what it means.
const KNOWN: [(Code, &CStr, &CStr); 87] = [
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"an argument is out of its range"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"the driver is not initialised"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"the driver is shutting down"),
    (5, c"CUDA_ERROR_PROFILER_DISABLED", c"the profiler is switched off"),
    (6, c"CUDA_ERROR_PROFILER_NOT_INITIALIZED", c"the profiler is not initialised"),
    (7, c"CUDA_ERROR_PROFILER_ALREADY_STARTED", c"the profiler was started before"),
    (8, c"CUDA_ERROR_PROFILER_ALREADY_STOPPED", c"the profiler was stopped before"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"the driver library is a stub"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA card was found"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"no such card"),
    (102, c"CUDA_ERROR_DEVICE_NOT_LICENSED", c"the card has no licence"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"the module is damaged"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"no context is current, or it is not valid"),
    (202, c"CUDA_ERROR_CONTEXT_ALREADY_CURRENT", c"the context is current already"),
    (205, c"CUDA_ERROR_MAP_FAILED", c"mapping failed"),
    (206, c"CUDA_ERROR_UNMAP_FAILED", c"unmapping failed"),
    (207, c"CUDA_ERROR_ARRAY_IS_MAPPED", c"the array is mapped"),
    (208, c"CUDA_ERROR_ALREADY_MAPPED", c"the resource is mapped already"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"the module holds no code for this card"),
    (210, c"CUDA_ERROR_ALREADY_ACQUIRED", c"the resource is taken"),
    (211, c"CUDA_ERROR_NOT_MAPPED", c"the resource is not mapped"),
    (212, c"CUDA_ERROR_NOT_MAPPED_AS_ARRAY", c"the resource is not mapped as an array"),
    (213, c"CUDA_ERROR_NOT_MAPPED_AS_POINTER", c"the resource is not mapped as a pointer"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"the card's memory has an error that cannot be corrected"),
    (215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"the card has no such limit"),
    (216, c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE", c"the context is used by another thread"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"the cards cannot reach each other's memory"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"the PTX could not be compiled"),
    (219, c"CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", c"the graphics context is not valid"),
    (220, c"CUDA_ERROR_NVLINK_UNCORRECTABLE", c"an NVLink error that cannot be corrected"),
    (221, c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", c"the driver has no PTX compiler"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the PTX is of a later version than the driver reads"),
    (223, c"CUDA_ERROR_JIT_COMPILATION_DISABLED", c"compiling PTX is switched off"),
    (224, c"CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", c"the execution affinity is not supported"),
    (300, c"CUDA_ERROR_INVALID_SOURCE", c"the source of the kernel is not valid"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"the file was not found"),
    (302, c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", c"a symbol of a shared library was not found"),
    (303, c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", c"a shared library could not be initialised"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"a call of the operating system failed"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"no such stream, event, module, function or graph"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"the resource is not in a state for this"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"the symbol was not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"the work is not done yet"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"a kernel touched memory that is not its own"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"the launch asks for more than the card has"),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the kernel ran for too long"),
    (703, c"CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", c"the launch has an incompatible texturing mode"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is on already"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access is off"),
    (708, c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", c"the primary context is in use"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"the current context was destroyed"),
    (710, c"CUDA_ERROR_ASSERT", c"an assertion in a kernel failed"),
    (711, c"CUDA_ERROR_TOO_MANY_PEERS", c"too many peers"),
    (712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"the host memory is registered already"),
    (713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"the host memory is not registered"),
    (714, c"CUDA_ERROR_HARDWARE_STACK_ERROR", c"the stack of a kernel is damaged"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"a kernel met an illegal instruction"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"a kernel used an address that is not aligned"),
    (717, c"CUDA_ERROR_INVALID_ADDRESS_SPACE", c"a kernel used an address of the wrong space"),
    (718, c"CUDA_ERROR_INVALID_PC", c"a kernel jumped out of its code"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"a kernel failed"),
    (720, c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"the cooperative launch is too large"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"not permitted"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"the system is not ready"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"the library and the kernel driver do not match"),
    (804, c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", c"forward compatibility is not for this card"),
    (805, c"CUDA_ERROR_MPS_CONNECTION_FAILED", c"MPS: no connection"),
    (806, c"CUDA_ERROR_MPS_RPC_FAILURE", c"MPS: a call failed"),
    (807, c"CUDA_ERROR_MPS_SERVER_NOT_READY", c"MPS: the server is not ready"),
    (808, c"CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", c"MPS: too many clients"),
    (809, c"CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", c"MPS: too many connections"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"not possible while a stream is captured"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"the capture was spoilt by an earlier call"),
    (902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"two captures would become one"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"the capture did not begin in this stream"),
    (904, c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"a forked stream was not joined to the captured one"),
    (905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", c"captured work would depend on work outside"),
    (906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"the legacy stream would depend on captured work"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"the event was recorded in a capture"),
    (908, c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", c"the capture began in another thread"),
    (909, c"CUDA_ERROR_TIMEOUT", c"timed out"),
    (910, c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", c"the graph could not be updated"),
    (911, c"CUDA_ERROR_EXTERNAL_DEVICE", c"a device outside CUDA failed"),
    (999, c"CUDA_ERROR_UNKNOWN", c"an error of unknown kind"),
];

fn find(code: Code) -> Option<&'static (Code, &'static CStr, &'static CStr)> {
    KNOWN.binary_search_by_key(&code, |known| known.0).ok().map(|i| &KNOWN[i])
}

/// `code` where `cust` knows it, else UNKNOWN: its `CUresult` is a Rust enum, in which no other number may stand.
pub(crate) fn clamp(code: Code) -> Code {
    if find(code).is_some() { code } else { UNKNOWN }
}

/// The name of a code, such as CUDA_ERROR_NO_DEVICE.
pub(crate) fn name(code: Code) -> Option<&'static CStr> {
    find(code).map(|known| known.1)
}

/// What a code means.
pub(crate) fn meaning(code: Code) -> Option<&'static CStr> {
    find(code).map(|known| known.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_sorted_and_unknown_ones_are_clamped() {
        assert!(KNOWN.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for code in [36, 46, 225, 226, 402, 721, 810, 811, 812, 912, 913, 914, 915, 916, 12345, -1, i32::MIN] {
            assert_eq!(clamp(code), UNKNOWN, "{code}");
            assert_eq!(name(code), None);
        }
        for (code, ..) in KNOWN {
            assert_eq!(clamp(code), code);
        }
        assert_eq!(name(NO_DEVICE).unwrap(), c"CUDA_ERROR_NO_DEVICE");
    }
}
