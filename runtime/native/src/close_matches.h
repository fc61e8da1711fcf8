// The word that was probably meant, as Python's difflib.get_close_matches(word, known, n=1) finds it.
#pragma once

#include <optional>
#include <vector>

#include "unicode.h"

namespace nerve {

// The most similar of the known words; none when all of them are less similar than 0.6.
std::optional<Text> close_match(TextView word, const std::vector<Text>& known);

}  // namespace nerve
