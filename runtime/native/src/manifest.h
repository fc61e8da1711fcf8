// The bundle's manifest.json, checked as nerve_runtime/bundle/manifest.py does. Specified line by line in docs/bundle.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace nerve {

struct FileRecord {
    uint64_t bytes;
    std::string sha256;  // 64 digits, lower case
};

// A size, or a letter that means the same size throughout a stage.
struct Axis {
    bool is_fixed;
    int64_t size;
    std::string letter;
};

struct TensorSpec {
    std::string name;
    std::string dtype;  // uint8, uint16, bool, int64 or float32
    std::vector<Axis> axes;
};

struct StageRecord {
    std::string onnx;
    std::vector<std::string> external_data;
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
};

struct Method {
    double tau, alpha, beta, head_temperature, threshold;
    std::string readout;  // bilinear or guided
    int steps, warm_steps;
};

struct Geometry {
    int working_hw[2];
    int grid_hw[2];
    int pooled_keys, heads, text_width, max_classes, max_batch;

    int tokens() const { return grid_hw[0] * grid_hw[1]; }

    // Whether the tensors of a stage have the axis of several frames in front.
    bool batches(const std::string& stage) const;
};

// How class names become token ids.
struct VocabularyRecord {
    std::string tokenizer;  // file of the bundle
    int context_length;
    std::string end_token;
    std::optional<std::string> unknown_token;
    std::map<std::string, std::vector<std::string>> template_sets;
    std::string default_template_set;
};

// Sizes of an input that an engine takes; of `size_hw` its values.
struct SizeRange {
    std::string name;
    std::vector<int64_t> least, usual, greatest;  // of one length, at least 1
};

struct EngineRecord {
    std::string stage, target, path, onnx_sha256, backend_version, gpu, os_arch, parity;
    std::vector<SizeRange> profile;
};

struct Manifest {
    bool random_weights;
    int opset;
    std::string precision;
    Geometry geometry;
    Method method;
    VocabularyRecord vocabulary;
    std::map<std::string, StageRecord> stages;
    std::vector<std::string> engine_paths;
    std::vector<EngineRecord> engines;  // read by builds with TensorRT only
    std::map<std::string, FileRecord> files;
};

// Check the content of a manifest.json; `path` is named in messages. Raises BundleError.
Manifest parse_manifest(const std::string& path, const std::string& content);

// Read and check `folder`/manifest.json; files are checked by verify_file, before any parser sees them.
// Raises BundleError.
Manifest load_manifest(const std::string& folder);

// The path of a file of the bundle, after comparing its size and SHA-256 with the manifest. Raises BundleError.
std::string verify_file(const std::string& folder, const Manifest& manifest, const std::string& relative);

// Every file that the manifest lists, but compiled engines. Raises BundleError.
void verify_files(const std::string& folder, const Manifest& manifest);

}  // namespace nerve
