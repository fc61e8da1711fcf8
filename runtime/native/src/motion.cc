#include "motion.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "resize_area.h"
#include "rounding.h"
#include "sums.h"

namespace nerve {

namespace {

// Mean difference of a window, in grey levels, from which on two places do not show the same surface; see motion.py.
constexpr int LOST_LEVELS = 14;
constexpr int WINDOW_PX = 5, WINDOW_REACH = WINDOW_PX / 2;

// Beyond an edge the picture is mirrored, without the edge itself repeated; a picture of one pixel has only that.
int mirrored(int at, int length) {
    if (length == 1) return 0;
    while (at < 0 || at >= length) at = at < 0 ? -at : 2 * (length - 1) - at;
    return at;
}

// Sums over windows; levels are whole numbers, so these are exact, as OpenCV's are in floating point.
std::vector<int> window_sums(const std::vector<int>& levels, int height, int width) {
    std::vector<int> across(levels.size()), sums(levels.size(), 0), row(size_t(width) + 2 * WINDOW_REACH);
    for (int y = 0; y < height; ++y) {
        const int* from = levels.data() + size_t(y) * size_t(width);
        for (int x = -WINDOW_REACH; x < width + WINDOW_REACH; ++x) row[size_t(x + WINDOW_REACH)] = from[mirrored(x, width)];
        int* out = across.data() + size_t(y) * size_t(width);
        for (int x = 0; x < width; ++x) {
            const int* window = row.data() + x;
            static_assert(WINDOW_PX == 5, "the window's places are written out, which is fast");
            out[x] = window[0] + window[1] + window[2] + window[3] + window[4];
        }
    }
    for (int y = 0; y < height; ++y) {
        int* out = sums.data() + size_t(y) * size_t(width);
        for (int step = -WINDOW_REACH; step <= WINDOW_REACH; ++step) {
            const int* from = across.data() + size_t(mirrored(y + step, height)) * size_t(width);
            for (int x = 0; x < width; ++x) out[x] += from[x];
        }
    }
    return sums;
}

}  // namespace

// Both add in NumPy's order, so that thresholds are crossed by the same frames.
double Motion::traced() const {
    const size_t tokens = origin_visible.size();
    std::vector<float> found(previous_weights.begin(), previous_weights.begin() + std::ptrdiff_t(tokens));
    for (size_t at = tokens; at < previous_weights.size(); ++at) found[at % tokens] += previous_weights[at];
    return double(mean_in_pairs(found));
}

double Motion::visible() const { return double(mean_in_pairs(origin_visible)); }

MotionTracker::MotionTracker(std::array<int, 2> grid_hw, std::array<int, 2> grey_hw) : grid_hw_(grid_hw), grey_hw_(grey_hw) {
    for (int y = 0; y < grey_hw[0]; ++y)
        for (int x = 0; x < grey_hw[1]; ++x) identity_.push_back({float(x), float(y)});
}

std::optional<Motion> MotionTracker::follow(std::vector<uint8_t> grey, const float* flow) {
    if (!flow) forget();
    if (previous_.empty() || keyframe_.empty()) {
        previous_ = std::move(grey);
        return std::nullopt;
    }
    // Memory may run out below: then there is no frame before the next one.
    const std::vector<uint8_t> previous = std::exchange(previous_, {});
    std::vector<Place> places = identity_;
    std::vector<size_t> lost;
    for (size_t at = 0; at < places.size(); ++at) {
        const Place place = {places[at].x + flow[2 * at], places[at].y + flow[2 * at + 1]};
        if (can_be_sampled(place)) {
            places[at] = place;
        } else {
            lost.push_back(at);
        }
    }
    origins_ = sampled_places(origins_, grey_hw_[0], grey_hw_[1], places);
    std::vector<float> seen_before = matches(grey, previous, places);
    std::vector<float> seen_in_keyframe = matches(grey, keyframe_, origins_);
    for (const size_t at : lost) seen_before[at] = seen_in_keyframe[at] = 0;
    previous_ = std::move(grey);
    Motion motion;
    set_nearest(origins_, motion);
    motion.origin_visible = shares(seen_in_keyframe);
    set_around(places, shares(seen_before), motion);
    return motion;
}

void MotionTracker::begin() {
    if (previous_.empty()) return;
    keyframe_ = previous_;
    origins_ = identity_;
}

void MotionTracker::forget() {
    previous_.clear();
    keyframe_.clear();
    origins_.clear();
}

// Places of pixels as places of tokens, in units of tokens.
std::vector<Place> MotionTracker::token_places(const std::vector<Place>& places) const {
    static_assert(sizeof(Place) == 2 * sizeof(float), "a place is a pair of floats");
    const std::vector<float> pooled = resize_by_area(&places.data()->x, grey_hw_[0], grey_hw_[1], 2, grid_hw_[0], grid_hw_[1]);
    const float scale_x = float(double(grid_hw_[1]) / grey_hw_[1]), scale_y = float(double(grid_hw_[0]) / grey_hw_[0]);
    std::vector<Place> tokens;
    tokens.reserve(pooled.size() / 2);
    for (size_t at = 0; at < pooled.size(); at += 2)
        tokens.push_back({(pooled[at] + 0.5F) * scale_x - 0.5F, (pooled[at + 1] + 0.5F) * scale_y - 0.5F});
    return tokens;
}

std::vector<float> MotionTracker::shares(const std::vector<float>& pixels) const {
    return resize_by_area(pixels.data(), grey_hw_[0], grey_hw_[1], 1, grid_hw_[0], grid_hw_[1]);
}

// The token at a place that is a whole number; outside the grid, the nearest inside.
int64_t MotionTracker::token_at(float x, float y) const {
    const int64_t column = std::clamp<int64_t>(int64_t(x), 0, grid_hw_[1] - 1);
    const int64_t row = std::clamp<int64_t>(int64_t(y), 0, grid_hw_[0] - 1);
    return row * grid_hw_[1] + column;
}

// 1 for each pixel of `grey` that looks like the place of `other` that it came from, inside the picture; else 0.
std::vector<float> MotionTracker::matches(const std::vector<uint8_t>& grey, const std::vector<uint8_t>& other,
                                          const std::vector<Place>& at) const {
    const int height = grey_hw_[0], width = grey_hw_[1];
    const std::vector<uint8_t> levels = sampled_levels(other, height, width, at);
    std::vector<int> difference(grey.size());
    for (size_t i = 0; i < grey.size(); ++i) difference[i] = std::abs(int(grey[i]) - int(levels[i]));
    const std::vector<int> sums = window_sums(difference, height, width);
    const float right = float(width - 0.5), bottom = float(height - 0.5);
    std::vector<float> found(grey.size());
    for (size_t i = 0; i < grey.size(); ++i) {
        const bool is_inside = at[i].x > -0.5F && at[i].y > -0.5F && at[i].x < right && at[i].y < bottom;
        found[i] = is_inside && sums[i] < LOST_LEVELS * WINDOW_PX * WINDOW_PX ? 1.0F : 0.0F;
    }
    return found;
}

void MotionTracker::set_nearest(const std::vector<Place>& origins, Motion& motion) const {
    for (const Place& place : token_places(origins))
        motion.origin_tokens.push_back(token_at(rounded_half_even(place.x), rounded_half_even(place.y)));
}

void MotionTracker::set_around(const std::vector<Place>& places, const std::vector<float>& seen, Motion& motion) const {
    const std::vector<Place> exact = token_places(places);
    for (int below = 0; below < 2; ++below) {
        for (int across = 0; across < 2; ++across) {
            for (size_t at = 0; at < exact.size(); ++at) {
                const float x = std::floor(exact[at].x), y = std::floor(exact[at].y);
                const float right = exact[at].x - x, down = exact[at].y - y;
                motion.previous_tokens.push_back(token_at(x + float(across), y + float(below)));
                motion.previous_weights.push_back((below ? down : 1 - down) * (across ? right : 1 - right) * seen[at]);
            }
        }
    }
}

}  // namespace nerve
