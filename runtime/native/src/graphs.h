// The opened graphs of a bundle, shared by all its videos.
#pragma once

#include <memory>
#include <mutex>

#include "backend.h"
#include "temporal.h"
#include "vocabulary.h"

namespace nerve {

// The vocabulary in use with all that the graphs take of it; another vocabulary is another object.
struct ActiveVocabulary {
    TextBank bank;
    Tensors embeddings;  // inputs of stage `scores`: text_embeddings, class_rows, class_mask; padded to class slots
    Tensors scalars;     // tau, alpha, beta, head_temperature, threshold, float32 () each

    Tensors walk_scalars() const;
};

using VocabularyPtr = std::shared_ptr<const ActiveVocabulary>;

// Where labels and confidence (height, width) of a frame go; memory of the caller's.
struct ReadOutTarget {
    int height, width;
    void* labels;         // of label_bytes(classes) each
    uint8_t* confidence;  // may be nullptr
};

// Tensors stay with the back end from stage to stage; different stages may run in different threads.
class Graphs {
   public:
    // Raises BundleError: the bundle lacks a graph that the policy or the read-out needs.
    Graphs(const Manifest& manifest, Backend& backend, const Temporal& temporal, const std::string& readout);

    const Manifest& manifest() const { return manifest_; }
    bool has(const std::string& stage) const { return stages_.count(stage) > 0; }

    // Whether `attention` gives the patch features that `scores` takes, so that it runs on every frame.
    bool has_one_tower() const { return one_tower_; }

    template <typename T>
    TensorPtr upload(const std::vector<T>& values, Shape shape) {
        return backend_.upload(HostTensor::of(values, std::move(shape)));
    }

    // A float32 () with the back end, kept.
    TensorPtr constant(float value);

    // Raises UsageError: there are more classes than a compiled engine takes.
    VocabularyPtr vocabulary(TextBank bank, const Constants& constants);

    // Run a stage; outputs named in `host` have a host_view.
    Tensors run(const std::string& stage, const Tensors& inputs, Names host = {});

    // G of a working frame, or where one tower says both of its patch features; float32 (c, p).
    TensorPtr seed_scores(const TensorPtr& seen, const ActiveVocabulary& vocabulary);

    // Write labels and confidence of label scores float32 (c, p); false where a score is not finite.
    bool read_out(TensorPtr scores, const TensorPtr& working, const ActiveVocabulary& vocabulary, const ReadOutTarget& target);

   private:
    struct Stage {
        std::unique_ptr<Session> session;
        std::mutex mutex;  // a compiled engine has one context; two threads must not run it at once
    };

    const Manifest& manifest_;
    Backend& backend_;
    const std::string readout_;
    bool one_tower_ = false;
    std::map<std::string, Stage> stages_;
    std::vector<std::pair<float, TensorPtr>> constants_;
    std::mutex constants_mutex_;
};

}  // namespace nerve
