#include "ort_backend.h"

#include <algorithm>
#include <mutex>

#include "error.h"
#include "gpu_copy.h"
#include "unicode.h"

namespace nerve {

namespace {

constexpr const char* CPU = "CPUExecutionProvider";
constexpr const char* FALLBACK_PHRASE = "fallback to CPU EP has been explicitly disabled";

using Phrases = std::initializer_list<const char*>;

constexpr Phrases NOT_SUPPORTED_PHRASES = {"NOT_IMPLEMENTED", "opset", "ir_version", "IR version",
                                           "is not a registered function/op"};

bool holds_any(const std::string& text, Phrases phrases) {
    return std::any_of(phrases.begin(), phrases.end(),
                       [&](const char* phrase) { return text.find(phrase) != std::string::npos; });
}

const char* provider_name(nerve_provider provider) {
    if (provider == NERVE_CUDA) return "CUDAExecutionProvider";
    return provider == NERVE_TENSORRT ? "TensorrtExecutionProvider" : CPU;
}

ONNXTensorElementDataType ort_type(ElementType type) {
    switch (type) {
        case ElementType::UINT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        case ElementType::UINT16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16;
        case ElementType::BOOL: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
        case ElementType::INT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }
}

// What the back end and its sessions share; tensors keep it alive.
struct OrtState {
    const OnnxRuntime& runtime;
    const OrtApi& api;
    const Manifest& manifest;
    const std::string folder;
    const OrtOptions options;
    OrtOwned<OrtRunOptions> run_options;
    OrtOwned<OrtMemoryInfo> host_memory;
    OrtOwned<OrtMemoryInfo> memory;  // where stages keep their outputs

    bool on_gpu() const { return options.provider != NERVE_CPU; }

    template <typename T, typename Create>
    OrtOwned<T> make(void (*release)(T*), Create create) const {
        T* object = nullptr;
        require(create(&object));
        return OrtOwned<T>(object, OrtRelease<T>{release});
    }

    // Raises ResourceError or CompatibilityError where a call failed.
    void require(OrtStatus* status) const;
};

void OrtState::require(OrtStatus* status) const {
    const std::string message = take_message(api, status);
    if (message.empty()) return;
    const bool is_memory = is_out_of_memory(message);
    fail(is_memory ? NERVE_RESOURCE : NERVE_COMPATIBILITY, {"ONNX Runtime refuses: ", message});
}

using OrtStatePtr = std::shared_ptr<OrtState>;

class OrtTensor : public Tensor {
   public:
    OrtTensor(OrtStatePtr state, ElementType type, Shape shape, OrtOwned<OrtValue> value, void* memory, bool readable,
              std::shared_ptr<const void> kept)
        : Tensor(type, std::move(shape)),
          state_(std::move(state)),
          kept_(std::move(kept)),
          value_(std::move(value)),
          memory_(memory),
          readable_(readable) {}

    const void* host_view() const override { return readable_ ? memory_ : nullptr; }
    void* memory() const { return memory_; }

   private:
    const OrtStatePtr state_;
    const std::shared_ptr<const void> kept_;  // what the value's memory belongs to
    const OrtOwned<OrtValue> value_;
    void* const memory_;
    const bool readable_;
};

// A tensor where it lies, in the shape that a graph takes it in.
OrtOwned<OrtValue> value_of(const OrtState& state, const Tensor& tensor, const Shape& shape) {
    const auto* kept = dynamic_cast<const OrtTensor*>(&tensor);
    const OrtMemoryInfo* where = (tensor.host_view() ? state.host_memory : state.memory).get();
    // The graphs read their inputs only; the C API has no const.
    void* memory = kept ? kept->memory() : const_cast<void*>(tensor.host_view());
    return state.make<OrtValue>(state.api.ReleaseValue, [&](OrtValue** value) {
        return state.api.CreateTensorWithDataAsOrtValue(where, memory, element_count(shape) * element_bytes(tensor.type),
                                                        shape.data(), shape.size(), ort_type(tensor.type), value);
    });
}

class OrtGraph : public Session {
   public:
    OrtGraph(const std::string& stage, const StageRecord& record, OrtStatePtr state, std::shared_ptr<OrtSession> session)
        : Session(stage, record), state_(std::move(state)), session_(std::move(session)) {
        check_names();
    }

   protected:
    Tensors compute(const Tensors& inputs, Names host) override;

   private:
    void check_names() const;
    std::vector<std::string> names(OrtStatus* (*count)(const OrtSession*, size_t*),
                                   OrtStatus* (*name)(const OrtSession*, size_t, OrtAllocator*, char**)) const;
    TensorPtr output(const TensorSpec& spec, OrtOwned<OrtValue> value, bool readable) const;
    Error run_error(const std::string& message) const;

