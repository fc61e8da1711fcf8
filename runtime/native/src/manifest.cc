#include "manifest.h"

#include <algorithm>
#include <stdexcept>

#include "error.h"
#include "json_fields.h"
#include "labels.h"
#include "manifest_rules.h"
#ifdef NERVE_HAVE_NVINFER
#include "engine_records.h"
#endif

namespace nerve {

namespace {

constexpr int JSON_DEPTH_LIMIT = 32;
constexpr int64_t SIDE_LIMIT = 8192;
constexpr int64_t SIZE_LIMIT = int64_t{1} << 24;
constexpr int64_t STEPS_LIMIT = 1000;  // of a walk, each a node of its graph
constexpr int64_t BATCH_LIMIT = 32;    // frames of a run

// The path of a file: relative, with forward slashes, inside the bundle.
std::string read_path(const Field& field) {
    const std::string path = field.string();
    if (!is_plain_relative(path)) field.refuse({path_refusal(path)});
    return path;
}

std::vector<std::string> read_strings(const Field& field) {
    std::vector<std::string> strings;
    for (const Field& element : field.elements()) strings.push_back(element.string());
    return strings;
}

// Above 0 and below 2^24.
int read_size(const Field& field) {
    const int64_t value = field.integer();
    if (value <= 0) field.refuse({"Input should be greater than 0"});
    if (value >= SIZE_LIMIT) field.refuse({"Input should be less than ", decimal(SIZE_LIMIT)});
    return static_cast<int>(value);
}

void read_sides(const Field& field, int (&hw)[2]) {
    const std::vector<Field> sides = field.elements();
    for (size_t place = 0; place < 2; ++place) {
        if (place >= sides.size())
            throw InvalidField{concat({field.where(), ".", decimal(static_cast<int64_t>(place))}), "Field required"};
        const int64_t side = sides[place].integer();
        if (side <= 0) sides[place].refuse({"Input should be greater than 0"});
        if (side > SIDE_LIMIT) sides[place].refuse({"Input should be less than or equal to ", decimal(SIDE_LIMIT)});
        hw[place] = static_cast<int>(side);
    }
    if (sides.size() > 2) field.refuse({"Tuple should have at most 2 items after validation, not ", decimal(sides.size())});
}

double read_probability(const Field& field) {
    const double value = field.at_least(0);
    if (value > 1) field.refuse({"Input should be less than or equal to 1"});
    return value;
}

TensorSpec read_tensor(const Field& field) {
    field.expect_object();
    TensorSpec spec;
    spec.name = field.at("name").string();
    if (spec.name.empty()) field.at("name").refuse({"String should have at least 1 character"});
    spec.dtype = field.at("dtype").choice("uint8, uint16, bool, int64, float32");
    const Field axes = field.at("axes");
    for (const Field& axis : axes.elements()) {
        if (axis.json().is_string())
            spec.axes.push_back({false, 0, axis.string()});
        else if (axis.json().is_integer())
            spec.axes.push_back({true, axis.integer(), ""});
        else
            throw InvalidField{concat({axis.where(), ".int"}), "Input should be a valid integer"};
    }
    field.refuse_others("name dtype axes");
    return spec;
}

std::vector<TensorSpec> read_tensors(const Field& field) {
    std::vector<TensorSpec> specs;
    for (const Field& element : field.elements()) specs.push_back(read_tensor(element));
    return specs;
}

StageRecord read_stage(const Field& field) {
    field.expect_object();
    StageRecord record;
    record.onnx = read_path(field.at("onnx"));
    if (field.has("external_data")) {
        const Field paths = field.at("external_data");
        for (const Field& path : paths.elements()) record.external_data.push_back(read_path(path));
    }
    const Field spec = field.at("spec");
    spec.expect_object();
    record.inputs = read_tensors(spec.at("inputs"));
    record.outputs = read_tensors(spec.at("outputs"));
    spec.refuse_others("inputs outputs");
    field.at("gmac").at_least(0);
    field.refuse_others("onnx external_data spec gmac");
    check_tensor_sizes(field, record);
    return record;
}

std::map<std::string, StageRecord> read_stages(const Field& field) {
    const std::vector<std::string> known = split(STAGE_NAMES, ", ");
    std::map<std::string, StageRecord> stages;
    for (const Field& value : field.values()) {
        const std::string& name = field.key(stages.size());
        if (std::find(known.begin(), known.end(), name) == known.end())
            throw InvalidField{concat({value.where(), ".[key]"}), concat({"Input should be ", listed_choices(known)})};
        stages[name] = read_stage(value);
    }
    return stages;
}

// Constants that are baked into the graphs; the runtime reads two, the others are for the record.
void read_baked(const Field& field, Method& method) {
    field.expect_object();
    method.steps = static_cast<int>(field.at("steps").integer(1, STEPS_LIMIT));
    method.warm_steps = static_cast<int>(field.at("warm_steps").integer(1, STEPS_LIMIT));
    for (const Field& value : field.values()) {
        const Json& json = value.json();
        const auto all = [&json](bool (Json::*fits)() const) {
            return std::all_of(json.elements().begin(), json.elements().end(),
                               [fits](const Json& entry) { return (entry.*fits)(); });
        };
        const bool is_list = json.is_array() && (all(&Json::is_integer) || all(&Json::is_string));
        if (!is_list && !json.is_string() && !json.is_number() && !json.is_boolean())
            throw InvalidField{concat({value.where(), ".str"}), "Input should be a valid string"};
    }
}

Method read_method(const Field& field) {
    field.expect_object();
    Method method;
    method.tau = field.at("tau").above(0);
    method.alpha = field.at("alpha").at_least(0);
    if (method.alpha >= 1) field.at("alpha").refuse({"Input should be less than 1"});
    method.beta = read_probability(field.at("beta"));
    method.head_temperature = field.at("head_temperature").above(0);
    method.threshold = read_probability(field.at("threshold"));
    method.readout = field.has("readout") ? field.at("readout").choice("bilinear, guided") : "bilinear";
    read_baked(field.at("baked"), method);
    field.refuse_others("tau alpha beta head_temperature threshold readout baked");
    return method;
}

Geometry read_geometry(const Field& field) {
    field.expect_object();
    Geometry geometry;
    read_sides(field.at("working_hw"), geometry.working_hw);
    read_sides(field.at("grid_hw"), geometry.grid_hw);
    geometry.pooled_keys = read_size(field.at("pooled_keys"));
    geometry.heads = read_size(field.at("heads"));
    geometry.text_width = read_size(field.at("text_width"));
    geometry.max_classes = static_cast<int>(field.at("max_classes").integer(2, CLASSES_LIMIT));
    geometry.max_batch = field.has("max_batch") ? static_cast<int>(field.at("max_batch").integer(1, BATCH_LIMIT)) : 1;
    field.refuse_others("working_hw grid_hw pooled_keys heads text_width max_classes max_batch");
    return geometry;
}

VocabularyRecord read_vocabulary(const Field& field) {
    field.expect_object();
    VocabularyRecord record;
    record.tokenizer = read_path(field.at("tokenizer"));
    record.context_length = read_size(field.at("context_length"));
    record.end_token = field.at("end_token").string();
    if (field.has("unknown_token") && !field.at("unknown_token").json().is_null())
        record.unknown_token = field.at("unknown_token").string();
    if (field.has("synthetic")) field.at("synthetic").boolean();
    const Field sets = field.at("template_sets");
    for (const Field& set : sets.values()) record.template_sets[sets.key(record.template_sets.size())] = read_strings(set);
    record.default_template_set = field.at("default_template_set").string();
    field.refuse_others("tokenizer context_length end_token unknown_token synthetic template_sets default_template_set");
    check_templates(field, record);
    return record;
}

void check_weights(const Field& field) {
    for (const Field& weight : field.elements()) {
        weight.expect_object();
        for (const char* key : {"role", "source", "revision"}) weight.at(key).string();
        weight.at("sha256").sha256();
        weight.at("licence").string();
        weight.refuse_others("role source revision sha256 licence");
    }
}

std::map<std::string, FileRecord> read_files(const Field& field) {
    std::map<std::string, FileRecord> files;
    for (const Field& record : field.values()) {
        const std::string& path = field.key(files.size());
        if (!is_plain_relative(path)) throw InvalidField{concat({record.where(), ".[key]"}), path_refusal(path)};
        record.expect_object();
        const int64_t bytes = record.at("bytes").integer();
        if (bytes < 0) record.at("bytes").refuse({"Input should be greater than or equal to 0"});
        files[path] = {static_cast<uint64_t>(bytes), record.at("sha256").sha256()};
        record.refuse_others("bytes sha256");
    }
    return files;
}

void check_tool_versions(const Field& field) {
    for (const Field& version : field.values()) version.string();
}

int read_number_of(const Field& field, std::initializer_list<int> choices, const std::string& expected) {
    for (const int choice : choices)
        if (field.json().is_number() && field.json().number() == choice) return choice;
    field.refuse({"Input should be ", expected});
}

Manifest read_manifest(const Field& document) {
    document.expect_object();
    Manifest manifest;
    read_number_of(document.at("format_version"), {1}, "1");
    document.at("preset").string();
    manifest.random_weights = document.has("random_seed") && !document.at("random_seed").json().is_null();
    if (manifest.random_weights) document.at("random_seed").integer();
    manifest.opset = read_number_of(document.at("opset"), {20, 23}, "20 or 23");
    manifest.precision = document.at("precision").choice("fp32, fp16, bf16");
    document.at("plan_key").sha256();
    manifest.geometry = read_geometry(document.at("geometry"));
    manifest.method = read_method(document.at("method"));
    manifest.vocabulary = read_vocabulary(document.at("vocabulary"));
    manifest.stages = read_stages(document.at("stages"));
    check_weights(document.at("weights"));
    if (document.has("engines")) {
        manifest.engine_paths = check_engines(document.at("engines"));
#ifdef NERVE_HAVE_NVINFER
        manifest.engines = read_engines(document.at("engines"));
#endif
    }
    check_tool_versions(document.at("tool_versions"));
    manifest.files = read_files(document.at("files"));
    if (document.has("manifest_sha256") && !document.at("manifest_sha256").json().is_null())
        document.at("manifest_sha256").sha256();
    document.refuse_others(
        "format_version preset random_seed opset precision plan_key geometry method vocabulary stages weights engines "
        "tool_versions files manifest_sha256");
    check_whole(document, manifest);
    return manifest;
}

}  // namespace

Manifest parse_manifest(const std::string& path, const std::string& content) {
    const std::string not_valid = concat({path, " is not a valid manifest: "});
    try {
        const Json json = parse_json(content, JSON_DEPTH_LIMIT);
        return read_manifest(Field(json));
    } catch (const std::invalid_argument& error) {
        fail(NERVE_BUNDLE, {not_valid, "manifest: Invalid JSON: ", error.what(), "; rebuild the bundle"});
    } catch (const InvalidField& invalid) {
        const std::string where = invalid.where.empty() ? "manifest" : invalid.where;
        fail(NERVE_BUNDLE, {not_valid, where, ": ", invalid.message, "; rebuild the bundle"});
    }
}

}  // namespace nerve
