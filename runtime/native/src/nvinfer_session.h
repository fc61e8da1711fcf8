// One engine of TensorRT with its execution context: tensors on the GPU in, tensors on the GPU out.
#pragma once

#include <NvInfer.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "error.h"
#include "gpu_memory.h"

namespace nerve {

// Keeps what TensorRT says, for our own messages. Called by TensorRT from any thread.
class NvinferLogger : public nvinfer1::ILogger {
   public:
    void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override;
    void clear();

    // The last errors, or else warnings, each once, in one line.
    std::string last_errors() const;

   private:
    mutable std::mutex mutex_;
    std::deque<std::string> errors_, warnings_;
};

// What a back end and its sessions share, in the order in which it is made; sessions keep it alive.
struct NvinferState {
    const std::shared_ptr<Gpu> gpu;
    NvinferLogger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::atomic<bool> stopped{false};
};

class NvinferSession : public Session {
   public:
    // Raises BundleError: the engine's tensors or its profile are not those of the manifest. Both records have to outlive it.
    NvinferSession(const std::string& stage, const StageRecord& record, const EngineRecord& engine_record,
                   std::shared_ptr<NvinferState> state, std::unique_ptr<nvinfer1::ICudaEngine> engine,
                   std::unique_ptr<nvinfer1::IExecutionContext> context);
    ~NvinferSession() override;

   protected:
    // Put the engine's work on the stream; waits for it, once, only where outputs are wanted on the host.
    Tensors compute(const Tensors& inputs, Names host) override;

   private:
    struct BoundTensor {
        const std::string& name;  // of the stage's record
        std::shared_ptr<const GpuTensor> tensor;
    };

    void check_names() const;
    void check_tensor(const TensorSpec& spec, bool is_input) const;
    void check_profile() const;
    void refuse_outside_profile(const Tensors& inputs) const;
    bool reads_on_host(const std::string& name) const;
    std::vector<BoundTensor> on_gpu(const Tensors& inputs);
    std::vector<BoundTensor> made_outputs(const Tensors& inputs);
    void infer_shapes(const Tensors& inputs);
    void set_size(const Tensor& size);
    void require(bool succeeded, Parts what) const;
    [[noreturn]] void refuse_mismatch(Parts what) const;

    const EngineRecord& engine_record_;
    const std::shared_ptr<NvinferState> state_;
    const std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    const std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::vector<Shape> input_shapes_, output_shapes_;  // in the record's order, as the context knows them; empty: it does not
    std::optional<Block> size_;                        // value of the input that the engine reads on the host
    Shape size_hw_;
};

}  // namespace nerve
