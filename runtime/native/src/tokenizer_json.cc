// Reads tokenizer.json: a Hugging Face tokenizer of known words, or of CLIP's byte pairs.
#include <cstdio>
#include <memory>

#include "error.h"
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
    if (!json.is_object() || !json.contains(key)) throw NoTokenizer{concat({"it has no field '", std::string(key), "'"})};
    return json[key];
}

std::string string_at(const Json& json, const char* key) {
    if (!at(json, key).is_string()) throw NoTokenizer{concat({"field '", std::string(key), "' is no string"})};
    return json[key].get<std::string>();
}

// A string that may be left out or null.
std::string optional_string(const Json& json, const char* key) {
    return json.contains(key) && !json[key].is_null() ? string_at(json, key) : "";
}

bool is_set(const Json& json, const char* key) {
    return json.contains(key) && !json[key].is_null() && json[key] != false && json[key] != "";
}

int64_t id_of_json(const Json& json) {
    if (!json.is_number_unsigned() || json.get<uint64_t>() >= ID_LIMIT) throw NoTokenizer{"an id is no whole number from 0"};
    return json.get<int64_t>();
}

std::string read_whole(const std::string& path) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    std::string content;
    std::string chunk(1 << 16, '\0');
    while (file && content.size() <= FILE_LIMIT_BYTES) {
        const size_t count = std::fread(chunk.data(), 1, chunk.size(), file.get());
        if (count == 0) break;
        content.append(chunk, 0, count);
    }
    if (!file || std::ferror(file.get())) throw NoTokenizer{"it cannot be read"};
    if (content.size() > FILE_LIMIT_BYTES) throw NoTokenizer{"it has more than 100,000,000 bytes"};
    return content;
}

void append_normalizers(const Json& json, std::vector<Normalizer>& normalizers) {
    if (json.is_null()) return;
    const std::string type = string_at(json, "type");
    if (type == "Sequence") {
        for (const Json& inner : at(json, "normalizers")) append_normalizers(inner, normalizers);
        return;
    }
    const Json pattern = json.value("pattern", Json());
    const bool joins_spaces = type == "Replace" && pattern == Json{{"Regex", "\\s+"}} && string_at(json, "content") == " ";
    if (type != "NFC" && type != "Lowercase" && !joins_spaces) throw UnknownKind{concat({"normalizer ", type})};
    normalizers.push_back(type == "NFC" ? Normalizer::NFC : joins_spaces ? Normalizer::SPACES : Normalizer::LOWER_CASE);
}

bool is_byte_level(const Json& json) {
    return string_at(json, "type") == "ByteLevel" && json.value("add_prefix_space", Json(true)) == false &&
           json.value("use_regex", Json(true)) == true;
}

Splitting splitting_of(const Json& json) {
    if (json.is_null()) throw UnknownKind{"no pre-tokenizer"};
    const std::string type = string_at(json, "type");
    if (type == "Whitespace") return Splitting::WORDS;
    if (is_byte_level(json)) return Splitting::BYTES;
    if (type != "Sequence") throw UnknownKind{concat({"pre-tokenizer ", type})};
    const Json& parts = at(json, "pretokenizers");
    if (!parts.is_array() || parts.size() != 2 || string_at(parts[0], "type") != "Split" || !is_byte_level(parts[1]) ||
        string_at(parts[0], "behavior") != "Removed" || at(parts[0], "invert") != true) {
        throw UnknownKind{"a pre-tokenizer Sequence other than CLIP's"};
    }
    const Json& pattern = at(parts[0], "pattern");
    if (pattern == Json{{"Regex", CLIP_PATTERN}}) return Splitting::CLIP;
    if (pattern == Json{{"Regex", std::string(CLIP_MARKERS) + CLIP_PATTERN}}) return Splitting::CLIP_AND_MARKERS;
    throw UnknownKind{"a pre-tokenizer Split by a pattern other than CLIP's"};
}

void read_vocabulary(const Json& json, TokenizerModel& model) {
    if (!at(json, "vocab").is_object()) throw NoTokenizer{"field 'vocab' is no object"};
    for (const auto& [token, id] : json["vocab"].items()) model.vocabulary[token] = id_of_json(id);
    const std::string unknown = optional_string(json, "unk_token");
    if (json.contains("unk_token") && json["unk_token"].is_string()) {
        model.unknown_id = model.id_of(unknown);
        if (model.unknown_id == NO_TOKEN) throw NoTokenizer{concat({"its unknown token ", repr(unknown), " is not in its vocabulary"})};
    }
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

void read_merges(const Json& json, TokenizerModel& model) {
    if (!at(json, "merges").is_array()) throw NoTokenizer{"field 'merges' is no array"};
    uint32_t rank = 0;
    for (const Json& merge : json["merges"]) {
        std::string first, second;
        if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
            first = merge[0].get<std::string>(), second = merge[1].get<std::string>();
        } else if (merge.is_string()) {
            const auto pair = merge.get<std::string>();
            const size_t space = pair.find(' ');
            if (space == pair.npos || pair.find(' ', space + 1) != pair.npos) throw NoTokenizer{"a merge is no pair"};
            first = pair.substr(0, space), second = pair.substr(space + 1);
        } else {
            throw NoTokenizer{"a merge is no pair"};
        }
        for (const std::string& token : {first, second, first + second}) {
            if (model.id_of(token) == NO_TOKEN) throw NoTokenizer{concat({"token ", repr(token), " of a merge is not in its vocabulary"})};
        }
        model.merges[pair_key(model.id_of(first), model.id_of(second))] = {rank++, model.id_of(first + second)};
    }
}

