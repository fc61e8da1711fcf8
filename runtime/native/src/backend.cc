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

std::string axis_text(const Axis& axis) { return axis.is_fixed ? decimal(axis.size) : axis.letter; }

std::string tensor_text(const std::string& where, const TensorSpec& spec, const Tensor& tensor) {
    return concat({where, " ", repr(spec.name), " is ", dtype_name(tensor.type), " ", shape_text(tensor.shape), ", expected ",
                   spec_text(spec)});
}

using Sizes = std::vector<std::pair<std::string_view, int64_t>>;  // of axis letters

// Raises UsageError: a tensor is of another dtype or shape, or a letter takes two sizes.
void check_tensor(const std::string& where, const TensorSpec& spec, const Tensor& tensor, Sizes& sizes) {
    const Shape shape = graph_shape(spec, tensor.shape);
    if (tensor.type != element_type(spec.dtype) || shape.size() != spec.axes.size())
        fail(NERVE_USAGE, {tensor_text(where, spec, tensor)});
    for (size_t place = 0; place < shape.size(); ++place) {
        const Axis& axis = spec.axes[place];
        int64_t wanted = axis.size;
        if (!axis.is_fixed) {
            const auto is_same = [&](const auto& known) { return known.first == axis.letter; };
            const auto known = std::find_if(sizes.begin(), sizes.end(), is_same);
            wanted = known == sizes.end() ? shape[place] : known->second;
            if (known == sizes.end()) sizes.emplace_back(axis.letter, wanted);
        }
        if (shape[place] != wanted)
            fail(NERVE_USAGE, {tensor_text(where, spec, tensor), ", axis ", axis_text(axis), " being ", decimal(wanted)});
    }
}

// Raises UsageError: a tensor is missing or unknown.
void check_names(const std::string& where, const std::vector<TensorSpec>& specs, const Tensors& tensors) {
    std::vector<std::string> expected, got;
    for (const TensorSpec& spec : specs) expected.push_back(spec.name);
    for (const Tensors::Entry& entry : tensors.entries()) got.emplace_back(entry.name);
    std::sort(expected.begin(), expected.end());
    std::sort(got.begin(), got.end());
    if (got != expected) fail(NERVE_USAGE, {where, ": got tensors ", repr(got), ", expected ", repr(expected)});
}

void check_tensors(const std::string& where, const std::vector<TensorSpec>& specs, const Tensors& tensors, Sizes& sizes) {
    check_names(where, specs, tensors);
    for (const TensorSpec& spec : specs) check_tensor(where, spec, *tensors.at(spec.name), sizes);
}

}  // namespace

ElementType element_type(const std::string& dtype) {
    return std::find_if(std::begin(DTYPES), std::end(DTYPES), [&](const DtypeRecord& known) { return dtype == known.name; })
        ->type;
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

Tensors& Tensors::set(std::string_view name, const TensorPtr& tensor) {
    for (Entry& entry : entries_)
        if (entry.name == name) {
            entry.tensor = tensor;
            return *this;
        }
    entries_.push_back({name, tensor});
    return *this;
}

Tensors& Tensors::set_all(const Tensors& others) {
    for (const Entry& entry : others.entries_) set(entry.name, entry.tensor);
    return *this;
}

void Tensors::remove(std::string_view name) {
    const auto is_it = [&](const Entry& entry) { return entry.name == name; };
    entries_.erase(std::remove_if(entries_.begin(), entries_.end(), is_it), entries_.end());
}

const TensorPtr& Tensors::find(std::string_view name) const {
    static const TensorPtr none;
    for (const Entry& entry : entries_)
        if (entry.name == name) return entry.tensor;
    return none;
}

const TensorPtr& Tensors::at(std::string_view name) const {
    const TensorPtr& found = find(name);
    if (!found) fail(NERVE_BUNDLE, {"the graphs have no tensor ", repr(name), ", which the runtime needs; rebuild the bundle"});
    return found;
}

bool has_extra_axis(const TensorSpec& spec) { return !spec.axes.empty() && spec.axes[0].letter == "b" && spec.name != "frame"; }

Shape graph_shape(const TensorSpec& spec, const Shape& shape) {
    Shape taken;
    if (has_extra_axis(spec)) taken.push_back(1);
    for (const int64_t size : shape) taken.push_back(size);
    return taken;
}

bool holds(Names names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); }

Tensors Session::run(const Tensors& inputs, Names host) {
    Sizes sizes;
    const std::string where = concat({"stage ", repr(stage_)});
    check_tensors(concat({where, " input"}), record_.inputs, inputs, sizes);
    Tensors outputs = compute(inputs, host);
    try {
        check_tensors(where, record_.outputs, outputs, sizes);
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

void require_output(const Tensor& tensor, const char* name, ElementType type, const Shape& shape) {
    if (tensor.type == type && tensor.shape == shape) return;
    fail(NERVE_BUNDLE,
         {"the graphs gave ", repr(std::string_view(name)), " as ", dtype_name(tensor.type), " ", shape_text(tensor.shape),
          ", expected ", dtype_name(type), " ", shape_text(shape), "; rebuild the bundle"});
}

const StageRecord& stage_record(const Manifest& manifest, const std::string& stage) {
    const auto found = manifest.stages.find(stage);
    if (found != manifest.stages.end()) return found->second;
    std::string known;
    for (const auto& [name, record] : manifest.stages) known += (known.empty() ? "" : ", ") + name;
    fail(NERVE_BUNDLE, {"the bundle has no stage ", repr(stage), ", only ", known, "; rebuild it"});
}

}  // namespace nerve