    const OrtStatePtr state_;
    const std::shared_ptr<OrtSession> session_;
};

std::vector<std::string> OrtGraph::names(OrtStatus* (*count)(const OrtSession*, size_t*),
                                         OrtStatus* (*name)(const OrtSession*, size_t, OrtAllocator*, char**)) const {
    OrtAllocator* allocator = nullptr;
    size_t total = 0;
    state_->require(state_->api.GetAllocatorWithDefaultOptions(&allocator));
    state_->require(count(session_.get(), &total));
    std::vector<std::string> found;
    for (size_t place = 0; place < total; ++place) {
        char* text = nullptr;
        state_->require(name(session_.get(), place, allocator, &text));
        found.emplace_back(text);
        state_->require(state_->api.AllocatorFree(allocator, text));
    }
    std::sort(found.begin(), found.end());
    return found;
}

void OrtGraph::check_names() const {
    const auto of_specs = [](const std::vector<TensorSpec>& specs) {
        std::vector<std::string> said;
        for (const TensorSpec& spec : specs) said.push_back(spec.name);
        std::sort(said.begin(), said.end());
        said.erase(std::unique(said.begin(), said.end()), said.end());
        return said;
    };
    const std::vector<std::string> inputs = names(state_->api.SessionGetInputCount, state_->api.SessionGetInputName);
    const std::vector<std::string> outputs = names(state_->api.SessionGetOutputCount, state_->api.SessionGetOutputName);
    const std::vector<std::string> said_inputs = of_specs(record_.inputs), said_outputs = of_specs(record_.outputs);
    if (inputs != said_inputs || outputs != said_outputs)
        fail(NERVE_BUNDLE, {"stage ", repr(stage_), " has inputs ", repr(inputs), " and outputs ", repr(outputs),
                            ", the manifest says ", repr(said_inputs), " and ", repr(said_outputs), "; rebuild the bundle"});
}

Tensors OrtGraph::compute(const Tensors& inputs, Names host) {
    const OrtApi& api = state_->api;
    const auto binding = state_->make<OrtIoBinding>(
        api.ReleaseIoBinding, [&](OrtIoBinding** made) { return api.CreateIoBinding(session_.get(), made); });
    for (const TensorSpec& spec : record_.inputs) {
        const Tensor& tensor = *inputs.at(spec.name);
        const auto value = value_of(*state_, tensor, graph_shape(spec, tensor.shape));  // the binding keeps it
        state_->require(api.BindInput(binding.get(), spec.name.c_str(), value.get()));
    }
    for (const TensorSpec& spec : record_.outputs) {
        const bool readable = holds(host, spec.name);
        const OrtMemoryInfo* where = readable ? state_->host_memory.get() : state_->memory.get();
        state_->require(api.BindOutputToDevice(binding.get(), spec.name.c_str(), where));
    }
    const std::string message = take_message(api, api.RunWithBinding(session_.get(), state_->run_options.get(), binding.get()));
    if (!message.empty()) throw run_error(message);
    OrtAllocator* allocator = nullptr;
    OrtValue** values = nullptr;
    size_t count = 0;
    state_->require(api.GetAllocatorWithDefaultOptions(&allocator));
    state_->require(api.GetBoundOutputValues(binding.get(), allocator, &values, &count));
    std::vector<OrtOwned<OrtValue>> owned;
    for (size_t place = 0; place < count; ++place) owned.push_back({values[place], OrtRelease<OrtValue>{api.ReleaseValue}});
    state_->require(api.AllocatorFree(allocator, values));
    Tensors outputs;
    for (size_t place = 0; place < record_.outputs.size(); ++place) {
        const TensorSpec& spec = record_.outputs[place];
        outputs.set(spec.name, output(spec, std::move(owned.at(place)), !state_->on_gpu() || holds(host, spec.name)));
    }
    return outputs;
}

TensorPtr OrtGraph::output(const TensorSpec& spec, OrtOwned<OrtValue> value, bool readable) const {
    const OrtApi& api = state_->api;
    const auto info = state_->make<OrtTensorTypeAndShapeInfo>(
        api.ReleaseTensorTypeAndShapeInfo,
        [&](OrtTensorTypeAndShapeInfo** made) { return api.GetTensorTypeAndShape(value.get(), made); });
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    state_->require(api.GetTensorElementType(info.get(), &type));
    state_->require(api.GetDimensionsCount(info.get(), &rank));
    Shape sizes(rank), shape;
    state_->require(api.GetDimensions(info.get(), sizes.data(), rank));
    for (size_t place = has_extra_axis(spec); place < rank; ++place) shape.push_back(sizes[place]);
    const ElementType expected = element_type(spec.dtype);
    if (type != ort_type(expected))
        fail(NERVE_BUNDLE, {"stage ", repr(stage_), " ", repr(spec.name), " is of ONNX element type ", decimal(type),
                            ", expected ", spec.dtype, "; the graph is not what its manifest says, rebuild the bundle"});
    void* memory = nullptr;
    state_->require(api.GetTensorMutableData(value.get(), &memory));
    return std::make_shared<OrtTensor>(state_, expected, std::move(shape), std::move(value), memory, readable, session_);
}

Error OrtGraph::run_error(const std::string& message) const {
    if (is_out_of_memory(message))
        return Error(NERVE_RESOURCE,
                     concat({"stage ", repr(stage_), " ran out of memory: ", message, "; use smaller frames or fewer classes"}));
    return Error(NERVE_BUNDLE,
                 concat({"stage ", repr(stage_), " failed: ", message, "; rebuild the bundle, or report it with this line"}));
}

class OrtBackend : public Backend {
   public:
    explicit OrtBackend(OrtStatePtr state) : state_(std::move(state)) {}

