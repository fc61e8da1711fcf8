#include "nvinfer_backend.h"

#include <cstring>
#include <system_error>

#include "engine_records.h"
#include "error.h"
#include "files.h"
#include "nvinfer_session.h"

namespace nerve {

namespace {

constexpr int OLDEST_MAJOR = 10, NEWEST_MAJOR = 11;

// All parts: engines are bound to them.
std::string library_version() {
    return concat({decimal(getInferLibMajorVersion()), ".", decimal(getInferLibMinorVersion()), ".",
                   decimal(getInferLibPatchVersion()), ".", decimal(getInferLibBuildVersion())});
}

std::string read_engine(const std::string& path, uint64_t bytes) {
    std::string content;
    try {
        content = read_file(path, bytes);
    } catch (const std::system_error& error) {
        fail(NERVE_BUNDLE, {path, " cannot be read: ", std::strerror(error.code().value()), "; check its path and rights"});
    }
    if (content.size() != bytes) fail(NERVE_BUNDLE, {path, " cannot be read as a whole; copy the bundle again"});
    return content;
}

class NvinferBackend : public Backend {
   public:
    NvinferBackend(std::string folder, const Manifest& manifest, std::shared_ptr<NvinferState> state, Machine machine)
        : folder_(std::move(folder)),
          manifest_(manifest),
          state_(std::move(state)),
          machine_(std::move(machine)),
          class_slots_(profile_limit(folder_, manifest, "scores", "class_mask", machine_)),
          readout_limit_px_(profile_limit(folder_, manifest, "readout", "size_hw", machine_)) {}

    std::string describe() const override {
        return concat({"tensorrt: TensorRT ", machine_.tensorrt_version, ", ", machine_.gpu});
    }

    std::unique_ptr<Session> open_session(const std::string& stage) override;
    TensorPtr upload(std::shared_ptr<const HostTensor> tensor) override;
    void stop() override { state_->stopped = true; }
    std::optional<int> class_slots() const override { return class_slots_; }
    std::optional<int> readout_limit_px() const override { return readout_limit_px_; }

   private:
    void require_loaded(bool loaded, const std::string& what) const;

    const std::string folder_;
    const Manifest& manifest_;
    const std::shared_ptr<NvinferState> state_;
    const Machine machine_;
    const std::optional<int> class_slots_, readout_limit_px_;
};

std::unique_ptr<Session> NvinferBackend::open_session(const std::string& stage) {
    const EngineRecord& record = approved_engine(folder_, manifest_, stage, machine_, default_ledger_path());
    const std::string path = verify_file(folder_, manifest_, record.path);
    const std::string content = read_engine(path, manifest_.files.at(record.path).bytes);
    state_->gpu->use();
    const std::lock_guard<std::mutex> lock(state_->gpu->mutex());
    state_->logger.clear();
    // setEngineHostCodeAllowed is left as it is, false: version-compatible engines carry code for the processor.
    std::unique_ptr<nvinfer1::ICudaEngine> engine(state_->runtime->deserializeCudaEngine(content.data(), content.size()));
    require_loaded(engine != nullptr, concat({"cannot load ", record.path}));
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    require_loaded(context != nullptr, concat({"cannot prepare ", record.path}));
    return std::make_unique<NvinferSession>(stage, stage_record(manifest_, stage), record, state_, std::move(engine),
                                            std::move(context));
}

void NvinferBackend::require_loaded(bool loaded, const std::string& what) const {
    if (loaded) return;
    const std::string message = state_->logger.last_errors();
    const std::string text = concat({"TensorRT ", machine_.tensorrt_version, " ", what, ": ", message});
    if (is_out_of_memory(message)) fail(NERVE_RESOURCE, {text, GPU_MEMORY_ADVICE});
    fail(NERVE_COMPATIBILITY, {text, "; build it again with: ", build_command(folder_), " --force"});
}

TensorPtr NvinferBackend::upload(std::shared_ptr<const HostTensor> tensor) {
    state_->gpu->use();
    const std::lock_guard<std::mutex> lock(state_->gpu->mutex());
    return state_->gpu->upload(*tensor);
}

}  // namespace

std::unique_ptr<Backend> open_nvinfer_backend(const std::string& folder, const Manifest& manifest, int device) {
    const std::string version = library_version();
    if (getInferLibMajorVersion() < OLDEST_MAJOR || getInferLibMajorVersion() > NEWEST_MAJOR)
        fail(NERVE_COMPATIBILITY, {"TensorRT ", version,
                                   " is installed, expected version 10 or 11; install one with: "
                                   "pip install 'nerve-deploy[trt]'"});
    const auto state = std::shared_ptr<NvinferState>(new NvinferState{std::make_shared<Gpu>(device), {}, {}});
    state->runtime.reset(nvinfer1::createInferRuntime(state->logger));
    if (!state->runtime)
        fail(NERVE_COMPATIBILITY, {"TensorRT ", version, " cannot start: ", state->logger.last_errors(),
                                   "; check that the library was built with the headers of this version"});
    const Machine machine = {version, state->gpu->capability(), this_os_arch()};
    return std::make_unique<NvinferBackend>(folder, manifest, state, machine);
}

}  // namespace nerve
