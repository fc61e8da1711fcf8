#include "sums.h"

namespace nerve {

namespace {

constexpr size_t LANES = 8, SHORT = 128;

}  // namespace

float sum_in_pairs(const float* values, size_t count) {
    if (count > SHORT) {
        const size_t half = count / 2 / LANES * LANES;  // recursion ends after the logarithm of count
        return sum_in_pairs(values, half) + sum_in_pairs(values + half, count - half);
    }
    float sum = 0;
    size_t at = 0;
    if (count >= LANES) {
        float lanes[LANES];
        for (; at < LANES; ++at) lanes[at] = values[at];
        for (; at + LANES <= count; at += LANES)
            for (size_t i = 0; i < LANES; ++i) lanes[i] += values[at + i];
        sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    }
    for (; at < count; ++at) sum += values[at];
    return sum;
}

float mean_in_pairs(const std::vector<float>& values) {
    return sum_in_pairs(values.data(), values.size()) / float(values.size());
}

}  // namespace nerve