    std::string describe() const override {
        const std::string threads = state_->options.threads ? decimal(state_->options.threads) : "default";
        return concat({"ort: ", state_->runtime.name(), ", ", provider_name(state_->options.provider), ", threads ", threads});
    }

    std::unique_ptr<Session> open_session(const std::string& stage) override;
    TensorPtr upload(std::shared_ptr<const HostTensor> tensor) override;
    void stop() override { state_->require(state_->api.RunOptionsSetTerminate(state_->run_options.get())); }

   private:
    OrtOwned<OrtSessionOptions> session_options() const;
    void append_provider(OrtSessionOptions* options) const;
    Error open_error(const std::string& file, const std::string& message) const;

    const OrtStatePtr state_;
    std::mutex mutex_;  // of the two below: segmenters that share graphs set their classes in threads of their own
    std::shared_ptr<OrtSession> opened_;           // the latest
    std::shared_ptr<OrtAllocator> gpu_allocator_;  // of a session; tensors that it gave memory to keep it
};

OrtOwned<OrtSessionOptions> OrtBackend::session_options() const {
    const OrtApi& api = state_->api;
    auto options = state_->make<OrtSessionOptions>(api.ReleaseSessionOptions, api.CreateSessionOptions);
    const auto set = [&](const char* key, const char* value) {
        state_->require(api.AddSessionConfigEntry(options.get(), key, value));
    };
    state_->require(api.SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_ERROR));
    state_->require(api.SetIntraOpNumThreads(options.get(), state_->options.threads));
    state_->require(api.SetInterOpNumThreads(options.get(), 1));
    // Spinning threads take the cores that decoding and encoding need; see nerve_runtime/backends/ort.py.
    set("session.intra_op.allow_spinning", state_->options.spinning ? "1" : "0");
    set("session.force_spinning_stop", "1");
    if (state_->on_gpu()) set("session.disable_cpu_ep_fallback", "1");
    return options;
}

void OrtBackend::append_provider(OrtSessionOptions* options) const {
    const OrtApi& api = state_->api;
    const std::string device = decimal(state_->options.device);
    if (state_->options.provider == NERVE_CUDA) {
        const auto cuda = state_->make<OrtCUDAProviderOptionsV2>(api.ReleaseCUDAProviderOptions, api.CreateCUDAProviderOptions);
        const char* keys[] = {"device_id"};
        const char* values[] = {device.c_str()};
        state_->require(api.UpdateCUDAProviderOptions(cuda.get(), keys, values, 1));
        state_->require(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()));
    } else if (state_->options.provider == NERVE_TENSORRT) {
        const auto trt =
            state_->make<OrtTensorRTProviderOptionsV2>(api.ReleaseTensorRTProviderOptions, api.CreateTensorRTProviderOptions);
        const std::string& cache = state_->options.engine_cache;
        const char* keys[] = {"device_id", "trt_engine_cache_enable", "trt_timing_cache_enable", "trt_engine_cache_path"};
        const char* kept = cache.empty() ? "0" : "1";
        const char* values[] = {device.c_str(), kept, kept, cache.c_str()};
        state_->require(api.UpdateTensorRTProviderOptions(trt.get(), keys, values, cache.empty() ? 1 : 4));
        state_->require(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, trt.get()));
    }
}

std::unique_ptr<Session> OrtBackend::open_session(const std::string& stage) {
    const StageRecord& record = stage_record(state_->manifest, stage);
    const OrtApi& api = state_->api;
    OrtOwned<OrtSessionOptions> options = session_options();
    append_provider(options.get());
    OrtSession* session = nullptr;
    const std::string path = concat({state_->folder, "/", record.onnx});
    const std::string message =
        take_message(api, api.CreateSession(state_->runtime.environment, path.c_str(), options.get(), &session));
    if (!message.empty()) throw open_error(record.onnx, message);
    const std::shared_ptr<OrtSession> owned(session, api.ReleaseSession);
    const std::lock_guard<std::mutex> lock(mutex_);
    opened_ = owned;
    return std::make_unique<OrtGraph>(stage, record, state_, owned);
}

