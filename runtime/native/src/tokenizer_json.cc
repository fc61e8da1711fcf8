// Reads tokenizer.json: a Hugging Face tokenizer of known words, or of CLIP's byte pairs.
#include <stdexcept>
#include <system_error>

#include "error.h"
#include "files.h"
#include "json.h"
#include "tokenizer_model.h"

namespace nerve {
namespace {

constexpr size_t FILE_LIMIT_BYTES = 100'000'000;
constexpr int JSON_DEPTH_LIMIT = 32;
constexpr int64_t ID_LIMIT = int64_t{1} << 31;
constexpr char CLIP_PATTERN[] = R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
constexpr char CLIP_MARKERS[] = R"(<\|startoftext\|>|<\|endoftext\|>|)";

// The file is no tokenizer.json.
struct NoTokenizer {
    std::string reason;
};

// It is one, of a kind that this library does not know.
struct UnknownKind {
    std::string part;
};

const Json& at(const Json& json, const char* key) {
    const Json* field = json.find(key);
    if (!field) throw NoTokenizer{concat({"it has no field '", std::string(key), "'"})};
    return *field;
}

const std::string& string_at(const Json& json, const char* key) {
    const Json& field = at(json, key);
    if (!field.is_string()) throw NoTokenizer{concat({"field '", std::string(key), "' is no string"})};
    return field.string();
}

const std::vector<Json>& array_at(const Json& json, const char* key) {
    const Json& field = at(json, key);
    if (!field.is_array()) throw NoTokenizer{concat({"field '", std::string(key), "' is no array"})};
    return field.elements();
}

// Whether a field is there, and neither null, false nor "".
bool is_set(const Json& json) {
    return !json.is_null() && !(json.is_boolean() && !json.boolean()) && !(json.is_string() && json.string().empty());
}

bool is_flag(const Json& json, const char* key, bool expected, bool otherwise) {
    const Json* field = json.find(key);
    return (field ? is_set(*field) : otherwise) == expected;
}

// A pattern as regular expression.
std::string pattern_at(const Json& json) { return json["pattern"]["Regex"].string(); }

int64_t id_of_json(const Json& json) {
    const int64_t id = json.integer();
    if (!json.is_integer() || id < 0 || id >= ID_LIMIT) throw NoTokenizer{"an id is no whole number from 0"};
    return id;
}

void append_normalizers(const Json& json, std::vector<Normalizer>& normalizers) {
    if (json.is_null()) return;
    const std::string& type = string_at(json, "type");
    if (type == "Sequence") {
        for (const Json& inner : array_at(json, "normalizers")) append_normalizers(inner, normalizers);
        return;
    }
    const bool joins_spaces = type == "Replace" && pattern_at(json) == "\\s+" && string_at(json, "content") == " ";
    if (type != "NFC" && type != "Lowercase" && !joins_spaces) throw UnknownKind{concat({"normalizer ", type})};
    normalizers.push_back(type == "NFC" ? Normalizer::NFC : joins_spaces ? Normalizer::SPACES : Normalizer::LOWER_CASE);
}

bool is_byte_level(const Json& json) {
    return string_at(json, "type") == "ByteLevel" && is_flag(json, "add_prefix_space", false, true) &&
           is_flag(json, "use_regex", true, true);
}

Splitting splitting_of(const Json& json) {
    if (json.is_null()) throw UnknownKind{"no pre-tokenizer"};
    const std::string& type = string_at(json, "type");
    if (type == "Whitespace") return Splitting::WORDS;
    if (is_byte_level(json)) return Splitting::BYTES;
    if (type != "Sequence") throw UnknownKind{concat({"pre-tokenizer ", type})};
    const std::vector<Json>& parts = array_at(json, "pretokenizers");
    if (parts.size() != 2 || string_at(parts[0], "type") != "Split" || !is_byte_level(parts[1]) ||
        string_at(parts[0], "behavior") != "Removed" || !is_flag(parts[0], "invert", true, false)) {
        throw UnknownKind{"a pre-tokenizer Sequence other than CLIP's"};
    }
    const std::string pattern = pattern_at(parts[0]);
    if (pattern == CLIP_PATTERN) return Splitting::CLIP;
    if (pattern == std::string(CLIP_MARKERS) + CLIP_PATTERN) return Splitting::CLIP_AND_MARKERS;
    throw UnknownKind{"a pre-tokenizer Split by a pattern other than CLIP's"};
}

void read_vocabulary(const Json& json, TokenizerModel& model) {
    const Json& tokens = at(json, "vocab");
    if (!tokens.is_object()) throw NoTokenizer{"field 'vocab' is no object"};
    for (size_t place = 0; place < tokens.keys().size(); ++place)
        model.vocabulary[tokens.keys()[place]] = id_of_json(tokens.elements()[place]);
    const Json& unknown = json["unk_token"];
    if (!unknown.is_string()) return;
    model.unknown_id = model.id_of(unknown.string());
    if (model.unknown_id == NO_TOKEN)
        throw NoTokenizer{concat({"its unknown token ", repr(unknown.string()), " is not in its vocabulary"})};
}

// The letter that stands for a byte in the vocabulary: itself where that can be printed, else one from U+0100 on.
std::array<char32_t, 256> byte_letters() {
    std::array<char32_t, 256> letters{};
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
        const bool stands_for_itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte != 0xad);
        letters[byte] = stands_for_itself ? byte : next++;
    }
    return letters;
}

