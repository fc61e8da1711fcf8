#include "json.h"

#include <algorithm>
#include <stdexcept>

namespace nerve {
namespace {

// Colons outside strings, which are as many as keys, and how deep arrays and objects lie in each other.
struct Outline {
    size_t colons = 0;
    int depth = 0;
};

Outline outline_of(std::string_view text) {
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

Json parse_json(std::string_view text) {
    // The parser would skip a byte order mark and end at a zero byte; neither is JSON.
    if (text.substr(0, 1) == "\xef") throw std::invalid_argument("it begins with a byte order mark");
    if (text.find('\0') != text.npos) throw std::invalid_argument("it holds a zero byte");
    try {
        return Json::parse(text.data(), text.data() + text.size());
    } catch (const Json::exception& error) {
        throw std::invalid_argument(error.what());
    }
}

std::optional<Json> strict_json(std::string_view text, int depth_limit) {
    const Outline outline = outline_of(text);
    if (outline.depth > depth_limit) return std::nullopt;
    try {
        Json json = parse_json(text);
        if (keys_of(json) == outline.colons) return json;
    } catch (const std::invalid_argument&) {  // the caller's message says all that there is to say
    }
    return std::nullopt;
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
