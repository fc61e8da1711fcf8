// The back end that runs a bundle's ONNX graphs with ONNX Runtime, on a processor or a GPU.
#pragma once

#include "backend.h"
#include "nerve/nerve.h"
#include "onnxruntime.h"

namespace nerve {

struct OrtOptions {
    std::string library;  // path of libonnxruntime.so
    std::string engine_cache;
    nerve_provider provider;
    int device;
    int threads;
    bool spinning;
};

// Raises CompatibilityError: ONNX Runtime cannot be loaded, or was built without the provider.
std::unique_ptr<Backend> open_ort_backend(const std::string& folder, const Manifest& manifest, const OrtOptions& options);

}  // namespace nerve
