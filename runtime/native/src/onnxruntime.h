// ONNX Runtime's C API, loaded at run time from a file of the caller's choice.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

namespace nerve {

// One loaded library with its environment. It stays loaded until the process ends: ONNX Runtime cannot be unloaded safely.
struct OnnxRuntime {
    const OrtApi* api;
    OrtEnv* environment;
    std::string version;

    std::string name() const { return "onnxruntime " + version; }
};

// Load libonnxruntime.so from a path, or by name where the system's loader finds it; once a path.
// Raises CompatibilityError: it cannot be loaded, is none, or is too old.
const OnnxRuntime& load_onnxruntime(const std::string& path);

// What a call of the C API says in one line, as the Python package writes it; empty for success. Frees the status.
std::string take_message(const OrtApi& api, OrtStatus* status);

// Frees objects of the C API: std::unique_ptr<OrtSession, OrtRelease>.
template <typename T>
struct OrtRelease {
    void (*release)(T*);

    void operator()(T* object) const { release(object); }
};

template <typename T>
using OrtOwned = std::unique_ptr<T, OrtRelease<T>>;

}  // namespace nerve
