//! A driver whose codes and functions `cust` does not know. The one test of its process, since a process has one driver.

use cust::CudaFlags;
use cust::context::{Context, CurrentContext};
use cust::device::{Device, DeviceAttribute};
use cust::error::CudaError;
use cust::memory::DeviceBuffer;
use std::process::Command;

#[test]
fn unknown_codes_are_unknown_errors() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libcuda.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/odd_driver.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(compiled.unwrap().success(), "the stand-in driver does not compile");
    // SAFETY: no other thread of this process reads the environment: this is the only test.
    unsafe { std::env::set_var("DYNAVIT_LIBCUDA", &library) };

    cust::init(CudaFlags::empty()).unwrap();
    assert_eq!(cuda_driver::driver_missing(), None);
    assert_eq!(cuda_driver::last_fault(), None);
    assert_eq!(cust::CudaApiVersion::get().unwrap().major(), 13);
    let said = |code: i32| {
        let text = cuda_driver::last_fault().unwrap();
        assert!(text.contains(&format!("answered {code}")), "{text}");
        text
    };
    let device = Device::get_device(0).unwrap();
    assert_eq!(Device::num_devices(), Err(CudaError::UnknownError));
    said(36);
    assert_eq!(device.name(), Err(CudaError::UnknownError));
    said(46);
    assert_eq!(device.total_memory(), Err(CudaError::UnknownError));
    assert!(said(721).contains("CUDA_ERROR_OF_LATER_TIMES"));
    assert_eq!(device.get_attribute(DeviceAttribute::MaxThreadsPerBlock), Err(CudaError::UnknownError));
    said(810);
    assert_eq!(device.get_attribute(DeviceAttribute::WarpSize), Err(CudaError::UnknownError));
    said(916);
    assert_eq!(CurrentContext::synchronize(), Err(CudaError::UnknownError));
    said(12345);
    assert_eq!(CurrentContext::get_device().err(), Some(CudaError::UnknownError));
    said(-7);
    // A code that is known is passed on, and a function that is not there is an error.
    assert_eq!(DeviceBuffer::from_slice(&[1_u8]).err(), Some(CudaError::OutOfMemory));
    assert_eq!(cuda_driver::last_fault(), None, "a known code says all, and what was said before is of another call");
    assert_eq!(Context::new(device).err(), Some(CudaError::NotFound));
}
