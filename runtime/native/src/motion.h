// Where the surfaces of a frame were before: in the frame before it, and in the keyframe; as motion.py does.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "sampling.h"

namespace nerve {

// Inputs of the stages carry, local_carried and walk_carried; p tokens, row-major over the grid.
struct Motion {
    std::vector<int64_t> origin_tokens;    // (p): token of the keyframe that showed the same surface
    std::vector<float> origin_visible;     // (p): confidence in that, 0 to 1
    std::vector<int64_t> previous_tokens;  // (4, p): tokens of the frame before around the place a token came from
    std::vector<float> previous_weights;   // (4, p): their bilinear weights times the confidence in that, 0 to 1

    // Share of the picture that was found in the frame before, 0 to 1.
    double traced() const;
    // Share of the picture that was found in the keyframe, 0 to 1.
    double visible() const;
};

// Follows a picture by the optical flow between successive frames, chained back to the keyframe.
// State: the frame before and the keyframe in grey, and the place in the keyframe of each pixel of the former.
class MotionTracker {
   public:
    // Token grid of the results, and the size of the grey pictures; all at least 1.
    MotionTracker(std::array<int, 2> grid_hw, std::array<int, 2> grey_hw);

    // Take the next frame, grey (height, width), and the flow (height, width, 2) from it to the one before: (x, y) to add.
    // No result when there is no frame before it or no keyframe. Without a flow (nullptr) the keyframe is lost too.
    // A pixel whose flow is not finite or leads beyond FARTHEST_PX is found nowhere, and counts as having stayed.
    std::optional<Motion> follow(std::vector<uint8_t> grey, const float* flow);

    // Make the latest frame the keyframe.
    void begin();

    // Drop all frames, as before the first one.
    void forget();

   private:
    std::vector<Place> token_places(const std::vector<Place>& places) const;
    std::vector<float> shares(const std::vector<float>& pixels) const;
    int64_t token_at(float x, float y) const;
    std::vector<float> matches(const std::vector<uint8_t>& grey, const std::vector<uint8_t>& other,
                               const std::vector<Place>& at) const;
    void set_nearest(const std::vector<Place>& origins, Motion& motion) const;
    void set_around(const std::vector<Place>& places, const std::vector<float>& seen, Motion& motion) const;

    std::array<int, 2> grid_hw_, grey_hw_;
    std::vector<Place> identity_;               // each pixel's own place
    std::vector<uint8_t> previous_, keyframe_;  // empty: none
    std::vector<Place> origins_;                // empty: none
};

}  // namespace nerve
