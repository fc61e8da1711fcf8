// What the two halves of the stand-in share: memory and streams, which the stand-in for TensorRT works on.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "cuda_runtime_api.h"

namespace standin {

// What a test asks for and reads, all numbers; see standin_cuda.cc and tests/native/standin.py.
struct Counts {
    long device_allocations, pinned_allocations, device_blocks, pinned_blocks, uploads, upload_bytes, downloads, download_bytes,
        waits, enqueues, misuses, engines, contexts, streams;
};

extern Counts counts;

// Says what was done wrong; a test finds it in the counts and the text.
void misuse(const std::string& what);

// Whether a fault of a kind is due now: at the n-th chance from when it was asked for.
bool is_due(const char* kind);

// Whether all bytes lie in one block of device memory, or of pinned memory.
bool is_held(const void* address, size_t bytes, bool pinned);

// Put work on a stream, which does it when somebody waits for it: what is freed or overwritten too early shows.
// Work that gives false fails all that waits.
void put(cudaStream_t stream, std::function<bool()> work);

}  // namespace standin
