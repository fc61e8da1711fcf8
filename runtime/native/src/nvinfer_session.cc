#include "nvinfer_session.h"

#include <algorithm>
#include <cstring>

#include "engine_records.h"
#include "error.h"
#include "unicode.h"

namespace nerve {

namespace {

constexpr const char* SHAPE_INPUT = "size_hw";  // the profile has a range of its values, not of its shape
constexpr size_t KEPT_MESSAGES = 3;
constexpr int64_t TENSOR_ELEMENTS_LIMIT = int64_t{1} << 31;
constexpr int32_t NAMES_LIMIT = 16;

struct DataTypeName {
    nvinfer1::DataType type;
    const char* name;
    const char* dtype;  // of a manifest, "" where it has none
};

constexpr DataTypeName DATA_TYPES[] = {
    {nvinfer1::DataType::kFLOAT, "FLOAT", "float32"}, {nvinfer1::DataType::kUINT8, "UINT8", "uint8"},
    {nvinfer1::DataType::kBOOL, "BOOL", "bool"},      {nvinfer1::DataType::kINT64, "INT64", "int64"},
    {nvinfer1::DataType::kHALF, "HALF", ""},          {nvinfer1::DataType::kBF16, "BF16", ""},
    {nvinfer1::DataType::kINT32, "INT32", ""},        {nvinfer1::DataType::kINT8, "INT8", ""},
};

DataTypeName data_type(nvinfer1::DataType type) {
    for (const DataTypeName& known : DATA_TYPES)
        if (known.type == type) return known;
    return {type, "UNKNOWN", ""};
}

Shape shape_of(const nvinfer1::Dims& dims) {
    return Shape(dims.d, dims.d + std::clamp<int32_t>(dims.nbDims, 0, nvinfer1::Dims::MAX_DIMS));
}

nvinfer1::Dims dims_of(const Shape& shape) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return dims;
}

bool has_free_axes(const Shape& shape) { return std::find(shape.begin(), shape.end(), -1) != shape.end(); }

// As Python writes a list.
std::string list_text(const Shape& sizes) {
    std::string text = "[";
    for (size_t place = 0; place < sizes.size(); ++place) text += (place > 0 ? ", " : "") + decimal(sizes[place]);
    return text + "]";
}

std::string range_text(const SizeRange& range) {
    return "[" + list_text(range.least) + ", " + list_text(range.usual) + ", " + list_text(range.greatest) + "]";
}

bool fits(const Shape& shape, const TensorSpec& spec) {
    if (shape.size() != spec.axes.size()) return false;
    for (size_t place = 0; place < shape.size(); ++place) {
        if (spec.axes[place].is_fixed && spec.axes[place].size != shape[place]) return false;
    }
    return true;
}

bool is_some_size(const Shape& shape) {
    int64_t elements = 1;
    for (const int64_t size : shape) {
        if (size < 1 || size > TENSOR_ELEMENTS_LIMIT / elements) return false;
        elements *= size;
    }
    return true;
}

std::string one_line(const char* message) {
    std::string line;
    for (bool spaced = false; *message; ++message) {
        const bool space = std::strchr(" \t\n\v\f\r", *message) != nullptr;
        if (!space) line += (spaced && !line.empty() ? " " : "") + std::string(1, *message);
        spaced = space || (spaced && space);
    }
    return line;
}

Shape size_values(const Tensor& tensor) {
    const int64_t* values = tensor.values<int64_t>();
    return Shape(values, values + element_count(tensor.shape));
}

}  // namespace

void NvinferLogger::log(Severity severity, nvinfer1::AsciiChar const* message) noexcept {
    try {
        if (severity > Severity::kWARNING || !message) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        std::deque<std::string>& kept = severity == Severity::kWARNING ? warnings_ : errors_;
        kept.push_back(one_line(message));
        if (kept.size() > KEPT_MESSAGES) kept.pop_front();
    } catch (const std::bad_alloc&) {
        return;  // TensorRT reports the failure itself, too
    }
}

void NvinferLogger::clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    errors_.clear();
    warnings_.clear();
}

