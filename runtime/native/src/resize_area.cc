#include "resize_area.h"

#include <algorithm>
#include <cstring>

#include "area_spans.h"
#include "resize_linear.h"
#include "rounding.h"

namespace nerve {

namespace {

constexpr int COLOURS = 3;
constexpr int LANES = 4;
constexpr size_t CHUNK = 16;  // an inner loop of a fixed length becomes vector instructions even at -O2
typedef float Float4 __attribute__((vector_size(LANES * sizeof(float))));  // four at once, on every processor

Float4 four_at(const float* values) {
    Float4 four;
    std::memcpy(&four, values, sizeof four);
    return four;
}

void put_four(float* values, Float4 four) { std::memcpy(values, &four, sizeof four); }

// So many floats that they can be read and written four at a time, from any of the first `count` on.
size_t padded(size_t count) { return (count + LANES) / LANES * LANES + LANES; }

// The shares of every coarse place, filled up with weight 0 to the same number: loops of one length are faster.
struct EvenShares {
    explicit EvenShares(const AreaAxis& axis) : each(0) {
        const size_t coarse = axis.starts.size() - 1;
        for (size_t at = 0; at < coarse; ++at) each = std::max(each, axis.starts[at + 1] - axis.starts[at]);
        for (size_t at = 0; at < coarse; ++at) {
            for (int i = 0; i < each; ++i) {
                const int share = axis.starts[at] + i;
                const bool is_there = share < axis.starts[at + 1];
                shares.push_back(is_there ? axis.shares[size_t(share)] : Share{shares.back().place, 0.0F});
            }
        }
    }

    int each;
    std::vector<Share> shares;
};

void as_floats(const uint8_t* __restrict__ row, size_t count, float* __restrict__ values) {
    size_t at = 0;
    for (; at + CHUNK <= count; at += CHUNK)
        for (size_t i = 0; i < CHUNK; ++i) values[at + i] = float(row[at + i]);
    for (; at < count; ++at) values[at] = float(row[at]);
}

// Averages along a row of float32 (columns, 3); what lies behind the last pixel of `narrow` is overwritten.
void narrow_row(const float* row, const EvenShares& axis, float* narrow) {
    const Share* share = axis.shares.data();
    const Share* const end = share + axis.shares.size();
    for (; share != end; narrow += COLOURS) {
        Float4 sum = {0, 0, 0, 0};
        for (int i = 0; i < axis.each; ++i, ++share) sum += four_at(row + size_t(share->place) * COLOURS) * share->weight;
        put_four(narrow, sum);
    }
}

void add_weighted(const std::vector<float>& row, float weight, bool is_first, std::vector<float>& sums) {
    const float* from = row.data();
    float* to = sums.data();
    for (size_t at = 0; at < sums.size(); at += LANES) {
        const Float4 part = four_at(from + at) * weight;
        put_four(to + at, is_first ? part : four_at(to + at) + part);
    }
}

// Averages of levels, so at most 255 but for rounding errors.
void rounded_row(const float* __restrict__ averages, size_t count, uint8_t* __restrict__ levels) {
    size_t at = 0;
    for (; at + CHUNK <= count; at += CHUNK) {
        int32_t whole[CHUNK];
        for (size_t i = 0; i < CHUNK; ++i) whole[i] = int32_t(rounded_half_even(averages[at + i]));
        for (size_t i = 0; i < CHUNK; ++i) levels[at + i] = uint8_t(whole[i]);
    }
    for (; at < count; ++at) levels[at] = uint8_t(int32_t(rounded_half_even(averages[at])));
}

std::vector<uint8_t> shrink_by_weights(const ImageView& picture, const AreaAxis& rows, const AreaAxis& columns) {
    const EvenShares shares(columns);
    const size_t height = rows.starts.size() - 1, row_values = (columns.starts.size() - 1) * COLOURS;
    const size_t fine_values = size_t(picture.width) * COLOURS;
    std::vector<float> fine(padded(fine_values)), narrow(padded(row_values)), sums(padded(row_values));
    std::vector<uint8_t> shrunk(height * row_values);
    int narrow_is_of = -1;  // two coarse rows may share one
    for (size_t y = 0; y < height; ++y) {
        for (int i = rows.starts[y]; i < rows.starts[y + 1]; ++i) {
            const Share& share = rows.shares[size_t(i)];
            if (share.place != narrow_is_of) {
                as_floats(picture.pixels + picture.stride * share.place, fine_values, fine.data());
                narrow_row(fine.data(), shares, narrow.data());
                narrow_is_of = share.place;
            }
            add_weighted(narrow, share.weight, i == rows.starts[y], sums);
        }
        rounded_row(sums.data(), row_values, shrunk.data() + y * row_values);
    }
    return shrunk;
}

void add_two_rows(const uint8_t* __restrict__ upper, const uint8_t* __restrict__ lower, size_t count,
                  uint16_t* __restrict__ sums) {
    size_t at = 0;
    for (; at + CHUNK <= count; at += CHUNK)
        for (size_t i = 0; i < CHUNK; ++i) sums[at + i] = uint16_t(upper[at + i] + lower[at + i]);
    for (; at < count; ++at) sums[at] = uint16_t(upper[at] + lower[at]);
}

// Halves are rounded up here, unlike everywhere else in OpenCV's averages.
std::vector<uint8_t> halved(const ImageView& picture, int height, int width) {
    const size_t fine_values = size_t(width) * 2 * COLOURS;
    std::vector<uint16_t> sums(fine_values);
    std::vector<uint8_t> shrunk(size_t(height) * size_t(width) * COLOURS);
    uint8_t* out = shrunk.data();
    for (int y = 0; y < height; ++y) {
        const uint8_t* upper = picture.pixels + picture.stride * (2 * std::ptrdiff_t(y));
        add_two_rows(upper, upper + picture.stride, fine_values, sums.data());
        for (const uint16_t* pair = sums.data(); pair != sums.data() + fine_values; pair += 2 * COLOURS, out += COLOURS)
            for (int i = 0; i < COLOURS; ++i) out[i] = uint8_t((pair[i] + pair[i + COLOURS] + 2) >> 2);
    }
    return shrunk;
}

void add_row(const uint8_t* __restrict__ row, size_t count, uint32_t* __restrict__ sums) {
    size_t at = 0;
    for (; at + CHUNK <= count; at += CHUNK)
        for (size_t i = 0; i < CHUNK; ++i) sums[at + i] += row[at + i];
    for (; at < count; ++at) sums[at] += row[at];
}

std::vector<uint8_t> shrink_by_whole(const ImageView& picture, int height, int width, int down, int across) {
    const float share = float(1.0 / (double(down) * across));
    std::vector<uint32_t> sums(size_t(picture.width) * COLOURS);
    std::vector<uint8_t> shrunk;
    shrunk.reserve(size_t(height) * size_t(width) * COLOURS);
    for (int y = 0; y < height; ++y) {
        std::fill(sums.begin(), sums.end(), 0U);
        for (int i = 0; i < down; ++i)
            add_row(picture.pixels + picture.stride * (std::ptrdiff_t(y) * down + i), sums.size(), sums.data());
        const uint32_t* block = sums.data();
        for (int x = 0; x < width; ++x, block += size_t(across) * COLOURS) {
            for (int colour = 0; colour < COLOURS; ++colour) {
                int64_t sum = 0;
                for (int i = 0; i < across; ++i) sum += block[size_t(i) * COLOURS + size_t(colour)];
                shrunk.push_back(uint8_t(int32_t(rounded_half_even(float(sum) * share))));
            }
        }
    }
    return shrunk;
}

// OpenCV adds the values of a block by fours, each four in order, and the last ones one by one.
float block_sum(const float* block, size_t row_values, int channels, int down, int across) {
    float sum = 0, four = 0;
    int left = down * across, in_four = 0;
    for (int y = 0; y < down; ++y) {
        for (int x = 0; x < across; ++x, --left) {
            const float value = block[size_t(y) * row_values + size_t(x) * size_t(channels)];
            if (in_four == 0 && left < 4) {
                sum += value;
                continue;
            }
            four = in_four ? four + value : value;
            in_four = (in_four + 1) % 4;
            if (in_four == 0) sum += four;
        }
    }
    return sum;
}

std::vector<float> average_by_whole(const float* values, int columns, int channels, int height, int width, int down, int across) {
    const float share = float(1.0 / (double(down) * across));
    const size_t row_values = size_t(columns) * size_t(channels);
    std::vector<float> averages;
    averages.reserve(size_t(height) * size_t(width) * size_t(channels));
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const float* block = values + size_t(y) * size_t(down) * row_values + size_t(x) * size_t(across) * size_t(channels);
            for (int i = 0; i < channels; ++i)
                averages.push_back(block_sum(block + i, row_values, channels, down, across) * share);
        }
    }
    return averages;
}

