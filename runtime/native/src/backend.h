// The interface of a back end: it opens a bundle's graphs as sessions, which run on tensors by name.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manifest.h"

namespace nerve {

enum class ElementType { UINT8, UINT16, BOOL, INT64, FLOAT32 };

// Of a name such as "float32", as a manifest has it.
ElementType element_type(const std::string& dtype);
const char* dtype_name(ElementType type);
size_t element_bytes(ElementType type);
template <typename T>
ElementType element_type_of();

using Shape = std::vector<int64_t>;

size_t element_count(const Shape& shape);

// A tensor with the back end. Its values can be read only where that computes in host memory.
class Tensor {
   public:
    Tensor(ElementType type, Shape shape) : type(type), shape(std::move(shape)) {}
    virtual ~Tensor() = default;
    Tensor(const Tensor&) = delete;
    Tensor& operator=(const Tensor&) = delete;

    // The values, nullptr where they are on a device.
    virtual const void* host_view() const { return nullptr; }

    template <typename T>
    const T* values() const {
        return static_cast<const T*>(host_view());
    }

    const ElementType type;
    const Shape shape;
};

// A tensor in memory of its own.
class HostTensor : public Tensor {
   public:
    HostTensor(ElementType type, Shape shape)
        : Tensor(type, std::move(shape)), bytes(element_count(this->shape) * element_bytes(type)) {}

    const void* host_view() const override { return bytes.data(); }

    template <typename T>
    static std::shared_ptr<HostTensor> of(const std::vector<T>& values, Shape shape);

    std::vector<uint8_t> bytes;
};

using TensorPtr = std::shared_ptr<const Tensor>;

// A few tensors by name. Names are not copied: literals, or those of a manifest.
class Tensors {
   public:
    struct Entry {
        std::string_view name;
        TensorPtr tensor;
    };

    Tensors& set(std::string_view name, const TensorPtr& tensor);
    Tensors& set_all(const Tensors& others);
    void remove(std::string_view name);

    // nullptr where there is none.
    const TensorPtr& find(std::string_view name) const;

    // Raises BundleError where there is none: a graph gave outputs of other names.
    const TensorPtr& at(std::string_view name) const;

    const std::vector<Entry>& entries() const { return entries_; }

   private:
    std::vector<Entry> entries_;
};

// Outputs that a host_view is wanted of.
using Names = std::initializer_list<std::string_view>;

bool holds(Names names, std::string_view name);

// Whether a graph has one axis more than our tensors: b, of several frames, of which we run one. A frame has an axis for it.
bool has_extra_axis(const TensorSpec& spec);

// The shape that the graph takes a tensor in.
Shape graph_shape(const TensorSpec& spec, const Shape& shape);

// One opened graph; used by one thread at a time. Checks its tensors before and after each run.
class Session {
   public:
    // `record` has to outlive it.
    Session(std::string stage, const StageRecord& record) : stage_(std::move(stage)), record_(record) {}
    virtual ~Session() = default;

    // Run the graph; outputs named in `host` have a host_view.
    // Raises UsageError: an input is not as the manifest says; BundleError: an output is not, or the graph cannot run;
    // ResourceError: memory ran out.
    Tensors run(const Tensors& inputs, Names host);

   protected:
    virtual Tensors compute(const Tensors& inputs, Names host) = 0;

    const std::string stage_;
    const StageRecord& record_;
};

// Opens graphs of one bundle. `stop` may be called by any thread.
class Backend {
   public:
    virtual ~Backend() = default;

    // Library, version and device in one line.
    virtual std::string describe() const = 0;

    // Raises BundleError: a file is no graph; CompatibilityError: this library or machine cannot run it.
    virtual std::unique_ptr<Session> open_session(const std::string& stage) = 0;

    // Give a tensor to the back end once, for several runs. Raises ResourceError.
    virtual TensorPtr upload(std::shared_ptr<const HostTensor> tensor) = 0;

    // Ask the run in flight to end with an error soon; later runs fail too.
    virtual void stop() = 0;

    // The class axis that compiled engines fix, and the longest side that they read out.
    virtual std::optional<int> class_slots() const { return std::nullopt; }
    virtual std::optional<int> readout_limit_px() const { return std::nullopt; }
};

// A shape as Python writes it, and a tensor's dtype and axes.
std::string shape_text(const Shape& shape);
std::string spec_text(const TensorSpec& spec);

// Raises BundleError: a tensor that a graph gave is of another type or shape; `name` is told.
void require_output(const Tensor& tensor, const char* name, ElementType type, const Shape& shape);

// The record of a stage. Raises BundleError where the bundle has none.
const StageRecord& stage_record(const Manifest& manifest, const std::string& stage);

}  // namespace nerve
