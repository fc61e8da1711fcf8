#include "image.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "resize_area.h"
#include "resize_linear.h"

namespace nerve {

namespace {

// Weights of red, green and blue in grey, in units of 2^-15; together 2^15.
constexpr int GREY_BITS = 15;
constexpr int GREY_RED = 9798, GREY_GREEN = 19235, GREY_BLUE = 3735;

std::vector<uint8_t> copied_rows(const ImageView& picture) {
    const size_t row_bytes = size_t(picture.width) * 3;
    std::vector<uint8_t> copy(row_bytes * size_t(picture.height));
    for (int y = 0; y < picture.height; ++y)
        std::memcpy(copy.data() + row_bytes * size_t(y), picture.pixels + picture.stride * y, row_bytes);
    return copy;
}

ImageView view_of(const uint8_t* pixels, int height, int width) {
    return {pixels, height, width, std::ptrdiff_t(width) * 3, false};
}

void swap_red_and_blue(std::vector<uint8_t>& pixels) {
    for (size_t at = 0; at + 2 < pixels.size(); at += 3) std::swap(pixels[at], pixels[at + 2]);
}

}  // namespace

std::vector<uint8_t> resize_frame(const ImageView& picture, int height, int width) {
    // An average over an area only makes sense when it shrinks, so an axis that shrinks and one that grows are done in turn.
    const int low = std::min(picture.height, height), narrow = std::min(picture.width, width);
    ImageView shrunk = picture;
    std::vector<uint8_t> pixels;
    if (low != picture.height || narrow != picture.width) {
        pixels = shrink_by_area(picture, low, narrow);
        shrunk = view_of(pixels.data(), low, narrow);
    }
    if (low != height || narrow != width) {
        pixels = enlarge_linearly(shrunk, height, width);
    } else if (pixels.empty()) {
        pixels = copied_rows(picture);
    }
    if (picture.bgr) swap_red_and_blue(pixels);
    return pixels;
}

std::array<int, 2> motion_size_hw(int height, int width) {
    const double shrink = double(FLOW_SIDE_PX) / std::max(height, width);
    if (!(shrink < 1)) return {height, width};
    // nearbyint rounds halves to the even number, as Python's round.
    return {std::max(1, int(std::nearbyint(height * shrink))), std::max(1, int(std::nearbyint(width * shrink)))};
}

std::vector<uint8_t> grey_picture(const uint8_t* rgb, int height, int width) {
    const std::array<int, 2> size_hw = motion_size_hw(height, width);
    std::vector<uint8_t> shrunk;
    if (size_hw[0] != height || size_hw[1] != width) {
        shrunk = shrink_by_area(view_of(rgb, height, width), size_hw[0], size_hw[1]);
        rgb = shrunk.data();
    }
    const size_t pixels = size_t(size_hw[0]) * size_t(size_hw[1]);
    std::vector<uint8_t> grey(pixels);
    for (uint8_t& level : grey) {
        level = uint8_t((rgb[0] * GREY_RED + rgb[1] * GREY_GREEN + rgb[2] * GREY_BLUE + (1 << (GREY_BITS - 1))) >> GREY_BITS);
        rgb += 3;
    }
    return grey;
}

}  // namespace nerve
