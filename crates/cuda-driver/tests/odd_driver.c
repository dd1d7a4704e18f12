/* A CUDA driver that answers with codes that the bindings of cust do not know. */
#include <stddef.h>

int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 36; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int len, int device) { (void)name; (void)len; (void)device; return 46; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)bytes; (void)device; return 721; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { (void)value; (void)device; return attribute == 1 ? 810 : 916; }
int cuCtxSynchronize(void) { return 12345; }
int cuCtxGetDevice(int *device) { (void)device; return -7; }
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) { (void)address; (void)bytes; return 2; }
int cuGetErrorName(int code, const char **name) {
    *name = code == 721 ? "CUDA_ERROR_OF_LATER_TIMES" : NULL;
    return *name ? 0 : 1;
}