// A pair of tokens, as ["a", "b"] or as "a b".
std::pair<std::string, std::string> pair_of(const Json& json) {
    const std::vector<Json>& tokens = json.elements();
    if (json.is_array() && tokens.size() == 2 && tokens[0].is_string() && tokens[1].is_string())
        return {tokens[0].string(), tokens[1].string()};
    const std::string& text = json.string();
    const size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos) throw NoTokenizer{"a merge is no pair"};
    return {text.substr(0, space), text.substr(space + 1)};
}

void read_merges(const Json& json, TokenizerModel& model) {
    uint32_t rank = 0;
    for (const Json& merge : array_at(json, "merges")) {
        const auto [first, second] = pair_of(merge);
        const std::string merged = first + second;
        for (const std::string* token : {&first, &second, &merged}) {
            if (model.id_of(*token) != NO_TOKEN) continue;
            throw NoTokenizer{concat({"token ", repr(*token), " of a merge is not in its vocabulary"})};
        }
        model.merges[pair_key(model.id_of(first), model.id_of(second))] = {rank++, model.id_of(merged)};
    }
}

void read_byte_pairs(const Json& json, TokenizerModel& model) {
    for (const char* option : {"dropout", "continuing_subword_prefix", "fuse_unk", "byte_fallback", "ignore_merges"}) {
        if (is_set(json[option])) throw UnknownKind{concat({"a BPE model with ", std::string(option)})};
    }
    model.has_byte_pairs = true;
    const std::string& suffix = json["end_of_word_suffix"].string();
    const std::array<char32_t, 256> letters = byte_letters();
    for (size_t byte = 0; byte < letters.size(); ++byte) {
        const std::string letter = encode_utf8(TextView(&letters[byte], 1));
        model.byte_ids[byte] = model.id_of(letter);
        model.last_byte_ids[byte] = model.id_of(letter + suffix);
    }
    read_merges(json, model);
    if (model.splitting == Splitting::BYTES && (!model.merges.empty() || !suffix.empty())) {
        throw UnknownKind{"a BPE model with merges and no pre-tokenizer but ByteLevel"};
    }
}

void read_model(const Json& json, TokenizerModel& model) {
    const std::string type = json.find("type") ? string_at(json, "type") : "without type";
    if (type != "WordLevel" && type != "BPE") throw UnknownKind{concat({"model ", type})};
    read_vocabulary(json, model);
    const bool has_words = type == "WordLevel";
    if (has_words != (model.splitting == Splitting::WORDS))
        throw UnknownKind{concat({"model ", type, " behind its pre-tokenizer"})};
    if (has_words && model.unknown_id == NO_TOKEN) throw UnknownKind{"model WordLevel without unknown token"};
    if (!has_words) read_byte_pairs(json, model);
}

