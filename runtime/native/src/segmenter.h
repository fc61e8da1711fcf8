// An opened bundle, which several videos share, and one video of it with a class list.
#pragma once

#include <memory>
#include <mutex>

#include "graphs.h"
#include "tokenizer.h"
#include "video.h"

namespace nerve {

// Class lists to vocabularies, with the bundle's tokenizer and text graph, opened when first needed; for any thread.
class TextEncoder {
   public:
    TextEncoder(std::string folder, const Manifest& manifest, Backend& backend, bool strict, Warn warn);

    // Raises UsageError: the list is not usable; BundleError: the tokenizer or the text graph is not what the manifest says.
    TextBank of_classes(const std::string& classes, const std::optional<std::string>& background);

    // Of a vocabulary file. Raises UsageError.
    TextBank of_file(const std::string& path) const;

   private:
    std::vector<float> encode(const std::vector<std::string>& prompts, const Warn& warn);
    std::string text_sha256() const;

    const std::string folder_;
    const Manifest& manifest_;
    Backend& backend_;
    const bool strict_;
    const Warn warn_;
    std::mutex mutex_;
    std::unique_ptr<PromptTokenizer> tokenizer_;
    std::unique_ptr<Session> session_;
};

// A bundle's graphs; lives as long as a segmenter that uses it.
class OpenedBundle {
   public:
    // Verifies the whole bundle before a parser sees any of it. Raises what nerve_open says.
    OpenedBundle(const std::string& folder, const nerve_params& params);

    const std::string folder;
    const Manifest manifest;
    const Temporal temporal;
    const Constants constants;
    const std::unique_ptr<Backend> backend;
    const std::string description;
    Graphs graphs;
    TextEncoder encoder;
};

class Segmenter {
   public:
    Segmenter(std::shared_ptr<OpenedBundle> bundle, VocabularyPtr vocabulary)
        : bundle_(std::move(bundle)), vocabulary_(std::move(vocabulary)), video_(bundle_->graphs, bundle_->temporal) {}

    const OpenedBundle& bundle() const { return *bundle_; }
    OpenedBundle& bundle() { return *bundle_; }
    const std::vector<std::string>& class_names() const;
    std::unique_ptr<Segmenter> new_video() const { return std::make_unique<Segmenter>(bundle_, vocabulary_); }

    void set_bank(TextBank bank);  // raises UsageError: a threshold without background words
    FrameRecord segment(const VideoFrame& frame, const ReadOutTarget& target);
    void reset() { video_.reset(); }

   private:
    const std::shared_ptr<OpenedBundle> bundle_;
    VocabularyPtr vocabulary_;  // nullptr before classes are set
    Video video_;
};

}  // namespace nerve
