/* Stands in for libcuda.so.1 where there is no GPU: every call succeeds, and a launch is reported to a function that
   `record` was given, with the address of every parameter. Nothing runs. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
typedef void (*Report)(void *function, unsigned grid, unsigned threads, unsigned shared, void **parameters);

typedef struct {
    unsigned grid[3], block[3], shared;
    void *stream, *attributes;
    unsigned attribute_count;
} LaunchConfig;

static Report report = NULL;
void record(Report function) { report = function; }

#define SUCCEEDS(name, ...) \
    Status name(__VA_ARGS__) { return 0; }
#define ANSWERS(name, type, answer, ...) \
    Status name(type *result, ##__VA_ARGS__) { \
        *result = (answer); \
        return 0; \
    }

SUCCEEDS(cuInit, unsigned flags)
SUCCEEDS(cuCtxSetCurrent, void *context)
SUCCEEDS(cuCtxPushCurrent_v2, void *context)
SUCCEEDS(cuCtxPopCurrent_v2, void **context)
SUCCEEDS(cuCtxSetLimit, int limit, size_t value)
SUCCEEDS(cuModuleUnload, void *module)
SUCCEEDS(cuFuncSetAttribute, void *function, int attribute, int value)
SUCCEEDS(cuFuncSetCacheConfig, void *function, int config)
SUCCEEDS(cuTensorMapEncodeTiled)
SUCCEEDS(cuTensorMapEncodeIm2col)
ANSWERS(cuDriverGetVersion, int, 13000)
ANSWERS(cuDeviceGet, int, ordinal, int ordinal)
ANSWERS(cuDeviceGetCount, int, 1)
ANSWERS(cuCtxGetCurrent, void *, (void *)1)
ANSWERS(cuCtxGetDevice, int, 0)
ANSWERS(cuCtxGetLimit, size_t, 0, int limit)
ANSWERS(cuDevicePrimaryCtxRetain, void *, (void *)1, int device)
ANSWERS(cuModuleLoadData, void *, (void *)2, const void *image)
ANSWERS(cuFuncGetAttribute, int, attribute == 0 ? 1024 : 0, int attribute, void *function)
ANSWERS(cuGetErrorString_, const char *, "no device")
ANSWERS(cuOccupancyMaxActiveClusters, int, 1, void *function, void *config)

Status cuGetErrorString(Status error, const char **text) { return cuGetErrorString_(text); }
Status cuStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
/* a tensor of the host passes for one of the device */
Status cuPointerGetAttribute(void *result, int attribute, uint64_t pointer) {
    memcpy(result, &pointer, sizeof pointer);
    return 0;
}
/* compute capability 9.0, 132 multiprocessors, 228 KiB of shared memory of which a program may use 227 */
Status cuDeviceGetAttribute(int *result, int attribute, int device) {
    switch (attribute) {
        case 16: *result = 132; break;
        case 75: *result = 9; break;
        case 76: *result = 0; break;
        case 81: *result = 228 << 10; break;
        case 97: *result = 227 << 10; break;
        default: *result = 1024;
    }
    return 0;
}
/* every function has a handle of its own */
Status cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = malloc(1);
    return *function == NULL;
}
Status cuLaunchKernelEx(const LaunchConfig *config, void *function, void **parameters, void **extra) {
    if (report) report(function, config->grid[0], config->block[0], config->shared, parameters);
    return 0;
}
Status cuLaunchKernel(
    void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
    unsigned shared, void *stream, void **parameters, void **extra
) {
    if (report) report(function, x, threads, shared, parameters);
    return 0;
}
