// The one place that is compiled with the JSON parser, which takes 50 kB.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace nerve {

using Json = nlohmann::json;

// The value of a JSON text. Raises std::invalid_argument, which says where it is none.
Json parse_json(std::string_view text);

// The value of a JSON text that cannot mean two things or nest without end; none for what is no JSON, has a key twice in
// one object, or is nested deeper than the limit.
std::optional<Json> strict_json(std::string_view text, int depth_limit);

// A field of an object; nullptr for one that is not there, and for what is no object.
const Json* member(const Json& json, const char* key);

// What a value holds; nullptr where it is of another type, or no value.
const std::string* string_in(const Json* json);
const Json::array_t* array_in(const Json* json);    // std::vector<Json>
const Json::object_t* object_in(const Json* json);  // std::map<std::string, Json>
const uint64_t* number_in(const Json* json);        // a whole number from 0

// Whether a value is there, and neither null, false nor "".
bool is_set(const Json* json);

}  // namespace nerve