std::string NvinferLogger::last_errors() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::deque<std::string>& kept = errors_.empty() ? warnings_ : errors_;
    std::string text;
    for (size_t place = 0; place < kept.size(); ++place)
        if (std::find(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(place), kept[place]) ==
            kept.begin() + static_cast<std::ptrdiff_t>(place))
            text += (text.empty() ? "" : "; ") + kept[place];
    return text.empty() ? "it gave no reason" : text;
}

NvinferSession::NvinferSession(const std::string& stage, const StageRecord& record, const EngineRecord& engine_record,
                               std::shared_ptr<NvinferState> state, std::unique_ptr<nvinfer1::ICudaEngine> engine,
                               std::unique_ptr<nvinfer1::IExecutionContext> context)
    : Session(stage, record),
      engine_record_(engine_record),
      state_(std::move(state)),
      engine_(std::move(engine)),
      context_(std::move(context)) {
    check_names();
    for (const TensorSpec& spec : record_.inputs) check_tensor(spec, true);
    for (const TensorSpec& spec : record_.outputs) check_tensor(spec, false);
    check_profile();
}

NvinferSession::~NvinferSession() {
    try {
        state_->gpu->use();
    } catch (const Error&) {
        return;
    }
    state_->gpu->finish_quietly();
}

void NvinferSession::check_names() const {
    std::vector<std::string> inputs, outputs, said_inputs, said_outputs;
    for (int32_t place = 0; place < engine_->getNbIOTensors(); ++place) {
        const char* name = engine_->getIOTensorName(place);
        if (!name) refuse_mismatch({"has a tensor without a name"});
        (engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT ? inputs : outputs).emplace_back(name);
    }
    for (const TensorSpec& spec : record_.inputs) said_inputs.push_back(spec.name);
    for (const TensorSpec& spec : record_.outputs) said_outputs.push_back(spec.name);
    for (std::vector<std::string>* names : {&inputs, &outputs, &said_inputs, &said_outputs})
        std::sort(names->begin(), names->end());
    if (inputs != said_inputs || outputs != said_outputs)
        refuse_mismatch({"has inputs ", repr(inputs), " and outputs ", repr(outputs)});
}

void NvinferSession::check_tensor(const TensorSpec& spec, bool is_input) const {
    const DataTypeName type = data_type(engine_->getTensorDataType(spec.name.c_str()));
    const Shape shape = shape_of(engine_->getTensorShape(spec.name.c_str()));
    if (spec.dtype != type.dtype || !fits(shape, spec))
        refuse_mismatch({"has ", repr(spec.name), " as ", type.name, " ", shape_text(shape), ", not ", spec_text(spec)});
    if (reads_on_host(spec.name) && !(is_input && spec.name == SHAPE_INPUT))
        refuse_mismatch({"has ", repr(spec.name), " in the memory of the host"});
}

void NvinferSession::check_profile() const {
    std::vector<std::string> unknown;
    for (const SizeRange& range : engine_record_.profile) {
        const auto is_named = [&](const TensorSpec& spec) { return spec.name == range.name; };
        if (std::none_of(record_.inputs.begin(), record_.inputs.end(), is_named)) unknown.push_back(range.name);
    }
    std::sort(unknown.begin(), unknown.end());
    if (!unknown.empty()) refuse_mismatch({"has no inputs ", repr(unknown), ", of which the manifest has a profile"});
    for (const TensorSpec& spec : record_.inputs) {
        const char* name = spec.name.c_str();
        const SizeRange* said = range_of(engine_record_, spec.name);
        if (has_free_axes(shape_of(engine_->getTensorShape(name)))) {
            const auto sizes = [&](nvinfer1::OptProfileSelector which) {
                return shape_of(engine_->getProfileShape(name, 0, which));
            };
            const SizeRange range = {spec.name, sizes(nvinfer1::OptProfileSelector::kMIN),
                                     sizes(nvinfer1::OptProfileSelector::kOPT), sizes(nvinfer1::OptProfileSelector::kMAX)};
            const std::string takes = range_text(range);
            const std::string listed = said ? range_text(*said) : "None";
            if (takes != listed) refuse_mismatch({"takes ", repr(spec.name), " in ", takes, ", the manifest says ", listed});
        } else if (said) {
            const bool is_value = spec.name == SHAPE_INPUT && spec.axes.size() == 1 && spec.axes[0].is_fixed;
            const size_t expected = is_value ? static_cast<size_t>(spec.axes[0].size) : spec.axes.size();
            if (said->least.size() != expected)
                refuse_mismatch(
                    {"takes ", repr(spec.name), " as ", spec_text(spec), ", the manifest has the profile ", range_text(*said)});
        }
    }
}

