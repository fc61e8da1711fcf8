#include "graphs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "error.h"
#include "labels.h"
#include "readout.h"
#include "unicode.h"

namespace nerve {

namespace {

const char* readout_stage(const std::string& readout) { return readout == "guided" ? "readout_guided" : "readout"; }

void refuse_missing(const Manifest& manifest, const std::vector<std::string>& stages, const std::string& option,
                    const std::string& value) {
    std::string missing;
    for (const std::string& stage : stages)
        if (manifest.stages.count(stage) == 0) missing += (missing.empty() ? "" : ", ") + stage;
    if (!missing.empty())
        fail(NERVE_BUNDLE, {"the bundle has no graph ", missing, ", which ", option, "=", repr(value),
                            " needs; build it again with this version, or choose another `", option, "`"});
}

// The stage that gives W between keyframes: from the frame's colours, or else from the keyframe.
std::string near_affinity(const Manifest& manifest) {
    for (const char* stage : {"local", "local_carried"})
        if (manifest.stages.count(stage) > 0) return stage;
    fail(NERVE_BUNDLE, {"the bundle has no graph local or local_carried, which between='follow' needs; build it again with this "
                        "version, or choose another `between`"});
}

template <typename Named>
bool has_name(const std::vector<Named>& specs, const std::string& name) {
    return std::any_of(specs.begin(), specs.end(), [&](const Named& spec) { return spec.name == name; });
}

// The chosen rows of scores (c, p).
std::shared_ptr<HostTensor> chosen_rows(const Tensor& scores, const std::vector<int>& rows) {
    const size_t row_bytes = static_cast<size_t>(scores.shape[1]) * sizeof(float);
    auto chosen = std::make_shared<HostTensor>(ElementType::FLOAT32, Shape{static_cast<int64_t>(rows.size()), scores.shape[1]});
    const auto* from = static_cast<const uint8_t*>(scores.host_view());
    for (size_t place = 0; place < rows.size(); ++place)
        std::memcpy(chosen->bytes.data() + place * row_bytes, from + static_cast<size_t>(rows[place]) * row_bytes, row_bytes);
    return chosen;
}

// A plane of the size that was read out to the frame's size.
template <typename Level>
void write_plane(const Level* plane, const Shape& hw, const ReadOutTarget& target, Level* to) {
    if (hw[0] == target.height && hw[1] == target.width)
        std::copy_n(plane, element_count(hw), to);
    else
        enlarge(plane, {static_cast<int>(hw[0]), static_cast<int>(hw[1])}, to, {target.height, target.width});
}

// Values of a graph are places in `rows`, or no label.
template <typename Label, typename Value>
void write_labels(const Tensor& values, const std::vector<int>& rows, const ReadOutTarget& target) {
    std::vector<Label> table(size_t{ignore_label<Value>()} + 1, ignore_label<Label>());
    for (size_t place = 0; place < std::min(rows.size(), table.size() - 1); ++place)
        table[place] = static_cast<Label>(rows[place]);
    std::vector<Label> labels(element_count(values.shape));
    const Value* given = values.values<Value>();
    for (size_t place = 0; place < labels.size(); ++place) labels[place] = table[given[place]];
    write_plane(labels.data(), values.shape, target, static_cast<Label*>(target.labels));
}

// The rows of each class, filled up to `slots`: the new ones repeat class 0's, and are masked off.
// Raises UsageError: there are more classes than slots.
std::vector<int64_t> padded_rows(const TextBank& bank, int64_t slots) {
    if (bank.classes > slots)
        fail(NERVE_USAGE,
             {decimal(bank.classes), " classes do not fit the ", decimal(slots), " slots of this engine; name fewer classes"});
    std::vector<int64_t> rows = bank.class_rows;
    rows.reserve(static_cast<size_t>(slots * bank.synonyms));
    for (int64_t place = 0; place < (slots - bank.classes) * bank.synonyms; ++place)
        rows.push_back(bank.class_rows[static_cast<size_t>(place % bank.synonyms)]);
    return rows;
}

bool all_finite(const Tensor& scores) {
    const float* values = scores.values<float>();
    return std::all_of(values, values + element_count(scores.shape), [](float value) { return std::isfinite(value); });
}

}  // namespace

Graphs::Graphs(const Manifest& manifest, Backend& backend, const Temporal& temporal, const std::string& readout)
    : manifest_(manifest), backend_(backend), readout_(readout) {
    const std::string last = readout_stage(readout);
    std::vector<std::string> stages = temporal.stages(last);
    refuse_missing(manifest, {last}, "readout", readout);
    refuse_missing(manifest, stages, "between", between_name(temporal.between));
    if (std::find(stages.begin(), stages.end(), "walk_carried") != stages.end()) stages.push_back(near_affinity(manifest));
    if (!has_name(manifest.stages.at(last).outputs, "finite"))
        fail(NERVE_BUNDLE, {"the bundle's graph ", last, " has no output 'finite'; build it again with this version"});
    one_tower_ = has_name(manifest.stages.at("scores").inputs, "patch_features");
    for (const std::string& stage : stages) stages_[stage].session = backend.open_session(stage);
}

VocabularyPtr Graphs::vocabulary(TextBank bank, const Constants& constants) {
    const auto scalar = [&](float value) { return upload(std::vector<float>{value}, {}); };
    auto vocabulary = std::make_shared<ActiveVocabulary>();
    const int64_t slots = backend_.class_slots() ? *backend_.class_slots() : bank.classes;
    auto mask = std::make_shared<HostTensor>(ElementType::BOOL, Shape{slots});
    const std::vector<int64_t> class_rows = padded_rows(bank, slots);
    std::fill_n(mask->bytes.begin(), bank.classes, uint8_t{1});
    vocabulary->embeddings.set("text_embeddings", upload(bank.text_embeddings, {bank.rows, bank.width}))
        .set("class_rows", upload(class_rows, {slots, bank.synonyms}))
        .set("class_mask", backend_.upload(mask));
    vocabulary->scalars.set("tau", scalar(constants.tau))
        .set("alpha", scalar(constants.alpha))
        .set("beta", scalar(constants.beta))
        .set("head_temperature", scalar(constants.head_temperature))
        .set("threshold", scalar(bank.has_background ? constants.threshold : 0.0F));
    vocabulary->bank = std::move(bank);
    return vocabulary;
}

Tensors ActiveVocabulary::walk_scalars() const {
    return Tensors().set("alpha", scalars.at("alpha")).set("beta", scalars.at("beta"));
}

TensorPtr Graphs::constant(float value) {
    const std::lock_guard<std::mutex> lock(constants_mutex_);
    for (const auto& [kept_value, tensor] : constants_)
        if (kept_value == value) return tensor;
    constants_.emplace_back(value, upload(std::vector<float>{value}, {}));
    return constants_.back().second;
}

Tensors Graphs::run(const std::string& stage, const Tensors& inputs, Names host) {
    Stage& opened = stages_.at(stage);
    const std::lock_guard<std::mutex> lock(opened.mutex);
    return opened.session->run(inputs, host);
}

TensorPtr Graphs::seed_scores(const TensorPtr& seen, const ActiveVocabulary& vocabulary) {
    Tensors inputs = vocabulary.embeddings;
    inputs.set(one_tower_ ? "patch_features" : "frame", seen).set("tau", vocabulary.scalars.at("tau"));
    return run("scores", inputs).at("seed_scores");
}

bool Graphs::read_out(TensorPtr scores, const TensorPtr& working, const ActiveVocabulary& vocabulary,
                      const ReadOutTarget& target) {
    const int64_t classes = backend_.class_slots() ? *backend_.class_slots() : vocabulary.bank.classes;
    require_output(*scores, "label_scores", ElementType::FLOAT32, {classes, manifest_.geometry.tokens()});
    std::vector<int> rows(static_cast<size_t>(scores->shape[0]));
    std::iota(rows.begin(), rows.end(), 0);
    if (scores->host_view() && !backend_.class_slots()) {
        if (!all_finite(*scores)) return false;
        const auto& grid_hw = manifest_.geometry.grid_hw;
        rows = possible_winners(scores->values<float>(), static_cast<int>(rows.size()), {grid_hw[0], grid_hw[1]}, readout_,
                                vocabulary.bank.has_background);
        scores = backend_.upload(chosen_rows(*scores, rows));
    }
    const auto [height, width] = readout_size_hw(static_cast<int>(scores->shape[0]), {target.height, target.width},
                                                 backend_.readout_limit_px().value_or(0));
    Tensors inputs;
    inputs.set("label_scores", scores)
        .set("size_hw", HostTensor::of(std::vector<int64_t>{height, width}, {2}))
        .set("threshold", vocabulary.scalars.at("threshold"));
    if (readout_ == "guided") inputs.set("frame", working);
    const Tensors outputs = run(readout_stage(readout_), inputs, {"labels", "confidence", "finite"});
    const Tensor &finite = *outputs.at("finite"), &labels = *outputs.at("labels"), &confidence = *outputs.at("confidence");
    const ElementType label_type = label_bytes(manifest_.geometry.max_classes) == 1 ? ElementType::UINT8 : ElementType::UINT16;
    require_output(finite, "finite", ElementType::BOOL, {});
    require_output(labels, "labels", label_type, {height, width});
    require_output(confidence, "confidence", ElementType::UINT8, {height, width});
    if (!*finite.values<uint8_t>()) return false;
    const bool narrow = label_bytes(static_cast<int64_t>(vocabulary.bank.class_names.size())) == 1;
    if (labels.type == ElementType::UINT8)
        narrow ? write_labels<uint8_t, uint8_t>(labels, rows, target) : write_labels<uint16_t, uint8_t>(labels, rows, target);
    else
        narrow ? write_labels<uint8_t, uint16_t>(labels, rows, target) : write_labels<uint16_t, uint16_t>(labels, rows, target);
    if (target.confidence) write_plane(confidence.values<uint8_t>(), confidence.shape, target, target.confidence);
    return true;
}

}  // namespace nerve
