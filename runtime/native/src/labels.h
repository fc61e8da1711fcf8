// What the value of a label means, and of how many bytes it is; as labels.py says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "error.h"

namespace nerve {

constexpr int IGNORE_LABEL = 255;                      // no label in labels of one byte
constexpr int CLASSES_LIMIT_8_BIT = 254;               // most classes of labels of one byte, background included
constexpr int CLASSES_LIMIT = 65534;                   // most classes; labels of two bytes have 65535 for no label
constexpr const char* BACKGROUND_NAME = "background";  // of class 0 where the vocabulary has background words

// Bytes of one label of so many classes, background included: 1 or 2. Raises UsageError beyond CLASSES_LIMIT.
inline size_t label_bytes(int64_t classes) {
    if (classes > CLASSES_LIMIT) {
        fail(NERVE_USAGE,
             {decimal(classes), " classes are more than labels can number, expected at most ", decimal(CLASSES_LIMIT)});
    }
    return classes <= CLASSES_LIMIT_8_BIT ? 1 : 2;
}

// The value that means no label: 255 in uint8_t, 65535 in uint16_t.
template <typename Label>
constexpr Label ignore_label() {
    static_assert(std::is_same_v<Label, uint8_t> || std::is_same_v<Label, uint16_t>, "labels are uint8, or uint16");
    return std::numeric_limits<Label>::max();
}

// The same label as uint8_t or uint16_t; no label stays no label. The caller sees to it that the labels of classes fit.
template <typename To, typename From>
constexpr To cast_label(From label) {
    return label == ignore_label<From>() ? ignore_label<To>() : To(label);
}

}  // namespace nerve
