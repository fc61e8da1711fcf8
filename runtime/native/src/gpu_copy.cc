#include "gpu_copy.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "error.h"

namespace nerve {

namespace {

// The few functions of libcuda.so.1 that a copy takes; their numbers for errors are the driver's.
struct Driver {
    int (*init)(unsigned);
    int (*get_device)(int*, int);
    int (*retain_context)(void**, int);
    int (*push_context)(void*);
    int (*pop_context)(void**);
    int (*copy_to_device)(uint64_t, const void*, size_t);
    int (*wait)(void*);
};

template <typename Function>
void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) fail(NERVE_COMPATIBILITY, {"the NVIDIA driver has no ", name, "; update the driver"});
}

Driver load_driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(NERVE_COMPATIBILITY, {"the NVIDIA driver cannot be loaded: ", dlerror()});
    Driver driver;
    find(library, "cuInit", driver.init);
    find(library, "cuDeviceGet", driver.get_device);
    find(library, "cuDevicePrimaryCtxRetain", driver.retain_context);
    find(library, "cuCtxPushCurrent_v2", driver.push_context);
    find(library, "cuCtxPopCurrent_v2", driver.pop_context);
    find(library, "cuMemcpyHtoD_v2", driver.copy_to_device);
    find(library, "cuStreamSynchronize", driver.wait);
    return driver;
}

void check(int code, const char* what) {
    if (code != 0) fail(NERVE_RESOURCE, {"the NVIDIA driver cannot ", what, ": error ", decimal(code)});
}

// The primary context of a GPU, which ONNX Runtime uses too; kept until the process ends.
void* primary_context(const Driver& driver, int device) {
    static std::mutex mutex;
    static std::vector<void*> contexts;
    const std::lock_guard<std::mutex> lock(mutex);
    contexts.resize(std::max(contexts.size(), static_cast<size_t>(device) + 1));
    void*& context = contexts[static_cast<size_t>(device)];
    if (!context) {
        int handle = 0;
        check(driver.init(0), "start");
        check(driver.get_device(&handle, device), "find the GPU");
        check(driver.retain_context(&context, handle), "open the GPU");
    }
    return context;
}

}  // namespace

void copy_to_gpu(int device, void* to, const void* from, size_t bytes) {
    static const Driver driver = load_driver();
    check(driver.push_context(primary_context(driver, device)), "use the GPU");
    // A copy of pageable memory may return before it has arrived, and ONNX Runtime's stream does not wait for this one.
    int code = driver.copy_to_device(reinterpret_cast<uint64_t>(to), from, bytes);
    if (code == 0) code = driver.wait(nullptr);
    void* before = nullptr;
    driver.pop_context(&before);
    check(code, "copy to the GPU");
}

}  // namespace nerve