void read_byte_pairs(const Json& json, TokenizerModel& model) {
    for (const char* option : {"dropout", "continuing_subword_prefix", "fuse_unk", "byte_fallback", "ignore_merges"}) {
        if (is_set(json, option)) throw UnknownKind{concat({"a BPE model with ", std::string(option)})};
    }
    model.has_byte_pairs = true;
    const std::string suffix = optional_string(json, "end_of_word_suffix");
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
    const std::string type = json.contains("type") ? string_at(json, "type") : "without type";
    if (type != "WordLevel" && type != "BPE") throw UnknownKind{concat({"model ", type})};
    read_vocabulary(json, model);
    const bool has_words = type == "WordLevel";
    if (has_words != (model.splitting == Splitting::WORDS)) throw UnknownKind{concat({"model ", type, " behind its pre-tokenizer"})};
    if (has_words && model.unknown_id == NO_TOKEN) throw UnknownKind{"model WordLevel without unknown token"};
    if (!has_words) read_byte_pairs(json, model);
}

void read_added_tokens(const Json& json, TokenizerModel& model) {
    if (!json.is_array()) throw NoTokenizer{"field 'added_tokens' is no array"};
    for (const Json& token : json) {
        const std::string content = string_at(token, "content");
        for (const char* option : {"single_word", "lstrip", "rstrip"}) {
            if (is_set(token, option)) throw UnknownKind{concat({"the added token ", repr(content), " with ", option})};
        }
        const int64_t id = id_of_json(at(token, "id"));
        if (model.id_of(content) != id) throw UnknownKind{concat({"the added token ", repr(content), " outside its vocabulary"})};
        const bool normalized = is_set(token, "normalized");
        Text text = decode_utf8(content).value_or(U"");
        if (normalized) text = normalized_text(model.normalizers, text, 0).text;
        if (!text.empty()) model.added_tokens.push_back({text, id, is_set(token, "special"), normalized});
    }
}

// [token, id], as RobertaProcessing has it.
int64_t id_of_pair(const Json& json) {
    if (!json.is_array() || json.size() != 2) throw NoTokenizer{"the post-processor's tokens are no pairs"};
    return id_of_json(json[1]);
}

void read_template(const Json& json, TokenizerModel& model) {
    bool is_after = false;
    for (const Json& piece : at(json, "single")) {
        if (piece.is_object() && piece.contains("Sequence")) {
            if (is_after) throw UnknownKind{"a post-processor that repeats the prompt"};
            is_after = true;
            continue;
        }
        const std::string name = string_at(at(piece, "SpecialToken"), "id");
        for (const Json& id : at(at(at(json, "special_tokens"), name.c_str()), "ids")) {
            (is_after ? model.after : model.before).push_back(id_of_json(id));
        }
    }
    if (!is_after) throw UnknownKind{"a post-processor that leaves the prompt out"};
}

void read_post_processor(const Json& json, TokenizerModel& model) {
    if (json.is_null()) return;
    const std::string type = string_at(json, "type");
    if (type == "RobertaProcessing") {
        model.before = {id_of_pair(at(json, "cls"))};
        model.after = {id_of_pair(at(json, "sep"))};
        return;
    }
    if (type != "TemplateProcessing") throw UnknownKind{concat({"post-processor ", type})};
    read_template(json, model);
}

TokenizerModel read_tokenizer(const std::string& path) {
    const std::optional<Json> json = strict_json(read_whole(path), JSON_DEPTH_LIMIT);
    if (!json || !json->is_object()) throw NoTokenizer{"it is no JSON object"};
    TokenizerModel model;
    append_normalizers(json->value("normalizer", Json()), model.normalizers);
    model.splitting = splitting_of(json->value("pre_tokenizer", Json()));
    read_model(at(*json, "model"), model);
    read_added_tokens(json->value("added_tokens", Json::array()), model);
    read_post_processor(json->value("post_processor", Json()), model);
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
    } catch (const NoTokenizer& error) {
        fail(NERVE_BUNDLE, {path, " is not a tokenizer.json: ", error.reason, "; rebuild the bundle"});
    } catch (const Json::exception&) {
        fail(NERVE_BUNDLE, {path, " is not a tokenizer.json: a field is of another type; rebuild the bundle"});
    } catch (const UnknownKind& error) {
        fail(NERVE_BUNDLE, {path, " is a tokenizer with ", error.part, ", which the C library does not know; use a vocabulary file written by nerve-vocab"});
    }
}

}  // namespace nerve
