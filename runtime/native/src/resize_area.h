// Averages over areas, equal to the last bit to OpenCV's INTER_AREA on x86-64 without FMA.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"

namespace nerve {

// Averages of a picture's pixels, (height, width, 3) in the picture's own order of colours; neither side may grow.
std::vector<uint8_t> shrink_by_area(const ImageView& picture, int height, int width);

// Averages of float32 (rows, columns, channels) as (height, width, channels); where a side grows, a blend of neighbours.
std::vector<float> resize_by_area(const float* values, int rows, int columns, int channels, int height, int width);

}  // namespace nerve