void read_added_tokens(const Json& json, TokenizerModel& model) {
    if (!json.find("added_tokens")) return;
    for (const Json& token : array_at(json, "added_tokens")) {
        const std::string& content = string_at(token, "content");
        for (const char* option : {"single_word", "lstrip", "rstrip"}) {
            if (is_set(token[option])) throw UnknownKind{concat({"the added token ", repr(content), " with ", option})};
        }
        const int64_t id = id_of_json(at(token, "id"));
        if (model.id_of(content) != id) throw UnknownKind{concat({"the added token ", repr(content), " outside its vocabulary"})};
        const bool normalized = is_set(token["normalized"]);
        Text text = decode_utf8(content).value_or(U"");
        if (normalized) text = normalized_text(model.normalizers, text, 0).text;
        if (!text.empty()) model.added_tokens.push_back({text, id, is_set(token["special"]), normalized});
    }
}

// The id of [token, id], as RobertaProcessing has it.
int64_t id_of_pair(const std::vector<Json>& pair) {
    if (pair.size() != 2) throw NoTokenizer{"the post-processor's tokens are no pairs"};
    return id_of_json(pair[1]);
}

void read_template(const Json& json, TokenizerModel& model) {
    bool is_after = false;
    for (const Json& piece : array_at(json, "single")) {
        if (piece.find("Sequence")) {
            if (is_after) throw UnknownKind{"a post-processor that repeats the prompt"};
            is_after = true;
            continue;
        }
        const std::string& name = string_at(at(piece, "SpecialToken"), "id");
        for (const Json& id : array_at(at(at(json, "special_tokens"), name.c_str()), "ids")) {
            (is_after ? model.after : model.before).push_back(id_of_json(id));
        }
    }
    if (!is_after) throw UnknownKind{"a post-processor that leaves the prompt out"};
}

void read_post_processor(const Json& json, TokenizerModel& model) {
    if (json.is_null()) return;
    const std::string& type = string_at(json, "type");
    if (type == "RobertaProcessing") {
        model.before = {id_of_pair(array_at(json, "cls"))};
        model.after = {id_of_pair(array_at(json, "sep"))};
        return;
    }
    if (type != "TemplateProcessing") throw UnknownKind{concat({"post-processor ", type})};
    read_template(json, model);
}

TokenizerModel read_tokenizer(const std::string& path) {
    const Json json = parse_json(read_file(path, FILE_LIMIT_BYTES), JSON_DEPTH_LIMIT);
    TokenizerModel model;
    append_normalizers(json["normalizer"], model.normalizers);
    model.splitting = splitting_of(json["pre_tokenizer"]);
    read_model(at(json, "model"), model);
    read_added_tokens(json, model);
    read_post_processor(json["post_processor"], model);
    return model;
}

}  // namespace

int64_t TokenizerModel::id_of(const std::string& token) const {
    const auto found = vocabulary.find(token);
    return found == vocabulary.end() ? NO_TOKEN : found->second;
}

std::string TokenizerModel::token_of(int64_t id) const {
    for (const auto& [token, token_id] : vocabulary) {
        if (token_id == id) return token;
    }
    return "";
}

TokenizerModel load_tokenizer(const std::string& path) {
    try {
        return read_tokenizer(path);
    } catch (const std::system_error& error) {
        fail(NERVE_BUNDLE, {path, " is not a tokenizer.json: it cannot be read; rebuild the bundle"});
    } catch (const std::invalid_argument& error) {
        fail(NERVE_BUNDLE, {path, " is not a tokenizer.json: it is no JSON, ", error.what(), "; rebuild the bundle"});
    } catch (const NoTokenizer& error) {
        fail(NERVE_BUNDLE, {path, " is not a tokenizer.json: ", error.reason, "; rebuild the bundle"});
    } catch (const UnknownKind& error) {
        fail(NERVE_BUNDLE, {path, " is a tokenizer with ", error.part,
                            ", which the C library does not know; use a vocabulary file written by nerve-vocab"});
    }
}

}  // namespace nerve
