#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "rounding.h"

namespace nerve {

namespace {

// Indexes of the four pixels around a place; left of and above column and row, inside the picture.
struct Corners {
    Corners(int column, int row, int height, int width) {
        const int left = std::clamp(column, 0, width - 1), right = std::clamp(column + 1, 0, width - 1);
        const size_t upper = size_t(std::clamp(row, 0, height - 1)) * size_t(width);
        const size_t lower = size_t(std::clamp(row + 1, 0, height - 1)) * size_t(width);
        upper_left = upper + size_t(left);
        upper_right = upper + size_t(right);
        lower_left = lower + size_t(left);
        lower_right = lower + size_t(right);
    }

    size_t upper_left, upper_right, lower_left, lower_right;
};

}  // namespace

std::vector<uint8_t> sampled_levels(const std::vector<uint8_t>& picture, int height, int width, const std::vector<Place>& at) {
    std::vector<uint8_t> levels;
    levels.reserve(at.size());
    for (const Place& place : at) {
        const float column = std::floor(place.x), row = std::floor(place.y);
        const float across = place.x - column, down = place.y - row;
        const Corners corners(int(column), int(row), height, width);
        const float upper_left = picture[corners.upper_left], lower_left = picture[corners.lower_left];
        // OpenCV rounds once after product and sum; so does fma, with an instruction for it or without.
        const float upper = std::fma(across, float(picture[corners.upper_right]) - upper_left, upper_left);
        const float lower = std::fma(across, float(picture[corners.lower_right]) - lower_left, lower_left);
        levels.push_back(uint8_t(int(rounded_half_even(std::fma(down, lower - upper, upper)))));
    }
    return levels;
}

std::vector<Place> sampled_places(const std::vector<Place>& picture, int height, int width, const std::vector<Place>& at) {
    constexpr int PARTS = 32;  // of a pixel
    std::vector<Place> places;
    places.reserve(at.size());
    for (const Place& place : at) {
        const float x = rounded_half_even(place.x * PARTS) / PARTS, y = rounded_half_even(place.y * PARTS) / PARTS;
        const float column = std::floor(x), row = std::floor(y), across = x - column, down = y - row;
        const Corners corners(int(column), int(row), height, width);
        const Place& upper_left = picture[corners.upper_left];
        const Place& upper_right = picture[corners.upper_right];
        const Place& lower_left = picture[corners.lower_left];
        const Place& lower_right = picture[corners.lower_right];
        const float weights[] = {(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across};
        places.push_back({upper_left.x * weights[0] + upper_right.x * weights[1] + lower_left.x * weights[2] + lower_right.x * weights[3],
                          upper_left.y * weights[0] + upper_right.y * weights[1] + lower_left.y * weights[2] + lower_right.y * weights[3]});
    }
    return places;
}

}  // namespace nerve
