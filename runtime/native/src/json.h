// The one place that is compiled with the JSON parser, which takes 50 kB.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace nerve {

using Json = nlohmann::json;

// The value of a JSON text. Raises std::invalid_argument, which says where it is none.
Json parse_json(std::string_view text);

// The value of a JSON text that cannot mean two things or nest without end; none for what is no JSON, has a key twice in one object, or is nested deeper than the limit.
std::optional<Json> strict_json(std::string_view text, int depth_limit);

}  // namespace nerve