Error OrtBackend::open_error(const std::string& file, const std::string& message) const {
    const std::string provider = provider_name(state_->options.provider), library = state_->runtime.name();
    const std::string name = file.substr(file.rfind('/') + 1);
    if (is_out_of_memory(message)) return Error(NERVE_RESOURCE, concat({"not enough memory to open ", name, ": ", message}));
    if (message.find(FALLBACK_PHRASE) != std::string::npos)
        return Error(NERVE_COMPATIBILITY, concat({name, " would not run on ", provider, " alone, as asked: ", message,
                                                  "; check the driver and libraries of the GPU, or use providers=\"cpu\""}));
    if (!holds_any(message, NOT_SUPPORTED_PHRASES))
        return Error(NERVE_BUNDLE, concat({name, " is not a graph that onnxruntime can open: ", message, "; rebuild it"}));
    if (state_->manifest.precision == "bf16")
        return Error(NERVE_COMPATIBILITY, concat({library, " cannot run ", name, " in bf16 on ", provider,
                                                  "; compile engines from this bundle, or build one with --precision fp16"}));
    return Error(NERVE_COMPATIBILITY, concat({library, " cannot run ", name, " (opset ", decimal(state_->manifest.opset),
                                              "): ", message, "; update onnxruntime, or build the bundle with --opset 20"}));
}

TensorPtr OrtBackend::upload(std::shared_ptr<const HostTensor> tensor) {
    const OrtApi& api = state_->api;
    if (!state_->on_gpu()) return tensor;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!gpu_allocator_) {
        OrtAllocator* made = nullptr;
        state_->require(api.CreateAllocator(opened_.get(), state_->memory.get(), &made));
        const auto release = api.ReleaseAllocator;
        gpu_allocator_.reset(made, [release, session = opened_](OrtAllocator* allocator) { release(allocator); });
    }
    auto value = state_->make<OrtValue>(api.ReleaseValue, [&](OrtValue** made) {
        return api.CreateTensorAsOrtValue(gpu_allocator_.get(), tensor->shape.data(), tensor->shape.size(),
                                          ort_type(tensor->type), made);
    });
    void* memory = nullptr;
    state_->require(api.GetTensorMutableData(value.get(), &memory));
    copy_to_gpu(state_->options.device, memory, tensor->host_view(), tensor->bytes.size());
    return std::make_shared<OrtTensor>(state_, tensor->type, tensor->shape, std::move(value), memory, false, gpu_allocator_);
}

void check_provider(const OnnxRuntime& runtime, const std::string& provider) {
    char** names = nullptr;
    int count = 0;
    const std::string message = take_message(*runtime.api, runtime.api->GetAvailableProviders(&names, &count));
    if (!message.empty()) fail(NERVE_COMPATIBILITY, {runtime.name(), " does not say what it runs on: ", message});
    std::string listed;
    bool found = false;
    for (int place = 0; place < count; ++place) {
        found = found || provider == names[place];
        listed += (place > 0 ? ", " : "") + std::string(names[place]);
    }
    take_message(*runtime.api, runtime.api->ReleaseAvailableProviders(names, count));
    if (!found)
        fail(NERVE_COMPATIBILITY, {runtime.name(), " has no ", provider, ", only ", listed,
                                   "; give the path of a build that has it in nerve_params.onnxruntime"});
}

}  // namespace

std::unique_ptr<Backend> open_ort_backend(const std::string& folder, const Manifest& manifest, const OrtOptions& options) {
    const OnnxRuntime& runtime = load_onnxruntime(options.library);
    check_provider(runtime, provider_name(options.provider));
    const OrtApi& api = *runtime.api;
    const auto state = std::shared_ptr<OrtState>(new OrtState{runtime, api, manifest, folder, options, {}, {}, {}});
    state->run_options = state->make<OrtRunOptions>(api.ReleaseRunOptions, api.CreateRunOptions);
    const auto memory_info = [&](const char* name, int device) {
        return state->make<OrtMemoryInfo>(api.ReleaseMemoryInfo, [&](OrtMemoryInfo** made) {
            return api.CreateMemoryInfo(name, OrtDeviceAllocator, device, OrtMemTypeDefault, made);
        });
    };
    state->host_memory = memory_info("Cpu", 0);
    state->memory = state->on_gpu() ? memory_info("Cuda", options.device) : memory_info("Cpu", 0);
    return std::make_unique<OrtBackend>(state);
}

}  // namespace nerve
