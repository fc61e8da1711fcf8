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

// A level between four, rounded. OpenCV rounds once after a product and a sum, as fma does, which costs a call here.
// So fma is only asked where it can matter: both ways differ by less than 1e-4.
uint8_t level_between(float upper_left, float upper_right, float lower_left, float lower_right, float across, float down) {
    constexpr float UNDECIDED = 1e-3F;
    const float upper = upper_left + across * (upper_right - upper_left);
    const float lower = lower_left + across * (lower_right - lower_left);
    const float level = upper + down * (lower - upper);
    const int whole = int(level);
    if (std::fabs(level - (float(whole) + 0.5F)) > UNDECIDED) return uint8_t(int(rounded_half_even(level)));
    const float exact_upper = std::fma(across, upper_right - upper_left, upper_left);
    const float exact_lower = std::fma(across, lower_right - lower_left, lower_left);
    return uint8_t(int(rounded_half_even(std::fma(down, exact_lower - exact_upper, exact_upper))));
}

}  // namespace

std::vector<uint8_t> sampled_levels(const std::vector<uint8_t>& picture, int height, int width, const std::vector<Place>& at) {
    std::vector<uint8_t> levels(at.size());
    for (size_t i = 0; i < at.size(); ++i) {
        const int column = whole_below(at[i].x), row = whole_below(at[i].y);
        const Corners corners(column, row, height, width);
        levels[i] = level_between(picture[corners.upper_left], picture[corners.upper_right], picture[corners.lower_left],
                                  picture[corners.lower_right], at[i].x - float(column), at[i].y - float(row));
    }
    return levels;
}

std::vector<Place> sampled_places(const std::vector<Place>& picture, int height, int width, const std::vector<Place>& at) {
    constexpr int PARTS = 32;  // of a pixel
    std::vector<Place> places(at.size());
    for (size_t i = 0; i < at.size(); ++i) {
        const float x = rounded_half_even(at[i].x * PARTS) / PARTS, y = rounded_half_even(at[i].y * PARTS) / PARTS;
        const int column = whole_below(x), row = whole_below(y);
        const float across = x - float(column), down = y - float(row);
        const Corners corners(column, row, height, width);
        const Place& upper_left = picture[corners.upper_left];
        const Place& upper_right = picture[corners.upper_right];
        const Place& lower_left = picture[corners.lower_left];
        const Place& lower_right = picture[corners.lower_right];
        const float a = (1 - down) * (1 - across), b = (1 - down) * across, c = down * (1 - across), d = down * across;
        places[i] = {upper_left.x * a + upper_right.x * b + lower_left.x * c + lower_right.x * d,
                     upper_left.y * a + upper_right.y * b + lower_left.y * c + lower_right.y * d};
    }
    return places;
}

}  // namespace nerve