bool NvinferSession::reads_on_host(const std::string& name) const {
    return engine_->getTensorLocation(name.c_str()) == nvinfer1::TensorLocation::kHOST;
}

void NvinferSession::refuse_mismatch(Parts what) const {
    fail(NERVE_BUNDLE, {"engine ", engine_record_.path, " ", concat(what), "; it is not what its manifest says, build it again"});
}

void NvinferSession::refuse_outside_profile(const Tensors& inputs) const {
    for (const TensorSpec& spec : record_.inputs) {
        const Tensor& tensor = *inputs.at(spec.name);
        const Shape taken = shape_of(engine_->getTensorShape(spec.name.c_str()));
        const SizeRange* said = range_of(engine_record_, spec.name);
        const bool is_value = spec.name == SHAPE_INPUT && said;
        if ((is_value || reads_on_host(spec.name)) && !tensor.host_view())
            fail(NERVE_USAGE, {"stage ", repr(stage_), " input ", repr(spec.name), " must be on the host"});
        const Shape shape = graph_shape(spec, tensor.shape), sizes = is_value ? size_values(tensor) : shape;
        // An engine with fixed axes takes these sizes only.
        const SizeRange range = said ? *said : SizeRange{spec.name, taken, taken, taken};
        bool inside = (has_free_axes(taken) || shape == taken) && sizes.size() == range.least.size();
        for (size_t place = 0; inside && place < sizes.size(); ++place)
            inside = range.least[place] <= sizes[place] && sizes[place] <= range.greatest[place];
        if (!inside)
            fail(NERVE_USAGE, {"stage ", repr(stage_), " input ", repr(spec.name), " has sizes ", list_text(sizes),
                               ", this engine takes ", list_text(range.least), " to ", list_text(range.greatest),
                               "; use fewer words or smaller frames, or backend=\"ort\""});
    }
}

Tensors NvinferSession::compute(const Tensors& inputs, Names host) {
    if (state_->stopped) fail(NERVE_BUNDLE, {"stage ", repr(stage_), " was told to stop"});
    refuse_outside_profile(inputs);
    Gpu& gpu = *state_->gpu;
    gpu.use();
    std::unique_lock<std::mutex> lock(gpu.mutex());
    state_->logger.clear();
    const std::vector<BoundTensor> given = on_gpu(inputs), made = made_outputs(inputs);
    for (const std::vector<BoundTensor>* tensors : {&given, &made})
        for (const BoundTensor& bound : *tensors)
            require(context_->setTensorAddress(bound.name.c_str(), bound.tensor->block.address()),
                    {"address of ", repr(bound.name)});
    require(context_->enqueueV3(gpu.stream()), {"its run"});
    Tensors outputs;
    std::vector<std::shared_ptr<const GpuTensor>> wanted;
    for (const BoundTensor& bound : made) {
        outputs.set(bound.name, bound.tensor);
        if (holds(host, bound.name)) wanted.push_back(bound.tensor);
    }
    if (wanted.empty()) return outputs;
    const std::vector<TensorPtr> copies = gpu.download(wanted);
    gpu.finish(lock);
    size_t place = 0;
    for (const BoundTensor& bound : made)
        if (holds(host, bound.name)) outputs.set(bound.name, copies[place++]);
    return outputs;
}

