#include "segmenter.h"

#include "class_list.h"
#include "error.h"
#ifdef NERVE_HAVE_NVINFER
#include "nvinfer_backend.h"
#endif
#include "ort_backend.h"
#include "sha256.h"

namespace nerve {

namespace {

constexpr const char* DEFAULT_LIBRARY = "libonnxruntime.so.1";

// "bundles/tiny/" and "./bundles//tiny" as Python writes a path.
std::string plain_path(const std::string& path) {
    std::string plain = path[0] == '/' ? "/" : "";
    for (size_t start = 0; start < path.size();) {
        const size_t end = std::min(path.find('/', start), path.size());
        const std::string part = path.substr(start, end - start);
        if (!part.empty() && part != ".") plain += (plain.empty() || plain.back() == '/' ? "" : "/") + part;
        start = end + 1;
    }
    return plain.empty() ? "." : plain;
}

void check_choice(const char* name, int value, int most) {
    if (value < 0 || value > most)
        fail(NERVE_USAGE, {name, " is ", decimal(value), ", expected 0 to ", decimal(most), ", see nerve.h"});
}

Temporal chosen_temporal(const nerve_params& params) {
    check_choice("between", params.between, NERVE_HOLD);
    const Temporal temporal = {params.keyframe_every,
                               params.longest_s,
                               static_cast<nerve_between>(params.between),
                               params.scores_every,
                               params.smoothing,
                               params.change,
                               params.cut};
    temporal.check();
    return temporal;
}

std::string chosen_readout(const nerve_params& params, const Method& method) {
    check_choice("readout", params.readout, NERVE_GUIDED);
    if (params.readout == NERVE_READOUT_DEFAULT) return method.readout;
    return params.readout == NERVE_GUIDED ? "guided" : "bilinear";
}

std::unique_ptr<Backend> open_backend(const std::string& folder, const Manifest& manifest, const nerve_params& params) {
    check_choice("provider", params.provider, NERVE_TENSORRT_NATIVE);
    if (params.threads < 0)
        fail(NERVE_USAGE, {"threads is ", decimal(params.threads), ", expected 0 (the library chooses) or more"});
    if (params.device < 0) fail(NERVE_USAGE, {"device is ", decimal(params.device), ", expected the number of a GPU, 0 or more"});
    verify_files(folder, manifest);
    if (params.provider == NERVE_TENSORRT_NATIVE) {
#ifdef NERVE_HAVE_NVINFER
        return open_nvinfer_backend(folder, manifest, params.device);
#else
        fail(NERVE_COMPATIBILITY, {"this library was built without TensorRT's headers, so it cannot run engines; use "
                                   "NERVE_TENSORRT, ONNX Runtime's own, or build it where NvInfer.h is found"});
#endif
    }
    OrtOptions options;
    options.library = params.onnxruntime && *params.onnxruntime ? params.onnxruntime : DEFAULT_LIBRARY;
    options.engine_cache = params.engine_cache ? params.engine_cache : "";
    options.provider = static_cast<nerve_provider>(params.provider);
    options.device = params.device;
    options.threads = params.threads;
    options.spinning = params.spinning != 0;
    return open_ort_backend(folder, manifest, options);
}

Warn warning_function(const nerve_params& params) {
    return [call = params.on_warning, user = params.user](const std::string& message) {
        if (call) call(user, message.c_str());
    };
}

}  // namespace

TextEncoder::TextEncoder(std::string folder, const Manifest& manifest, Backend& backend, bool strict, Warn warn)
    : folder_(std::move(folder)), manifest_(manifest), backend_(backend), strict_(strict), warn_(std::move(warn)) {}

std::string TextEncoder::text_sha256() const {
    const StageRecord& stage = manifest_.stages.at("text");
    std::string hashes = manifest_.files.at(stage.onnx).sha256;
    for (const std::string& path : stage.external_data) hashes += manifest_.files.at(path).sha256;
    hashes += manifest_.files.at(manifest_.vocabulary.tokenizer).sha256;
    return sha256_hex(hashes.data(), hashes.size());
}

TextBank TextEncoder::of_file(const std::string& path) const {
    TextBank bank = load_vocabulary(plain_path(path), text_sha256(), manifest_.geometry.text_width);
    refuse_too_many(static_cast<int64_t>(bank.class_names.size()), manifest_.geometry.max_classes);
    return bank;
}

TextBank TextEncoder::of_classes(const std::string& classes, const std::optional<std::string>& background) {
    std::vector<std::string> warnings;
    const Warn keep = [&](const std::string& warning) { warnings.push_back(warning); };
    const auto embed = [&](const std::vector<std::string>& prompts) { return encode(prompts, keep); };
    const auto tell_warnings = [&] {  // not under the lock: who is told may set classes itself
        for (const std::string& warning : warnings) warn_(warning);
    };
    TextBank bank;
    try {
        const ClassList list = class_list_of(classes, background, manifest_.geometry.max_classes, strict_, keep);
        const std::lock_guard<std::mutex> lock(mutex_);
        bank = build_text_bank(list, chosen_templates(manifest_.vocabulary), embed);
        list.refuse_without_rival();
    } catch (const Error&) {
        tell_warnings();
        throw;
    }
    tell_warnings();
    return bank;
}

std::vector<float> TextEncoder::encode(const std::vector<std::string>& prompts, const Warn& warn) {
    const VocabularyRecord& record = manifest_.vocabulary;
    if (!tokenizer_) tokenizer_ = std::make_unique<PromptTokenizer>(verify_file(folder_, manifest_, record.tokenizer), record);
    const std::vector<int64_t> ids = tokenizer_->encode(prompts, strict_, warn, chosen_templates(record));
    if (!session_) session_ = backend_.open_session("text");
    const auto count = static_cast<int64_t>(prompts.size());
    const Tensors outputs =
        session_->run(Tensors().set("token_ids", HostTensor::of(ids, {count, record.context_length})), {"text_embeddings"});
    const Tensor& embeddings = *outputs.at("text_embeddings");
    require_output(embeddings, "text_embeddings", ElementType::FLOAT32, {count, manifest_.geometry.text_width});
    return std::vector<float>(embeddings.values<float>(), embeddings.values<float>() + element_count(embeddings.shape));
}

OpenedBundle::OpenedBundle(const std::string& given, const nerve_params& params)
    : folder(plain_path(given)),
      manifest(load_manifest(folder)),
      temporal(chosen_temporal(params)),
      constants(chosen_constants(params, manifest.method)),
      backend(open_backend(folder, manifest, params)),
      description(backend->describe()),
      graphs(manifest, *backend, temporal, chosen_readout(params, manifest.method)),
      encoder(folder, manifest, *backend, params.strict != 0, warning_function(params)) {}

const std::vector<std::string>& Segmenter::class_names() const {
    static const std::vector<std::string> none;
    return vocabulary_ ? vocabulary_->bank.class_names : none;
}

void Segmenter::set_bank(TextBank bank) {
    if (bundle_->constants.threshold_given && !bank.has_background)
        fail(NERVE_USAGE, {"a threshold gives pixels to the background; name background words, or leave it out"});
    vocabulary_ = bundle_->graphs.vocabulary(std::move(bank), bundle_->constants);
}

FrameRecord Segmenter::segment(const VideoFrame& frame, const ReadOutTarget& target) {
    if (!vocabulary_) fail(NERVE_USAGE, {"no classes are set; call nerve_set_classes or nerve_set_vocabulary first"});
    return video_.segment(frame, vocabulary_, target);
}

}  // namespace nerve
