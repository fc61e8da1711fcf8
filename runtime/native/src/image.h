// Pictures as a caller gives them, brought to the sizes the graphs and the motion tracker need; as frames.py does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nerve {

constexpr int FLOW_SIDE_PX = 256;  // longest side at which motion is measured

// Somebody else's pixels (height, width, 3), uint8; at least one pixel.
struct ImageView {
    const uint8_t* pixels;
    int height, width;
    std::ptrdiff_t stride;  // bytes from a row to the next, also negative
    bool bgr;               // the order of the colours; false: RGB
};

// Stretch a picture to (height, width, 3), RGB: by area where it shrinks, linearly where it grows. Sizes are at least 1.
std::vector<uint8_t> resize_frame(const ImageView& picture, int height, int width);

// Height and width of the grey picture on which motion is measured, for a working frame of this size.
std::array<int, 2> motion_size_hw(int height, int width);

// The grey picture of a working frame, uint8 (height, width, 3) RGB without gaps; its size is motion_size_hw.
std::vector<uint8_t> grey_picture(const uint8_t* rgb, int height, int width);

}  // namespace nerve
