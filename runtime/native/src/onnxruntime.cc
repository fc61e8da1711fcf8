#include "onnxruntime.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "error.h"
#include "unicode.h"

namespace nerve {

namespace {

constexpr const char* REMEDY =
    "; give the path of a libonnxruntime.so in nerve_params.onnxruntime, such as that of the file libonnxruntime.so.1.* in the "
    "folder "
    "onnxruntime/capi of the Python package";

// In one line, as Python's " ".join(text.split()).
std::string one_line(const std::string& text) {
    std::string line;
    for (const char letter : text) {
        const bool space = letter == ' ' || (letter >= '\t' && letter <= '\r');
        if (!space)
            line += letter;
        else if (!line.empty() && line.back() != ' ')
            line += ' ';
    }
    if (!line.empty() && line.back() == ' ') line.pop_back();
    return line;
}

const char* code_name(OrtErrorCode code) {
    constexpr const char* NAMES[] = {
        "SUCCESS",          "FAIL",         "INVALID_ARGUMENT", "NO_SUCHFILE",   "NO_MODEL", "ENGINE_ERROR", "RUNTIME_EXCEPTION",
        "INVALID_PROTOBUF", "MODEL_LOADED", "NOT_IMPLEMENTED",  "INVALID_GRAPH", "EP_FAIL"};
    const auto number = static_cast<size_t>(code);
    return number < sizeof NAMES / sizeof *NAMES ? NAMES[number] : "GENERAL ERROR";
}

OnnxRuntime open_library(const std::string& path) {
    // Its telemetry is on by default; a device with a camera reports to nobody.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(NERVE_COMPATIBILITY, {"onnxruntime cannot be loaded: ", dlerror(), REMEDY});
    void* symbol = dlsym(library, "OrtGetApiBase");
    if (!symbol) {
        dlclose(library);
        fail(NERVE_COMPATIBILITY, {repr(path), " is not ONNX Runtime, it has no OrtGetApiBase", REMEDY});
    }
    const OrtApiBase* base = reinterpret_cast<const OrtApiBase* (*)()>(symbol)();
    OnnxRuntime runtime;
    runtime.version = base->GetVersionString();
    runtime.api = base->GetApi(ORT_API_VERSION);
    if (!runtime.api)
        fail(NERVE_COMPATIBILITY, {runtime.name(), " is older than the API that this library was built for, version ",
                                   decimal(ORT_API_VERSION), REMEDY});
    const std::string message =
        take_message(*runtime.api, runtime.api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "nerve", &runtime.environment));
    if (!message.empty()) fail(NERVE_COMPATIBILITY, {runtime.name(), " cannot start: ", message});
    return runtime;
}

}  // namespace

const OnnxRuntime& load_onnxruntime(const std::string& path) {
    static std::mutex mutex;
    static auto* const loaded = new std::map<std::string, OnnxRuntime>;  // outlives every thread of the library
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = loaded->find(path);
    if (found != loaded->end()) return found->second;
    return loaded->emplace(path, open_library(path)).first->second;
}

std::string take_message(const OrtApi& api, OrtStatus* status) {
    if (!status) return "";
    const OrtErrorCode code = api.GetErrorCode(status);
    const std::string text = api.GetErrorMessage(status);
    api.ReleaseStatus(status);
    return one_line(concat({"[ONNXRuntimeError] : ", decimal(code), " : ", code_name(code), " : ", text}));
}

}  // namespace nerve
