// Which classes are read out, at which size, and how labels get to the frame's size; as readout.py does.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nerve {

constexpr int64_t READOUT_ELEMENTS_LIMIT = int64_t(1) << 27;  // classes * height * width of float32 scores: half a gigabyte

// Labels that can win some pixel of a read-out, in rising order; leaving out the rest changes nothing. Why: readout.py.
// Scores are finite float32 (classes, tokens), tokens row-major over the grid; `readout` is bilinear or guided;
// `keep_first` keeps label 0 in any case. Scores with NaN give any labels, also none.
std::vector<int> possible_winners(const float* label_scores, int classes, std::array<int, 2> grid_hw, const std::string& readout,
                                  bool keep_first);

// The frame's size, halved until classes * height * width is within the limit and both sides in `limit_px`; 0: no limit.
std::array<int, 2> readout_size_hw(int classes, std::array<int, 2> size_hw, int limit_px = 0);

// Where on an axis of `length` each place of one of `enlarged` is taken from, as OpenCV's INTER_NEAREST does.
std::vector<int> nearest_places(int length, int enlarged);

// A plane of labels or confidences (height, width) at another size; nothing is blended. Sizes are at least 1.
template <typename Level>
void enlarge(const Level* plane, std::array<int, 2> plane_hw, Level* enlarged, std::array<int, 2> size_hw) {
    const std::vector<int> columns = nearest_places(plane_hw[1], size_hw[1]);
    const std::vector<int> rows = nearest_places(plane_hw[0], size_hw[0]);
    for (size_t y = 0; y < rows.size(); ++y) {
        const Level* from = plane + size_t(rows[y]) * size_t(plane_hw[1]);
        if (y > 0 && rows[y] == rows[y - 1]) {
            std::copy_n(enlarged - columns.size(), columns.size(), enlarged);
            enlarged += columns.size();
            continue;
        }
        for (const int x : columns) *enlarged++ = from[x];
    }
}

}  // namespace nerve
