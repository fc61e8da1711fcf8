#include "manifest_rules.h"

#include <algorithm>
#include <set>

#include "labels.h"
#include "unicode.h"

namespace nerve {

namespace {

constexpr size_t TEMPLATE_LIMIT = 1000;  // characters, as of a word
constexpr int64_t TENSOR_ELEMENTS_LIMIT = int64_t{1} << 31;
const char* const UNPORTABLE = "\\:*?\"<>|";  // not allowed in names on every system, or of a meaning of their own

constexpr int64_t ANY = -1;  // a size that the geometry does not fix

// A shape that a tensor of a name may have in any stage.
struct KnownShape {
    std::string name;
    std::vector<int64_t> sizes;
};

// As Python writes a tuple.
std::string tuple_text(const std::vector<std::string>& entries) {
    std::string text = "(";
    for (size_t place = 0; place < entries.size(); ++place) text += (place > 0 ? ", " : "") + entries[place];
    return text + (entries.size() == 1 ? ",)" : ")");
}

std::string axes_text(const std::vector<Axis>& axes) {
    std::vector<std::string> entries;
    for (const Axis& axis : axes) entries.push_back(axis.is_fixed ? decimal(axis.size) : repr(axis.letter));
    return tuple_text(entries);
}

std::string shape_text(const std::vector<int64_t>& sizes) {
    std::vector<std::string> entries;
    for (const int64_t size : sizes) entries.push_back(size == ANY ? "any" : decimal(size));
    return tuple_text(entries);
}

// By their letters: p tokens, m pooled keys, t heads, d text width, h and w of the grid, H and W of the working frame.
std::vector<KnownShape> known_shapes(const Geometry& geometry, bool batched) {
    constexpr char SHAPES[] =
        "frame 1HW3 text_embeddings ?d head_affinity tpm head_affinity 2tp? affinity pm affinity 2p? local_affinity pm "
        "closed_sum mm local_weights 8hw seed_scores ?p label_scores ?p previous_scores ?p carried_scores ?p head_weights t "
        "head_entropies t previous_tokens 4p previous_weights 4p origin_tokens p origin_visible p";
    const auto size_of = [&](char letter) -> int64_t {
        switch (letter) {
            case 'p': return geometry.tokens();
            case 'm': return geometry.pooled_keys;
            case 't': return geometry.heads;
            case 'd': return geometry.text_width;
            case 'h': return geometry.grid_hw[0];
            case 'w': return geometry.grid_hw[1];
            case 'H': return geometry.working_hw[0];
            case 'W': return geometry.working_hw[1];
            case '?': return ANY;
            case '1': return batched ? ANY : 1;  // frames of a run
            default: return letter - '0';
        }
    };
    std::vector<KnownShape> shapes;
    for (const std::string& word : split(SHAPES, " ")) {
        if (shapes.empty() || !shapes.back().sizes.empty()) {
            shapes.push_back({word, {}});
            continue;
        }
        if (batched && word[0] != '1') shapes.back().sizes.push_back(ANY);
        for (const char letter : word) shapes.back().sizes.push_back(size_of(letter));
    }
    return shapes;
}

// Whether every axis that the geometry fixes has that size; a letter stands for any size, so it does not.
bool agree(const std::vector<Axis>& axes, const std::vector<int64_t>& sizes) {
    if (axes.size() != sizes.size()) return false;
    for (size_t place = 0; place < axes.size(); ++place)
        if (sizes[place] != ANY && (!axes[place].is_fixed || axes[place].size != sizes[place])) return false;
    return true;
}

[[noreturn]] void refuse_value(const Field& field, Parts parts) { field.refuse({"Value error, ", concat(parts)}); }

void check_axes(const Field& document, const std::string& stage, const TensorSpec& tensor, const Geometry& geometry) {
    const bool batched = geometry.batches(stage), begins = !tensor.axes.empty() && tensor.axes[0].letter == "b";
    std::string expected;
    if (begins != batched)
        expected =
            concat({"with max_batch ", decimal(geometry.max_batch), batched ? " they" : " they do not", " begin with 'b'"});
    for (const KnownShape& shape : known_shapes(geometry, batched)) {
        if (tensor.name != shape.name || begins != batched) continue;
        if (agree(tensor.axes, shape.sizes)) return;
        expected += (expected.empty() ? "geometry says " : " or ") + shape_text(shape.sizes);
    }
    if (!expected.empty())
        refuse_value(document, {"tensor ", repr(tensor.name), " of stage ", repr(stage), " has axes ", axes_text(tensor.axes),
                                ", ", expected});
}

void check_labels(const Field& document, const Manifest& manifest) {
    const int classes = manifest.geometry.max_classes;
    const std::string expected = label_bytes(classes) == 1 ? "uint8" : "uint16";
    for (const auto& [stage, record] : manifest.stages)
        for (const TensorSpec& tensor : record.outputs)
            if (tensor.name == "labels" && tensor.dtype != expected)
                refuse_value(document, {"tensor 'labels' of stage ", repr(stage), " is ", tensor.dtype, ", up to ",
                                        decimal(classes), " classes need ", expected});
}

std::vector<std::string> named_files(const Manifest& manifest) {
    std::vector<std::string> named = {manifest.vocabulary.tokenizer};
    for (const auto& [stage, record] : manifest.stages) {
        named.push_back(record.onnx);
        named.insert(named.end(), record.external_data.begin(), record.external_data.end());
    }
    named.insert(named.end(), manifest.engine_paths.begin(), manifest.engine_paths.end());
    return named;
}

void check_gpu(const Field& field) {
    const std::string gpu = field.string();
    const bool fits = (gpu.size() == 4 || gpu.size() == 5) && gpu.compare(0, 2, "sm") == 0 &&
                      std::all_of(gpu.begin() + 2, gpu.end(), [](char digit) { return digit >= '0' && digit <= '9'; });
    if (!fits) field.refuse({"String should match pattern '^sm\\d{2,3}$'"});
}

void check_profile(const Field& engine) {
    const Field profile = engine.at("profile");
    std::string wrong;  // the first; nothing is refused before all was read
    bool fits_all = true;
    for (const Field& range : profile.values()) {
        const std::vector<Field> lists = range.elements();
        bool fits = lists.size() == 3;
        for (const Field& sizes : lists) {
            for (const Field& size : sizes.elements()) size.integer();
            const size_t length = sizes.json().elements().size();
            fits = fits && length > 0 && length == lists[0].json().elements().size();
        }
        if (!fits && fits_all) wrong = profile.key(range.place());
        fits_all = fits_all && fits;
    }
    if (!fits_all)
        refuse_value(engine, {"profile of ", repr(wrong), " must be three lists of one length: least, usual, greatest sizes"});
}

void check_builder_options(const Field& field) {
    for (const Field& option : field.values())
        if (!option.json().is_string() && !option.json().is_number() && !option.json().is_boolean())
            throw InvalidField{concat({option.where(), ".str"}), "Input should be a valid string"};
}

// The path of an engine, after all else about it was checked.
std::string check_engine(const Field& field) {
    field.expect_object();
    field.at("stage").choice(STAGE_NAMES);
    field.at("target").string();
    const std::string path = field.at("path").string();
    if (!is_plain_relative(path)) field.at("path").refuse({path_refusal(path)});
    for (const char* key : {"key", "onnx_sha256"}) field.at(key).sha256();
    field.at("backend_version").string();
    check_gpu(field.at("gpu"));
    if (field.at("os_arch").string().empty()) field.at("os_arch").refuse({"String should have at least 1 character"});
    field.at("precision").string();
    check_builder_options(field.at("builder_options"));
    if (field.has("parity")) field.at("parity").choice("passed, failed, not run");
    field.refuse_others("stage target path key onnx_sha256 backend_version gpu os_arch precision profile builder_options parity");
    check_profile(field);
    return path;
}

}  // namespace

bool Geometry::batches(const std::string& stage) const {
    return max_batch > 1 && (stage == "scores" || stage == "attention" || stage == "frame");
}

bool is_plain_relative(const std::string& path) {
    if (path.empty() || path.front() == '/') return false;
    for (const char letter : path)
        if (static_cast<unsigned char>(letter) < ' ' || std::string(UNPORTABLE).find(letter) != std::string::npos) return false;
    for (size_t start = 0; start <= path.size();) {
        const size_t end = std::min(path.find('/', start), path.size());
        const std::string part = path.substr(start, end - start);
        if (part.empty() || part == "." || part == "..") return false;
        start = end + 1;
    }
    return true;
}

std::string path_refusal(const std::string& path) {
    return concat({"Value error, path ", repr(path), " must be relative, with forward slashes, and stay inside the bundle"});
}

void check_tensor_sizes(const Field& stage, const StageRecord& record) {
    for (const std::vector<TensorSpec>* specs : {&record.inputs, &record.outputs}) {
        for (const TensorSpec& tensor : *specs) {
            int64_t elements = 1;
            for (const Axis& axis : tensor.axes) {
                if (!axis.is_fixed) continue;
                elements = axis.size < 1 || axis.size > TENSOR_ELEMENTS_LIMIT / elements ? 0 : elements * axis.size;
                if (elements == 0)
                    refuse_value(stage, {"tensor ", repr(tensor.name), " has axes ", axes_text(tensor.axes),
                                         ", which no tensor of ours has"});
            }
        }
    }
}

void check_templates(const Field& vocabulary, const VocabularyRecord& record) {
    if (record.template_sets.count(record.default_template_set) == 0)
        refuse_value(vocabulary, {"default_template_set ", repr(record.default_template_set), " is not in template_sets"});
    for (const auto& [name, templates] : record.template_sets) {
        const auto holds_no_place = [](const std::string& text) {
            const size_t first = text.find("{}");
            return first == std::string::npos || text.find("{}", first + 2) != std::string::npos;
        };
        if (templates.empty() || std::any_of(templates.begin(), templates.end(), holds_no_place)) {
            const size_t shown = std::min<size_t>(3, templates.size());
            refuse_value(vocabulary, {"template set ", repr(name), " needs templates, each with {} once, it has ",
                                      repr(std::vector<std::string>(templates.begin(), templates.begin() + shown))});
        }
        size_t longest = 0;
        for (const std::string& text : templates) longest = std::max(longest, decode_leniently(text).size());
        if (longest > TEMPLATE_LIMIT)
            refuse_value(vocabulary, {"template set ", repr(name), " has a template of ", decimal(static_cast<int64_t>(longest)),
                                      " characters, expected at most ", decimal(int64_t{TEMPLATE_LIMIT})});
    }
}

std::vector<std::string> check_engines(const Field& field) {
    std::vector<std::string> paths;
    for (const Field& engine : field.elements()) paths.push_back(check_engine(engine));
    return paths;
}

void check_whole(const Field& document, const Manifest& manifest) {
    std::vector<std::string> missing, unlisted;
    for (const std::string& stage : split("attention mix readout scores text walk walk_warm", " "))
        if (manifest.stages.count(stage) == 0) missing.push_back(stage);
    if (!missing.empty()) refuse_value(document, {"stages ", repr(missing), " are missing"});
    const std::string readout = manifest.method.readout == "guided" ? "readout_guided" : "readout";
    if (manifest.stages.count(readout) == 0)
        refuse_value(document, {"method.readout is ", repr(manifest.method.readout), ", but there is no stage ", repr(readout)});
    std::set<std::string> named;
    for (const std::string& path : named_files(manifest))
        if (manifest.files.count(path) == 0) named.insert(path);
    unlisted.assign(named.begin(), named.end());
    if (!unlisted.empty()) refuse_value(document, {"files ", repr(unlisted), " are named but not listed under 'files'"});
    for (const auto& [stage, record] : manifest.stages)
        for (const std::vector<TensorSpec>* specs : {&record.inputs, &record.outputs})
            for (const TensorSpec& tensor : *specs) check_axes(document, stage, tensor, manifest.geometry);
    check_labels(document, manifest);
}

}  // namespace nerve
