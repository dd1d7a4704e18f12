//! Without a driver every call is an error, and none a crash. The one test of its process, since a process has one driver.

use cust::device::Device;
use cust::error::CudaError;
use cust::memory::DeviceBuffer;
use cust::stream::{Stream, StreamFlags};
use cust::sys;

#[test]
fn everything_is_an_error_without_a_driver() {
    // SAFETY: no other thread of this process reads the environment: this is the only test, and it has just begun.
    unsafe { std::env::set_var("DYNAVIT_LIBCUDA", "no-such-folder/libcuda.so.1") };
    let error = cust::quick_init().err().unwrap();
    assert_eq!(error, CudaError::NoDevice);
    assert!(error.to_string().contains("no CUDA card"), "{error}");
    assert!(cuda_driver::driver_missing().unwrap().contains("no-such-folder"));
    assert_eq!(Device::num_devices(), Err(CudaError::NoDevice));
    assert_eq!(Device::get_device(0).err(), Some(CudaError::NoDevice));
    assert_eq!(Stream::new(StreamFlags::DEFAULT, None).err(), Some(CudaError::NoDevice));
    assert_eq!(DeviceBuffer::from_slice(&[1.0_f32]).err(), Some(CudaError::NoDevice));
    // SAFETY: null contexts are what these functions are asked to refuse.
    unsafe {
        assert_eq!(sys::cuCtxSetCurrent(std::ptr::null_mut()), sys::CUresult::CUDA_ERROR_NO_DEVICE);
        let mut graph = std::ptr::null_mut();
        assert_eq!(sys::cuStreamEndCapture(std::ptr::null_mut(), &mut graph), sys::CUresult::CUDA_ERROR_NO_DEVICE);
    }
    assert_eq!(cuda_driver::counters().len(), 0);
    // The default was taken by the first call.
    assert!(cuda_driver::select(cuda_driver::Target::Driver).is_ok());
    let card = cuda_driver::VirtualCard::sm_80();
    assert!(cuda_driver::select(cuda_driver::Target::Virtual(card)).is_err());
}
