// Blends of two neighbours an axis, equal to the last bit to OpenCV's on x86-64 without FMA.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"

namespace nerve {

// A picture (height, width, 3) as INTER_LINEAR makes it, in the picture's own order of colours; no side may shrink.
std::vector<uint8_t> enlarge_linearly(const ImageView& picture, int height, int width);

// Float32 (rows, columns, channels) as (height, width, channels), as INTER_AREA makes it where a side grows.
std::vector<float> blend_by_area(const float* values, int rows, int columns, int channels, int height, int width);

}  // namespace nerve
