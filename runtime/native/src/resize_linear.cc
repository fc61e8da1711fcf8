#include "resize_linear.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "rounding.h"

namespace nerve {

namespace {

constexpr int COLOURS = 3;
constexpr int WEIGHT_ONE = 2048;  // of weights in whole numbers, 11 bits

// Two neighbours on an axis and the share of the second, 0 to below 1.
struct Blend {
    int first, second;
    float share;
};

// Place `at` between its neighbours `first` and the next, both brought inside.
Blend inside(int first, float share, int length) {
    return {std::clamp(first, 0, length - 1), std::clamp(first + 1, 0, length - 1), share};
}

// Centres of pixels lie on centres: place i of `fine` is at (i + 0.5) * length / fine - 0.5.
std::vector<Blend> linear_axis(int length, int fine) {
    const double scale = 1.0 / (double(fine) / length);
    std::vector<Blend> blends;
    for (int at = 0; at < fine; ++at) {
        const float place = float((at + 0.5) * scale - 0.5);
        const float low = std::floor(place);
        blends.push_back(inside(int(low), place - low, length));
    }
    return blends;
}

// A place that lies within one of the `length` is that one, else a mix by the area in each.
std::vector<Blend> area_axis(int length, int fine) {
    const double inverse = double(fine) / length, scale = 1.0 / inverse;
    std::vector<Blend> blends;
    for (int at = 0; at < fine; ++at) {
        const int first = int(std::floor(at * scale));
        const float past = float((at + 1) - (first + 1) * inverse);
        blends.push_back(inside(first, past <= 0 ? 0.0F : past - std::floor(past), length));
    }
    return blends;
}

int whole_weight(float share) { return int(rounded_half_even(share * WEIGHT_ONE)); }

// A blend along x in whole numbers; where the colours of both pixels begin in a row.
struct WholeBlend {
    explicit WholeBlend(const Blend& blend)
        : first(size_t(blend.first) * COLOURS),
          second(size_t(blend.second) * COLOURS),
          first_weight(whole_weight(1 - blend.share)),
          second_weight(whole_weight(blend.share)) {}

    size_t first, second;
    int first_weight, second_weight;
};

// A row of the picture blended along x, uint8 to 2^7 times that; 4 of the 11 bits of the weights are cut off.
void blend_row(const uint8_t* row, const std::vector<WholeBlend>& columns, int16_t* blended) {
    for (const WholeBlend& column : columns) {
        const uint8_t* first = row + column.first;
        const uint8_t* second = row + column.second;
        for (int i = 0; i < COLOURS; ++i)
            *blended++ = int16_t((first[i] * column.first_weight + second[i] * column.second_weight) >> 4);
    }
}

uint8_t blended_level(int above, int above_weight, int below, int below_weight) {
    return uint8_t((((above * above_weight) >> 16) + ((below * below_weight) >> 16) + 2) >> 2);
}

void blend_rows(const int16_t* __restrict__ above, const int16_t* __restrict__ below, float share, size_t count,
                uint8_t* __restrict__ levels) {
    constexpr size_t CHUNK = 16;  // an inner loop of a fixed length becomes vector instructions even at -O2
    const int16_t below_weight = int16_t(whole_weight(share)), above_weight = int16_t(whole_weight(1 - share));
    size_t at = 0;
    for (; at + CHUNK <= count; at += CHUNK)
        for (size_t i = at; i < at + CHUNK; ++i) levels[i] = blended_level(above[i], above_weight, below[i], below_weight);
    for (; at < count; ++at) levels[at] = blended_level(above[at], above_weight, below[at], below_weight);
}

// At the edges both neighbours are the edge. Along x the nearer has all weight; along y they share it, and lose a bit.
void give_all_weight_to_edges(std::vector<Blend>& axis) {
    for (Blend& blend : axis)
        if (blend.first == blend.second) blend.share = 0;
}

}  // namespace

std::vector<uint8_t> enlarge_linearly(const ImageView& picture, int height, int width) {
    std::vector<Blend> exact_columns = linear_axis(picture.width, width);
    give_all_weight_to_edges(exact_columns);
    const std::vector<WholeBlend> columns(exact_columns.begin(), exact_columns.end());
    const std::vector<Blend> rows = linear_axis(picture.height, height);
    const size_t row_values = size_t(width) * COLOURS;
    std::vector<uint8_t> enlarged(size_t(height) * row_values);
    std::vector<int16_t> above(row_values), below(row_values);
    int above_is_of = -1, below_is_of = -1;
    for (size_t y = 0; y < rows.size(); ++y) {
        const Blend& row = rows[y];
        if (row.first == below_is_of) {
            std::swap(above, below);
            std::swap(above_is_of, below_is_of);
        }
        if (row.first != above_is_of) blend_row(picture.pixels + picture.stride * row.first, columns, above.data());
        above_is_of = row.first;
        if (row.second != row.first && row.second != below_is_of) {
            blend_row(picture.pixels + picture.stride * row.second, columns, below.data());
            below_is_of = row.second;
        }
        const int16_t* second = row.second == row.first ? above.data() : below.data();
        blend_rows(above.data(), second, row.share, row_values, enlarged.data() + y * row_values);
    }
    return enlarged;
}

std::vector<float> blend_by_area(const float* values, int rows, int columns, int channels, int height, int width) {
    std::vector<Blend> across = area_axis(columns, width);
    give_all_weight_to_edges(across);
    const size_t each = size_t(channels), row_values = size_t(width) * each;
    const auto blended_row = [&](int y) {
        const float* row = values + size_t(y) * size_t(columns) * each;
        std::vector<float> blended;
        blended.reserve(row_values);
        for (const Blend& column : across)
            for (size_t i = 0; i < each; ++i)
                blended.push_back(row[size_t(column.first) * each + i] * (1 - column.share) +
                                  row[size_t(column.second) * each + i] * column.share);
        return blended;
    };
    std::vector<float> enlarged;
    enlarged.reserve(size_t(height) * row_values);
    for (const Blend& row : area_axis(rows, height)) {
        const std::vector<float> above = blended_row(row.first), below = blended_row(row.second);
        for (size_t at = 0; at < row_values; ++at) enlarged.push_back(above[at] * (1 - row.share) + below[at] * row.share);
    }
    return enlarged;
}

}  // namespace nerve
