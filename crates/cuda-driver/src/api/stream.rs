//! Streams, events, capture.

use super::{Handle, functions, handle, id, not_null, put};
use crate::codes;
use crate::front::host::HostFunction;
use std::ffi::{c_int, c_uint, c_void};

functions! {
    fn cuStreamCreate(stream: *mut Handle, flags: c_uint) => |gpu| {
        not_null(stream)?;
        put(stream, handle(gpu.stream_create(flags, 0)?))
    };
    fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, priority: c_int) => |gpu| {
        not_null(stream)?;
        put(stream, handle(gpu.stream_create(flags, priority)?))
    };
    fn cuStreamDestroy_v2(stream: Handle) => |gpu| gpu.stream_destroy(id(stream));
    fn cuStreamGetFlags(stream: Handle, flags: *mut c_uint) => |gpu| put(flags, gpu.stream_describe(id(stream))?.0);
    fn cuStreamGetPriority(stream: Handle, priority: *mut c_int) => |gpu| {
        put(priority, gpu.stream_describe(id(stream))?.1)
    };
    fn cuStreamSynchronize(stream: Handle) => |gpu| gpu.stream_synchronize(id(stream));
    fn cuStreamQuery(stream: Handle) => |gpu| gpu.stream_query(id(stream));
    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) => |gpu| {
        gpu.stream_wait(id(stream), id(event))
    };
    fn cuLaunchHostFunc(
        stream: Handle,
        function: Option<unsafe extern "C" fn(*mut c_void)>,
        data: *mut c_void,
    ) => |gpu| {
        let function = function.ok_or(codes::INVALID_VALUE)?;
        gpu.host_function(id(stream), HostFunction::new(function, data))
    };

    fn cuEventCreate(event: *mut Handle, flags: c_uint) => |gpu| {
        not_null(event)?;
        put(event, handle(gpu.event_create(flags)?))
    };
    fn cuEventDestroy_v2(event: Handle) => |gpu| gpu.event_destroy(id(event));
    fn cuEventRecord(event: Handle, stream: Handle) => |gpu| gpu.event_record(id(event), id(stream));
    fn cuEventSynchronize(event: Handle) => |gpu| gpu.event_synchronize(id(event));
    fn cuEventQuery(event: Handle) => |gpu| gpu.event_query(id(event));
    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) => |gpu| {
        put(milliseconds, gpu.event_elapsed(id(start), id(end))?)
    };

    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) => |gpu| gpu.capture_begin(id(stream), mode);
    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) => |gpu| {
        put(graph, handle(0))?;
        put(graph, handle(gpu.capture_end(id(stream))?))
    };
    fn cuStreamIsCapturing(stream: Handle, status: *mut c_uint) => |gpu| {
        put(status, gpu.capture_status(id(stream))?)
    };
    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) => |gpu| {
        not_null(mode)?;
        put(mode, gpu.capture_exchange(mode.read())?)
    };
}
