//! The virtual card through `cust` and through the bare functions: memory, modules, launches, streams, events, graphs.

use cuda_driver::{Target, VirtualCard, last_fault};
use cust::context::legacy::{Context as OwnContext, ContextFlags};
use cust::device::{Device, DeviceAttribute};
use cust::error::CudaError;
use cust::event::{Event, EventFlags};
use cust::function::FunctionAttribute;
use cust::launch;
use cust::memory::{AsyncCopyDestination, CopyDestination, DeviceBuffer, LockedBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::sys::{self, CUresult};
use std::ffi::{CStr, c_void};
use std::ptr;

/// `add`: word[i] += value for i below n, with nothing that keeps it inside the buffer but n.
const PTX: &str = r#".version 7.0
.target sm_75
.address_size 64
.visible .entry add(
	.param .u64 add_param_0,
	.param .u32 add_param_1,
	.param .u32 add_param_2
)
{
	.reg .pred %p<2>;
	.reg .b32 %r<8>;
	.reg .b64 %rd<5>;
	ld.param.u64 %rd1, [add_param_0];
	ld.param.u32 %r1, [add_param_1];
	ld.param.u32 %r2, [add_param_2];
	mov.u32 %r3, %tid.x;
	setp.ge.u32 %p1, %r3, %r2;
	@%p1 bra DONE;
	cvta.to.global.u64 %rd2, %rd1;
	mul.wide.s32 %rd3, %r3, 4;
	add.s64 %rd4, %rd2, %rd3;
	ld.global.u32 %r4, [%rd4];
	add.s32 %r5, %r4, %r1;
	st.global.u32 [%rd4], %r5;
DONE:
	ret;
}
"#;

/// The process's card, and a context of the test's own, so that a fault stays with it.
fn context() -> OwnContext {
    cuda_driver::select(Target::Virtual(VirtualCard::sm_80())).unwrap();
    cust::init(cust::CudaFlags::empty()).unwrap();
    let device = Device::get_device(0).unwrap();
    OwnContext::create_and_push(ContextFlags::SCHED_AUTO, device).unwrap()
}

#[test]
fn the_card_describes_itself() {
    let _context = context();
    let device = Device::get_device(0).unwrap();
    assert_eq!(Device::num_devices(), Ok(1));
    assert_eq!(Device::get_device(1).err(), Some(CudaError::InvalidDevice));
    assert_eq!(device.name().unwrap(), "virtual GPU (sm_80)");
    assert_eq!(device.get_attribute(DeviceAttribute::ComputeCapabilityMajor), Ok(8));
    assert_eq!(device.get_attribute(DeviceAttribute::WarpSize), Ok(32));
    assert_eq!(device.total_memory(), Ok(2 << 30));
    assert!(cust::CudaApiVersion::get().unwrap().major() >= 12);
    // Another card is one too many.
    assert!(cuda_driver::select(Target::Virtual(VirtualCard::sm_75())).is_err());
    assert!(cuda_driver::select(Target::Driver).is_err());
}

#[test]
fn buffers_come_back_as_they_went() {
    let _context = context();
    let values: Vec<u16> = (0..1000).collect();
    let buffer = DeviceBuffer::from_slice(&values).unwrap();
    assert_eq!(buffer.as_host_vec().unwrap(), values);
    let mut copy = DeviceBuffer::from_slice(&vec![0_u16; 1000]).unwrap();
    copy.copy_from(&buffer).unwrap();
    assert_eq!(copy.as_host_vec().unwrap(), values);
    copy.index(10..20).set_16(7).unwrap();
    let back = copy.as_host_vec().unwrap();
    assert_eq!((back[9], back[10], back[19], back[20]), (9, 7, 7, 20));
    let mut few = [0_u16; 3];
    assert!(buffer.index(5..8).copy_to(&mut few).is_ok());
    assert_eq!(few, [5, 6, 7]);
}

#[test]
fn ptx_with_an_error_gives_a_log_with_its_line() {
    let _context = context();
    let bad = c".version 7.0\n.target sm_75\n.address_size 64\nfrobnicate;\n";
    let mut log = [0_u8; 512];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())];
    let mut module = ptr::null_mut();
    // SAFETY: the image is a C string, the log has the room that is told.
    let result = unsafe {
        sys::cuModuleLoadDataEx(&mut module, bad.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
    };
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    let text = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
    assert!(text.contains(":4: "), "{text}");
    assert_eq!(values[1] as usize, text.len() + 1);
    assert_eq!(last_fault().as_deref(), Some(text));
    assert_eq!(Module::from_ptx("", &[]).err(), Some(CudaError::InvalidPtx));
    assert_eq!(Module::from_cubin(b"\x7fELF", &[]).err(), Some(CudaError::NoBinaryForGpu));
}

