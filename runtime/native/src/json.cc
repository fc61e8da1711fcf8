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
    size_t keys = json.is_object() ? json.size() : 0;
    if (json.is_structured()) {
        for (const Json& inner : json) keys += keys_of(inner);
    }
    return keys;
}

}  // namespace

Json parse_json(std::string_view text) {
    try {
        return Json::parse(text.data(), text.data() + text.size());
    } catch (const Json::exception& error) {
        throw std::invalid_argument(error.what());
    }
}

std::optional<Json> strict_json(std::string_view text, int depth_limit) {
    if (text.substr(0, 1) == "\xef") return std::nullopt;  // a byte order mark, which the library would skip
    const Outline outline = outline_of(text);
    if (outline.depth > depth_limit) return std::nullopt;
    try {
        Json json = parse_json(text);
        if (keys_of(json) == outline.colons) return json;
    } catch (const std::invalid_argument&) {  // the caller's message says all that there is to say
    }
    return std::nullopt;
}

}  // namespace nerve