std::vector<float> average_by_weights(const float* values, int columns, int channels, const AreaAxis& rows,
                                      const AreaAxis& across) {
    const size_t height = rows.starts.size() - 1, width = across.starts.size() - 1, each = size_t(channels);
    std::vector<float> averages(height * width * each, 0.0F), narrow(width * each);
    for (size_t y = 0; y < height; ++y) {
        float* sums = averages.data() + y * width * each;
        for (int j = rows.starts[y]; j < rows.starts[y + 1]; ++j) {
            const float* row = values + size_t(rows.shares[size_t(j)].place) * size_t(columns) * each;
            std::fill(narrow.begin(), narrow.end(), 0.0F);
            for (size_t x = 0; x < width; ++x)
                for (int i = across.starts[x]; i < across.starts[x + 1]; ++i)
                    for (size_t channel = 0; channel < each; ++channel)
                        narrow[x * each + channel] +=
                            row[size_t(across.shares[size_t(i)].place) * each + channel] * across.shares[size_t(i)].weight;
            for (size_t at = 0; at < narrow.size(); ++at) sums[at] += narrow[at] * rows.shares[size_t(j)].weight;
        }
    }
    return averages;
}

}  // namespace

std::vector<uint8_t> shrink_by_area(const ImageView& picture, int height, int width) {
    const AreaAxis rows(picture.height, height), columns(picture.width, width);
    if (!rows.whole || !columns.whole) return shrink_by_weights(picture, rows, columns);
    if (rows.whole == 2 && columns.whole == 2) return halved(picture, height, width);
    return shrink_by_whole(picture, height, width, rows.whole, columns.whole);
}

std::vector<float> resize_by_area(const float* values, int rows, int columns, int channels, int height, int width) {
    if (rows == height && columns == width)
        return std::vector<float>(values, values + size_t(rows) * size_t(columns) * size_t(channels));
    if (rows < height || columns < width) return blend_by_area(values, rows, columns, channels, height, width);
    const AreaAxis down(rows, height), across(columns, width);
    if (down.whole && across.whole) return average_by_whole(values, columns, channels, height, width, down.whole, across.whole);
    return average_by_weights(values, columns, channels, down, across);
}

}  // namespace nerve
