#include "strict_json.h"

#include <algorithm>

namespace nerve {
namespace {

// Colons outside strings, which are as many as keys, and how deep arrays and objects lie in each other.
struct Outline {
    size_t colons = 0;
    int depth = 0;
};

Outline outline_of(const std::string& text) {
    Outline outline;
    int open = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '"') in_string = !in_string;
        if (in_string) {
            if (c == '\\') ++i;
            continue;
        }
        outline.colons += c == ':';
        open += (c == '[' || c == '{') - (c == ']' || c == '}');
        outline.depth = std::max(outline.depth, open);
    }
    return outline;
}

size_t keys_of(const Json& json) {
    size_t keys = 0;
    if (const Json::array_t* array = array_in(&json)) {
        for (const Json& inner : *array) keys += keys_of(inner);
    }
    if (const Json::object_t* object = object_in(&json)) {
        keys += object->size();
        for (const auto& field : *object) keys += keys_of(field.second);
    }
    return keys;
}

}  // namespace

std::optional<Json> strict_json(const std::string& text, int depth_limit) {
    // The library would skip a byte order mark and end at a zero byte; neither is JSON.
    if (text.compare(0, 1, "\xef") == 0 || text.find('\0') != text.npos) return std::nullopt;
    const Outline outline = outline_of(text);
    if (outline.depth > depth_limit) return std::nullopt;
    Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded() || keys_of(json) != outline.colons) return std::nullopt;
    return json;
}

const Json* member(const Json& json, const char* key) {
    const Json::object_t* object = object_in(&json);
    if (!object) return nullptr;
    const auto found = object->find(key);
    return found == object->end() ? nullptr : &found->second;
}

const std::string* string_in(const Json* json) { return json ? json->get_ptr<const std::string*>() : nullptr; }
const Json::array_t* array_in(const Json* json) { return json ? json->get_ptr<const Json::array_t*>() : nullptr; }
const Json::object_t* object_in(const Json* json) { return json ? json->get_ptr<const Json::object_t*>() : nullptr; }
const uint64_t* number_in(const Json* json) { return json ? json->get_ptr<const uint64_t*>() : nullptr; }

bool is_set(const Json* json) {
    if (!json || json->is_null()) return false;
    if (const bool* flag = json->get_ptr<const bool*>()) return *flag;
    const std::string* text = string_in(json);
    return !text || !text->empty();
}

}  // namespace nerve
