// Class names as a person writes them, checked as nerve_runtime/vocabulary/class_list.py does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "labels.h"
#include "unicode.h"

namespace nerve {

// Told what is worth knowing; see `warn_or_refuse`.
using Warn = std::function<void(const std::string&)>;

// Checked class names, as UTF-8: for each class its words, the first being the name shown.
struct ClassList {
    std::vector<std::vector<std::string>> synonyms;
    bool has_background = false;  // class 0 holds the background words and is called "background"

    std::vector<std::string> names() const;

    // Raise a UsageError for a single class, which every pixel would get. Python does so after the words are embedded.
    void refuse_without_rival() const;
};

// Check "a; b, c", and background words or none, for a bundle that takes `max_classes` classes, background included.
// Raises UsageError with the words of Python's Segmenter.open(bundle, classes, background=...).
ClassList class_list_of(const std::string& classes, const std::optional<std::string>& background, int max_classes, bool strict,
                        const Warn& warn);

// Raise a UsageError for more classes, background included, than the bundle takes.
void refuse_too_many(int64_t count, int max_classes);

// Raise a UsageError for a control character other than a tab; `where` is named in the message.
void refuse_odd_characters(const std::string& where, TextView text);

// Give `message` to `warn`, or raise it as a UsageError when `strict`.
void warn_or_refuse(const std::string& message, bool strict, const Warn& warn);

}  // namespace nerve