#[test]
fn a_launch_shows_after_a_synchronise_and_not_before() {
    let _context = context();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    assert_eq!(module.get_function("subtract").err(), Some(CudaError::NotFound));
    let add = module.get_function("add").unwrap();
    assert!(add.get_attribute(FunctionAttribute::NumRegisters).unwrap() > 0);
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let (start, end) = (Event::new(EventFlags::DEFAULT).unwrap(), Event::new(EventFlags::DEFAULT).unwrap());
    let buffer = DeviceBuffer::from_slice(&[1_u32; 40]).unwrap();
    let mut pinned = LockedBuffer::new(&0_u32, 40).unwrap();
    start.record(&stream).unwrap();
    // SAFETY: the buffer has 40 words, and both outlive the synchronise.
    unsafe {
        launch!(add<<<1, 64, 0, stream>>>(buffer.as_device_ptr(), 5_u32, 40_u32)).unwrap();
        buffer.async_copy_to(&mut pinned, &stream).unwrap();
    }
    end.record(&stream).unwrap();
    assert_eq!(end.elapsed_time_f32(&start), Err(CudaError::NotReady));
    assert_eq!(pinned.as_slice(), [0; 40], "nothing has run before the synchronise");
    stream.synchronize().unwrap();
    assert_eq!(pinned.as_slice(), [6; 40]);
    assert!(end.elapsed_time_f32(&start).unwrap() >= 0.0);
    assert!(cuda_driver::counters()["add"].launches > 0);
}

#[test]
fn a_graph_runs_what_was_captured() {
    let _context = context();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let add = module.get_function("add").unwrap();
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let buffer = DeviceBuffer::from_slice(&[0_u32; 8]).unwrap();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: all handles live, the buffer has 8 words, and everything outlives the copy back, which waits.
    unsafe {
        assert_eq!(sys::cuStreamBeginCapture_v2(stream.as_inner(), mode), CUresult::CUDA_SUCCESS);
        launch!(add<<<1, 32, 0, stream>>>(buffer.as_device_ptr(), 1_u32, 8_u32)).unwrap();
        launch!(add<<<1, 32, 0, stream>>>(buffer.as_device_ptr(), 2_u32, 4_u32)).unwrap();
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        assert_eq!(sys::cuStreamEndCapture(stream.as_inner(), &mut graph), CUresult::CUDA_SUCCESS);
        let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
        assert_eq!(made, CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuGraphDestroy(graph), CUresult::CUDA_SUCCESS);
        for _ in 0..3 {
            assert_eq!(sys::cuGraphLaunch(executable, stream.as_inner()), CUresult::CUDA_SUCCESS);
        }
        stream.synchronize().unwrap();
        assert_eq!(sys::cuGraphExecDestroy(executable), CUresult::CUDA_SUCCESS);
    }
    assert_eq!(buffer.as_host_vec().unwrap(), [9, 9, 9, 9, 3, 3, 3, 3]);
}

#[test]
fn a_fault_is_reported_and_stays() {
    let _context = context();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let add = module.get_function("add").unwrap();
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let buffer = DeviceBuffer::from_slice(&[0_u32; 4]).unwrap();
    // SAFETY: the kernel leaves the buffer, which the virtual card stops.
    unsafe { launch!(add<<<1, 32, 0, stream>>>(buffer.as_device_ptr(), 1_u32, 5_u32)).unwrap() };
    assert_eq!(stream.synchronize(), Err(CudaError::IllegalAddress));
    let report = last_fault().unwrap();
    assert!(report.contains("add"), "{report}");
    assert_eq!(DeviceBuffer::from_slice(&[0_u8]).err(), Some(CudaError::IllegalAddress));
    assert_eq!(last_fault().unwrap(), report);
}

#[test]
fn null_pointers_and_wrong_handles_are_refused() {
    let _context = context();
    let null = ptr::null_mut::<c_void>();
    // SAFETY: the functions are documented to refuse these, and to look handles up.
    unsafe {
        assert_eq!(sys::cuDeviceGetCount(ptr::null_mut()), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemAlloc_v2(ptr::null_mut(), 4), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyHtoD_v2(0x100, null, 4), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyDtoH_v2(null, 0x100, 4), CUresult::CUDA_ERROR_INVALID_VALUE);
        let mut module = ptr::null_mut();
        assert_eq!(sys::cuModuleLoadData(&mut module, null), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuModuleUnload(ptr::null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(sys::cuEventSynchronize(ptr::without_provenance_mut(77)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        let (odd, none) = (ptr::without_provenance_mut(3), ptr::null_mut());
        let result = sys::cuLaunchKernel(odd, 1, 1, 1, 1, 1, 1, 0, ptr::null_mut(), none, ptr::null_mut());
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_HANDLE);
        let loaded = Module::from_ptx(PTX, &[]).unwrap();
        let add = loaded.get_function("add").unwrap().to_raw();
        let result = sys::cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(last_fault().unwrap().starts_with("cuLaunchKernel: "));
    }
}
