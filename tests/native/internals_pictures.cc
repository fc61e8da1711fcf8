// The picture arithmetic of the runtime as C functions, for tests only. Sizes are checked by the tests.
#include <algorithm>
#include <cstring>
#include <string>

#include "image.h"
#include "labels.h"
#include "motion.h"
#include "readout.h"
#include "resize_area.h"
#include "sampling.h"
#include "sums.h"

#define SHOWN extern "C" __attribute__((visibility("default")))

using nerve::Place;

namespace {

std::vector<Place> places_from(const float* pairs, int count) {
    std::vector<Place> places;
    for (int at = 0; at < count; ++at) places.push_back({pairs[2 * at], pairs[2 * at + 1]});
    return places;
}

template <typename Value>
void copy_out(const std::vector<Value>& values, Value* out) {
    std::copy(values.begin(), values.end(), out);
}

}  // namespace

SHOWN void resize_frame(const uint8_t* pixels, int rows, int columns, std::ptrdiff_t stride, int bgr, int height, int width,
                        uint8_t* out) {
    copy_out(nerve::resize_frame({pixels, rows, columns, stride, bgr != 0}, height, width), out);
}

SHOWN void motion_size_hw(int height, int width, int* out) {
    const auto size_hw = nerve::motion_size_hw(height, width);
    std::copy(size_hw.begin(), size_hw.end(), out);
}

SHOWN void grey_picture(const uint8_t* rgb, int height, int width, uint8_t* out) {
    copy_out(nerve::grey_picture(rgb, height, width), out);
}

SHOWN void resize_by_area(const float* values, int rows, int columns, int channels, int height, int width, float* out) {
    copy_out(nerve::resize_by_area(values, rows, columns, channels, height, width), out);
}

SHOWN void sampled_levels(const uint8_t* picture, int height, int width, const float* at, int count, uint8_t* out) {
    const std::vector<uint8_t> levels(picture, picture + size_t(height) * size_t(width));
    copy_out(nerve::sampled_levels(levels, height, width, places_from(at, count)), out);
}

SHOWN void sampled_places(const float* picture, int height, int width, const float* at, int count, float* out) {
    const auto sampled = nerve::sampled_places(places_from(picture, height * width), height, width, places_from(at, count));
    std::memcpy(out, sampled.data(), sampled.size() * sizeof(Place));
}

SHOWN float mean_in_pairs(const float* values, int count) {
    return nerve::mean_in_pairs(std::vector<float>(values, values + count));
}

SHOWN nerve::MotionTracker* new_tracker(int grid_height, int grid_width, int grey_height, int grey_width) {
    return new nerve::MotionTracker({grid_height, grid_width}, {grey_height, grey_width});
}

SHOWN void delete_tracker(nerve::MotionTracker* tracker) { delete tracker; }
SHOWN void begin(nerve::MotionTracker* tracker) { tracker->begin(); }
SHOWN void forget(nerve::MotionTracker* tracker) { tracker->forget(); }

// Returns whether there is a motion; `shares` receives traced and visible.
SHOWN int follow(nerve::MotionTracker* tracker, const uint8_t* grey, int pixels, const float* flow, int64_t* origin_tokens,
                 float* origin_visible, int64_t* previous_tokens, float* previous_weights, double* shares) {
    const auto motion = tracker->follow(std::vector<uint8_t>(grey, grey + pixels), flow);
    if (!motion) return 0;
    copy_out(motion->origin_tokens, origin_tokens);
    copy_out(motion->origin_visible, origin_visible);
    copy_out(motion->previous_tokens, previous_tokens);
    copy_out(motion->previous_weights, previous_weights);
    shares[0] = motion->traced();
    shares[1] = motion->visible();
    return 1;
}

SHOWN int possible_winners(const float* scores, int classes, int height, int width, const char* readout, int keep_first,
                           int* out) {
    const std::vector<int> winners = nerve::possible_winners(scores, classes, {height, width}, readout, keep_first != 0);
    copy_out(winners, out);
    return int(winners.size());
}

SHOWN void readout_size_hw(int classes, int height, int width, int limit_px, int* out) {
    const auto size_hw = nerve::readout_size_hw(classes, {height, width}, limit_px);
    std::copy(size_hw.begin(), size_hw.end(), out);
}

SHOWN void enlarge_8_bit(const uint8_t* plane, int rows, int columns, uint8_t* out, int height, int width) {
    nerve::enlarge(plane, {rows, columns}, out, {height, width});
}

SHOWN void enlarge_16_bit(const uint16_t* plane, int rows, int columns, uint16_t* out, int height, int width) {
    nerve::enlarge(plane, {rows, columns}, out, {height, width});
}

// The bytes of a label, or 0 and the error's text.
SHOWN int label_bytes(int64_t classes, char* error, int room) {
    try {
        return int(nerve::label_bytes(classes));
    } catch (const nerve::Error& caught) {
        std::strncpy(error, caught.what(), size_t(room) - 1);
        return 0;
    }
}

SHOWN void cast_to_16_bit(const uint8_t* labels, int count, uint16_t* out) {
    for (int at = 0; at < count; ++at) out[at] = nerve::cast_label<uint16_t>(labels[at]);
}

SHOWN void cast_to_8_bit(const uint16_t* labels, int count, uint8_t* out) {
    for (int at = 0; at < count; ++at) out[at] = nerve::cast_label<uint8_t>(labels[at]);
}

SHOWN int ignore_label(int bytes) { return bytes == 1 ? nerve::ignore_label<uint8_t>() : nerve::ignore_label<uint16_t>(); }
