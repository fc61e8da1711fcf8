// Stands in for TensorRT: an engine is a stage's ONNX graph behind a header of lines, computed by ONNX Runtime. The header:
//
//     standin engine
//     input NAME DATA_TYPE LOCATION RANK SIZES LEAST USUAL GREATEST   RANK numbers each, -1 for a free axis; the last three
//     output NAME DATA_TYPE LOCATION RANK SIZES                       only where an axis is free
//     graph
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <vector>

#include "NvInfer.h"
#include "standin_cuda.h"

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::ILogger;

namespace standin {

struct TensorOfEngine {
    std::string name;
    bool is_input, on_host, is_free;
    DataType type;
    Dims sizes, range[3];
};

struct Engine {
    ILogger* logger;
    std::vector<TensorOfEngine> tensors;
    OrtSession* session;
    bool is_readout;

    const TensorOfEngine* find(const char* name) const {
        for (const TensorOfEngine& tensor : tensors)
            if (tensor.name == name) return &tensor;
        misuse(std::string("the engine has no tensor ") + name);
        return nullptr;
    }
    bool refuse(const std::string& text) const {
        logger->log(ILogger::Severity::kERROR, text.c_str());
        return false;
    }
};

struct Context {
    Engine* engine;
    std::map<std::string, Dims> shapes;
    std::map<std::string, void*> addresses;
    bool inferred = false;
};

namespace {

const OrtApi* api() {
    static const OrtApi* const found = [] {
        void* library = dlopen(std::getenv("STANDIN_ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL);
        if (!library) std::abort();
        const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
        return base()->GetApi(21);
    }();
    return found;
}

bool ok(OrtStatus* status) {
    if (!status) return true;
    misuse(api()->GetErrorMessage(status));
    api()->ReleaseStatus(status);
    return false;
}

OrtEnv* environment() {
    static OrtEnv* const made = [] {
        OrtEnv* env = nullptr;
        ok(api()->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "standin", &env));
        return env;
    }();
    return made;
}

ONNXTensorElementDataType ort_type(DataType type) {
    switch (type) {
        case DataType::kBOOL: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
        case DataType::kUINT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        case DataType::kINT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }
}

size_t bytes_of(DataType type, const Dims& dims) {
    size_t bytes = type == DataType::kFLOAT ? 4 : type == DataType::kINT64 ? 8 : 1;
    for (int32_t place = 0; place < dims.nbDims; ++place) bytes *= static_cast<size_t>(dims.d[place]);
    return bytes;
}

bool read_dims(std::istringstream& line, int32_t rank, Dims& dims) {
    dims.nbDims = rank;
    for (int32_t place = 0; place < rank; ++place) line >> dims.d[place];
    return bool(line);
}

bool read_tensor(const std::string& text, TensorOfEngine& tensor) {
    std::istringstream line(text);
    std::string role, location;
    int32_t type = 0, rank = 0;
    line >> role >> tensor.name >> type >> location >> rank;
    if (!line || rank < 0 || rank > Dims::MAX_DIMS || !read_dims(line, rank, tensor.sizes)) return false;
    tensor.is_input = role == "input";
    tensor.on_host = location == "host";
    tensor.type = static_cast<DataType>(type);
    tensor.is_free = false;
    for (int32_t place = 0; place < rank; ++place) tensor.is_free = tensor.is_free || tensor.sizes.d[place] < 0;
    if (!tensor.is_free || !tensor.is_input) return true;
    return read_dims(line, rank, tensor.range[0]) && read_dims(line, rank, tensor.range[1]) && read_dims(line, rank, tensor.range[2]);
}

OrtSession* open_graph(const char* graph, size_t bytes) {
    OrtSessionOptions* options = nullptr;
    OrtSession* session = nullptr;
    ok(api()->CreateSessionOptions(&options));
    ok(api()->SetIntraOpNumThreads(options, 1));
    ok(api()->SetInterOpNumThreads(options, 1));
    ok(api()->CreateSessionFromArray(environment(), graph, bytes, options, &session));
    api()->ReleaseSessionOptions(options);
    return session;
}

// A tensor in its memory, as ONNX Runtime takes it.
OrtValue* value_of(const TensorOfEngine& tensor, const Dims& dims, void* address) {
    OrtMemoryInfo* info = nullptr;
    OrtValue* value = nullptr;
    ok(api()->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &info));
    ok(api()->CreateTensorWithDataAsOrtValue(info, address, bytes_of(tensor.type, dims), dims.d, static_cast<size_t>(dims.nbDims),
                                             ort_type(tensor.type), &value));
    api()->ReleaseMemoryInfo(info);
    return value;
}

bool run(const Engine& engine, const std::map<std::string, Dims>& shapes, const std::map<std::string, void*>& addresses) {
    std::vector<const char*> names[2];
    std::vector<OrtValue*> values[2];
    for (const TensorOfEngine& tensor : engine.tensors) {
        const Dims& dims = shapes.at(tensor.name);
        void* address = addresses.at(tensor.name);
        if (!is_held(address, bytes_of(tensor.type, dims), tensor.on_host)) {
            misuse("memory of " + tensor.name + " was freed before the run");
            return false;
        }
        names[!tensor.is_input].push_back(tensor.name.c_str());
        values[!tensor.is_input].push_back(value_of(tensor, dims, address));
    }
    const bool ran = ok(api()->Run(engine.session, nullptr, names[0].data(), values[0].data(), values[0].size(), names[1].data(),
                                   values[1].size(), values[1].data()));
    for (const auto& list : values)
        for (OrtValue* value : list) api()->ReleaseValue(value);
    return ran;
}

}  // namespace

}  // namespace standin

