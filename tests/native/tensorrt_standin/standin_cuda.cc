// Stands in for the CUDA runtime: ordinary memory that is checked and counted, and streams that do their work late.
#include "standin_cuda.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>

namespace standin {

Counts counts;

namespace {

std::recursive_mutex mutex;
std::map<const char*, size_t> blocks[2];  // device, pinned
std::map<std::string, long> faults;       // chances that are left before it happens
std::string last_misuse;
std::string capability = "89";
cudaError_t last_error = cudaSuccess;

cudaError_t failed(cudaError_t error) { return last_error = error; }

cudaError_t allocate(void** address, size_t bytes, bool pinned) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    *address = nullptr;
    if (is_due(pinned ? "pinned" : "device")) return failed(cudaErrorMemoryAllocation);
    *address = std::malloc(bytes);
    std::memset(*address, 0xa5, bytes);
    blocks[pinned][static_cast<char*>(*address)] = bytes;
    ++(pinned ? counts.pinned_allocations : counts.device_allocations);
    ++(pinned ? counts.pinned_blocks : counts.device_blocks);
    return cudaSuccess;
}

}  // namespace

void misuse(const std::string& what) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    ++counts.misuses;
    last_misuse = what;
}

bool is_due(const char* kind) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    const auto fault = faults.find(kind);
    if (fault == faults.end() || fault->second-- > 0) return false;
    faults.erase(fault);
    return true;
}

bool is_held(const void* address, size_t bytes, bool pinned) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    const char* first = static_cast<const char*>(address);
    auto after = blocks[pinned].upper_bound(first);
    if (after == blocks[pinned].begin()) return false;
    const auto& [start, size] = *--after;
    return first + bytes <= start + size;
}

}  // namespace standin

struct CUstream_st {
    std::deque<std::function<bool()>> work;
};

namespace {

using namespace standin;

std::set<cudaStream_t> streams;

cudaError_t do_work(cudaStream_t stream) {
    bool succeeded = true;
    while (!stream->work.empty()) {
        const std::function<bool()> next = std::move(stream->work.front());
        stream->work.pop_front();
        succeeded = next() && succeeded;
    }
    return succeeded ? cudaSuccess : failed(cudaErrorLaunchFailure);
}

cudaError_t release(void* address, bool pinned) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    // Freeing device memory waits for all work, as CUDA does; freeing pinned memory here does not, to find what relies on it.
    if (!pinned)
        for (const cudaStream_t stream : streams) do_work(stream);
    if (blocks[pinned].erase(static_cast<char*>(address)) == 0) {
        misuse("memory is freed that is not held");
        return failed(cudaErrorInvalidValue);
    }
    --(pinned ? counts.pinned_blocks : counts.device_blocks);
    std::free(address);
    return cudaSuccess;
}

}  // namespace

namespace standin {

void put(cudaStream_t stream, std::function<bool()> work) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    stream->work.push_back(std::move(work));
}

}  // namespace standin

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
        default: return "cudaErrorInvalidValue";
    }
}

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorLaunchFailure: return "unspecified launch failure";
        default: return "invalid argument";
    }
}

cudaError_t cudaGetLastError() {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const bool major = attribute == cudaDevAttrComputeCapabilityMajor;
    *value = std::atoi(major ? capability.substr(0, capability.size() - 1).c_str() : capability.substr(capability.size() - 1).c_str());
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, size_t bytes) { return allocate(address, bytes, false); }
cudaError_t cudaFree(void* address) { return release(address, false); }
cudaError_t cudaMallocHost(void** address, size_t bytes) { return allocate(address, bytes, true); }
cudaError_t cudaFreeHost(void* address) { return release(address, true); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    if (is_due("stream")) return failed(cudaErrorInvalidValue);
    ++counts.streams;
    *stream = *streams.insert(new CUstream_st).first;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    do_work(stream);
    --counts.streams;
    streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    ++counts.waits;
    return do_work(stream);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    const bool up = kind == cudaMemcpyHostToDevice;
    if (is_due("copy")) return failed(cudaErrorInvalidValue);
    const void *device = up ? to : from, *host = up ? from : to;
    if (!is_held(device, bytes, false) || !is_held(host, bytes, true)) {
        misuse("a copy leaves the memory that is held");
        return failed(cudaErrorInvalidValue);
    }
    ++(up ? counts.uploads : counts.downloads);
    (up ? counts.upload_bytes : counts.download_bytes) += static_cast<long>(bytes);
    put(stream, [=] {
        if (!is_held(device, bytes, false) || !is_held(host, bytes, true)) misuse("memory was freed before its copy was done");
        else std::memcpy(to, from, bytes);
        return true;
    });
    return cudaSuccess;
}

__attribute__((visibility("default"))) void standin_counts(Counts* copy) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    *copy = counts;
}

__attribute__((visibility("default"))) const char* standin_misuse() { return last_misuse.c_str(); }

// Let the chance after `passed` more ones fail; a negative number takes the fault back.
__attribute__((visibility("default"))) void standin_fail(const char* kind, long passed) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    if (passed < 0)
        faults.erase(kind);
    else
        faults[kind] = passed;
}

__attribute__((visibility("default"))) void standin_capability(const char* digits) { capability = digits; }
}
