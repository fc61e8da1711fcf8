// Sums of float32 in NumPy's order, which decides their last bits.
#pragma once

#include <cstddef>
#include <vector>

namespace nerve {

// The sum of so many values without gaps, as numpy.add.reduce makes it: by halves, and short pieces by eight lanes.
float sum_in_pairs(const float* values, size_t count);

// numpy.mean of float32 values without gaps; at least one.
float mean_in_pairs(const std::vector<float>& values);

}  // namespace nerve