using namespace standin;

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& logger) noexcept {
    if (is_due("runtime")) return nullptr;
    IRuntime* runtime = new IRuntime;
    runtime->logger = &logger;
    return runtime;
}

ICudaEngine* IRuntime::deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    const auto refuse = [this](const char* text) {
        logger->log(ILogger::Severity::kERROR, text);
        return nullptr;
    };
    if (is_due("load")) return refuse("the plan is\n damaged");
    if (is_due("load memory")) return refuse("an allocation failed: out of memory");
    const std::string content(static_cast<const char*>(blob), size);
    const std::string end = "\ngraph\n";
    const size_t header = content.find(end);
    if (content.compare(0, 15, "standin engine\n") != 0 || header == std::string::npos)
        return refuse("the plan has no header of this library");
    auto* made = new Engine{logger, {}, nullptr, false};
    std::istringstream lines(content.substr(15, header - 15));
    bool well = true;
    for (std::string line; std::getline(lines, line);) well = read_tensor(line, made->tensors.emplace_back()) && well;
    const char* graph = content.data() + header + end.size();
    if (well) made->session = open_graph(graph, size - header - end.size());
    if (!made->session) {
        delete made;
        return refuse("the plan has no graph");
    }
    ++counts.engines;
    auto* engine = new ICudaEngine;
    engine->impl = made;
    return engine;
}

ICudaEngine::~ICudaEngine() noexcept {
    --counts.engines;
    api()->ReleaseSession(impl->session);
    delete impl;
}

int32_t ICudaEngine::getNbIOTensors() const noexcept { return static_cast<int32_t>(impl->tensors.size()); }
char const* ICudaEngine::getIOTensorName(int32_t index) const noexcept { return impl->tensors.at(static_cast<size_t>(index)).name.c_str(); }

TensorIOMode ICudaEngine::getTensorIOMode(char const* name) const noexcept {
    const TensorOfEngine* tensor = impl->find(name);
    if (!tensor) return TensorIOMode::kNONE;
    return tensor->is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}

DataType ICudaEngine::getTensorDataType(char const* name) const noexcept {
    const TensorOfEngine* tensor = impl->find(name);
    return tensor ? tensor->type : DataType::kFLOAT;
}

Dims ICudaEngine::getTensorShape(char const* name) const noexcept {
    const TensorOfEngine* tensor = impl->find(name);
    return tensor ? tensor->sizes : Dims{-1, {}};
}

TensorLocation ICudaEngine::getTensorLocation(char const* name) const noexcept {
    const TensorOfEngine* tensor = impl->find(name);
    return tensor && tensor->on_host ? TensorLocation::kHOST : TensorLocation::kDEVICE;
}

Dims ICudaEngine::getProfileShape(char const* name, int32_t profile, OptProfileSelector select) const noexcept {
    const TensorOfEngine* tensor = impl->find(name);
    if (tensor && tensor->is_input && tensor->is_free && profile == 0) return tensor->range[static_cast<int32_t>(select)];
    misuse(std::string("there is no such profile of ") + name);
    return Dims{-1, {}};
}

IExecutionContext* ICudaEngine::createExecutionContext(ExecutionContextAllocationStrategy) noexcept {
    if (is_due("context")) {
        impl->refuse("an allocation failed: out of memory");
        return nullptr;
    }
    ++counts.contexts;
    auto* context = new IExecutionContext;
    context->impl = new Context{impl, {}, {}};
    for (const TensorOfEngine& tensor : impl->tensors)
        if (!tensor.is_free) context->impl->shapes[tensor.name] = tensor.sizes;
    return context;
}

