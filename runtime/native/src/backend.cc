#include "backend.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "unicode.h"

namespace nerve {

namespace {

struct DtypeRecord {
    ElementType type;
    const char* name;
    size_t bytes;
};

constexpr DtypeRecord DTYPES[] = {
    {ElementType::UINT8, "uint8", 1}, {ElementType::UINT16, "uint16", 2},   {ElementType::BOOL, "bool", 1},
    {ElementType::INT64, "int64", 8}, {ElementType::FLOAT32, "float32", 4},
};

const DtypeRecord& record_of(ElementType type) {
    return *std::find_if(std::begin(DTYPES), std::end(DTYPES), [&](const DtypeRecord& dtype) { return dtype.type == type; });
}

std::string axis_text(const Axis& axis) {
    const int64_t* size = std::get_if<int64_t>(&axis);
    return size ? decimal(*size) : std::get<std::string>(axis);
}

template <typename Named>
std::vector<std::string> names_of(const Named& named) {
    std::vector<std::string> names;
    for (const auto& entry : named) names.push_back(entry.name);
    std::sort(names.begin(), names.end());
    return names;
}

std::string tensor_text(const std::string& where, const TensorSpec& spec, const Tensor& tensor) {
    return concat({where, " ", repr(spec.name), " is ", dtype_name(tensor.type), " ", shape_text(tensor.shape), ", expected ", spec_text(spec)});
}

// Raises UsageError: a tensor is missing, unknown, of another dtype or shape, or a letter takes two sizes.
void check_tensors(const std::string& where, const std::vector<TensorSpec>& specs, const Tensors& tensors) {
    const std::vector<std::string> expected = names_of(specs);
    std::vector<std::string> got;
    for (const auto& [name, tensor] : tensors) got.push_back(name);
    if (got != expected) fail(NERVE_USAGE, {where, ": got tensors ", repr(got), ", expected ", repr(expected)});
    std::map<std::string, int64_t> sizes;
    for (const TensorSpec& spec : specs) {
        const Tensor& tensor = *tensors.at(spec.name);
        if (tensor.type != element_type(spec.dtype) || tensor.shape.size() != spec.axes.size())
            fail(NERVE_USAGE, {tensor_text(where, spec, tensor)});
        for (size_t place = 0; place < spec.axes.size(); ++place) {
            const int64_t* fixed = std::get_if<int64_t>(&spec.axes[place]);
            const int64_t size = tensor.shape[place];
            const int64_t wanted = fixed ? *fixed : sizes.emplace(std::get<std::string>(spec.axes[place]), size).first->second;
            if (size != wanted)
                fail(NERVE_USAGE, {tensor_text(where, spec, tensor), ", axis ", axis_text(spec.axes[place]), " being ", decimal(wanted)});
        }
    }
}

}  // namespace

ElementType element_type(const std::string& dtype) {
    return std::find_if(std::begin(DTYPES), std::end(DTYPES), [&](const DtypeRecord& known) { return dtype == known.name; })->type;
}

const char* dtype_name(ElementType type) { return record_of(type).name; }
size_t element_bytes(ElementType type) { return record_of(type).bytes; }

template <>
ElementType element_type_of<uint8_t>() {
    return ElementType::UINT8;
}
template <>
ElementType element_type_of<int64_t>() {
    return ElementType::INT64;
}
template <>
ElementType element_type_of<float>() {
    return ElementType::FLOAT32;
}

size_t element_count(const Shape& shape) {
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    return count;
}

template <typename T>
std::shared_ptr<HostTensor> HostTensor::of(const std::vector<T>& values, Shape shape) {
    auto tensor = std::make_shared<HostTensor>(element_type_of<T>(), std::move(shape));
    if (!values.empty()) std::memcpy(tensor->bytes.data(), values.data(), tensor->bytes.size());
    return tensor;
}

template std::shared_ptr<HostTensor> HostTensor::of(const std::vector<uint8_t>&, Shape);
template std::shared_ptr<HostTensor> HostTensor::of(const std::vector<int64_t>&, Shape);
template std::shared_ptr<HostTensor> HostTensor::of(const std::vector<float>&, Shape);

Tensors Session::run(const Tensors& inputs, const std::set<std::string>& host) {
    check_tensors(concat({"stage ", repr(stage_), " input"}), record_.inputs, inputs);
    Tensors outputs = compute(inputs, host);
    std::vector<TensorSpec> specs = record_.inputs;
    specs.insert(specs.end(), record_.outputs.begin(), record_.outputs.end());
    Tensors tensors = inputs;
    tensors.insert(outputs.begin(), outputs.end());
    try {
        check_tensors(concat({"stage ", repr(stage_)}), specs, tensors);
    } catch (const Error& error) {
        fail(NERVE_BUNDLE, {error.what(), "; the graph is not what its manifest says, rebuild the bundle"});
    }
    return outputs;
}

std::string shape_text(const Shape& shape) {
    std::string text = "(";
    for (size_t place = 0; place < shape.size(); ++place) text += (place > 0 ? ", " : "") + decimal(shape[place]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

std::string spec_text(const TensorSpec& spec) {
    std::string text = concat({spec.dtype, " ("});
    for (size_t place = 0; place < spec.axes.size(); ++place) text += (place > 0 ? ", " : "") + axis_text(spec.axes[place]);
    return concat({text, ")"});
}

const StageRecord& stage_record(const Manifest& manifest, const std::string& stage) {
    const auto found = manifest.stages.find(stage);
    if (found != manifest.stages.end()) return found->second;
    std::string known;
    for (const auto& [name, record] : manifest.stages) known += (known.empty() ? "" : ", ") + name;
    fail(NERVE_BUNDLE, {"the bundle has no stage ", repr(stage), ", only ", known, "; rebuild it"});
}

}  // namespace nerve