std::vector<NvinferSession::BoundTensor> NvinferSession::on_gpu(const Tensors& inputs) {
    std::vector<BoundTensor> tensors;
    for (const TensorSpec& spec : record_.inputs) {
        if (reads_on_host(spec.name)) continue;
        const TensorPtr& tensor = inputs.at(spec.name);
        auto kept = std::dynamic_pointer_cast<const GpuTensor>(tensor);
        tensors.push_back({spec.name, kept ? kept : state_->gpu->upload(*tensor)});
    }
    return tensors;
}

std::vector<NvinferSession::BoundTensor> NvinferSession::made_outputs(const Tensors& inputs) {
    infer_shapes(inputs);
    std::vector<BoundTensor> made;
    for (size_t place = 0; place < record_.outputs.size(); ++place) {
        const TensorSpec& spec = record_.outputs[place];
        const Shape& shape = output_shapes_[place];
        made.push_back(
            {spec.name, state_->gpu->tensor(element_type(spec.dtype), {shape.begin() + has_extra_axis(spec), shape.end()})});
    }
    return made;
}

// Set the inputs' shapes and the value that shapes depend on; infer the outputs' shapes.
void NvinferSession::infer_shapes(const Tensors& inputs) {
    std::vector<Shape> shapes;
    const Tensor* size = nullptr;
    for (const TensorSpec& spec : record_.inputs) {
        shapes.push_back(graph_shape(spec, inputs.at(spec.name)->shape));
        if (reads_on_host(spec.name)) size = inputs.at(spec.name).get();
    }
    if (!output_shapes_.empty() && shapes == input_shapes_ && (!size || size_values(*size) == size_hw_)) return;
    output_shapes_.clear();
    for (size_t place = 0; place < shapes.size(); ++place) {
        const std::string& name = record_.inputs[place].name;
        if (has_free_axes(shape_of(engine_->getTensorShape(name.c_str()))))
            require(context_->setInputShape(name.c_str(), dims_of(shapes[place])), {"shape of ", repr(name)});
    }
    if (size) set_size(*size);
    const char* missing[NAMES_LIMIT] = {};
    const int32_t count = context_->inferShapes(NAMES_LIMIT, missing);
    std::vector<std::string> unknown;
    for (int32_t place = 0; place < std::min(count, NAMES_LIMIT); ++place)
        if (missing[place]) unknown.emplace_back(missing[place]);
    require(count == 0, {"shapes: it misses ", repr(unknown)});
    std::vector<Shape> inferred;
    for (const TensorSpec& spec : record_.outputs) {
        const Shape shape = shape_of(context_->getTensorShape(spec.name.c_str()));
        require(shape.size() == spec.axes.size() && is_some_size(shape), {"shape of ", repr(spec.name), ": ", shape_text(shape)});
        inferred.push_back(shape);
    }
    input_shapes_ = std::move(shapes);
    output_shapes_ = std::move(inferred);
}

// TensorRT reads the value when shapes are inferred and when work is put on the stream; that work may read it too.
void NvinferSession::set_size(const Tensor& size) {
    const size_t bytes = element_count(size.shape) * element_bytes(size.type);
    if (!size_)
        size_.emplace(state_->gpu, MemoryKind::PINNED, bytes);
    else
        check_cuda(cudaStreamSynchronize(state_->gpu->stream()), "cudaStreamSynchronize");
    std::memcpy(size_->address(), size.host_view(), bytes);
    size_hw_ = size_values(size);
    require(context_->setTensorAddress(SHAPE_INPUT, size_->address()), {"address of ", repr(SHAPE_INPUT)});
}

void NvinferSession::require(bool succeeded, Parts what) const {
    if (succeeded) return;
    const std::string message = state_->logger.last_errors();
    if (is_out_of_memory(message)) fail(NERVE_RESOURCE, {"stage ", repr(stage_), ": ", message, GPU_MEMORY_ADVICE});
    fail(NERVE_BUNDLE, {"stage ", repr(stage_), " failed at ", concat(what), ": ", message,
                        "; build the engine again, or report it with this line"});
}

}  // namespace nerve