IExecutionContext::~IExecutionContext() noexcept {
    --counts.contexts;
    delete impl;
}

bool IExecutionContext::setInputShape(char const* name, Dims const& dims) noexcept {
    const TensorOfEngine* tensor = impl->engine->find(name);
    if (is_due("shape")) return impl->engine->refuse("the shape is not taken");
    if (!tensor || !tensor->is_input || dims.nbDims != tensor->sizes.nbDims) return false;
    for (int32_t place = 0; place < dims.nbDims; ++place)
        if (dims.d[place] < tensor->range[0].d[place] || dims.d[place] > tensor->range[2].d[place])
            return impl->engine->refuse("the shape is outside the profile");
    impl->shapes[name] = dims;
    impl->inferred = false;
    return true;
}

bool IExecutionContext::setTensorAddress(char const* name, void* data) noexcept {
    const TensorOfEngine* tensor = impl->engine->find(name);
    if (is_due("address")) return impl->engine->refuse("the address is not taken");
    if (!tensor) return false;
    if (!is_held(data, 1, tensor->on_host)) {
        misuse(std::string("the address of ") + name + " is not held");
        return impl->engine->refuse("the address is not held");
    }
    impl->addresses[name] = data;
    if (tensor->on_host) impl->inferred = false;
    return true;
}

// Axes of outputs that are free have the size of an input's free axis at the same place, or are those of the read-out.
int32_t IExecutionContext::inferShapes(int32_t nbMaxNames, char const** tensorNames) noexcept {
    if (is_due("infer")) return -1;
    Dims free_sizes{Dims::MAX_DIMS, {}};
    const int64_t* size_hw = nullptr;
    int32_t missing = 0;
    for (const TensorOfEngine& tensor : impl->engine->tensors) {
        if (!tensor.is_input) continue;
        const bool known = tensor.on_host ? impl->addresses.count(tensor.name) > 0 : impl->shapes.count(tensor.name) > 0;
        if (!known && missing++ < nbMaxNames) tensorNames[missing - 1] = tensor.name.c_str();
        if (known && tensor.on_host) size_hw = static_cast<const int64_t*>(impl->addresses.at(tensor.name));
        for (int32_t place = 0; known && tensor.name != "text_embeddings" && place < tensor.sizes.nbDims; ++place)
            if (tensor.sizes.d[place] < 0) free_sizes.d[place] = impl->shapes.at(tensor.name).d[place];
    }
    if (missing > 0) return missing;
    for (const TensorOfEngine& tensor : impl->engine->tensors) {
        if (tensor.is_input) continue;
        Dims dims = tensor.sizes;
        for (int32_t place = 0; place < dims.nbDims; ++place)
            if (dims.d[place] < 0) dims.d[place] = size_hw ? size_hw[place] : free_sizes.d[place];
        impl->shapes[tensor.name] = dims;
    }
    impl->inferred = true;
    return 0;
}

Dims IExecutionContext::getTensorShape(char const* name) const noexcept {
    const auto shape = impl->shapes.find(name);
    return shape == impl->shapes.end() ? Dims{-1, {}} : shape->second;
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    if (is_due("enqueue")) return impl->engine->refuse("a kernel could not be launched");
    if (is_due("enqueue memory")) return impl->engine->refuse("an allocation failed: out of memory");
    if (!impl->inferred) {
        misuse("a run was asked for before the shapes were inferred");
        return impl->engine->refuse("shapes are not known");
    }
    for (const TensorOfEngine& tensor : impl->engine->tensors) {
        const auto address = impl->addresses.find(tensor.name);
        if (address != impl->addresses.end() &&
            is_held(address->second, bytes_of(tensor.type, impl->shapes.at(tensor.name)), tensor.on_host))
            continue;
        misuse("the memory of " + tensor.name + " is not set, not held, or too small");
        return impl->engine->refuse("an address is missing");
    }
    ++counts.enqueues;
    const bool fails = is_due("kernel");
    put(stream, [engine = impl->engine, shapes = impl->shapes, addresses = impl->addresses, fails] {
        return run(*engine, shapes, addresses) && !fails;
    });
    return true;
}

}  // namespace nvinfer1

extern "C" {
__attribute__((visibility("default"))) int32_t standin_version[4] = {10, 16, 1, 11};

int32_t getInferLibMajorVersion() noexcept { return standin_version[0]; }
int32_t getInferLibMinorVersion() noexcept { return standin_version[1]; }
int32_t getInferLibPatchVersion() noexcept { return standin_version[2]; }
int32_t getInferLibBuildVersion() noexcept { return standin_version[3]; }
}
